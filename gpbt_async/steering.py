"""Words from outside to the scheduler that runs a run, through its control FIFO: stop, pause, go on, leave a GPU.

A word is a wish: whether it came true is read from the run's lock and its journal. Nothing is written but the word.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .errors import FolderError
from .gate import GO_ON, PAUSE
from .reading import Reading

if TYPE_CHECKING:
    from .folder import Folder

#: seconds `stop` waits for a scheduler to let go of its run; `pause` for it to have written that it is paused
STOP_TIMEOUT = 30.0


def tell(folder: Folder, word: str) -> None:
    """Tell the run's scheduler a word. Raises FolderError when nobody runs it, or listens."""
    if folder.locked() is None:
        raise FolderError(f"{folder.name} is not running; see gpbt-async status {folder.typed}")
    if not folder.tell(word):
        raise FolderError(f"{folder.name} is locked, but its scheduler does not listen yet; try again in a moment")


def stop(folder: Folder) -> str:
    """Ask the run's scheduler to stop and wait until the run is let go. Returns what to tell the person."""
    if folder.locked() is None:
        return f"{folder.name} is not running"
    tell(folder, "stop")
    deadline = time.monotonic() + STOP_TIMEOUT
    while folder.locked() is not None:
        if time.monotonic() > deadline:
            pid = (folder.locked() or {}).get("pid")
            remedy = f"look at what holds it up, or kill -9 {pid}, and resume it later: nothing is lost"
            raise FolderError(f"{folder.name} was asked to stop {STOP_TIMEOUT:g} s ago and still runs: {remedy}")
        time.sleep(0.02)
    return f"{folder.name} has stopped; go on with gpbt-async resume {folder.typed}"


def pause(folder: Folder, end: bool = False) -> str:
    """Have the run begin no member from now on, or (end) begin them again, and wait until it has said so.

    Returns what to tell the person. Raises FolderError when nobody runs it.
    """
    tell(folder, GO_ON if end else PAUSE)
    reading = Reading(folder)
    deadline = time.monotonic() + STOP_TIMEOUT
    while bool(reading.usage.by_hand) == end:
        if folder.locked() is None:
            raise FolderError(f"{folder.name} has just ended; see gpbt-async status {folder.typed}")
        if time.monotonic() > deadline:
            raise FolderError(
                f"{folder.name} was told to {GO_ON if end else PAUSE} {STOP_TIMEOUT:g} s ago and has not yet: look at "
                f"what holds process {(folder.locked() or {}).get('pid')} up"
            )
        time.sleep(0.02)
        reading.more()
    if end:
        return f"{folder.name} goes on"
    training = sum(m.slot is not None for m in reading.lineage.training)
    left = f"{training} in training go on" if training else "none is in training"
    return f"{folder.name} is paused: no member begins, {left}; gpbt-async pause {folder.typed} --end"
