"""The address of a script, and its file: `train.py`, `train.py:experiment`, `pkg.train`, `-m pkg.train`.

A module is searched for as `python -m` does: in the current folder first, then along the import path. Only its file is
determined here, by looking at folders: no package of the user is imported, because this runs in the scheduler's
process. The zygote imports the module later, from that folder (`root`), so its relative imports work.

Whether the file exists is checked last (`Address.check`): a resume may say where the script is now.
"""

from __future__ import annotations

import difflib
import importlib.util
import keyword
import os
import sys
from dataclasses import dataclass, replace
from typing import TypedDict, final

from ..errors import ScriptError

_REMEDY = "give the path of a Python script that declares an Experiment"
#: endings of file names, which are no modules: a `train.py` that does not exist is a misspelt path
_FILES = ("py", "pyc", "pyw", "pyi", "ipynb", "sh", "txt", "json", "toml", "yaml", "yml")


@final
class ScriptOrder(TypedDict):
    """The order to a zygote to import a script, as Address has it."""

    script: str
    module: str | None
    root: str | None
    variable: str | None
    validates: bool


@dataclass(frozen=True, slots=True)
class Address:
    """A script. file: its absolute path. module: the name it is imported by; None = as a file of no package.

    root: the folder that the module is imported from; None = wherever the interpreter finds it. variable: which of the
    script's experiments; None = it declares one. validates: its function `validate` is wanted, not `train`.
    """

    file: str
    module: str | None = None
    root: str | None = None
    variable: str | None = None
    validates: bool = False

    def __fspath__(self) -> str:
        return self.file

    @property
    def stem(self) -> str:
        """The name of its runs: the last part of its own."""
        if self.module is not None:
            return self.module.removesuffix(".__main__").rpartition(".")[2]
        return os.path.splitext(os.path.basename(self.file))[0]

    @property
    def shell_name(self) -> str:
        """The address as a user would type it, for messages."""
        return (self.module or self.file) + (f":{self.variable}" if self.variable else "")

    def to_json(self) -> ScriptOrder:
        return ScriptOrder(
            script=self.file, module=self.module, root=self.root, variable=self.variable, validates=self.validates
        )

    def check(self) -> None:
        """Raise ScriptError, with a remedy, when there is no such file, or it is no Python script."""
        if os.path.isfile(self.file):
            if self.file.endswith(".ipynb"):
                script = self.stem + ".py"
                raise ScriptError(
                    f"{self.file} is a notebook: put the training function and the experiment into a file, {script} "
                    f"(jupyter nbconvert --to script makes one), and launch that: gpbt-async launch {script}"
                )
            return
        if not os.path.exists(self.file):
            raise ScriptError(f"{self.file} does not exist: {_REMEDY}")
        what = "is a folder" if os.path.isdir(self.file) else "is no ordinary file"
        raise ScriptError(f"{self.file} {what}: {_REMEDY}")

    def moved(self, given: Address) -> Address:
        """The script's address now, of the given one; a module that is given by its path stays a module."""
        variable = given.variable or self.variable
        if self.module is not None and given.module is None:
            name = self.module.replace(".", os.sep)
            for tail in (f"{os.sep}{name}.py", f"{os.sep}{name}{os.sep}__init__.py"):
                if given.file.endswith(tail):
                    return Address(given.file, self.module, given.file[: -len(tail)] or os.sep, variable)
        return replace(given, variable=variable)


def find(given: str | os.PathLike[str], *, module: bool = False) -> Address:
    """The address that a user has given. module: it is a module's name, whatever files there are (`-m`).

    Raises ScriptError for a module that does not exist; a path is not checked (Address.check).
    """
    if isinstance(given, Address):
        return given
    text = os.fspath(given)
    if not module and os.path.isfile(text):
        return Address(os.path.abspath(text))
    head, colon, variable = text.rpartition(":")
    if not colon or not variable.isidentifier():
        head, variable = text, ""
    if module and (os.sep in head or head.endswith(".py")):
        name = os.path.splitext(head)[0].strip(os.sep).replace(os.sep, ".")
        raise ScriptError(f"-m takes the name of a module, not a path: got {head!r}; -m {name}, or the path without -m")
    if not module and (os.path.isfile(head) or not _names_a_module(head)):
        return Address(os.path.abspath(head), variable=variable or None)
    return _module(head, variable or None, module)


def _names_a_module(text: str) -> bool:
    parts = text.split(".")
    named = all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    return named and (len(parts) == 1 or parts[-1] not in _FILES)


def _module(name: str, variable: str | None, certain: bool) -> Address:
    parts = name.split(".")
    if not all(parts):
        raise ScriptError(f"-m takes the name of a module, such as pkg.train: got {name!r}")
    here = os.getcwd()
    for root in dict.fromkeys((here, *(os.path.abspath(entry or here) for entry in sys.path))):
        file, has_package = _below(root, parts)
        if file is not None:
            return Address(file, name, root, variable)
        if has_package:  # the interpreter would look no further
            raise ScriptError(_missing(name, parts, root))
    if file := _installed(parts):
        return Address(file, name, None, variable)
    if os.path.isdir(os.path.join(here, *parts)):
        raise ScriptError(_missing(name, parts, here))
    top = parts[0]
    is_no = f"there is no module {name!r}" if certain or len(parts) > 1 else f"{name} is neither a file nor a module"
    raise ScriptError(
        f"{is_no}: {top}.py and {top}/ were looked for in {here} and on the import path (PYTHONPATH, site-packages); "
        "give a module, such as pkg.train, or the path of a Python script that declares an Experiment"
    )


def _below(root: str, parts: list[str]) -> tuple[str | None, bool]:
    """The file of a module below a folder; and whether its package is there, so that it can be nowhere else."""
    place, has_package = root, False
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        place = os.path.join(place, part)
        package = os.path.isfile(os.path.join(place, "__init__.py"))
        if last and package:
            return os.path.join(place, "__init__.py"), True
        if last and os.path.isfile(place + ".py"):
            return place + ".py", True
        has_package |= package or os.path.isfile(place + ".py")
        if not os.path.isdir(place):
            break
    return None, has_package


def _installed(parts: list[str]) -> str | None:
    """The file of a module whose package is installed, but not in a folder of the import path (an editable install)."""
    try:
        spec = importlib.util.find_spec(parts[0])  # of a name without a dot: imports nothing
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if len(parts) == 1:
        return spec.origin if spec.origin is not None and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        file, _ = _below(folder, parts[1:])
        if file is not None:
            return file
    return None


def _missing(name: str, parts: list[str], root: str) -> str:
    """Why a module of an existing package cannot be found."""
    place = root
    for i, part in enumerate(parts):
        inside = os.path.join(place, part)
        if i == len(parts) - 1 or not os.path.isdir(inside):
            if os.path.isdir(inside):
                return (
                    f"{name} is a folder without __init__.py ({inside}), which holds no experiment: name the module "
                    f"in it that declares one, such as {name}.train"
                )
            names = sorted(entry.removesuffix(".py") for entry in os.listdir(place) if not entry.startswith((".", "_")))
            close = difflib.get_close_matches(part, names, 1)
            meant = f"; did you mean {'.'.join([*parts[:i], close[0], *parts[i + 1 :]])}?" if close else ""
            return f"there is no module {name!r}: {place} has neither {part}.py nor {part}/{meant}"
        place = inside
    raise AssertionError(name)


# ---- a file that should have been a module


def as_module(file: str, levels: int = 0, package: str | None = None) -> tuple[str, str] | None:
    """A file's module name, and the folder to launch it from; None where it cannot be a module.

    levels: how many folders above it belong to its package at least (the dots of a relative import). package: the name
    of a folder above it, from which it imports.
    """
    if not file.endswith(".py"):
        return None
    within = os.path.relpath(file).removesuffix(".py").split(os.sep)
    regular = os.path.isfile(os.path.join(os.path.dirname(file), "__init__.py"))
    if package is None and levels < len(within) and not regular and ".." not in within:
        name = ".".join(within)  # a package without __init__.py may begin in any folder: in this one, best
        return (name, os.getcwd()) if _names_a_module(name) else None
    parts = [os.path.splitext(os.path.basename(file))[0]]
    place = os.path.dirname(file)
    while place != os.path.dirname(place):
        enough = package in parts if package is not None else len(parts) > levels
        if enough and not os.path.isfile(os.path.join(place, "__init__.py")):
            break
        parts.insert(0, os.path.basename(place))
        place = os.path.dirname(place)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    if place == os.path.dirname(place) or not _names_a_module(".".join(parts)):
        return None
    return ".".join(parts), place
