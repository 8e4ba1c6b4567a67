"""Hooks in the user's libraries: code of ours that runs after a library's import, or around one of its functions.

A hook never imports a library itself. A wrapped function behaves as before, and the code that we add must not raise.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def after_import(name: str, callback: Callable[[ModuleType], object]) -> None:
    """Call back with the module of this name: now if it is loaded, else once it has been imported."""
    if name in sys.modules:
        callback(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, callback))


def is_waiting(finder: object) -> bool:
    """Whether this entry of sys.meta_path waits for an import, to call back."""
    return isinstance(finder, _AfterImport)


class _AfterImport:
    """A meta path finder that calls back once, when a module has been imported."""

    def __init__(self, name: str, callback: Callable[[ModuleType], object]) -> None:
        self.name = name
        self.callback = callback

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader = spec.loader if spec is not None else None
        if loader is None:
            return spec
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self.callback(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def wrap(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a function of a module or a class by `make(function)`, once. Nothing if the owner does not define it."""
    original = vars(owner).get(name)
    if original is None or is_wrapped(original):
        return
    replacement = functools.wraps(original)(make(original))
    if isinstance(owner, ModuleType):  # a function that can be pickled: a process pool may call it
        replacement.__module__, replacement.__qualname__ = owner.__name__, name
    replacement._gpbt_watched = True  # type: ignore[attr-defined]
    setattr(owner, name, replacement)


def is_wrapped(function: Any) -> bool:
    return hasattr(function, "_gpbt_watched")
