"""`member.parent`: a path that notes whether the script uses it, and how long its files take to load.

A script that asks `if member.parent is not None:` and then loads `model.pt` from the current folder has read the
property, but not its parent's checkpoint. Reading any attribute of the path is a use: joining, opening, printing, and
what pathlib reads to make another Path of it. Comparing it with None is not. Derived paths are plain Paths.

The time is that of the loading functions most scripts use (LOADERS), where they are given a path below the parent's
folder. A script that reads its files in another way has a parent's checkpoint that takes no measured time.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from .telemetry import Telemetry

#: module → its function that loads a file, given as the first argument
LOADERS = {
    "torch": "load",
    "numpy": "load",
    "joblib": "load",
    "safetensors.torch": "load_file",
    "safetensors.numpy": "load_file",
}


class ParentPath(type(Path())):  # type: ignore[misc]  # PosixPath: Path itself cannot be derived from before 3.12
    """The folder of a parent's checkpoint."""

    @classmethod
    def noted(cls, path: str | os.PathLike[str], notes: Telemetry) -> Path:
        """The path; its use is noted in the telemetry."""
        parent: Path = cls(path)
        parent.__dict__["_telemetry"] = notes
        notes.parent_used, notes.parent_folder = False, os.fspath(path)
        return parent

    def __getattribute__(self, name: str) -> Any:
        if name != "__class__":
            notes = object.__getattribute__(self, "__dict__").get("_telemetry")
            if notes is not None:
                notes.parent_used = True
        return object.__getattribute__(self, name)

    def with_segments(self, *segments: Any) -> Path:
        return Path(*segments)

    def __truediv__(self, name: Any) -> Path:
        return Path(self, name)

    def __reduce__(self) -> Any:
        return Path, (str(self),)


def watch() -> None:
    """From now on time the loading functions, in this process and those forked from it, once they are imported."""
    from . import hooks  # not before: a training script pays for what it imports

    def wrap(name: str, module: ModuleType) -> None:
        hooks.wrap(module, name, _timed)

    for module, name in LOADERS.items():
        hooks.after_import(module, functools.partial(wrap, name))


def _timed(load: Callable[..., Any]) -> Callable[..., Any]:
    def loading(*args: Any, **kwargs: Any) -> Any:
        notes = telemetry.current
        if notes is None or not notes.parent_folder or not args or not _below(args[0], notes.parent_folder):
            return load(*args, **kwargs)
        begun = time.monotonic()
        try:
            return load(*args, **kwargs)
        finally:
            notes.parent_seconds += time.monotonic() - begun

    return loading


def _below(file: Any, folder: str) -> bool:
    path = file.name if hasattr(file, "read") and hasattr(file, "name") else file
    try:
        return os.fsdecode(path).startswith(folder + os.sep)
    except TypeError:
        return False
