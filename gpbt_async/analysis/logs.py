"""Members' logs and metrics as a reader wants them: the end of a log, the last traceback, the reported values.

A member may write anything into these files, or replace them. So only regular files are opened, never through a link
and never waiting, and only a limited number of bytes is read.

`failure` builds the error in which a failed run ends. Its reason is one sentence of the journal. The first failed
member's traceback and the remedy are notes of the exception (PEP 678), so an application sees them too.
"""

from __future__ import annotations

import json
import math
import os
import stat
from typing import TYPE_CHECKING

from ..engine.tree import State
from ..errors import RunFailed

if TYPE_CHECKING:
    from pathlib import Path

    from ..engine.engine import Engine
    from ..storage.folder import RunFolder


#: bytes of a member's metrics that are read: some ten thousand reports
METRICS = 1 << 20
#: bytes that are read for the last report alone
LATEST = 1 << 14
#: lines of a failed member's log that are shown, and characters of a line
LINES, WIDTH = 20, 200
TRACEBACK = "Traceback "


def log_tail(path: Path, size: int) -> str:
    """The last lines of a log: at most `size` characters, printable ones only; "" if there is none."""
    text = _read(path, size * 2, end=True).decode(errors="replace")
    if len(text) > size:
        text = text[-size:].partition("\n")[2] or text[-size:]
    lines = (line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n"))  # a progress bar
    return "\n".join("".join(c if c.isprintable() or c == "\t" else "�" for c in line) for line in lines).strip("\n")


def traceback_of(log: str) -> str:
    """The last traceback in the end of a log, to its exception's line; "" if there is none."""
    lines = from_traceback(log.split("\n"))
    if not lines or not lines[0].startswith(TRACEBACK):
        return ""
    ends = next((i for i, line in enumerate(lines[1:], 1) if line and not line.startswith((" ", "\t"))), len(lines))
    return "\n".join(lines[: ends + 1])


def from_traceback(lines: list[str]) -> list[str]:
    """The lines from the last traceback's beginning on; all of them if there is none."""
    begins = (i for i in reversed(range(len(lines))) if lines[i].startswith(TRACEBACK))
    return lines[next(begins, 0) :]


def curve(path: Path, metric: str, points: int) -> list[float]:
    """The values that a member reported of a metric, in order; if they are many, `points` evenly chosen ones."""
    values = []
    for line in _read(path, METRICS).split(b"\n"):
        try:
            value = json.loads(line)[metric]
            values.append(float(value))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    values = [value if math.isfinite(value) else math.nan for value in values]
    if len(values) <= points:
        return values
    return [values[round(i * (len(values) - 1) / (points - 1))] for i in range(points)]


def latest(path: Path, metric: str) -> float | None:
    """The value that a member reported last of a metric; None if it is not in the last lines of the file."""
    *whole, _ = _read(path, LATEST, end=True).split(b"\n")  # a last line without its end is being written
    for line in reversed(whole):
        try:
            return float(json.loads(line)[metric])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return None


def _read(path: Path, size: int, end: bool = False) -> bytes:
    """At most `size` bytes from a regular file's beginning, or end; empty if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return os.pread(fd, size, max(0, status.st_size - size) if end else 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


def failure(engine: Engine, folder: RunFolder, *, already: bool = False) -> RunFailed:
    """The error in which a failed run ends. already: it had failed before it was opened."""
    assert engine.ended is not None
    reason = f"the run has failed already: {engine.ended.reason}" if already else engine.ended.reason
    error = RunFailed(f"{reason}; see {folder.path}")
    first = engine.termination.first
    if first is not None and first.state is State.FAILED and first.attempt and not already:
        log = folder.member(first.id).log
        lines = from_traceback(log_tail(log, 8192).splitlines()[-LINES:])  # of the last attempt only
        shown = "".join(f"\n  {crop(line)}" for line in lines)
        if shown:
            error.add_note(f"{log} ends:{shown}")
    if first is not None and first.score is not None and not math.isfinite(first.score) and not already:
        error.add_note(
            f"look at one member: gpbt-async try SCRIPT; {engine.settings.score} becomes {first.score:g} through "
            "too large a learning rate, a logarithm or a division of zero, or the data"
        )
    if engine.reopens:
        edited = "" if engine.settings.command else " (and --changed-script, if you edit the script)"
        error.add_note(f"fix the cause, then continue: gpbt-async resume {folder.shell_name} --retry-failed{edited}")
    return error


def crop(line: str) -> str:
    """A line of a log for a terminal: no tabs, and not too long."""
    text = line.replace("\t", " ")
    return text if len(text) <= WIDTH else text[:WIDTH] + " …"


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))
