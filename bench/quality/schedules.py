"""What a practitioner does: a schedule made by hand, whose start and whose other hyperparameters are searched for.

A trial trains for T intervals. The task names its hyperparameters that are like a learning rate (`decayed`; "lr" where
it names none). The trial's config says where these begin, and the schedule multiplies them with the same share whatever
the config: cosine, linear, or a tenth after half of the training and a hundredth after three quarters. All other
hyperparameters stay as they are. The search is that of full_runs.py, random by default: 25 whole trainings in the budget
of 25 · T intervals. `sampler` and `pruner` are Optuna's, so a schedule can be searched for by TPE or with successive
halving, too.

An interval's share is that of its middle, since a value holds for a whole interval here: with T = 20 a cosine to 1 %
ends at 1.2 %. A value below its range is put on the range's border, as for every other method. A task may name where a
schedule ends (`ending`, a share of the start; 1 % where it names none). What has no such hyperparameter, as `landscape`,
keeps its configs: the search is then the plain one.
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
