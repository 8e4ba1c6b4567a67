"""The notice board: what other processes may know of a run's GPUs, and ask of them.

`gpus.json` in the run's folder tells how the GPUs are and what waits for which, a few seconds old, for `status` and
`gpus`; who reads it looks whether the run goes on, as one that was killed leaves it behind. And a person may ask
through the control FIFO for a GPU to be drained, or given back.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ..errors import FolderError
from ..storage.control import WORDS
from ..storage.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..devices.slots import Pool


#: seconds between two notices while nothing happens
PERIOD = 1.0


class GpuStatus:
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
