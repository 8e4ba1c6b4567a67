"""The gate a member passes to its process: nobody has paused the run, the disk has room, a slot is free, and its
places are made ready.

A pause is a person's wish, told through the control FIFO: no member begins until it is taken back; those that train go
on. It is asked for at the beginning, and once more when the slot is there, as a GPU may have been waited for meanwhile:
then the slot is given back. A resume begins with the gate open.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from .checkpoints import CheckpointError
from .disk import is_full
from .errors import FolderError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .briefing import Briefing
    from .disk import Disk
    from .slot import Pool, Slot
    from .tree import Member
    from .wire import Begin

#: what a person may tell a run: begin no member from now on; begin members again
PAUSE, GO_ON = "pause", "go on"


class Gate:
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
    async def passed(self, member: Member, attempt: int) -> AsyncIterator[tuple[Slot, Begin]]:
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

    async def _brief(self, member: Member, attempt: int, slot: Slot) -> Begin:
        """Make its places ready; on a full disk, once there is room."""
        while True:
            try:
                return self._briefing.begin(member, attempt, slot)
            except (FolderError, CheckpointError) as error:
                if not is_full(error):
                    raise
                self._disk.full()
                await self._disk.again()
