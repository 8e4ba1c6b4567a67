"""Events for listeners: bounded, in order, and never at the run's expense.

A run gives every event to every listener at once and goes on. A listener that does not keep up loses its oldest events,
and finds one event in their place that says how many (events.Missed). So an application may forget to read, or stop in
a debugger, and the GPUs stay busy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..events import Event


#: how many events a listener may lag behind before the oldest are dropped for it
BUFFER = 1024


class EventStream:
    """One iteration over events: a bounded buffer that counts its gaps."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._missed = 0
        self._missed_at = 0.0
        self._closed = False
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self._events) >= BUFFER:
            self._missed_at = self._events.popleft().t
            self._missed += 1
        self._events.append(event)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if self._missed:
            from ..events import Missed

            missed, self._missed = self._missed, 0
            return Missed(t=self._missed_at, count=missed)
        return self._events.popleft()
