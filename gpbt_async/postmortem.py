"""What is said of a run that failed: why, the first traceback, and how it may be gone on with.

The reason is one sentence and stands in the journal; the traceback is in the first failed member's log, and the remedy
depends on what is still there. Both are notes of the exception (PEP 678), so an application sees them too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .errors import RunFailed
from .outcome import tail_of
from .tree import State

if TYPE_CHECKING:
    from .folder import Folder
    from .lineage import Lineage

#: lines of the log that are shown, and characters of a line
LINES, WIDTH = 20, 200


def failure(lineage: Lineage, folder: Folder, *, already: bool = False) -> RunFailed:
    """The error a run that failed ends in. already: it had failed when it was opened."""
    assert lineage.ended is not None
    said = f"the run has failed already: {lineage.ended.reason}" if already else lineage.ended.reason
    error = RunFailed(f"{said}; see {folder.path}")
    first = lineage.ending.first
    if first is not None and first.state is State.FAILED and first.attempt and not already:
        log = folder.member(first.id).log
        lines = tail_of(str(log), lines=LINES).splitlines()
        begins = [i for i, line in enumerate(lines) if line.startswith("Traceback ")]
        shown = "".join(f"\n  {_plain(line)}" for line in lines[begins[-1] if begins else 0 :])  # attempts repeat it
        if shown:
            error.add_note(f"{log} ends:{shown}")
    if first is not None and first.score is not None and not math.isfinite(first.score) and not already:
        error.add_note(
            f"look at one member: gpbt-async try SCRIPT; {lineage.settings.score} becomes {first.score:g} by too large "
            "a learning rate, a logarithm or a division of zero, or the data"
        )
    if lineage.reopens:
        edited = "" if lineage.settings.command else " (and --changed-script, if you edit the script)"
        error.add_note(f"mend what made it fail, and go on: gpbt-async resume {folder.typed} --retry-failed{edited}")
    return error


def _plain(line: str) -> str:
    """For a terminal: nothing that steers it."""
    text = "".join(c if c.isprintable() else " " for c in line)
    return text if len(text) <= WIDTH else text[:WIDTH] + " …"


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))
