"""Population Based Training (Jaderberg et al. 2017), written here so that it can run on the virtual clock.

Asynchronous with truncation: n members; whoever has trained least gets the next free slot; a member that has ended an
interval and is among the worst `quantile` of all scores known copies the latest weights and config of a random one of
the best `quantile` and explores: each value is drawn anew with probability `resample`, and else multiplied with one of
the factors; ranges are continuous, and a value that leaves its range is put back on its border. Ray's own
implementation (ray_tune.py) is run beside it, as a check on this one. The defaults are Ray Tune's. The
paper truncates at a fifth, and describes multiplying and drawing anew as alternatives: methods.PBT has these, too.

Options: `barrier` waits for all members before anyone exploits; `explore="step"` takes the product's step in place of
the factors, which tells the step and the loop apart; `start="tpe"` draws the first configs as the product's default
does: TPE, told of what has ended. `every=k` lets a member exploit only when it has trained k, 2k, … intervals: Ray's
perturbation interval, which is counted in intervals that the member trained itself.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from gpbt_async.ask import Ask, Observation
from gpbt_async.searchers import local, registry

from . import clock
from .record import Record
from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpbt_async.space import Config, Space

    from .tasks import Outcome, Task

W = TypeVar("W", bound="Worker")


@dataclass(slots=True, eq=False)
class Worker:
    """A member of the population, which lives through the whole run."""

    number: int
    config: Config
    state: Any
    val: float = math.inf
    #: intervals it has trained itself; intervals in the lineage of its weights
    done: int = 0
    depth: int = 0
    training: bool = False

    def copy(self, other: Worker) -> None:
        """Go on with the other's weights."""
        self.state, self.val, self.depth = other.state, other.val, other.depth

    def ended(self, outcome: Outcome) -> None:
        """It has trained an interval."""
        self.training, self.state, self.val = False, outcome.state, outcome.val
        self.done, self.depth = self.done + 1, self.depth + 1


def begun(task: Task, seed: int, population: int) -> list[tuple[int, Config, Any]]:
    """Number, config and state that each worker begins with: the same in all of PBT's family."""
    return [
        (i, task.space.sample(random.Random(key("config", seed, i))), task.initial(key(seed, i)))
        for i in range(population)
    ]


def truncated(known: Sequence[W], quantile: float) -> tuple[Sequence[W], Sequence[W]]:
    """The best and the worst share of workers, whose best comes first: never more than half."""
    size = min(math.ceil(len(known) * quantile), len(known) // 2)
    return known[:size], known[len(known) - size :]


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    quantile: float = 0.25,
    factors: tuple[float, float] = (0.8, 1.2),
    resample: float = 0.25,
    barrier: bool = False,
    explore: str = "factors",
    start: str = "random",
    every: int = 1,
) -> Record:
    rng = random.Random(key("pbt", seed))
    record = Record(task, population * generations)
    workers = [Worker(*one) for one in begun(task, seed, population)]

    firsts: list[Observation] = []

    def exploit(*candidates: Worker) -> None:
        known = sorted((w for w in workers if w.done), key=lambda w: (w.val, w.number))
        best, worst = truncated(known, quantile)
        for worker in worst:
            if worker in candidates:
                better = rng.choice(best)
                worker.copy(better)
                worker.config = explored(task.space, better.config, rng, factors, resample, explore)

    def issue(serial: int) -> Callable[[float], None] | None:
        ready = [w for w in workers if not w.training and w.done < generations]
        if barrier and ready:
            ready = [w for w in ready if w.done == min(w.done for w in workers)]
        if not ready:
            return None
        worker = min(ready, key=lambda w: (w.done, w.number))
        if start == "tpe" and not worker.done:
            worker.config = _tpe(task.space, workers, firsts, worker.number, seed)
        outcome = task.interval(worker.state, worker.config, key(seed, serial))
        worker.training = True

        def ended(now: float) -> None:
            worker.ended(outcome)
            if worker.done == 1:
                firsts.append(Observation((worker.number,), 0, worker.config, "finished", worker.val))
            record.add(now, worker.val, worker.state, worker.depth)
            if worker.done % every:
                return
            if not barrier:
                exploit(worker)
            elif all(w.done == worker.done for w in workers):
                exploit(*workers)

        return ended

    clock.run(slots, seed, length, issue)
    return record


def explored(
    space: Space, config: Config, rng: random.Random, factors: tuple[float, float], resample: float, how: str
) -> Config:
    """A config from another, inside the space."""
    if how == "step":
        low, high = math.log(local.NARROWEST), math.log(local.WIDEST)
        return space.clip(space.step(config, rng, math.exp(rng.uniform(low, high)), local.REDRAW))
    moved: Config = {}
    for name, dimension in space.items():
        if rng.random() < resample:
            moved[name] = dimension.from_unit(rng.random())
        else:
            moved[name] = dimension.scale(config[name], rng.choice(factors))
    return space.clip(moved)


def _tpe(space: Space, workers: list[Worker], firsts: list[Observation], number: int, seed: int) -> Config:
    """What the product's default asks for its generation 0."""
    kin = tuple(sorted(firsts, key=lambda o: o.path))
    pending = tuple(w.config for w in workers if w.training and not w.done)
    ask = Ask(space, (number,), 0, key("ask", seed, number), None, kin, pending)
    return registry.make("tpe").suggest(ask)
