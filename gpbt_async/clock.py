"""The one clock of a run, for all that its journal tells."""

from __future__ import annotations

import time


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
