"""How numbers, times and configs are worded for people: pure functions from values to short text.

Shared by the faces; knows nothing of runs, terminals or colours beyond this: a *line* is a list of (text, style), the
style being one that rich understands, so that what is shown can be tested as plain data.
"""

from __future__ import annotations

import math
import os
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Line = list[tuple[str, str]]

#: what there is instead where the encoding has no such signs
ASCII = str.maketrans({"█": "#", "▓": "+", "▒": "-", "·": ".", "×": "x", "–": "-", "…": "~", "←": "<"})


def clean(text: str) -> str:
    """A text that moves no cursor and begins no line, whatever a config or an exception says."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def unstyled(line: Line) -> str:
    return "".join(text for text, _ in line)


def short_model(name: str) -> str:
    """A GPU's name without what all of them have in common."""
    return name.replace("NVIDIA ", "").replace("GeForce ", "")


def crop(text: str, width: int, left: bool = False) -> str:
    """At most `width` characters, with a sign where some were left out."""
    if len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    return "…" + text[len(text) - width + 1 :] if left else text[: width - 1] + "…"


def fit(line: Line, width: int) -> Line:
    """A line of at most `width` characters."""
    if sum(len(text) for text, _ in line) <= width:
        return line
    fitted: Line = []
    for text, style in line:
        fitted.append((crop(text, width), style))
        width -= len(text)
        if width < 0:
            break
    return fitted


def near(path: os.PathLike[str]) -> str:
    """A path as a person here would type it."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # the working directory is gone
        return os.fspath(path)
    return os.fspath(path) if relative.startswith("..") else relative


def number(value: object, digits: int = 3, pad: bool = False) -> str:
    """A float with so many significant digits, small and huge ones as 1.2e-5; a whole number in full; others by str."""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or value == 0:
        return str(value) if value else f"{0:.{digits - 1 if pad else 0}f}"
    size = math.floor(math.log10(abs(value)))
    if -3 <= size < 6:
        text, exponent = f"{value:.{max(0, digits - 1 - size)}f}", ""
    else:
        text, _, power = f"{value:.{digits - 1}e}".partition("e")
        exponent = f"e{int(power)}"
    return (text if pad or "." not in text else text.rstrip("0").rstrip(".")) + exponent


def score_text(score: float | None) -> str:
    return "–" if score is None else number(float(score), 4, pad=True)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def duration(seconds: float) -> str:
    minutes, s = divmod(max(0, int(seconds)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def estimate(left: float, seconds: Sequence[float], slots: float) -> tuple[float, float] | None:
    """Between which times `left` more members are likely trained, by the `seconds` that others took. None: unknown.

    slots: how many train at once on average. What counts for a sum is the mean; it is taken two standard errors wide.
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


def config_text(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in config.items())


def config_line(config: Mapping[str, Any], parent: Mapping[str, Any] | None, width: int) -> Line:
    """A config in at most `width` characters, in its own order, what differs from the parent's highlighted.

    Where room is short, what was changed is shown before what was not, and "+2" says how many are not shown.
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
    """`cells` shared out in proportion to `counts`: whatever is there gets one at least, while there are enough."""
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


def replay_text(told: Mapping[str, Any]) -> str:
    """What a replay came to (replays.compared), for people."""
    metric, n, fresh, original = told["metric"], told["n"], told["fresh"], told["score"]
    best = "the original" if told["run"] is None else f"the original, {told['run']}'s member {told['member']}"
    lines = [f"{best}: {metric} {score_text(original)}"]
    scores = [r["scores"][-1] for r in told["replays"] if r["state"] == "finished" and r["seeds"] == "fresh"]
    if n:
        lines.append(f"{counted(n, 'replay')} with fresh seeds: {metric} {_noise(fresh)}")
    if n > 1:
        lines += ["  " + ", ".join(score_text(score) for score in scores), *_verdict(told, scores)]
    elif n:
        lines.append("one replay tells nothing of the noise among seeds: --seeds 5")
    for name, m in told["metrics"].items():
        if m["n"]:
            where = "" if m["within"] is None else ": within" if m["within"] else ": outside"
            lines.append(f"  {name}: original {score_text(m['original'])}, replays {_noise(m)}{where}")
    if (same := told["same_seeds"]) is not None:
        how = "exactly the same" if same["exact"] else "not the same: more than its seed decides (threads, a GPU, time)"
        lines.append(f"with the original's own seeds: {metric} {score_text(same['score'])}, {how}")
    for i, r in enumerate(told["replays"]):
        if r["state"] != "finished":
            why = f": {clean(r['reason'])}" if r["reason"] else ""
            lines.append(f"replay {i} came to interval {len(r['members']) - 1} and is {r['state']} there{why}")
    return "\n".join(lines)


def _noise(spread: Mapping[str, float | None]) -> str:
    sd = f" ± {number(spread['sd'], 2, pad=True)} (mean ± sd)" if spread["sd"] is not None else ""
    return f"{score_text(spread['mean'])}{sd}"


def _verdict(told: Mapping[str, Any], scores: Sequence[float]) -> list[str]:
    """Within or outside, and on which side; and what is to be expected of somebody who was chosen.

    Or why that cannot be said.
    """
    fresh, apart = told["fresh"], told["deviations"]
    if fresh["sd"] == 0:
        same = "the same as" if told["score"] == scores[0] else "not"
        return [
            f"their seeds changed nothing: this tells nothing of the noise among seeds. It is {same} the original's "
            "score",
            "(is training deterministic, or does the script seed itself? A member is seeded already: remove "
            "torch.manual_seed and the like)",
        ]
    if told["within"] is None:
        return ["two replays are too few to say whether the original lies within the noise among seeds: --seeds 5"]
    between = f"95 of 100 replays are expected between {score_text(fresh['low'])} and {score_text(fresh['high'])}"
    better = "better" if ((apart or 0) > 0) == (told["mode"] == "max") else "worse"
    far = f", {abs(apart):.1f} sd {better} than their mean" if apart else ""
    lies = "within" if told["within"] else "outside"
    few = f"; {len(scores)} are few to say so by, --seeds 5 are better judges" if len(scores) < 5 else ""
    lines = [f"the original {score_text(told['score'])} lies {lies} the seed noise{far}; {between}{few}"]
    if told["of"]:
        lines.append(
            f"(it was chosen as the best of {told['of']} by this score, and so is expected on the better side)"
        )
    return lines
