"""Room on the disk: a member begins only if its checkpoint is expected to fit; a run waits while the disk is full.

There are two limits: the run's budget (`--disk`) for its checkpoints, and the free space of the file system. The
expected size is that of the largest checkpoint so far. This is a guess, so a member may still meet a full disk. Then no
member begins until there is more free space than there was; after each further such failure the space must have grown
by twice as much. A quota or used-up inodes do not show in the free space. So after some time one member tries all the
same, and after twice that time the next. If another file system than the run's is full, blame.py decides.

Members that train continue, because their checkpoints were counted when they began.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from .. import events
from ..formatting import format_bytes
from ..storage import full_disk
from ..storage.files import explained
from ..storage.full_disk import FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ..events import Fact


#: seconds between two looks at a disk that is full
PERIOD = 0.5
#: seconds until one member tries though there is no more room than there was; twice as long each time, up to
FIRST_TRY, LAST_TRY = 5.0, 600.0
#: bytes that are left for logs and for other people; of a small file system, an eighth
RESERVE = 64 << 20
#: the least size in bytes of a log that is named
LOG = 1 << 20
#: seconds until the warning that members wait is repeated; twice as long each time, up to
FIRST_REPEAT, LAST_REPEAT = 60.0, 3600.0
#: seconds that a wait soon after another must last before there is a warning of it
SOON = 3.0
_FIRST = "the first checkpoint is being written, and its size is not known yet (--disk)"


def is_full(error: BaseException) -> bool:
    """Is the cause of an error in the run's own folder a full disk, or a quota?"""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in FULL


class Disk:
    """path: a folder on the disk. budget: bytes the run's checkpoints may take, None = no limit. logs: the run's logs,
    of which a warning names one that has filled the disk.
    """

    def __init__(self, path: Path, budget: int | None = None, logs: Callable[[], Iterable[Path]] = lambda: ()) -> None:
        self._path, self._budget, self._logs = path, budget, logs
        #: bytes that are missing, while a member waits for them
        self._missing = 0
        #: called with the reason why members wait, "" when they no longer do; and whether to warn of it, as it may last
        self.on_change: Callable[[str, bool], object] = lambda *_: None
        self._stored: dict[int, int] = {}
        self._largest = 0
        #: whether the first checkpoint is written, and its size not known yet; None once it is known
        self._first: bool | None = False
        #: members that train, or whose checkpoints are being published; and those whose checkpoints are being deleted
        self._inside: set[int] = set()
        self._leaving: set[int] = set()
        #: bytes that must be free since a member met a full disk; 0 = none has
        self._wanted = 0
        #: how many more than were free then; and until when that is waited for, on the monotonic clock, and how long
        self._more, self._until, self._patience = 0, 0.0, 0.0
        self._waiting = 0
        #: set when there may be room
        self._freed = asyncio.Event()
        #: why members wait, as reported last, and whether with a warning
        self._paused, self._loud = "", False
        #: when the warning is repeated, on the monotonic clock, and how long after the last time
        self._next, self._pace = 0.0, 0.0
        #: by warning, its numbers left out: when it was given last
        self._warned: dict[str, float] = {}

    def fold(self, fact: Fact) -> None:
        """Account for a fact of the journal."""
        if isinstance(fact, events.Published):
            self._stored[fact.member] = fact.size
            self._largest, self._first = max(self._largest, fact.size), None
            self._wanted, self._more, self._patience = 0, 0, 0.0
        elif isinstance(fact, events.Trained):
            self._first = None if self._first is None else True
        elif isinstance(fact, events.Discarded):
            self._stored.pop(fact.member, None)
            self._leaving.discard(fact.member)
        if isinstance(fact, events.Published | events.Failed | events.Lost | events.Discarded):
            self._inside.discard(fact.member)
            self._freed.set()

    def leave(self, member: int) -> None:
        """The member's checkpoint will be deleted as soon as the facts that allow it are on the disk."""
        self._leaving.add(member)

    async def room(self, member: int) -> None:
        """Wait until this member may begin."""
        await self._wait(self._why_not)
        self._inside.add(member)

    async def again(self) -> None:
        """Wait until there is more room than there was, for one that has begun."""
        await self._wait(self._short)

    async def _wait(self, why_not: Callable[[], str]) -> None:
        self._waiting += 1
        try:
            while reason := why_not():
                self._report(reason)
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD):
                        await self._freed.wait()
        finally:
            self._waiting -= 1
        if not self._waiting:  # if one of several may begin, the others would report the contrary at once
            self._report("")

    def full(self, wrote: int = 0) -> None:
        """A member has met a full disk. wrote: bytes that it had written, which are deleted."""
        free, _ = self._look()
        if not self._wanted:  # else it is the same full disk, met by one more member
            self._more = max(2 * self._more, max(self._largest, self._reserve()) // 2)
            self._patience = min(LAST_TRY, 2 * self._patience or FIRST_TRY)
            self._until = time.monotonic() + self._patience
        self._wanted = max(self._wanted, free + wrote + self._more)

    def tight(self) -> None:
        """The journal's own reserve on the disk can no longer be kept."""
        if not self._wanted:
            self.full()

    def narrow(self) -> bool:
        """Is there no room for one more checkpoint, as far as is known, or for one more file?"""
        own = full_disk.of(self._path)
        return self._look()[0] < self._largest + self._reserve() or (own is not None and own.inodes)

    def _look(self) -> tuple[int, int]:
        """Bytes free to this user, and in all."""
        with explained("cannot look at the disk of", self._path):
            disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize

    def _reserve(self) -> int:
        return min(RESERVE, self._look()[1] // 8)

    def _short(self, need: int = 0) -> str:
        free = self._look()[0]
        if free >= self._wanted or time.monotonic() >= self._until:
            self._wanted = 0
        need = max(need, self._wanted)
        self._missing = max(0, need - free)
        if free >= need:
            return ""
        own = full_disk.of(self._path) if self._wanted else None
        if own is not None and own.inodes:
            return f"{self._path} has no inodes left: no file can be made there, though {format_bytes(free)} are free"
        return f"{self._path} has {format_bytes(free)} free, and {format_bytes(need)} are needed"

    def _why_not(self) -> str:
        if self._budget is not None and self._first and self._inside:
            return _FIRST
        coming = self._largest * (len(self._inside) + 1)
        if short := self._short(coming + self._reserve()):
            return short
        # one member at a time may always begin, else no checkpoint would ever be discarded; but not during a discard
        if self._budget is not None and (self._inside or self._leaving):
            used = sum(self._stored.values()) + coming
            if used > self._budget:
                budget = f"{format_bytes(self._budget)} (--disk; a resume may be given more)"
                if self._largest > self._budget:
                    alone = "so that members train one at a time"
                    return f"one checkpoint alone takes {format_bytes(self._largest)} of {budget}, {alone}"
                return f"its checkpoints would take {format_bytes(used)} of {budget}"
        return ""

    def _report(self, reason: str) -> None:
        now = time.monotonic()
        if _words(reason) != _words(self._paused):  # numbers change all the time, and are reported once
            recent = self._warned.get(_words(reason), -FIRST_REPEAT) + FIRST_REPEAT > now  # it may be for a moment
            loud = reason != _FIRST and not recent if reason else self._loud
            self._pace = FIRST_REPEAT
            self._next = now + (SOON if recent and reason != _FIRST else self._pace)
        elif reason and now >= self._next:
            loud, self._pace = True, min(LAST_REPEAT, 2 * self._pace)
            self._next = now + self._pace
        else:
            return
        self._paused, self._loud = reason, loud
        if reason and loud:
            self._warned[_words(reason)] = now
        self.on_change(reason + (self._biggest_log() if reason and self._missing else ""), loud)

    def _biggest_log(self) -> str:
        """The log that would make enough room if it were deleted, if there is one."""
        sizes: dict[Path, int] = {}
        for log in self._logs():
            with contextlib.suppress(OSError):
                sizes[log] = log.stat().st_size
        biggest = max(sizes, key=lambda log: sizes[log], default=None)
        if biggest is None or sizes[biggest] < max(self._missing, LOG):
            return ""
        return f"; the log {biggest} alone has {format_bytes(sizes[biggest])} (`truncate -s 0` makes room)"


def _words(reason: str) -> str:
    """The reason without its amounts."""
    return re.sub(r"[0-9.]+ [KMGT]?i?B", "", reason)
