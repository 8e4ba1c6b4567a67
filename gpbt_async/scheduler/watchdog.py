"""The watchdog: a slot that stands idle though there is work is a bug of gpbt-async, and is reported as one.

It checks three signs of such a bug: a command of the engine that has no task, a reason to be idle that is not true, and
a free slot while a member waits for one. Each may appear for a moment between two turns of the loop, so the watchdog
reports one only if it lasts.
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
    """The fault, if it lasts; empty if there is none.

    performed: commands under way, counted. begun: members that hold a slot. waiting: members that wait for one, and
    for nothing else.
    """
    if engine.ended is not None:
        return ""
    outstanding = engine.outstanding()
    for command in outstanding:
        if not isinstance(command, events.Verdict) and not performed.get(command):
            return f"{command} is not being performed"
    if waiting and begun < engine.slots:
        return f"{waiting} members wait for a slot, and {engine.slots - begun} are free"
    cause = engine.idle_cause()
    kinds = {"searcher": events.Suggest, "checkpoint": events.Publish}
    if cause in kinds and not any(isinstance(command, kinds[cause]) for command in outstanding):
        return f"a slot waits for a {cause}, and no command asks for one"
    if cause == "evidence" and not any(not m.state.settled for m in engine.tree.members):
        return "a slot waits for members to finish, and there are none"
    return ""


class Watchdog:
    """queued: how many members wait for a slot, and for nothing else. report: called once with each suspicion that
    lasts, a sentence for people; the engine's state goes to the log.
    """

    def __init__(self, engine: Engine, pool: Pool, queued: Callable[[], int], report: Callable[[str], object]) -> None:
        self._engine, self._pool, self._queued, self._report = engine, pool, queued, report
        #: commands under way, counted
        self._performed: Counter[Command | None] = Counter()

    def begun(self, command: Command | None) -> None:
        self._performed[command] += 1

    def done(self, command: Command | None) -> None:
        """The command was performed, or given up."""
        self._performed[command] -= 1
        if not self._performed[command]:
            del self._performed[command]

    async def watch(self) -> None:
        """Until cancelled. An error in here is reported as well, and does the run no harm."""
        reported: set[str] = set()
        last, since = "", 0.0
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(PERIOD)
            try:
                suspected = self._suspicion()
                if suspected != last:
                    last, since = suspected, now()
                elif suspected and suspected not in reported and now() >= since + PATIENCE:
                    reported.add(suspected)
                    self._report(f"a slot stands idle by a bug of gpbt-async: {suspected}")
                    log.error("an idle slot: %s; %s", suspected, self._state())
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                if problem not in reported:
                    reported.add(problem)
                    log.exception("the watchdog over idle slots has failed")
                    with contextlib.suppress(Exception):  # it may be the report that fails
                        self._report(f"the watchdog over idle slots has failed by a bug of gpbt-async: {problem}")

    def _suspicion(self) -> str:
        # the pool itself reports why a member waits for a GPU
        queued = self._queued()
        waiting = queued if self._pool.waiting() is None else 0
        return suspicion(self._engine, self._performed, len(self._engine.training) - queued, waiting)

    def _state(self) -> str:
        """The engine's state, for the developer who looks for the bug."""
        engine, members = self._engine, [m for m in self._engine.tree.members if not m.state.settled]
        unsettled = [f"{m.id} {m.state.value} attempt {m.attempt} slot {m.slot}" for m in members]
        generations = [f"{g.issued} of {g.size} issued, {g.settled} settled" for g in engine.tree.generations]
        performed = [command for command, times in self._performed.items() if times]
        return (
            f"facts {engine.count}, slots {engine.slots}, cause {engine.idle_cause()}; generations: "
            f"{'; '.join(generations)}; members: {', '.join(unsettled) or 'all settled'}; outstanding: "
            f"{engine.outstanding()}; performed: {performed}"
        )
