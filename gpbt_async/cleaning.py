"""Cleaning: what a run that is over needs no more. It holds the run's lock meanwhile, so nobody can take it up."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

from .errors import FolderError
from .files import bytes_below, explained
from .reading import Reading

if TYPE_CHECKING:
    from .folder import Folder


def clean(folder: Folder, everything: bool = False) -> int:
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
        lineage = Reading(folder).lineage
        if lineage.ended is None:
            what = f"go on with it (gpbt-async resume {folder.typed}), or delete all of it: --everything"
            raise FolderError(f"{folder.name} has not finished: {what}")
        if lineage.ended.reason and lineage.reopens:
            what = f"(gpbt-async resume {folder.typed} --retry-failed), or delete all of it: --everything"
            raise FolderError(f"{folder.name} has failed, and can be gone on with: mend what made it fail {what}")
        kept = {folder.member(m.id).path for m in (lineage.best.ancestry if lineage.best is not None else ())}
        with explained("cannot clean", folder.members):
            for place in folder.members.iterdir():
                if place not in kept and place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
    finally:
        lock.release()
    return max(0, before - bytes_below(folder.path))
