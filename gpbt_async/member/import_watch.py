"""What a member imports while it trains: which packages, so that the zygote can import them for later members, and how
long it took.

`watch` puts a function around the import system's own `_find_and_load`, which Python calls only for a module that is
not loaded yet: an import statement for a loaded module costs what it always did. Of a package that imports others, the
outermost name is noted, because importing that one brings the rest; below a module of the user's own, the packages that
it imports are. The user's own modules are never named, nor a package that imports one (a plugin, say): the zygote must
not run the user's code at another time.

The surprise is os.environ. A library may read it while it is imported (HF_HOME, MPLBACKEND), so what the training
function imports after a variable was set, by itself or by a function that it called, is not named: in the zygote that
variable would be missing. The same holds after a change of sys.path, as the zygote might find another copy.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import threading
import time
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import hooks, user_code

if TYPE_CHECKING:
    from collections.abc import Callable


#: names that one member sends at most
MOST = 300
_BOOTSTRAP: Any = getattr(importlib, "_bootstrap", None)
#: traceback entries with this file name are left out of an ImportError's traceback by Python itself
_FROZEN = "<frozen importlib._bootstrap>"
#: variables that libraries set for themselves while they work
_LIBRARIES = ("PL_", "KMP_", "TORCH", "PYTORCH", "TF_", "TRITON", "TOKENIZERS_", "MASTER_", "OMP_", "MKL_")


class Imports:
    """names: of packages' modules, in the order of their import. seconds: that all imports took, the user's included.

    variable: the first variable that was set outside of an import, "" if none: nothing is named after that.
    unnamed: how many packages were not named for that reason.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.seconds = 0.0
        self.variable = ""
        self.unnamed = 0
        self._path = list(sys.path)

    def note(self, found: list[str], seconds: float) -> None:
        self.seconds += seconds
        if self.variable:
            self.unnamed += len(found)
        elif sys.path == self._path:  # else the zygote might find another copy
            self.names += found[: max(0, MOST - len(self.names))]


#: those of the member that trains in this process; None before
current: Imports | None = None
#: called before an outermost import; what it returns is called after it
around: Callable[[], Callable[[], object]] | None = None


class _Import:
    """An import under way. found: the modules of packages that it has imported. users: has it imported a user's?"""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.users = False


class _Active(threading.local):
    """The imports under way in a thread, outermost first."""

    def __init__(self) -> None:
        self.imports: list[_Import] = []


_active = _Active()


def watch() -> None:
    """Install the watch in this process, and so in those that it forks."""
    with suppress(AttributeError):  # another implementation of Python: nothing is named, and nothing is measured
        hooks.wrap(_BOOTSTRAP, "_find_and_load", _timed)
    for change in ("__setitem__", "__delitem__"):
        hooks.wrap(os._Environ, change, _noting_variables)


def begin() -> Imports:
    """Start to note, for the member that is about to train."""
    global current
    current = Imports()
    return current


def _timed(find_and_load: Callable[..., Any]) -> Callable[..., Any]:
    def timed(name: str, *args: Any) -> Any:
        if current is None or name in sys.modules:  # importlib.import_module calls this for a loaded module, too
            return find_and_load(name, *args)
        imports, begun = current, time.monotonic()
        outermost, under_way = not _active.imports, _Import()
        draws = _generators() if outermost else []
        after = around() if outermost and around is not None else None
        _active.imports.append(under_way)
        try:
            return find_and_load(name, *args)
        finally:
            _active.imports.pop()
            package = is_package(name)
            users = under_way.users or (not package and _is_users(name))
            found = [name] if package and not users else under_way.found
            if package and users:  # to import a part of it would import all of it, and so the user's module
                found = [below for below in found if not below.startswith(f"{name}.")]
            if found == [name]:
                for put_back, state in draws:  # where it is loaded already, nothing is drawn either
                    put_back(state)
            if after is not None:
                after()
            if outermost:
                imports.note(found, time.monotonic() - begun)
            else:
                _active.imports[-1].found += found
                _active.imports[-1].users |= users

    timed.__code__ = timed.__code__.replace(co_filename=_FROZEN)
    return timed


def _generators() -> list[tuple[Callable[[Any], object], Any]]:
    """The global random generators of python and numpy: how each is put back, and its state now."""
    numpy: Any = sys.modules.get("numpy.random")
    states: list[tuple[Callable[[Any], object], Any]] = [(random.setstate, random.getstate())]
    if numpy is not None and hasattr(numpy, "get_state"):
        states.append((numpy.set_state, numpy.get_state()))
    return states


def is_package(name: str) -> bool:
    """Whether this module is loaded, and comes from the standard library or an installed package: not the user's."""
    origin = _origin(name)
    return origin is not None and (user_code.is_ours(origin) or not user_code.is_users(origin))


def _is_users(name: str) -> bool:
    """Whether this module is loaded, and comes from a file of the user's."""
    origin = _origin(name)
    return origin is not None and user_code.is_users(origin) and not user_code.is_ours(origin)


def _origin(name: str) -> str | None:
    """The file of a loaded module; None if there is none: it is built in, a namespace, or made at run time."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return None
    # not module.__spec__: a module may load itself when it is asked for an attribute
    origin = getattr(object.__getattribute__(module, "__dict__").get("__spec__"), "origin", None)
    return origin if isinstance(origin, str) and os.path.isabs(origin) else None


def _noting_variables(change: Callable[..., Any]) -> Callable[..., Any]:
    def noting(environ: Any, key: Any, *value: Any) -> Any:
        imports = current
        outside = imports is not None and not imports.variable and not _active.imports
        if imports is not None and outside and environ.get(key) != (value[0] if value else None):
            imports.variable = "" if str(key).startswith(_LIBRARIES) else str(key)
        return change(environ, key, *value)

    return noting
