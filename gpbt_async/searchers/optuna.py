"""optuna:tpe, optuna:gp, optuna:cmaes, optuna:qmc: Optuna's samplers, asked about kin.

Each ask makes a study in memory, tells it the kin, asks it once and throws it away; nothing is written, and the global
state of neither Optuna nor numpy is used. Optuna is imported inside functions only (the extra `optuna`).

How a study is told (smaller is better; a trial's number is its place in the kin):

    finished  COMPLETE, with its loss
    stopped   PRUNED, with its loss as the intermediate value: tpe ranks it behind every finished one; gp and cmaes,
              as ever in Optuna, do not look at it
    failed    FAIL, which no sampler looks at; so is what finished without a finite loss
    pending   RUNNING: tpe counts it among the bad ones (constant_liar), gp expects its result. cmaes does not look

and the samplers are Optuna's, with its defaults, but for this:

    tpe       n_startup_trials=1, as in the paper's TPE: one parent's kin are few
    gp        n_startup_trials=1, and at most 80 kin, because an ask has to be answered in a second or two
    cmaes     CMA-ES remembers by trials it drew itself, and a study made anew has none. So every ask is a warm start
              (source_trials; Nomura et al. 2021): one draw from a normal distribution fitted to the best tenth of the
              kin. Choices, which CMA-ES does not know, are drawn by tpe
    qmc       looks at no kin. The children of one parent, and the roots, are each the beginning of a scrambled Sobol
              sequence of their own: scrambled by (run, parent's path), and counted by the last index of the path. So
              siblings fill the space evenly in whatever order they are asked for

More kin than a sampler takes: the better half of that number by loss, and the latest of the rest.

The space in Optuna's words: Float and Int with log as they are; a grid as the whole numbers 0, 1, … of its points, and
a Choice as its options' indexes, since Optuna takes 1, 1.0 and True for one. A logarithmic grid is told without its
step, and a grid of more than 4096 points as if it had none; `clip` brings what comes back to the grid.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from typing import TYPE_CHECKING, Any

from ..ask import path_text
from ..space import Choice, Float

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ask import Ask, Observation
    from ..space import Config, Dimension, Scalar


#: searcher → the packages it needs, as they are imported
NEEDS = {
    "optuna:tpe": ("optuna",),
    "optuna:gp": ("optuna", "scipy", "torch"),
    "optuna:cmaes": ("optuna", "cmaes"),
    "optuna:qmc": ("optuna", "scipy"),
}
#: searcher → the most kin it is told
MOST = {"optuna:tpe": 1000, "optuna:gp": 80, "optuna:cmaes": 1000, "optuna:qmc": 0}
#: grids with more points are told as continuous: gp makes a list of them
FINE = 4096
#: losses beyond this are scaled down, all of a study together: their squares must be finite
HUGE = 1e100


def suggest(name: str, ask: Ask) -> Config:
    """One suggestion of the sampler called `name`. All but qmc need at least one finite loss among the kin."""
    import optuna

    space = {key: _distribution(ask.space[key]) for key in sorted(ask.space)}
    with _quiet(), _one_thread() if name == "optuna:gp" else contextlib.nullcontext():
        sampler = _sampler(name, ask, space)
        study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler)
        study.add_trials(_trials(ask, MOST[name], space))
        params = study.ask(fixed_distributions=space).params
    return ask.space.clip({key: _heard(d, params[key]) for key, d in ask.space.items()})


def warm(name: str) -> None:
    """Pay now for what the first ask would import."""
    import optuna

    if name == "optuna:gp":
        with _quiet():
            optuna.samplers.GPSampler(seed=0)
            import torch  # noqa: F401
    elif name == "optuna:cmaes":
        import cmaes  # noqa: F401
    elif name == "optuna:qmc":
        import scipy.stats.qmc  # noqa: F401


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of every study it makes, and of every argument it calls experimental."""
    import numpy as np
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
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


# ---- the samplers


def _sampler(name: str, ask: Ask, space: dict[str, Any]) -> Any:
    import optuna

    samplers, seed = optuna.samplers, ask.seed % (1 << 32)  # numpy's seeds are of 32 bits
    if name == "optuna:tpe":
        return samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)
    if name == "optuna:gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=1)
    if name == "optuna:qmc":
        return _sobol(ask)
    numbers = {key: distribution for key, distribution in space.items() if not isinstance(ask.space[key], Choice)}
    seen = _trials(ask, MOST[name], numbers, only=True) if numbers else []
    return samplers.CmaEsSampler(
        seed=seed,
        # a tenth of them must be one at least, and a population told several times over is the same population
        source_trials=seen * -(-10 // len(seen)) if seen else None,
        independent_sampler=samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True),
        warn_independent_sampling=False,
    )


def _sobol(ask: Ask) -> Any:
    """Optuna's QMCSampler, told by us which point of the sequence is wanted: it would count what it drew itself."""
    import optuna

    text = f"{ask.run} {path_text(ask.path[:-1])}"
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")

    class Sobol(optuna.samplers.QMCSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {key: _distribution(ask.space[key]) for key in sorted(ask.space)}

        def _find_sample_id(self, study: Any, search_space: Any) -> int:
            return ask.path[-1]

    return Sobol(qmc_type="sobol", scramble=True, seed=seed)


# ---- the kin as trials


def _trials(ask: Ask, most: int, space: dict[str, Any], only: bool = False) -> list[Any]:
    """The kin and the pending siblings, seen in `space`; or only the finished kin."""
    from optuna.trial import TrialState, create_trial

    kin = _bounded(ask.kin, most)
    largest = max((abs(loss) for loss in ask.losses), default=0.0)
    scale = HUGE / largest if largest > HUGE else 1.0
    told: list[tuple[Config, dict[str, Any]]] = []
    for observed in kin:
        outcome: dict[str, Any] = {"state": TrialState.FAIL}
        if observed.final is not None:
            outcome = {"state": TrialState.COMPLETE, "value": observed.final * scale}
        elif observed.outcome == "stopped":
            seen = {} if observed.loss is None else {0: observed.loss * scale}
            outcome = {"state": TrialState.PRUNED, "intermediate_values": seen}
        told.append((observed.config, outcome))
    told += [(config, {"state": TrialState.RUNNING}) for config in ask.pending]
    if only:
        told = [(config, outcome) for config, outcome in told if outcome["state"] == TrialState.COMPLETE]
    return [
        create_trial(params={key: _told(ask.space[key], config[key]) for key in space}, distributions=space, **outcome)
        for config, outcome in told
    ]


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


def _points(d: Dimension) -> int | None:
    """How many points a uniform grid has that is told as one; None for all else."""
    if isinstance(d, Choice) or d.step is None or d.log:
        return None
    points = round((d.clip(d.high) - d.low) / d.step) + 1
    return points if points <= FINE else None


def _distribution(d: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(d, Choice):
        return CategoricalDistribution(range(len(d.options)))
    points = _points(d)
    if points is not None:
        return IntDistribution(0, points - 1)
    if isinstance(d, Float) or d.high - d.low >= FINE:
        return FloatDistribution(float(d.low), float(d.high), log=d.log)
    return IntDistribution(d.low, d.high, log=d.log)


def _told(d: Dimension, value: Scalar) -> float | int:
    if isinstance(d, Choice):
        return d.index(value)
    if _points(d) is None or d.step is None:
        return d.clip(value)
    return round((d.clip(value) - d.low) / d.step)


def _heard(d: Dimension, value: float | int) -> Scalar:
    if isinstance(d, Choice):
        return d.options[int(value)]
    if _points(d) is None or d.step is None:
        return value
    return d.low + round(value) * d.step
