"""The one clock of a run, for all that its journal tells.

Deadlines of one member in training: how long it may be silent, how long it may train, and how long to wait before
it is tried again.

A member that hangs is ended by whoever made these, and has failed: a hang is a member's own doing as far as anybody
can tell, and one that always hangs is not to be tried for ever.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Seconds since the epoch that never go backwards: the wall clock read once, the monotonic clock ever after.

    Members stamp what they say with the machine's monotonic clock; `at` puts such a stamp on the same scale.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def at(self, monotonic: float) -> float:
        return self._offset + monotonic


class Deadlines:
    """stall: seconds without a report; whole: seconds inside `train`; None: no limit. end: ends it, told why, once."""

    def __init__(self, stall: float | None, whole: float | None, end: Callable[[str], object]) -> None:
        self._stall, self._whole, self._end = stall, whole, end
        #: why it was ended; empty if it was not
        self.overdue = ""
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._heard = self._loop.time()
        self._watch_silence()

    def __enter__(self) -> Deadlines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def heard(self) -> None:
        """It has reported, or entered `train`."""
        self._heard = self._loop.time()

    def entered(self) -> None:
        self.heard()
        if self._whole is not None:
            reason = f"was still training after {self._whole:g} s (member_timeout)"
            self._timers["whole"] = self._loop.call_later(self._whole, self._over, reason)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _watch_silence(self) -> None:
        if self._stall is None:
            return
        left = self._heard + self._stall - self._loop.time()
        if left > 0:  # looked at only when it may be over: reports may come by the thousand
            self._timers["stall"] = self._loop.call_later(left, self._watch_silence)
        else:
            self._over(f"reported nothing for {self._stall:g} s (stall_timeout)")

    def _over(self, reason: str) -> None:
        self.close()
        self.overdue = reason
        self._end(reason)
