"""Searchers: an Ask in, a config out, and nothing else seen, kept or changed.

A searcher is a pure function. The same Ask gives the same config in any process at any time, so an ask can be
repeated after a crash and a searcher has no state to restore. Chance comes from `ask.seed` alone.

    random    uniform in the space
    perturb   PBT's explore of the parent's config (Jaderberg et al. 2017); generation 0 as `random`
    local     one Gaussian step around the parent's config, its width drawn for each child; generation 0 as `tpe`
    kin       of 16 such steps the one a Gaussian process over the ranks of kin prefers; generation 0 as `tpe`
    tpe       hyperopt's tree of Parzen estimators on the kin, n_startup_jobs=1, else hyperopt's defaults (the paper's)
    optuna:*  tpe, gp, cmaes, qmc: Optuna's samplers on the kin

and `module:Name` is a class of the user's, made without arguments, with a method suggest(ask) -> config.
gpbt_async.testing holds the contract all of them keep.

What leaves here has passed `space.clip`: inside the space, on its grids, in plain Python types. A parent's first
child repeats its config; that is the engine's business, no searcher is asked.

This is the list of searchers, and what is known of each without asking it: whether it looks at kin, and whether an ask
is `heavy`, which means that it goes to a process of its own (asking.py). Heavy is what imports a numerical library,
and anything of the user's. The larger ones live in modules of their own: parzen, kinship, optuna_searchers.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import random
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ExperimentError, SearcherError
from . import kin, optuna, tpe

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..ask import Ask
    from ..space import Config, Space


#: local: the bounds of a child's step width in the unit cube, and how often a category is drawn anew
NARROWEST, WIDEST, REDRAW = 0.02, 0.4, 0.2
#: kin: how many steps it chooses from
CANDIDATES = 16


class Searcher(Protocol):
    """The waist: anything that turns an Ask into a config of the ask's space, and is a pure function."""

    def suggest(self, ask: Ask) -> Config: ...


def make(name: str) -> Searcher:
    """The searcher called `name`. Raises SearcherError, and ExperimentError when a package is not installed for it."""
    if foreign(name):
        return _imported(name)
    if name not in _SEARCHERS:
        known = ", ".join((*_SEARCHERS, "or module:Name"))
        raise SearcherError(f"no searcher is called {name!r}; there are {known}")
    missing = [package for package in optuna.NEEDS.get(name, ()) if not importlib.util.find_spec(package)]
    if missing:
        extras = "optuna,torch" if "torch" in missing else "optuna"
        raise ExperimentError(
            f"searcher: got {name!r}; needs {' and '.join(missing)}, not installed here: "
            f"pip install 'gpbt-async[{extras}]'"
        )
    return _SEARCHERS[name]()


def foreign(name: str) -> bool:
    """Whether the name is that of a user's class, which only the searcher process imports."""
    return ":" in name and not name.startswith("optuna:")


def uses_kin(name: str, generation: int) -> bool:
    """Whether this searcher looks at kin and pending siblings for a child of `generation`; if not, gather none."""
    return name not in ("random", "perturb", "optuna:qmc") and (name != "local" or generation == 0)


def heavy(name: str, ask: Ask) -> bool:
    """Whether this ask goes to the searcher process."""
    if name == "optuna:qmc" or foreign(name):
        return True
    return uses_kin(name, ask.generation) and _learns(ask)


def may_be_heavy(name: str) -> bool:
    """Whether any ask of this searcher can be heavy."""
    return name not in ("random", "perturb")


def warm(name: str, space: Space) -> None:
    """Pay now what the first heavy ask would have to pay."""
    if name in ("tpe", "local", "kin") and space:
        tpe.warm(space)
    elif name in optuna.NEEDS:
        optuna.warm(name)


class Random:
    def suggest(self, ask: Ask) -> Config:
        return ask.space.clip(ask.space.sample(random.Random(ask.seed)))


class Perturb:
    def suggest(self, ask: Ask) -> Config:
        if ask.parent is None:
            return Random().suggest(ask)
        return ask.space.clip(ask.space.perturb(ask.parent.config, random.Random(ask.seed)))


class Tpe:
    def suggest(self, ask: Ask) -> Config:
        return tpe.suggest(ask) if _learns(ask) else Random().suggest(ask)


class Local:
    def suggest(self, ask: Ask) -> Config:
        if ask.parent is None:
            return Tpe().suggest(ask)
        return ask.space.clip(_step(ask, random.Random(ask.seed)))


class Kin:
    def suggest(self, ask: Ask) -> Config:
        if ask.parent is None:
            return Tpe().suggest(ask)
        rng = random.Random(ask.seed)
        candidates = [ask.space.clip(_step(ask, rng)) for _ in range(CANDIDATES)]
        return kin.choose(ask, candidates, rng) if _learns(ask) else candidates[0]


class Optuna:
    def __init__(self, name: str) -> None:
        self._name = name

    def suggest(self, ask: Ask) -> Config:
        if not ask.space or (self._name != "optuna:qmc" and not ask.losses):
            return Random().suggest(ask)
        return optuna.suggest(self._name, ask)


_SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "local": Local,
    "tpe": Tpe,
    "kin": Kin,
    "perturb": Perturb,
    "random": Random,
    **{name: functools.partial(Optuna, name) for name in optuna.NEEDS},
}


def _learns(ask: Ask) -> bool:
    """Is there something to search, and something known of it?"""
    return bool(ask.space) and bool(ask.losses)


def _step(ask: Ask, rng: random.Random) -> Config:
    """One step from the parent's config, of a width log-uniform between NARROWEST and WIDEST."""
    assert ask.parent is not None
    width = math.exp(rng.uniform(math.log(NARROWEST), math.log(WIDEST)))
    return ask.space.step(ask.parent.config, rng, width, REDRAW)


# ---- a class of the user's


def _imported(name: str) -> Searcher:
    """An object of the class `module:Name`. Raises SearcherError, saying what is wrong in one sentence."""

    def wrong(what: str) -> SearcherError:
        return SearcherError(f"searcher {name!r}: {what}")

    module_name, _, class_name = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise wrong(f"there is no module {error.name!r} beside the script or on the import path") from None
        raise wrong(f"module {module_name!r} cannot be imported: {said(error)}") from error
    where = getattr(found, "__file__", None) or "built in"
    for part in class_name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise wrong(f"module {module_name!r} ({where}) has no {class_name!r}")
    if not isinstance(found, type):
        raise wrong(f"{class_name!r} in {where} is no class")
    if not callable(getattr(found, "suggest", None)):
        raise wrong(f"class {class_name!r} in {where} has no method suggest(ask)")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise wrong(f"class {class_name!r} in {where} must be made without arguments: {error}") from None
    except ValueError:
        pass  # a class of C's, of which nothing is known before it is called
    try:
        made: Searcher = found()
    except (Exception, SystemExit) as error:
        raise wrong(f"making a {class_name!r} raised {said(error)}") from error
    return made


def said(error: BaseException) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
