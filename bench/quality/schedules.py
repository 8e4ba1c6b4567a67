"""What a practitioner does: a schedule made by hand, whose start and whose other hyperparameters are searched for.

A trial trains for T intervals. The task names those of its hyperparameters that are like a learning rate (`decayed`,
default "lr"). The trial's config says where these begin; the schedule multiplies them with a share that is the same for
every config: cosine, linear, or in steps (a tenth after half of the training, a hundredth after three quarters). All
other hyperparameters stay as they are. The search is that of full_runs.py: random by default, 25 whole trainings in the
budget of 25 · T intervals. `sampler` and `pruner` are Optuna's: TPE or successive halving can search, too.

A value holds for a whole interval, so an interval's share is that of its middle: with T = 20 a cosine to 1 % ends at
1.2 %. A value below its range is put on the range's border, as it is for every other method. A task may name the share
of the start at which a schedule ends (`ending`, default 1 %). Where a task has no such hyperparameter (`landscape`),
configs stay as they are, and the search is the plain one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import full_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpbt_async.space import Config

    from .record import Record
    from .tasks import Task

#: the share of its start at which a learning rate ends, where the task names none
ENDING = 0.01
#: the share at progress u, from 0 to 1, of a schedule that goes to `ending`
SHAPES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda u, ending: 1.0,
    "cosine": lambda u, ending: ending + (1 - ending) * (1 + math.cos(math.pi * u)) / 2,
    "linear": lambda u, ending: 1 - (1 - ending) * u,
    "step": lambda u, ending: 1.0 if u < 0.5 else ending**0.5 if u < 0.75 else ending,
}


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    shape: str = "cosine",
    sampler: str = "random",
    pruner: str | None = None,
) -> Record:
    def planned(config: Config, done: int) -> Config:
        return scheduled(task, config, (done + 0.5) / generations, shape)

    return full_runs.run(task, seed, slots, length, population, generations, sampler, pruner, planned)


def scheduled(task: Task, config: Config, progress: float, shape: str) -> Config:
    """The config at this share of a whole training."""
    share = SHAPES[shape](progress, getattr(task, "ending", ENDING))
    names = [name for name in getattr(task, "decayed", ("lr",)) if name in task.space]
    begun = {name: config[name] for name in names}
    return task.space.clip({**config, **{name: value * share for name, value in begun.items()}})  # type: ignore[operator]
