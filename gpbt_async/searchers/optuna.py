"""optuna:tpe, optuna:gp, optuna:cmaes, optuna:qmc: Optuna's samplers over the kin.

Each ask makes a study in memory, fills it with the kin, asks it once and throws it away; nothing is written, and the
global state of neither Optuna nor numpy is used. Optuna is imported inside functions only (the extra `optuna`).

Kin become trials (smaller is better; a trial's number is its place among the kin):

    finished  COMPLETE, with its loss
    stopped   PRUNED, with its loss as the intermediate value: tpe ranks it behind every finished one; gp and cmaes
              ignore it, as always in Optuna
    failed    FAIL, which every sampler ignores; so is a finished member without a finite loss
    pending   RUNNING: tpe counts it among the bad ones (constant_liar), gp expects its result, cmaes ignores it

The samplers have Optuna's defaults, but for this:

    tpe       n_startup_trials=1, as in the paper's TPE: one parent's kin are few
    gp        n_startup_trials=1, and at most 80 kin, because an ask has to be answered in a second or two
    cmaes     CMA-ES remembers by trials it drew itself, and a new study has none. So every ask is a warm start
              (source_trials; Nomura et al. 2021): one draw from a normal distribution fitted to the best tenth of the
              kin. Choices, which CMA-ES does not know, are drawn by tpe
    qmc       ignores kin. The children of one parent, and the roots, are each the beginning of a scrambled Sobol
              sequence of their own: scrambled by (run, parent's path), and counted by the last index of the path. So
              siblings fill the space evenly in whatever order they are asked for

Where there are more kin than a sampler takes, it gets the better half of that number by loss, and the latest of the
rest. Dimensions are given as grid.py describes; a grid of more than FINE points as if it had no step.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from typing import TYPE_CHECKING, Any, ClassVar, Required, TypeAlias, TypedDict

from ..ask import path_text
from ..space import Choice, Float
from . import grid
from .searcher import Random, learns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState

    from ..ask import Ask, Observation
    from ..space import Config, Dimension, Space


#: a space as Optuna has it, by name
Distributions: TypeAlias = "dict[str, BaseDistribution]"
#: grids with more points are given as continuous: gp makes a list of them
FINE = 4096
#: losses beyond this are scaled down, all of a study together: their squares must be finite
HUGE = 1e100


class Optuna(Random):
    """A sampler of Optuna. Draws at random while there is nothing to learn from. most: kin it uses at most."""

    kin_for_roots = kin_for_children = True
    library = "optuna"
    needs: ClassVar[tuple[str, ...]] = ("optuna",)
    most: ClassVar[int] = 1000

    def suggest(self, ask: Ask) -> Config:
        return self._asked(ask) if learns(ask) else super().suggest(ask)

    def _asked(self, ask: Ask) -> Config:
        import optuna

        space = {name: _distribution(ask.space[name]) for name in sorted(ask.space)}
        with _quiet():
            sampler = self._sampler(ask, space)
            study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler)
            study.add_trials(_trials(ask, self.most, space))
            params = study.ask(fixed_distributions=space).params
        return ask.space.clip({name: grid.from_coordinate(d, params[name], FINE) for name, d in ask.space.items()})

    def _sampler(self, ask: Ask, space: Distributions) -> Any:
        raise NotImplementedError

    @classmethod
    def warm(cls, space: Space) -> None:
        for package in cls.needs:
            importlib.import_module(package)


class OptunaTpe(Optuna):
    name = "optuna:tpe"

    def _sampler(self, ask: Ask, space: Distributions) -> Any:
        return _tpe(ask)


class OptunaGp(Optuna):
    name = "optuna:gp"
    needs = ("optuna", "scipy", "torch")
    most = 80

    def _asked(self, ask: Ask) -> Config:
        with _one_thread():
            return super()._asked(ask)

    def _sampler(self, ask: Ask, space: Distributions) -> Any:
        import optuna

        return optuna.samplers.GPSampler(seed=_seed(ask), n_startup_trials=1)

    @classmethod
    def warm(cls, space: Space) -> None:
        import optuna

        with _quiet():
            super().warm(space)
            optuna.samplers.GPSampler(seed=0)


class OptunaCmaes(Optuna):
    name = "optuna:cmaes"
    needs = ("optuna", "cmaes")

    def _sampler(self, ask: Ask, space: Distributions) -> Any:
        import optuna

        numbers = {
            name: distribution for name, distribution in space.items() if not isinstance(ask.space[name], Choice)
        }
        finished = _trials(ask, self.most, numbers, finished_only=True) if numbers else []
        return optuna.samplers.CmaEsSampler(
            seed=_seed(ask),
            # a tenth of them must be one at least, and a population given several times over is the same population
            source_trials=finished * -(-10 // len(finished)) if finished else None,
            independent_sampler=_tpe(ask),
            warn_independent_sampling=False,
        )


class OptunaQmc(Optuna):
    name = "optuna:qmc"
    needs = ("optuna", "scipy")
    most = 0
    kin_for_roots = kin_for_children = False
    always_heavy = True

    def suggest(self, ask: Ask) -> Config:
        return self._asked(ask) if ask.space else super().suggest(ask)

    def _sampler(self, ask: Ask, space: Distributions) -> Any:
        """Optuna's QMCSampler with the point of the sequence that is wanted: it would count what it drew itself."""
        import optuna

        text = f"{ask.run} {path_text(ask.path[:-1])}"
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")

        class Sobol(optuna.samplers.QMCSampler):
            def infer_relative_search_space(self, study: Any, trial: Any) -> Distributions:
                return space

            def _find_sample_id(self, study: Any, search_space: Any) -> int:
                return ask.path[-1]

        return Sobol(qmc_type="sobol", scramble=True, seed=seed)

    @classmethod
    def warm(cls, space: Space) -> None:
        super().warm(space)
        import scipy.stats.qmc  # noqa: F401


def _tpe(ask: Ask) -> Any:
    import optuna

    return optuna.samplers.TPESampler(seed=_seed(ask), n_startup_trials=1, constant_liar=True)


def _seed(ask: Ask) -> int:
    return ask.seed % (1 << 32)  # numpy's seeds are of 32 bits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs every study it makes, and warns of every argument it calls experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with grid.quiet():
            yield
    finally:
        optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """gp makes many small products: with a thread a core, torch's and BLAS's get in each other's way, fortyfold."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ---- the kin as trials


class _Outcome(TypedDict, total=False):
    """What optuna's create_trial takes beside a trial's parameters."""

    state: Required[TrialState]
    value: float
    intermediate_values: dict[int, float]


def _trials(ask: Ask, most: int, space: Distributions, finished_only: bool = False) -> list[Any]:
    """The kin and the pending siblings, seen in `space`; or only the finished kin."""
    from optuna.trial import TrialState, create_trial

    largest = max((abs(loss) for loss in ask.losses), default=0.0)
    scale = HUGE / largest if largest > HUGE else 1.0
    trials: list[tuple[Config, _Outcome]] = []
    for observed in _bounded(ask.kin, most):
        outcome: _Outcome = {"state": TrialState.FAIL}
        if observed.final is not None:
            outcome = {"state": TrialState.COMPLETE, "value": observed.final * scale}
        elif observed.outcome == "stopped":
            values = {} if observed.loss is None else {0: observed.loss * scale}
            outcome = {"state": TrialState.PRUNED, "intermediate_values": values}
        trials.append((observed.config, outcome))
    trials += [(config, {"state": TrialState.RUNNING}) for config in ask.pending]
    if finished_only:
        trials = [(config, outcome) for config, outcome in trials if outcome["state"] == TrialState.COMPLETE]
    return [
        create_trial(params=_params(ask, config, space), distributions=space, **outcome) for config, outcome in trials
    ]


def _params(ask: Ask, config: Config, space: Distributions) -> dict[str, float | int]:
    return {name: grid.to_coordinate(ask.space[name], config[name], FINE) for name in space}


def _bounded(kin: tuple[Observation, ...], most: int) -> list[Observation]:
    """At most `most` of the kin, in their order: the better half by loss, and the latest of the rest."""
    if len(kin) <= most:
        return list(kin)
    if not most:
        return []
    finite = [i for i, observed in enumerate(kin) if observed.final is not None]
    best = set(sorted(finite, key=lambda i: kin[i].final or 0.0)[: most // 2])
    latest = [i for i in range(len(kin)) if i not in best][len(best) - most :]
    return [kin[i] for i in sorted(best.union(latest))]


# ---- the space


def _distribution(d: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(d, Choice):
        return CategoricalDistribution(range(len(d.options)))
    if grid.indexed(d, FINE):
        return IntDistribution(0, grid.last_index(d))
    if isinstance(d, Float) or d.high - d.low >= FINE:
        return FloatDistribution(float(d.low), float(d.high), log=d.log)
    return IntDistribution(d.low, d.high, log=d.log)
