"""Room on the disk, without a disk: pauses that end, and are reported once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gpbt_async import events
from gpbt_async.errors import FolderError
from gpbt_async.scheduler import disk_budget
from gpbt_async.scheduler.disk_budget import Disk

GIB = 1 << 30


class Measured(Disk):
    def __init__(self, free: int, total: int = 100 * GIB, budget: int | None = None) -> None:
        super().__init__(Path("/"), budget, lambda: self.logs)
        self.logs: list[Path] = []
        self.free, self.total = free, total

    def _look(self) -> tuple[int, int]:
        return self.free, self.total


def published(member: int, size: int) -> events.Published:
    return events.Published(t=0.0, member=member, attempt=1, size=size, digest="")


def test_a_full_disk_met_by_eight_is_one_full_disk():
    room = Measured(GIB)
    room.fold(published(0, 2 * GIB))
    room.free = 0
    for _ in range(8):
        room.full(wrote=GIB)
    room.free = 9 * GIB
    assert room._why_not() == ""


def test_a_full_disk_elsewhere_does_not_stop_the_run_for_ever(monkeypatch):
    """/dev/shm, /tmp, a quota, inodes: more room than now may never come."""
    room, now = Measured(50 * GIB), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waits = []
    for _ in range(12):
        room.full()
        begin = now
        while room._why_not():
            now += 1.0
        waits.append(now - begin)
    assert waits[0] == disk_budget.FIRST_TRY
    assert waits[1] == 2 * disk_budget.FIRST_TRY, "the longer, the more often it was in vain"
    assert waits[-1] == disk_budget.LAST_TRY
    room.fold(published(0, 1))
    room.full()
    now += disk_budget.FIRST_TRY
    assert room._why_not() == ""


def test_a_member_that_may_begin_while_others_wait_is_not_reported():
    async def main() -> None:
        room = Measured(50 * GIB, budget=10)
        reported: list[str] = []
        room.on_change = lambda reason, _: reported.append(reason)
        room.fold(published(0, 5))
        await room.room(1)
        waiting = [asyncio.create_task(room.room(member)) for member in range(2, 6)]
        for member in range(1, 5):
            assert sum(not task.done() for task in waiting) == 5 - member
            room.fold(events.Failed(t=0.0, member=member, attempt=1, reason=""))
            await asyncio.wait([task for task in waiting if not task.done()], return_when=asyncio.FIRST_COMPLETED)
            room.fold(events.Discarded(t=0.0, member=0))
            room.fold(published(0, 5))
        await asyncio.gather(*waiting)
        assert [bool(text) for text in reported] == [True, False]

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(disk_budget, "PERIOD", 0.005)
        asyncio.run(asyncio.wait_for(main(), 20))


def test_a_wait_that_lasts_is_reported_again_less_and_less_often(monkeypatch):
    """--disk smaller than a checkpoint: one at a time, and a member that never ends."""
    room, now = Measured(50 * GIB, budget=1 << 10), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reported: list[tuple[str, bool, float]] = []
    begin = now
    room.on_change = lambda reason, loud: reported.append((reason, loud, now - begin))
    assert room._why_not() == ""
    room._inside |= {0, 1}
    room.fold(events.Trained(t=0.0, member=0, attempt=1, seconds=1.0, score=1.0, metrics={}))
    room._report(room._why_not())
    assert [loud for _, loud, _ in reported] == [False], "a size that is not known yet is as it should be"
    room.fold(published(0, 4000))
    for _ in range(3 * 3600):
        room._report(room._why_not())
        now += 1.0
    assert "one checkpoint alone takes 4 KiB of 1 KiB (--disk" in reported[1][0]
    assert "one at a time" in reported[1][0]
    assert [round(at) for _, loud, at in reported if loud] == [0, 60, 180, 420, 900, 1860, 3780, 7380]
    room._report("")
    assert reported[-1][:2] == ("", True)


def test_one_member_at_a_time_may_begin_but_not_during_a_discard():
    room = Measured(100 * GIB, budget=2 * GIB)
    for member in range(2):
        room.fold(published(member, GIB))
    assert room._why_not() == "", "else no checkpoint would ever be discarded"
    room.leave(0)
    assert "of 2.0 GiB" in room._why_not()
    room.fold(events.Discarded(t=0.0, member=0))
    assert room._why_not() == ""


def test_a_log_that_has_filled_the_disk_is_named(tmp_path):
    room = Measured(80 << 20)
    small, big = tmp_path / "small.txt", tmp_path / "big.txt"
    small.write_bytes(b"")
    big.touch()
    os.truncate(big, 5 * GIB)
    room.logs = [small, big, tmp_path / "gone.txt"]
    reported: list[str] = []
    room.on_change = lambda reason, _: reported.append(reason)
    room.free = 1 << 20
    room._report(room._why_not())
    assert reported[0].endswith(f"; the log {big} alone has 5.0 GiB (`truncate -s 0` makes room)")
    os.truncate(big, 2 << 20)
    room._report("")
    room._warned.clear()
    room._report(room._why_not())
    assert "the log" not in reported[-1], "without it there would be too little, too"


def test_a_checkpoint_of_no_bytes_is_known_to_be_one():
    room = Measured(50 * GIB, budget=1 << 10)
    room._inside |= {0, 1}
    room.fold(events.Trained(t=0.0, member=0, attempt=1, seconds=1.0, score=1.0, metrics={}))
    room.fold(published(0, 0))
    assert room._why_not() == ""


def test_a_run_folder_that_is_gone_is_reported_in_a_sentence(tmp_path):
    with pytest.raises(FolderError, match="no such file"):
        Disk(tmp_path / "gone").full()
