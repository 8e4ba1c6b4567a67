"""The notice board: what other processes may know of a run's GPUs, and ask of them.

`gpus.json` in the run's folder tells how the GPUs are and what waits for which, a few seconds old, for `status` and
`gpus`; who reads it looks at its age, as a run that was killed leaves it behind. And a person may ask through the
run's control FIFO for a GPU to be drained, or give it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from .errors import FolderError
from .files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .slot import Pool

#: seconds between two notices while nothing happens
PERIOD = 1.0
#: seconds after which a notice is no news any more: its run was killed
STALE = 30.0
WORDS = ("drain", "drain-now", "return")


class Board:
    """Keeps `path` up to date with what `pool` tells, until cancelled."""

    def __init__(self, path: Path, pool: Pool, now: Callable[[], float], warn: Callable[[str], None]) -> None:
        self._path, self._pool, self._now, self._warn = path, pool, now, warn
        self._changed = asyncio.Event()
        pool.on_change = self._changed.set

    async def keep(self) -> None:
        try:
            while rows := self._pool.rows():
                notice = {"t": self._now(), "gpus": rows, "waiting": self._pool.waiting()}
                with contextlib.suppress(FolderError):  # a full disk is told by who cannot do without
                    await write_json(self._path, notice, durable=False)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def obey(self, line: str) -> bool:
        """Do what a person asked for; False if it is none of the words of this room."""
        word, _, name = line.partition(" ")
        if word not in WORDS:
            return False
        uuids = self._pool.named(name)
        if not uuids:
            self._warn(f"somebody asked this run to {word} GPU {name}, which it does not use")
        for uuid in uuids:
            if word == "return":
                self._pool.give_back(uuid)
            else:
                self._pool.drain(uuid, at_once=word == "drain-now")
        return True


def notice(path: Path) -> dict[str, Any] | None:
    """What a run tells of its GPUs: {t, gpus, waiting}; None when it has none, or goes on no more."""
    try:
        age = time.time() - path.stat().st_mtime  # not its `t`: the run's clock stands still while a laptop sleeps
        told: dict[str, Any] = read_json(path)
    except (FolderError, OSError):
        return None
    return told if isinstance(told, dict) and age < STALE else None
