"""How a member's attempt went, and how people are told: its outcome, and the words for one that did not return."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from .preflight import remedies
from .processes import Lost

#: between the reason of a failure and what to do about it
REMEDY = "; remedy: "
#: characters of an error, or of a line of a log, that the journal and a terminal get; all of it is in the log
LONGEST = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a member's attempt went. how: "returned", "stopped", "raised", "died" or "lost".

    Lost: it died because the zygote or the guardian did, which is not its fault. error, where: of what was raised, or
    how it died. at: when training was over, on the monotonic clock. status: exit status or minus the signal, None if
    nobody could tell. tail: the last lines of its log, if it died. remedy, fault: as in wire.End, of what was raised.
    """

    how: str
    at: float
    error: str | None = None
    where: str | None = None
    status: int | None = None
    tail: str = ""
    remedy: str = ""
    fault: str = ""


def reason(outcome: Outcome) -> str:
    """Why an attempt failed, on one line; with what to do about it behind `REMEDY`, if that is known."""
    text = outcome.error or outcome.how
    if outcome.how == "died" and outcome.status == 0:
        text = "ended without returning from train (exit status 0)"
    remedy = outcome.remedy or remedies.remedy_for(f"{text}\n{outcome.tail}")
    text = _line(text, LONGEST if not remedy else LONGEST // 2)
    if outcome.where:
        text += f" ({_line(outcome.where, LONGEST // 4)})"
    last_words = [line for line in outcome.tail.splitlines() if line.strip()]
    if last_words:
        text += f"; its log ends: {_line(last_words[-1], LONGEST // 2)}"
    return text + (REMEDY + _line(remedy, LONGEST) if remedy else "")


def parts(told: str) -> tuple[str, str]:
    """A reason as `reason` made it: why, and what to do about it, or ""."""
    why, _, remedy = told.partition(REMEDY)
    return why, remedy


def _line(text: str, most: int) -> str:
    return shorten(" ".join("".join(c if c.isprintable() else " " for c in text).split()), most)


def shorten(text: str, most: int) -> str:
    """A text that is too long without its middle: what it is stands at its beginning, and why often at its end."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-(most // 3) :]}"


def describe(status: int | Lost | None) -> str:
    if isinstance(status, Lost):
        return f"the {status.who} died"
    if status is None:
        return "died"
    return f"exit status {status}" if status >= 0 else f"killed by {name_of(-status)}"


def name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def tail_of(log: str | None, begin: int = 0, lines: int = 10) -> str:
    """The last lines of a file, from some place on; of nothing, nothing."""
    if log is None:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(max(begin, os.fstat(file.fileno()).st_size - 8192))
            told = file.read().decode(errors="replace").splitlines()[-lines:]
            return "\n".join(shorten(line, LONGEST) for line in told)
    except OSError:
        return ""
