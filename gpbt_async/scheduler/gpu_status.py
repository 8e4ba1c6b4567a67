"""A run's GPUs as other processes see them: it writes gpus.json, and carries out requests about GPUs.

The file (storage/gpu_report.py) is at most a second older than what the pool knows. A request to drain a GPU, or to use
it again, comes through the run's control FIFO.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ..errors import FolderError
from ..storage.control import ControlRequest
from ..storage.files import write_json
from ..storage.gpu_report import GpuReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..devices.slots import Pool


#: seconds between two writes while nothing changes
PERIOD = 1.0


class GpuStatus:
    """Keeps the file `path` up to date with `pool`, until cancelled, and then deletes it."""

    def __init__(self, path: Path, pool: Pool, now: Callable[[], float], warn: Callable[[str], None]) -> None:
        self._path, self._pool, self._now, self._warn = path, pool, now, warn
        self._changed = asyncio.Event()
        pool.on_change = self._changed.set

    async def keep(self) -> None:
        try:
            while rows := self._pool.rows():
                report = GpuReport(self._now(), tuple(rows), self._pool.waiting())
                with contextlib.suppress(FolderError):  # of a full disk, the journal and the checkpoints warn
                    await write_json(self._path, report, durable=False)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def obey(self, request: ControlRequest, uuid: str) -> None:
        """Carry out a request about a GPU."""
        if uuid not in [status.uuid for status in self._pool.rows()]:
            self._warn(f"request ignored: {request} {uuid:.100}, as this run uses no such GPU")
        elif request is ControlRequest.RETURN:
            self._pool.give_back(uuid)
        else:
            self._pool.drain(uuid, at_once=request is ControlRequest.DRAIN_NOW)
