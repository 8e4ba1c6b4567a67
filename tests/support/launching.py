"""A launcher that records its warnings, and members started with it."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from scripts.harness import begin

from gpbt_async.processes import wire
from gpbt_async.processes.launcher import Launcher

if TYPE_CHECKING:
    from pathlib import Path

    from gpbt_async.errors import Advice
    from gpbt_async.processes.worker import Worker

DECLARE = """
from gpbt_async.experiment import Experiment
from gpbt_async.space import Float
experiment = Experiment({train}, space={{"lr": Float(0.1, 1.0)}}, score="score", mode="max")
"""


class Open(Launcher):
    """A launcher that remembers its warnings."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.said: list[str] = []
        self._news: asyncio.Queue[str] = asyncio.Queue()
        super().__init__(f"test-{uuid.uuid4().hex}", cwd=folder, log=self._say, **options)

    def _say(self, warning: Advice) -> None:
        self.said.append(str(warning))
        self._news.put_nowait(str(warning))

    async def says(self) -> str:
        """The next warning, once it comes."""
        async with asyncio.timeout(30):
            return await self._news.get()


async def trained(launcher: Launcher, folder: Path, member: int, **config: Any) -> Worker:
    worker = await launcher.start(begin(folder, member, **config))
    async with worker:
        async for _ in worker:
            pass
    return worker


async def reported(worker: Worker) -> dict[str, Any]:
    async for message in worker:
        if isinstance(message, wire.Report):
            return dict(message.metrics)
    raise AssertionError(worker.outcome)


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path
