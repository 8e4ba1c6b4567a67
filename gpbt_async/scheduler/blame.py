"""Blame: did the member itself cause the end of its attempt, or its GPU, or the disk?

If the member did not cause it, the attempt is *lost*: it does not count, and the member starts again. If it did, the
attempt has *failed*: the member has as many attempts as the experiment allows, unless another one would certainly fail
in the same way. A member's process sends what it knows of the cause (wire.End.fault). For a program, or a process that
died, only the end of the log shows the cause.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..devices.gpu_sharing import out_of_memory
from ..formatting import parts
from ..processes import remedies, wire
from ..processes.outcome import reason
from ..storage import full_disk

if TYPE_CHECKING:
    from pathlib import Path

    from ..devices.slots import Pool, Slot
    from ..engine.tree import Node
    from ..processes.outcome import Outcome
    from ..storage.checkpoints import CheckpointError, CheckpointStore
    from .disk_budget import Disk


class Blame:
    """The judge of one run's attempts."""

    def __init__(self, slots: Pool, disk: Disk, store: CheckpointStore) -> None:
        self._slots, self._disk, self._store = slots, disk, store
        self._alone: set[int] = set()

    def alone(self, member: Node) -> bool:
        """Did the member run out of GPU memory beside others, so that it is to train alone?"""
        return member.id in self._alone

    async def lost(self, member: Node, slot: Slot, outcome: Outcome, scratch: Path, overdue: str) -> str:
        """Why an attempt that did not return is lost, not failed: its GPU, or the disk; empty if it is not.

        scratch: the folder it wrote its checkpoint to, which is still there. overdue: the deadline it missed, or "".
        """
        if full := await self._full(outcome, scratch):
            return full
        if outcome.how is wire.Exit.STOPPED and not overdue and not (slot.evicted is not None and slot.evicted.done()):
            return ""
        blame = await self._slots.verdict(slot)  # a member that hangs may hang on a GPU that is being lost
        if overdue:
            return f"{blame}, and it {overdue}" if blame else ""
        oom = out_of_memory(f"{outcome.error}\n{outcome.tail}") and not self.alone(member)
        if not blame and oom and self._slots.out_of_memory(slot):
            self._alone.add(member.id)
            blame = f"out of GPU memory beside other members; to be tried alone ({parts(reason(outcome))[0]})"
        return blame

    async def _full(self, outcome: Outcome, scratch: Path) -> str:
        """That the run's own disk had no room, if so. Where another disk was full, the member has failed."""
        lacks, where = outcome.fault in (remedies.DISK, remedies.ELSEWHERE), None
        if not lacks:
            lacks, where = full_disk.logged(f"{outcome.error}\n{outcome.tail}", str(scratch))
        own = full_disk.of(scratch)
        if not lacks or own is None:
            return ""
        here = outcome.fault == remedies.DISK or (where is not None and where.device == own.device)
        # no other disk is named: it may have been this one, though the attempt's files may be deleted by now
        if here or own.full or (where is None and not outcome.fault and self._disk.narrow()):
            self._disk.full(await self._store.size(scratch))
            quota = (where is not None and where.quota) or full_disk.over_quota(f"{outcome.error}\n{outcome.tail}")
            what = "the quota on the run's disk is used up" if quota else "the disk is full"
            return f"{what} ({parts(reason(outcome))[0]})"
        return ""

    def explained(self, outcome: Outcome, scratch: Path) -> Outcome:
        """The outcome of an attempt that failed, with a remedy if a file system had no room."""
        if outcome.remedy:
            return outcome
        lacks, where = full_disk.logged(f"{outcome.error}\n{outcome.tail}", str(scratch))
        remedy = full_disk.elsewhere(where) if where is not None else remedies.UNKNOWN_DISK
        return dataclasses.replace(outcome, remedy=remedy) if lacks else outcome

    def certain(self, member: Node, outcome: Outcome, why: str) -> bool:
        """Would another attempt of the member fail in the same way? why: this one's reason."""
        if outcome.how is not wire.Exit.RAISED or outcome.fault not in ("", remedies.LASTING):
            return False
        return outcome.fault == remedies.LASTING or _repeats(member, why)

    def unpublishable(self, member: Node, error: CheckpointError, why: str) -> bool:
        """The same of a checkpoint that was refused, for what the member had written into it."""
        return error.__cause__ is None and _repeats(member, why)


def _repeats(member: Node, why: str) -> bool:
    return member.failures > 0 and remedies.same(parts(why)[0], parts(member.reason)[0])
