"""Methods that keep one config for a whole training: Optuna's samplers and pruners, random search among them.

A trial trains for T intervals under its config, or until the pruner ends it; then its slot begins another, until the
budget is spent to the last interval. Samplers and pruners are Optuna's own, driven by ask and tell:

    random                     RandomSampler, no pruner
    tpe                        TPESampler, multivariate, told of running trials (constant liar)
    asha                       RandomSampler with SuccessiveHalvingPruner: asynchronous successive halving, eta 3
    tpe + asha, tpe + median   TPESampler with SuccessiveHalvingPruner, with MedianPruner
    bohb                       TPESampler with HyperbandPruner: what Optuna offers in the place of BOHB

`planned` makes an interval's config from the trial's config and the number of intervals the trial has behind it: a
schedule that is fixed before the training begins (schedules.py).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpbt_async.space import Choice, Float

from . import clock
from .record import Record
from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpbt_async.space import Config, Space

    from .tasks import Task


@dataclass(slots=True)
class Running:
    """A trial that is not over."""

    trial: Any
    config: Config
    state: Any
    done: int = 0
    training: bool = False


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    sampler: str = "random",
    pruner: str | None = None,
    planned: Callable[[Config, int], Config] | None = None,
) -> Record:
    record = Record(task, population * generations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls half of its options experimental
        study = _study(sampler, pruner, generations, key("optuna", seed) % 2**32)
        live: list[Running] = []
        begun = 0

        def issue(serial: int) -> Callable[[float], None] | None:
            nonlocal begun
            if serial >= record.budget:
                return None
            one = next((r for r in live if not r.training), None)
            if one is None:
                trial = study.ask()
                one = Running(trial, suggested(task.space, trial), task.initial(key(seed, begun)))
                begun += 1
                live.append(one)
            config = one.config if planned is None else planned(one.config, one.done)
            outcome = task.interval(one.state, config, key(seed, serial))
            one.training = True

            def ended(now: float) -> None:
                one.training, one.state, one.done = False, outcome.state, one.done + 1
                record.add(now, outcome.val, one.state, one.done)
                one.trial.report(outcome.val, one.done)
                if one.done == generations:
                    study.tell(one.trial, outcome.val)
                    live.remove(one)
                elif pruner is not None and one.trial.should_prune():
                    study.tell(one.trial, state=_pruned())
                    live.remove(one)

            return ended

        clock.run(slots, seed, length, issue)
    return record


def suggested(space: Space, trial: Any) -> Config:
    """The trial's config, in Optuna's own distributions."""
    config: Config = {}
    for name, d in space.items():
        if isinstance(d, Choice):
            config[name] = trial.suggest_categorical(name, list(d.options))
        elif isinstance(d, Float):
            config[name] = trial.suggest_float(name, d.low, d.high, log=d.log)
        else:
            config[name] = trial.suggest_int(name, d.low, d.high, log=d.log)
    return space.clip(config)


def _pruned() -> Any:
    from optuna.trial import TrialState

    return TrialState.PRUNED


def _study(sampler: str, pruner: str | None, generations: int, seed: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers: dict[str, Callable[[], Any]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    }
    pruners: dict[str | None, Callable[[], Any]] = {
        None: optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0),
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(1, max(2, math.ceil(generations)), 3),
    }
    # Hyperband draws a trial's bracket from the study's name
    return optuna.create_study(sampler=samplers[sampler](), pruner=pruners[pruner](), study_name=str(seed))
