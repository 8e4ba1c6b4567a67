"""The watchdog: a slot that stands idle though there is work is a bug of ours, and is reported as one.

It knows the three ways in which the loop could fall asleep: a command of the engine that nobody performs, a reason to
be idle that does not hold, and a free slot that somebody waits for. Each must last, as all of them come and go between
two turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING

from .. import events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..devices.slots import Pool
    from ..engine.engine import Engine
    from ..events import Command


log = logging.getLogger("gpbt_async")

#: seconds a suspicion must last; and between two looks
PATIENCE, PERIOD = 1.0, 0.5


def suspicion(engine: Engine, performed: Mapping[Command | None, int], begun: int, waiting: int) -> str:
    """What is wrong, if it lasts; empty if nothing is.

    performed: commands under way, counted. begun: members that hold a slot. waiting: members that wait for one, and
    for nothing else.
    """
    if engine.ended is not None:
        return ""
    outstanding = engine.outstanding()
    for command in outstanding:
        if not isinstance(command, events.Verdict) and not performed.get(command):
            return f"nobody performs {command}"
    if waiting and begun < engine.slots:
        return f"{waiting} members wait for a slot, and {engine.slots - begun} are free"
    cause = engine.idle_cause()
    kinds = {"searcher": events.Suggest, "checkpoint": events.Publish}
    if cause in kinds and not any(isinstance(command, kinds[cause]) for command in outstanding):
        return f"a slot waits for a {cause} that nobody was asked for"
    if cause == "evidence" and not any(not m.state.settled for m in engine.tree.members):
        return "a slot waits for members to finish, and there are none"
    return ""


class Watchdog:
    """report: told, in a sentence for people, of every suspicion that lasts; once. More of it goes to the log."""

    def __init__(self, engine: Engine, pool: Pool, report: Callable[[str], object]) -> None:
        self._engine, self._pool, self._report = engine, pool, report
        #: commands being performed; members that wait for a slot, and for nothing else
        self.performed: Counter[Command | None] = Counter()
        self.queued: set[int] = set()

    def done(self, command: Command | None) -> None:
        """It was performed, or given up."""
        self.performed[command] -= 1
        if not self.performed[command]:
            del self.performed[command]

    async def watch(self) -> None:
        """Until cancelled. What goes wrong in here is told as well, and does the run no harm."""
        told: set[str] = set()
        last, since = "", 0.0
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(PERIOD)
            try:
                found = self._suspicion()
                if found != last:
                    last, since = found, now()
                elif found and found not in told and now() >= since + PATIENCE:
                    told.add(found)
                    self._report(f"a slot stands idle by a bug of gpbt-async: {found}")
                    log.error("an idle slot: %s; %s", found, self._state())
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                if problem not in told:
                    told.add(problem)
                    log.exception("the watchdog over idle slots has failed")
                    with contextlib.suppress(Exception):  # it may be the report that fails
                        self._report(f"the watchdog over idle slots has failed by a bug of gpbt-async: {problem}")

    def _suspicion(self) -> str:
        # why a member waits for a GPU is told by the pool itself
        queued = len(self.queued) if self._pool.waiting() is None else 0
        return suspicion(self._engine, self.performed, len(self._engine.training) - len(self.queued), queued)

    def _state(self) -> str:
        """The engine's, for whoever is to find the bug."""
        engine, members = self._engine, [m for m in self._engine.tree.members if not m.state.settled]
        told = [f"{m.id} {m.state.value} attempt {m.attempt} slot {m.slot}" for m in members]
        generations = [f"{g.issued} of {g.size} issued, {g.settled} settled" for g in engine.tree.generations]
        performed = [command for command, times in self.performed.items() if times]
        return (
            f"facts {engine.count}, slots {engine.slots}, cause {engine.idle_cause()}; generations: "
            f"{'; '.join(generations)}; members: {', '.join(told) or 'all settled'}; outstanding: "
            f"{engine.outstanding()}; performed: {performed}"
        )
