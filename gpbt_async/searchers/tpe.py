"""tpe: hyperopt's tree of Parzen estimators, asked about kin. The paper's searcher.

hyperopt is used as its users use it, with n_startup_jobs=1 and else its defaults; a Trials is made from the ask's kin
each time and thrown away. It costs a second and a hundred megabytes to import, so that happens inside functions.

How hyperopt is told of kin: trial ids are positions in `ask.kin`, since hyperopt forgets by age. It reads of a trial
only where its loss ranks, so

* a finished one has its loss;
* a failed one has none, which hyperopt ranks last;
* a stopped one is censored: its loss, measured early, cannot be compared with final ones, but it was stopped for being
  worse than its like. It ranks behind every finished one and before the failed ones, whatever its own number says;
* a pending sibling, told after all kin, has the mean of the finished losses (the constant liar), which keeps siblings
  that train at the same time apart. The lie is part of no Ask and stored nowhere.

All kin are told, as in the paper. hyperopt's time grows with them (some 0.12 ms each): with history="global" and
thousands of members an ask takes a second, which asking ahead hides only where intervals are longer.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from typing import TYPE_CHECKING, Any

from ..space import Choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ask import Ask
    from ..space import Config, Dimension, Scalar, Space


def suggest(ask: Ask) -> Config:
    """TPE's suggestion; at least one finite loss must be among the kin."""
    hyperopt, domain = _hyperopt(), _domain(tuple(ask.space.items()))
    docs = _docs(ask)
    trials = hyperopt.trials_from_docs(docs, validate=False)
    with _quiet():
        (new,) = hyperopt.tpe.suggest([len(docs)], domain, trials, ask.seed, n_startup_jobs=1, verbose=False)
    values = new["misc"]["vals"]
    return ask.space.clip({name: _heard(d, float(values[name][0])) for name, d in ask.space.items()})


def warm(space: Space) -> None:
    """Pay now what the first ask would have to pay: the import, and hyperopt's picture of the space."""
    _domain(tuple(space.items()))


@functools.cache
def _hyperopt() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hyperopt
    return hyperopt


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """hyperopt divides by zero and takes logarithms of it as a matter of course."""
    import numpy as np

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.lru_cache(maxsize=8)
def _domain(items: tuple[tuple[str, Dimension], ...]) -> Any:
    """hyperopt's picture of a space. Equal items give an equal domain: of a Choice it knows the length only."""
    return _hyperopt().Domain(None, {name: _hp(name, dimension) for name, dimension in items})


def _docs(ask: Ask) -> list[dict[str, Any]]:
    """The kin and the pending siblings as hyperopt's trials, oldest first."""
    losses = ask.losses
    censored = math.nextafter(max(losses), math.inf)
    liar = math.fsum(loss / len(losses) for loss in losses)
    docs: list[dict[str, Any]] = []
    for observed in ask.kin:
        result: dict[str, Any] = {"status": "fail"}
        if observed.outcome == "stopped":
            result["loss"] = censored
        elif observed.final is not None:
            result = {"status": "ok", "loss": observed.final}
        docs.append(_doc(ask.space, len(docs), observed.config, result))
    for config in ask.pending:
        docs.append(_doc(ask.space, len(docs), config, {"status": "ok", "loss": liar}))
    return docs


def _doc(space: Space, tid: int, config: Config, result: dict[str, Any]) -> dict[str, Any]:
    misc = {
        "tid": tid,
        "cmd": None,
        "idxs": {name: [tid] for name in space},
        "vals": {name: [_told(dimension, config[name])] for name, dimension in space.items()},
    }
    return {
        **dict.fromkeys(("spec", "exp_key", "owner", "book_time", "refresh_time")),
        **{"tid": tid, "state": 2, "version": 0, "result": result, "misc": misc},  # 2 = JOB_STATE_DONE
    }


# A dimension in hyperopt's coordinates. Its quantised distributions round to multiples of q, where our grids start at
# low, and their outermost bins are half bins, where ours are whole. So a uniform grid is told by its indexes 0, 1, …,
# from half a step below the first to half a step above the last. A logarithmic grid is quantised likewise if its points
# are multiples of the step; if not, it is told as continuous, and clip brings what comes back to the grid.


def _last(d: Dimension) -> int:
    """The index of the last point of a grid."""
    assert not isinstance(d, Choice)
    assert d.step is not None
    return round((d.clip(d.high) - d.low) / d.step)


def _hp(name: str, d: Dimension) -> Any:
    hp = _hyperopt().hp
    if isinstance(d, Choice):
        return hp.choice(name, list(range(len(d.options))))
    if d.step is None:
        return hp.loguniform(name, math.log(d.low), math.log(d.high)) if d.log else hp.uniform(name, d.low, d.high)
    if not d.log:
        return hp.quniform(name, -0.5, _last(d) + 0.5, 1.0)
    multiple = d.low / d.step
    if round(multiple) < 1 or abs(multiple - round(multiple)) > 1e-9:
        return hp.loguniform(name, math.log(d.low), math.log(d.high))
    top = d.low + _last(d) * d.step
    return hp.qloguniform(name, math.log(d.low - d.step / 2), math.log(top + d.step / 2), float(d.step))


def _told(d: Dimension, value: Scalar) -> float | int:
    if isinstance(d, Choice):
        return d.index(value)
    if d.step is None or d.log:
        return float(d.clip(value))
    return float(round((d.clip(value) - d.low) / d.step))


def _heard(d: Dimension, coordinate: float) -> Scalar:
    if isinstance(d, Choice):
        return d.options[round(coordinate)]
    if d.step is None or d.log:
        return coordinate
    return d.low + round(coordinate) * d.step
