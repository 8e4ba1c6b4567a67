"""A virtual clock with slots, for the methods that are not ours; and how long intervals take, for all.

The j-th interval that a run issues takes the same virtual time whatever the method, the task and the machine: heavy
tails, uniform within 50 % and one in ten five times as long. So all methods are given the same work, and only their way
with the slots can tell them apart. Asking, copying and testing take no virtual time.
"""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING

from gpbt_async.simulate import heavy_tailed

from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(seed: int, serial: int, length: float = 1.0) -> float:
    """Virtual seconds of the run's interval number `serial`; 1 in the mean for a standard one."""
    return heavy_tailed(random.Random(key("seconds", seed, serial)), length)


def run(
    slots: int,
    seed: int,
    length: float,
    issue: Callable[[int], Callable[[float], None] | None],
) -> None:
    """Keep the slots busy until nothing is issued and nothing trains.

    issue(serial): begin interval number `serial`; returns what is to be called with the time at its end, or None when
    nothing can be issued now. It is asked again whenever an interval has ended.
    """
    agenda: list[tuple[float, int, Callable[[float], None]]] = []
    now, serial = 0.0, 0
    while True:
        while len(agenda) < slots and (ended := issue(serial)) is not None:
            heapq.heappush(agenda, (now + seconds(seed, serial, length), serial, ended))
            serial += 1
        if not agenda:
            return
        now, _, ended = heapq.heappop(agenda)
        ended(now)
