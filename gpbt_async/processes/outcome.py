"""The outcome of a member's attempt, and the text for a failed one.

`reason` makes the line that the journal, the terminal and the report show for a failure: the exception and its place,
or the last line of the log if the process died, and a remedy if one is known.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from ..formatting import LONGEST, REMEDY, one_line, shorten
from . import remedies
from .linux import AncestorDied
from .wire import Exit


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a member's attempt went.

    at: when training was over, on the monotonic clock. error, where: of what was raised, or how it died or was lost.
    status: exit status or minus the signal, None if it is not known. tail: the last lines of its log, if it died.
    remedy, fault: as in wire.End, of what was raised.
    """

    how: Exit
    at: float
    error: str | None = None
    where: str | None = None
    status: int | None = None
    tail: str = ""
    remedy: str = ""
    fault: str = ""


def reason(outcome: Outcome) -> str:
    """Why an attempt failed, on one line; a remedy, if one is known, follows behind `REMEDY`."""
    text = outcome.error or outcome.how
    if outcome.how is Exit.DIED and outcome.status == 0:
        text = "ended without returning from train (exit status 0)"
    remedy = outcome.remedy or remedies.remedy_for(f"{text}\n{outcome.tail}")
    text = one_line(text, LONGEST if not remedy else LONGEST // 2)
    if outcome.where:
        text += f" ({one_line(outcome.where, LONGEST // 4)})"
    last_lines = [line for line in outcome.tail.splitlines() if line.strip()]
    if last_lines:
        text += f"; its log ends: {one_line(last_lines[-1], LONGEST // 2)}"
    return text + (REMEDY + one_line(remedy, LONGEST) if remedy else "")


def describe(status: int | AncestorDied | None) -> str:
    """How a process ended, in words."""
    if isinstance(status, AncestorDied):
        return f"the {status.ancestor} died"
    if status is None:
        return "died"
    return f"exit status {status}" if status >= 0 else f"killed by {name_of(-status)}"


def name_of(number: int) -> str:
    """SIGTERM for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def tail_of(log: str | None, begin: int = 0, lines: int = 10) -> str:
    """The last lines of a file, from byte `begin` on; "" if there is none."""
    if log is None:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(max(begin, os.fstat(file.fileno()).st_size - 8192))
            tail = file.read().decode(errors="replace").splitlines()[-lines:]
            return "\n".join(shorten(line, LONGEST) for line in tail)
    except OSError:
        return ""
