"""The gate a member passes to its process: nobody has paused the run, the disk has room, a slot is free, and its
places are made ready.

A pause is a person's wish, told through the control FIFO: no member begins until it is taken back; those that train go
on. It is asked for at the beginning, and once more when the slot is there, as a GPU may have been waited for meanwhile:
then the slot is given back. A resume begins with the gate open.

What a member is told before it trains: its places on the disk, made ready, and everything it must know.

Between the engine's Member, which knows nothing of files or devices, and the wire's Begin, which is all a process ever
gets to hear.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from .. import events
from ..ask import path_text
from ..engine import early_stopping
from ..errors import FolderError
from ..processes import program, wire
from ..storage.checkpoints import CheckpointError
from ..storage.control import GO_ON, PAUSE
from ..storage.files import explained
from .disk_budget import is_full

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..devices.slots import Pool, Slot
    from ..engine.tree import Node
    from ..experiment import Settings
    from ..processes.wire import Begin
    from ..storage.checkpoints import CheckpointStore
    from ..storage.folder import RunFolder
    from .disk_budget import Disk


class Admission:
    """queued: filled with the members that wait for a slot, and for nothing else."""

    def __init__(self, slots: Pool, disk: Disk, briefing: Briefing, queued: set[int]) -> None:
        self._slots, self._disk, self._briefing, self._queued = slots, disk, briefing, queued
        self._open = asyncio.Event()
        self._open.set()
        #: told when somebody has paused the run (True) or has it go on (False)
        self.on_change: Callable[[bool], object] = lambda _: None
        #: members that ran out of GPU memory beside others, and are to train alone
        self.alone: set[int] = set()

    @property
    def paused(self) -> bool:
        return not self._open.is_set()

    def obey(self, line: str) -> bool:
        """Do what a person asked for; False if it is none of the words of this room."""
        if line not in (PAUSE, GO_ON):
            return False
        if self.paused != (line == PAUSE):
            self._open.clear() if line == PAUSE else self._open.set()
            self.on_change(self.paused)
        return True

    @contextlib.asynccontextmanager
    async def passed(self, member: Node, attempt: int) -> AsyncIterator[tuple[Slot, Begin]]:
        """The slot it has until the block is left, and what its process is told."""
        await self._open.wait()
        await self._disk.room(member.id)
        while True:
            await self._open.wait()
            self._queued.add(member.id)
            async with self._slots.lease(alone=member.id in self.alone) as slot:
                self._queued.discard(member.id)
                begin = await self._brief(member, attempt, slot)
                if not self.paused:
                    yield slot, begin
                    return

    async def _brief(self, member: Node, attempt: int, slot: Slot) -> Begin:
        """Make its places ready; on a full disk, once there is room."""
        while True:
            try:
                return self._briefing.begin(member, attempt, slot)
            except (FolderError, CheckpointError) as error:
                if not is_full(error):
                    raise
                self._disk.full()
                await self._disk.again()


class Briefing:
    """cwd: members' working directory."""

    def __init__(self, settings: Settings, folder: RunFolder, store: CheckpointStore, cwd: str) -> None:
        self._settings, self._folder, self._store, self._cwd = settings, folder, store, cwd

    def judged(self, member: Node) -> bool:
        """Does the member's first report wait for a verdict?"""
        return early_stopping.judged(self._settings, member)

    def begin(self, member: Node, attempt: int, slot: Slot) -> wire.Begin:
        """Make its places ready. Raises FolderError, CheckpointError."""
        places = self._folder.member(member.id)
        scratch = places.attempt(attempt)
        with explained("cannot prepare", places.path):
            places.path.mkdir(exist_ok=True)
            self._store.prepare(scratch)
            places.config.write_text(json.dumps(member.config, indent=1) + "\n")
            if attempt > 1:
                places.metrics.unlink(missing_ok=True)  # what an attempt that does not count has reported
        parent = self._folder.member(member.parent.id).checkpoint if member.parent is not None else None
        return wire.Begin(
            member=member.id,
            attempt=attempt,
            generation=member.generation,
            seed=member.seed,
            config=member.config,
            parent=str(parent) if parent is not None else None,
            checkpoint=str(scratch),
            metrics=str(places.metrics),
            log=str(places.log),
            cwd=self._cwd,
            device=slot.device,
            threads=slot.threads,
            env={**slot.env, "GPBT_CONFIG": str(places.config)},
            score=self._settings.score,
            judged=self.judged(member),
            cpus=sorted(slot.cpus) or None,
        )

    def started(self, t: float, member: Node, attempt: int, slot: Slot, pid: int) -> events.Started:
        """The fact that it has begun."""
        return events.Started(
            t=t,
            member=member.id,
            attempt=attempt,
            slot=slot.index,
            pid=pid,
            path=path_text(member.path),
            parent=member.parent.id if member.parent is not None else None,
            config=member.config,
        )

    def argv(self, begin: wire.Begin, member: Node) -> list[str] | None:
        """The command line of a command member, its placeholders filled in; None for a training function."""
        if self._settings.command is None:
            return None
        reserved = {
            "parent": begin.parent or "",
            "checkpoint": begin.checkpoint,
            "metrics": begin.metrics,
            "config": self._folder.member(member.id).config,
            "seed": member.seed,
            "generation": member.generation,
            "member": member.id,
        }
        return program.fill(self._settings.command, member.config, reserved)
