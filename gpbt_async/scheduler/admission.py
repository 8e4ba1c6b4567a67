"""Admission: the four conditions for a member to start.

Admission waits, in this order, until the run is not paused, the disk has room for the member's checkpoint, a slot is
free, and the member's folder is ready. It returns the slot and a `wire.Begin`, the message that describes the member to
its process.

A user pauses a run through the control FIFO. Then no member begins until the pause ends; members that train continue.
Admission checks the pause twice: at the beginning, and again when it has a slot, because the wait for the slot
may be long. If the run is paused by then, admission gives the slot back. A resume ends the pause.
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
    """Lets members through, one by one, each as soon as it may begin."""

    def __init__(self, slots: Pool, disk: Disk, briefing: Briefing) -> None:
        self._slots, self._disk, self._briefing = slots, disk, briefing
        self._open = asyncio.Event()
        self._open.set()
        self._queued: set[int] = set()
        #: called when a person pauses the run (True) or ends the pause (False)
        self.on_change: Callable[[bool], object] = lambda _: None

    @property
    def paused(self) -> bool:
        return not self._open.is_set()

    @property
    def queued(self) -> int:
        """How many members wait for a slot, and for nothing else."""
        return len(self._queued)

    def pause(self, on: bool) -> None:
        """Let no member through from now on, or (False) let them through again."""
        if self.paused != on:
            self._open.clear() if on else self._open.set()
            self.on_change(on)

    @contextlib.asynccontextmanager
    async def passed(self, member: Node, attempt: int, alone: bool = False) -> AsyncIterator[tuple[Slot, Begin]]:
        """The slot that the member has until the block is left, and its Begin. alone: with no other on its GPU."""
        await self._open.wait()
        await self._disk.room(member.id)
        while True:
            await self._open.wait()
            self._queued.add(member.id)
            async with self._slots.lease(alone=alone) as slot:
                self._queued.discard(member.id)
                begin = await self._brief(member, attempt, slot)
                if not self.paused:
                    yield slot, begin
                    return

    async def _brief(self, member: Node, attempt: int, slot: Slot) -> Begin:
        """Make the member's folder ready; on a full disk, once there is room."""
        while True:
            try:
                return self._briefing.begin(member, attempt, slot)
            except (FolderError, CheckpointError) as error:
                if not is_full(error):
                    raise
                self._disk.full()
                await self._disk.again()


class Briefing:
    """Makes a member's folder ready, and says what its process must know. cwd: members' working directory."""

    def __init__(self, settings: Settings, folder: RunFolder, store: CheckpointStore, cwd: str) -> None:
        self._settings, self._folder, self._store, self._cwd = settings, folder, store, cwd

    def judged(self, member: Node) -> bool:
        """Does the member's first report wait for a verdict?"""
        return early_stopping.judged(self._settings, member)

    def begin(self, member: Node, attempt: int, slot: Slot) -> wire.Begin:
        """Make the member's folder ready. Raises FolderError, CheckpointError."""
        places = self._folder.member(member.id)
        scratch = places.attempt(attempt)
        with explained("cannot prepare", places.path):
            places.path.mkdir(exist_ok=True)
            self._store.prepare(scratch)
            places.config.write_text(json.dumps(member.config, indent=1) + "\n")
            if attempt > 1:
                places.metrics.unlink(missing_ok=True)  # of an attempt that does not count
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
            fold_seed=self._settings.seed_of_folds,
        )

    def started(self, t: float, member: Node, attempt: int, slot: Slot, pid: int) -> events.Started:
        """The fact that the member's process has started."""
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
