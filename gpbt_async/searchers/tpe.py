"""tpe: hyperopt's tree of Parzen estimators over the kin. The paper's searcher.

hyperopt runs with n_startup_jobs=1 and else with its defaults. A Trials is made from the ask's kin each time and thrown
away. Importing hyperopt costs a second and a hundred megabytes, so that happens inside functions.

Kin become trials, in their order: trial ids are positions in `ask.kin`, since hyperopt forgets by age. hyperopt uses
only the rank of a trial's loss, so

* a finished member has its loss;
* a failed one has none, which hyperopt ranks last;
* a stopped one is censored: its loss, measured early, cannot be compared with final ones, but it was stopped for being
  worse than others. It ranks behind every finished one and before the failed ones, whatever its own loss is;
* a pending sibling comes after all kin and has the mean of the finished losses (the constant liar), which keeps
  siblings that train at the same time apart. The lie is part of no Ask and stored nowhere.

All kin are used, as in the paper. hyperopt's time grows with them (some 0.12 ms each): with history="global" and
thousands of members an ask takes a second, which asking ahead hides only where intervals are longer.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import TYPE_CHECKING, Any

from ..space import Choice
from . import grid
from .searcher import Random, learns

if TYPE_CHECKING:
    from ..ask import Ask
    from ..space import Config, Dimension, Scalar, Space


class Tpe(Random):
    """Draws at random while there is nothing to learn from."""

    name = "tpe"
    kin_for_roots = kin_for_children = True
    library = "hyperopt"

    def suggest(self, ask: Ask) -> Config:
        return _suggest(ask) if learns(ask) else super().suggest(ask)

    @classmethod
    def warm(cls, space: Space) -> None:
        if space:
            _domain(tuple(space.items()))


def _suggest(ask: Ask) -> Config:
    hyperopt, domain = _hyperopt(), _domain(tuple(ask.space.items()))
    docs = _docs(ask)
    trials = hyperopt.trials_from_docs(docs, validate=False)
    with grid.quiet():
        (new,) = hyperopt.tpe.suggest([len(docs)], domain, trials, ask.seed, n_startup_jobs=1, verbose=False)
    values = new["misc"]["vals"]
    return ask.space.clip({name: grid.from_coordinate(d, float(values[name][0])) for name, d in ask.space.items()})


@functools.cache
def _hyperopt() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hyperopt
    return hyperopt


@functools.lru_cache(maxsize=8)
def _domain(items: tuple[tuple[str, Dimension], ...]) -> Any:
    """hyperopt's picture of a space. Equal items give an equal domain: of a Choice it knows the length only."""
    return _hyperopt().Domain(None, {name: _hp(name, dimension) for name, dimension in items})


def _docs(ask: Ask) -> list[dict[str, object]]:
    """The kin and the pending siblings as hyperopt's trials, oldest first."""
    losses = ask.losses
    censored = math.nextafter(max(losses), math.inf)
    liar = math.fsum(loss / len(losses) for loss in losses)
    docs: list[dict[str, object]] = []
    for observed in ask.kin:
        result: dict[str, object] = {"status": "fail"}
        if observed.outcome == "stopped":
            result["loss"] = censored
        elif observed.final is not None:
            result = {"status": "ok", "loss": observed.final}
        docs.append(_doc(ask.space, len(docs), observed.config, result))
    for config in ask.pending:
        docs.append(_doc(ask.space, len(docs), config, {"status": "ok", "loss": liar}))
    return docs


def _doc(space: Space, tid: int, config: Config, result: dict[str, object]) -> dict[str, object]:
    misc = {
        "tid": tid,
        "cmd": None,
        "idxs": {name: [tid] for name in space},
        "vals": {name: [_coordinate(dimension, config[name])] for name, dimension in space.items()},
    }
    return {
        **dict.fromkeys(("spec", "exp_key", "owner", "book_time", "refresh_time")),
        **{"tid": tid, "state": 2, "version": 0, "result": result, "misc": misc},  # 2 = JOB_STATE_DONE
    }


# hyperopt's quantised distributions round to multiples of q, where our grids start at low, and their outermost bins are
# half bins, where ours are whole. So a uniform grid is given by its indexes, from half a step below the first to half a
# step above the last. A logarithmic grid is quantised likewise if its points are multiples of the step; if not, it is
# given as continuous, and `clip` brings what comes back to the grid.


def _hp(name: str, d: Dimension) -> Any:
    hp = _hyperopt().hp
    if isinstance(d, Choice):
        return hp.choice(name, list(range(len(d.options))))
    if d.step is None:
        return hp.loguniform(name, math.log(d.low), math.log(d.high)) if d.log else hp.uniform(name, d.low, d.high)
    if not d.log:
        return hp.quniform(name, -0.5, grid.last_index(d) + 0.5, 1.0)
    multiple = d.low / d.step
    if round(multiple) < 1 or abs(multiple - round(multiple)) > 1e-9:
        return hp.loguniform(name, math.log(d.low), math.log(d.high))
    top = d.low + grid.last_index(d) * d.step
    return hp.qloguniform(name, math.log(d.low - d.step / 2), math.log(top + d.step / 2), float(d.step))


def _coordinate(d: Dimension, value: Scalar) -> float | int:
    coordinate = grid.to_coordinate(d, value)
    return coordinate if isinstance(d, Choice) else float(coordinate)
