"""The built-in searchers by name, and the user's own as `module:Name`.

    random    uniform in the space
    perturb   PBT's explore of the parent's config (Jaderberg et al. 2017); generation 0 as `random`
    local     one Gaussian step around the parent's config, its width drawn for each child; generation 0 as `tpe`
    kin       of 16 such steps the one a Gaussian process over the ranks of kin prefers; generation 0 as `tpe`
    tpe       hyperopt's tree of Parzen estimators over the kin, with n_startup_jobs=1 (the paper's)
    optuna:*  tpe, gp, cmaes, qmc: Optuna's samplers over the kin

and `module:Name` is a class of the user's, made without arguments, with a method suggest(ask) -> config.

experiment.SEARCHERS lists the names. The traits of a searcher are attributes of its class (searcher.py). An ask is
*heavy* if answering it imports a numerical library or the user's code; the searcher process answers it (client.py).
Every config passes `space.clip`: it is inside the space, on its grids, in plain Python types. The engine itself makes
the config of a parent's first child, which repeats the parent's.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import TYPE_CHECKING, Any

from ..errors import ExperimentError, SearcherError
from ..formatting import error_line
from .kin import Kin
from .local import Local, Perturb
from .optuna import OptunaCmaes, OptunaGp, OptunaQmc, OptunaTpe
from .searcher import Random, Searcher, learns
from .tpe import Tpe

if TYPE_CHECKING:
    from ..ask import Ask
    from ..space import Space


_SEARCHERS: dict[str, type[Random]] = {
    kind.name: kind for kind in (Local, Tpe, Kin, Perturb, Random, OptunaTpe, OptunaGp, OptunaCmaes, OptunaQmc)
}


def make(name: str) -> Searcher:
    """The searcher called `name`. Raises SearcherError, and ExperimentError when a package is not installed for it."""
    if foreign(name):
        return _imported(name)
    if name not in _SEARCHERS:
        raise SearcherError(f"no searcher is called {name!r}; there are {', '.join(_SEARCHERS)}, or module:Name")
    missing = [package for package in _SEARCHERS[name].needs if not importlib.util.find_spec(package)]
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
    """Whether this searcher looks at kin and pending siblings for a member of `generation`; if not, gather none."""
    if foreign(name):
        return True
    return _SEARCHERS[name].kin_for_children if generation else _SEARCHERS[name].kin_for_roots


def heavy(name: str, ask: Ask) -> bool:
    """Whether this ask goes to the searcher process."""
    if foreign(name) or _SEARCHERS[name].always_heavy:
        return True
    return uses_kin(name, ask.generation) and learns(ask)


def may_be_heavy(name: str) -> bool:
    """Whether any ask of this searcher can be heavy."""
    return foreign(name) or library(name) != ""


def library(name: str) -> str:
    """The numerical library this searcher imports; "" if it needs none, or is a user's."""
    return _SEARCHERS[name].library if name in _SEARCHERS else ""


def warm(name: str, space: Space) -> None:
    """Do now what the first heavy ask would have to wait for."""
    if not foreign(name):
        _SEARCHERS[name].warm(space)


# ---- a class of the user's


def _imported(name: str) -> Searcher:
    """An object of the class `module:Name`. Raises SearcherError, saying what is wrong in one sentence."""

    def wrong(what: str) -> SearcherError:
        return SearcherError(f"searcher {name!r}: {what}")

    module_name, _, class_name = name.partition(":")
    try:
        module: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise wrong(f"there is no module {error.name!r} beside the script or on the import path") from None
        raise wrong(f"module {module_name!r} cannot be imported: {error_line(error)}") from error
    where = getattr(module, "__file__", None) or "built in"
    kind = module
    for part in class_name.split("."):
        kind = getattr(kind, part, None)
    if kind is None:
        raise wrong(f"module {module_name!r} ({where}) has no {class_name!r}")
    if not isinstance(kind, type):
        raise wrong(f"{class_name!r} in {where} is no class")
    if not callable(getattr(kind, "suggest", None)):
        raise wrong(f"class {class_name!r} in {where} has no method suggest(ask)")
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise wrong(f"class {class_name!r} in {where} must be made without arguments: {error}") from None
    except ValueError:
        pass  # a class written in C, whose arguments cannot be seen
    try:
        searcher: Searcher = kind()
    except (Exception, SystemExit) as error:
        raise wrong(f"making a {class_name!r} raised {error_line(error)}") from error
    return searcher
