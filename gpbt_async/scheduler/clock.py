"""Time in a run: the one clock that all facts are stamped by, and the deadlines of one member in training.

The clock never goes backwards, so that seconds between two facts are never negative, whatever happens to the machine's
date. Deadlines go by the event loop's own clock: how long a member may be silent, and how long it may train.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Seconds since the epoch that never go backwards: the wall clock read once, the monotonic clock ever after.

    Members stamp their messages with the machine's monotonic clock; `at` puts such a stamp on the same scale.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def at(self, monotonic: float) -> float:
        return self._offset + monotonic


class Deadlines:
    """stall: seconds without a report; whole: seconds inside `train`; None: no limit.

    end: called once, with the reason, when a deadline is missed.
    """

    def __init__(self, stall: float | None, whole: float | None, end: Callable[[str], object]) -> None:
        self._stall, self._whole, self._end = stall, whole, end
        #: the deadline that was missed, as a reason; empty if none was
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
        """The member has reported, or entered `train`."""
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
        if left > 0:  # one timer at a time, not one a report: reports may come by the thousand
            self._timers["stall"] = self._loop.call_later(left, self._watch_silence)
        else:
            self._over(f"reported nothing for {self._stall:g} s (stall_timeout)")

    def _over(self, reason: str) -> None:
        self.close()
        self.overdue = reason
        self._end(reason)
