"""Ray Tune's own PBT and PB2: their schedulers decide, the virtual clock trains.

Ray's scheduler objects are given what its controller would give them (`on_trial_result`, `choose_trial_to_run`) and are
obeyed; no cluster is started and nothing listens. A trial's time is the depth of its weights, which in Ray comes with
the checkpoint; each trial trains for T intervals of its own, so the budget is n · T to the interval.

PBT is given continuous ranges, drawn from logarithmically where they are so (in Ray a list of two numbers would mean
two categories), and its explored configs are clipped, as Ray's may leave their ranges. PB2, which knows neither
logarithms nor categories, is given the unit cube, where every dimension is linear and a category one of equal parts.
"""

from __future__ import annotations

import logging
import random
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gpbt_async.space import Choice

from . import clock
from .record import Record
from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpbt_async.space import Config, Space

    from .tasks import Task


@dataclass(slots=True, eq=False, repr=False)
class Checkpoint:
    """Without a repr, which Ray makes again and again for messages that nobody asked for."""

    state: Any
    depth: int


@dataclass(eq=False)
class Trial:
    """As much of Ray's Trial as its schedulers look at."""

    trial_id: str
    config: dict[str, Any]
    checkpoint: Checkpoint
    status: str = "PENDING"
    experiment_tag: str = ""
    #: intervals trained in this trial
    done: int = 0
    evaluated_params: dict[str, Any] = field(default_factory=dict)
    last_result: dict[str, Any] = field(default_factory=dict)
    temporary_state: Any = field(default_factory=lambda: SimpleNamespace(saving_to=None))

    def __post_init__(self) -> None:
        keeping = SimpleNamespace(num_to_keep=None)
        self.run_metadata = SimpleNamespace(
            checkpoint_manager=SimpleNamespace(checkpoint_config=keeping, _latest_checkpoint_result=None)
        )

    def __str__(self) -> str:
        return self.trial_id

    def is_finished(self) -> bool:
        return self.status == "TERMINATED"

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def adopt(self) -> None:
        """Take over what the scheduler has put where a restored trial looks for its checkpoint."""
        manager = self.run_metadata.checkpoint_manager
        if manager._latest_checkpoint_result is not None:
            self.checkpoint = manager._latest_checkpoint_result.checkpoint
            manager._latest_checkpoint_result = None


@dataclass
class Controller:
    """As much of Ray's TuneController as its schedulers use."""

    trials: list[Trial]
    search_alg: None = None

    def get_trials(self) -> list[Trial]:
        return self.trials

    def get_live_trials(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.is_finished()]

    def pause_trial(self, trial: Trial, should_checkpoint: bool = True) -> None:
        trial.status = "PAUSED"

    def _schedule_trial_save(self, trial: Trial, result: Any = None) -> Checkpoint:
        return Checkpoint(trial.checkpoint.state, trial.checkpoint.depth)


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    scheduler: str = "pbt",
    **options: Any,
) -> Record:
    kept = random.getstate(), _numpy_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _quiet()
            _seed(key("ray", seed) % 2**32)
            return _run(task, seed, slots, length, population, generations, scheduler, options)
    finally:
        random.setstate(kept[0])
        _numpy_state(kept[1])


def _run(
    task: Task,
    seed: int,
    slots: int,
    length: float,
    population: int,
    generations: int,
    name: str,
    options: dict[str, Any],
) -> Record:
    cube = name == "pb2"
    decides = _pb2(task.space, options) if cube else _pbt(task.space, options)
    trials: list[Trial] = []
    for i in range(population):
        config: dict[str, Any] = dict(task.space.sample(random.Random(key("config", seed, i))))
        if cube:
            config = dict(zip(config, task.space.encode(config), strict=True))
        trials.append(Trial(f"trial_{i:03}", config, Checkpoint(task.initial(key(seed, i)), 0)))
    controller, record = Controller(trials), Record(task, population * generations)
    for trial in trials:
        decides.on_trial_add(controller, trial)
    going: list[Trial] = []  # told to continue, in the slots they have

    def issue(serial: int) -> Callable[[float], None] | None:
        trial = going.pop() if going else decides.choose_trial_to_run(controller)
        if trial is None:
            return None
        trial.adopt()
        trial.status = "RUNNING"
        config = task.space.decode(list(trial.config.values())) if cube else task.space.clip(trial.config)
        outcome = task.interval(trial.checkpoint.state, config, key(seed, serial))

        def ended(now: float) -> None:
            trial.checkpoint = Checkpoint(outcome.state, trial.checkpoint.depth + 1)
            trial.done += 1
            record.add(now, outcome.val, outcome.state, trial.checkpoint.depth)
            result = {"training_iteration": trial.checkpoint.depth, "loss": outcome.val}
            if trial.done == generations:
                trial.status = "TERMINATED"
                decides.on_trial_complete(controller, trial, result)
                return
            decision = decides.on_trial_result(controller, trial, result)
            trial.last_result = result
            if decision == "CONTINUE":
                going.append(trial)
            else:
                trial.status = "PAUSED"

        return ended

    clock.run(slots, seed, length, issue)
    return record


def _pbt(space: Space, options: dict[str, Any]) -> Any:
    from ray.tune.schedulers import PopulationBasedTraining

    def range_of(d: Any) -> Any:
        """Neighbours for a category, factors and fresh draws for a number. (tune.uniform would draw unseeded.)"""
        return list(d.options) if isinstance(d, Choice) else lambda: d.from_unit(random.random())

    def clipped(config: Config) -> Config:
        return {**config, **space.clip({name: config[name] for name in space})}

    return PopulationBasedTraining(
        time_attr="training_iteration",
        metric="loss",
        mode="min",
        hyperparam_mutations={name: range_of(d) for name, d in space.items()},
        custom_explore_fn=clipped,
        log_config=False,
        **{"perturbation_interval": 1, **options},
    )


def _pb2(space: Space, options: dict[str, Any]) -> Any:
    from ray.tune.schedulers.pb2 import PB2

    return PB2(
        time_attr="training_iteration",
        metric="loss",
        mode="min",
        hyperparam_bounds={name: [0.0, 1.0] for name in space},
        log_config=False,
        **{"perturbation_interval": 1, **options},
    )


def _quiet() -> None:
    """Ray tells of every exploit."""
    import ray.tune  # sets its loggers up

    del ray
    for name in ("ray.tune.schedulers.pbt", "ray.tune.schedulers.pb2"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _seed(seed: int) -> None:
    """Ray draws from the global generators."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)


def _numpy_state(state: Any = None) -> Any:
    import numpy as np

    if state is None:
        return np.random.get_state()
    return np.random.set_state(state)
