"""GPUs as lines of text: of a run that goes on, and of the machine. Plain data in, words out, for every face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .sizes import format_bytes
from .wording import counted, duration, short_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .wording import Line

STYLES = {"in use": "green", "ok": "", "busy": "yellow", "dirty": "yellow", "drained": "dim", "faulty": "red"}
#: a state as people say it
WORDS = {"ok": "free", "faulty": "set aside", "dirty": "set aside"}


def gpu_lines(rows: Sequence[Mapping[str, Any]], now: float) -> list[Line]:
    """A line for each GPU of a run (Pool.rows)."""
    names = [_name(row) for row in rows]
    wide = max(map(len, names), default=0)
    lines: list[Line] = []
    for name, row in zip(names, rows, strict=True):
        state = str(row["state"])
        line: Line = [(f"{name:{wide}}  ", "bold"), (f"{WORDS.get(state, state):9}  ", STYLES.get(state, ""))]
        line.append((", ".join(_numbers(row)), "dim"))
        if row["reason"]:
            line.append((f"  {why(row, now)}", STYLES.get(state, "")))
        lines.append(line)
    return lines


def why(row: Mapping[str, Any], now: float) -> str:
    """Why a GPU is not given out, since when, and when it is tried again."""
    text = str(row["reason"])
    if row["since"]:
        text += f" (for {duration(max(0.0, now - row['since']))}"
        text += f", tried again in {duration(max(0.0, row['retry'] - now))})" if row["retry"] else ")"
    return text


def waiting_text(waiting: Mapping[str, Any] | None, now: float) -> str:
    """What waits for a GPU, since when, and why no GPU is given to it; empty if nothing does."""
    if not waiting:
        return ""
    who = f"{counted(waiting['members'], 'member')} wait" + "s" * (waiting["members"] == 1)
    text = f"{who} for a GPU" if waiting["members"] else "no GPU is free"
    if waiting["since"]:
        text += f" for {duration(max(0.0, now - waiting['since']))}"
    reasons = "; ".join(f"GPU {label}: {reason}" for label, reason in waiting["why"].items())
    return text + (f": {reasons}" if reasons else "")


def _name(row: Mapping[str, Any]) -> str:
    return f"GPU {row['gpu']} {short_model(row['name'])}".rstrip()


def _numbers(row: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    members = row.get("members")
    if members:
        words.append(f"{'member' if len(members) == 1 else 'members'} {' '.join(map(str, members))}")
    if row["used"] is not None and row["total"]:
        words.append(f"{format_bytes(max(0, row['total'] - row['used']))} of {format_bytes(row['total'])} free")
    for key, whose in (("ours", "ours"), ("others", "others'")):
        if row.get(key):
            words.append(f"{format_bytes(row[key])} {whose}")
    if row["utilisation"] is not None:
        words.append(f"{row['utilisation']} %")
    if row["temperature"] is not None:
        words.append(f"{row['temperature']} °C")
    return words
