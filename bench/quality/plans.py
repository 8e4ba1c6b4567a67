"""Lineages that all follow one plan: what a task gives to one config, or to one schedule, at a method's budget.

A plan is a config to start from and, for a schedule, one to end with: on the way between the two through the share
`until` of a training a value goes linearly, along a cosine, or in proportion (as a logarithm, where its dimension is
logarithmic); from there on it stays. n lineages of T intervals differ in their initial states and their seeds alone,
and the best model of all intervals is kept, as it is for every method.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gpbt_async.space import Choice

from . import clock
from .record import Record
from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpbt_async.space import Config, Space

    from .tasks import Task

SHAPES = ("linear", "cosine", "proportion")


@dataclass(frozen=True)
class Plan:
    """end None: `start` all the way."""

    start: Config
    end: Config | None = None
    shape: str = "cosine"
    until: float = 1.0

    def at(self, space: Space, progress: float) -> Config:
        """The config of the interval that begins after this share of the training's intervals; the last has share 1."""
        if self.end is None:
            return space.clip(self.start)
        u = min(1.0, progress / self.until)
        if self.shape == "cosine":
            u = (1 - math.cos(math.pi * u)) / 2
        config: Config = {}
        for name, d in space.items():
            a, b = self.start[name], self.end[name]
            if isinstance(d, Choice):
                config[name] = a if u < 0.5 else b
            elif self.shape == "proportion":
                config[name] = d.from_unit((1 - u) * d.to_unit(a) + u * d.to_unit(b))
            else:
                config[name] = (1 - u) * a + u * b  # type: ignore[operator]
        return space.clip(config)

    def told(self) -> dict[str, Any]:
        """As JSON has it; numbers short."""
        return {"start": self.start} if self.end is None else asdict(self)


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    plan: dict[str, Any] | None = None,
) -> Record:
    planned = Plan(**(plan or {}))
    record = Record(task, population * generations)
    states = [task.initial(key(seed, i)) for i in range(population)]
    done = [0] * population
    waiting = list(range(population))

    def issue(serial: int) -> Callable[[float], None] | None:
        if not waiting:
            return None
        one = min(waiting, key=lambda i: (done[i], i))
        waiting.remove(one)
        config = planned.at(task.space, done[one] / max(1, generations - 1))
        outcome = task.interval(states[one], config, key(seed, serial))

        def ended(now: float) -> None:
            states[one], done[one] = outcome.state, done[one] + 1
            record.add(now, outcome.val, outcome.state, done[one])
            if done[one] < generations:
                waiting.append(one)

        return ended

    clock.run(slots, seed, length, issue)
    return record
