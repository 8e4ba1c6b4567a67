"""Lines of styled text for terminals and notebooks: pure functions from values to short text.

A *line* is a list of (text, style), the style being one that rich understands; so what is shown can be tested as plain
data. Widths count characters; rich crops by cells what is wider after all.

The second half describes GPUs, those of a run and those of the machine.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from ..formatting import counted, duration, format_bytes, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..storage.gpu_report import DeviceStatus, GpuQueue


Line = list[tuple[str, str]]

#: replacements where the terminal's encoding lacks these characters
ASCII = str.maketrans({"█": "#", "▓": "+", "▒": "-", "·": ".", "×": "x", "–": "-", "…": "~", "←": "<"})


def unstyled(line: Line) -> str:
    return "".join(text for text, _ in line)


def short_model(name: str) -> str:
    """A GPU's name without the words that most names have in common."""
    return name.replace("NVIDIA ", "").replace("GeForce ", "")


def crop(text: str, width: int, left: bool = False) -> str:
    """At most `width` characters, "…" in place of what was cut off at the right, or at the left."""
    if len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    return "…" + text[len(text) - width + 1 :] if left else text[: width - 1] + "…"


def estimate(left: float, seconds: Sequence[float], slots: float) -> tuple[float, float] | None:
    """The range of seconds in which `left` more members are likely trained; None if unknown.

    seconds: what finished members took. slots: how many train at once on average. The range is the mean of `seconds`
    plus and minus two standard errors, times left / slots.
    """
    if left <= 0:
        return (0.0, 0.0)
    if slots <= 0 or not seconds:
        return None
    mean = statistics.fmean(seconds)
    error = 2 * statistics.pstdev(seconds) * math.sqrt(1 / left + 1 / len(seconds))
    return left * max(0.0, mean - error) / slots, left * (mean + error) / slots


def estimate_text(between: tuple[float, float] | None) -> str:
    if between is None:
        return ""
    low, high = (duration(seconds) for seconds in between)
    return f"about {low if low == high else f'{low}–{high}'} left"


def config_line(config: Mapping[str, object], parent: Mapping[str, object] | None, width: int) -> Line:
    """A config in at most `width` characters, in its own order, with changes against the parent highlighted.

    Where room is short, changed values are preferred, and "+2" says how many are not shown.
    """
    changed = [parent is not None and parent.get(name, value) != value for name, value in config.items()]
    items = [crop(f"{name} {number(value)}", min(width, 30)) for name, value in config.items()]
    shown = set(range(len(items)))
    if sum(len(text) + 2 for text in items) - 2 > width:
        room, shown = width - len(f"+{len(items)}"), set()
        for i in sorted(range(len(items)), key=lambda i: not changed[i]):
            if len(items[i]) + 2 <= room:
                room -= len(items[i]) + 2
                shown.add(i)
    line = [(items[i] + "  ", "bold yellow" if changed[i] else "") for i in sorted(shown)]
    if len(shown) == len(items):
        return [*line[:-1], (items[-1], line[-1][1])] if line else []
    return [*line, (crop(f"+{len(items) - len(shown)}", width), "dim")]


def bar(counts: Sequence[int], cells: int) -> list[int]:
    """`cells` divided in proportion to `counts`; each count above 0 gets at least one cell, if there are enough."""
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    due = [count * cells / total for count in counts]
    shares = [max(1, round(d)) if d else 0 for d in due]
    while (step := cells - sum(shares)) > 0:
        shares[max(range(len(due)), key=lambda i: due[i] - shares[i])] += 1
    for _ in range(-step):
        spare = [i for i, share in enumerate(shares) if share > 1] or [i for i, share in enumerate(shares) if share]
        shares[max(spare, key=lambda i: shares[i] - due[i])] -= 1
    return shares


STYLES = {"in use": "green", "ok": "", "busy": "yellow", "dirty": "yellow", "drained": "dim", "faulty": "red"}
#: how a state is shown, where that is not its name
STATES = {"ok": "free", "faulty": "set aside", "dirty": "set aside"}


def gpu_lines(gpus: Sequence[DeviceStatus], now: float) -> list[Line]:
    """A line for each GPU."""
    names = [f"GPU {gpu.gpu} {short_model(gpu.name)}".rstrip() for gpu in gpus]
    wide = max(map(len, names), default=0)
    lines: list[Line] = []
    for name, gpu in zip(names, gpus, strict=True):
        style = STYLES.get(gpu.state, "")
        line: Line = [(f"{name:{wide}}  ", "bold"), (f"{STATES.get(gpu.state, gpu.state):9}  ", style)]
        line.append((", ".join(_figures(gpu)), "dim"))
        if gpu.reason:
            line.append((f"  {why(gpu, now)}", style))
        lines.append(line)
    return lines


def why(gpu: DeviceStatus, now: float) -> str:
    """Why a GPU is not given out, since when, and when it is tried again."""
    if not gpu.since:
        return gpu.reason
    text = f"{gpu.reason} (for {duration(max(0.0, now - gpu.since))}"
    return text + (f", tried again in {duration(max(0.0, gpu.retry - now))})" if gpu.retry else ")")


def waiting_text(waiting: GpuQueue | None, now: float) -> str:
    """What waits for a GPU, since when, and why no GPU is given to it; empty if nothing does."""
    if waiting is None:
        return ""
    text = "no GPU is free"
    if waiting.members:
        text = f"{counted(waiting.members, 'member')} wait{'s' * (waiting.members == 1)} for a GPU"
    if waiting.since:
        text += f" for {duration(max(0.0, now - waiting.since))}"
    reasons = "; ".join(f"GPU {label}: {reason}" for label, reason in waiting.why.items())
    return text + (f": {reasons}" if reasons else "")


def _figures(gpu: DeviceStatus) -> list[str]:
    figures: list[str] = []
    if gpu.members:
        figures.append(f"{'member' if len(gpu.members) == 1 else 'members'} {' '.join(map(str, gpu.members))}")
    if gpu.used is not None and gpu.total:
        figures.append(f"{format_bytes(max(0, gpu.total - gpu.used))} of {format_bytes(gpu.total)} free")
    if gpu.ours:
        figures.append(f"{format_bytes(gpu.ours)} ours")
    if gpu.others:
        figures.append(f"{format_bytes(gpu.others)} others'")
    if gpu.utilisation is not None:
        figures.append(f"{gpu.utilisation} %")
    if gpu.temperature is not None:
        figures.append(f"{gpu.temperature} °C")
    return figures
