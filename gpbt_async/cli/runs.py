"""Cleaning: what a run that is over needs no more. It holds the run's lock meanwhile, so nobody can take it up."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING

from ..analysis.reader import RunReader
from ..errors import FolderError
from ..storage.control import GO_ON, PAUSE, send
from ..storage.files import bytes_below, explained

if TYPE_CHECKING:
    from ..storage.folder import RunFolder


#: seconds `stop` waits for a scheduler to let go of its run; `pause` for it to have written that it is paused
STOP_TIMEOUT = 30.0


def stop(folder: RunFolder) -> str:
    """Ask the run's scheduler to stop and wait until the run is let go. Returns what to tell the person."""
    if folder.locked() is None:
        return f"{folder.name} is not running"
    send(folder, "stop")
    deadline = time.monotonic() + STOP_TIMEOUT
    while folder.locked() is not None:
        if time.monotonic() > deadline:
            pid = (folder.locked() or {}).get("pid")
            remedy = f"look at what holds it up, or kill -9 {pid}, and resume it later: nothing is lost"
            raise FolderError(f"{folder.name} was asked to stop {STOP_TIMEOUT:g} s ago and still runs: {remedy}")
        time.sleep(0.02)
    return f"{folder.name} has stopped; go on with gpbt-async resume {folder.typed}"


def pause(folder: RunFolder, end: bool = False) -> str:
    """Have the run begin no member from now on, or (end) begin them again, and wait until it has said so.

    Returns what to tell the person. Raises FolderError when nobody runs it.
    """
    send(folder, GO_ON if end else PAUSE)
    reading = RunReader(folder)
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
    training = sum(m.slot is not None for m in reading.engine.training)
    left = f"{training} in training go on" if training else "none is in training"
    return f"{folder.name} is paused: no member begins, {left}; gpbt-async pause {folder.typed} --end"


def clean(folder: RunFolder, everything: bool = False) -> int:
    """Delete the folders of all members but the best's ancestry, or the whole run; the bytes that were freed.

    Raises FolderError when the run goes on, or has not ended and is to be kept.
    """
    before = bytes_below(folder.path)
    lock = asyncio.run(folder.lock(0.0))
    try:
        if everything:
            with explained("cannot delete", folder.path):
                shutil.rmtree(folder.path)
            return before
        engine = RunReader(folder).engine
        if engine.ended is None:
            what = f"go on with it (gpbt-async resume {folder.typed}), or delete all of it: --everything"
            raise FolderError(f"{folder.name} has not finished: {what}")
        if engine.ended.reason and engine.reopens:
            what = f"(gpbt-async resume {folder.typed} --retry-failed), or delete all of it: --everything"
            raise FolderError(f"{folder.name} has failed, and can be gone on with: mend what made it fail {what}")
        kept = {folder.member(m.id).path for m in (engine.best.ancestry if engine.best is not None else ())}
        with explained("cannot clean", folder.members):
            for place in folder.members.iterdir():
                if place not in kept and place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
    finally:
        lock.release()
    return max(0, before - bytes_below(folder.path))
