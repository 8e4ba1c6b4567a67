"""The import of the user's script: its module name, its declaration, and one message if something is wrong.

Runs inside the zygote and inside fresh interpreters, never in the scheduler. Imports nothing heavy itself; what the
script imports is the script's business. The surprise: the script never becomes `__main__`, so that an application that
embeds gpbt-async does not run twice, and so that functions and classes can be found again by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ..declaration.address import as_module
from ..errors import ExperimentError
from . import breakpoints, hydra
from .user_code import LIBRARIES, quoted, where

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType, TracebackType

    from ..declaration.address import ScriptOrder
    from ..declaration.target import TargetOrder, TargetRecord


class Script(NamedTuple):
    """What was imported. declaration: the experiment as JSON, None for a target. train: None for a command.

    Where the order asks for the function that validates, `train` is that one; None if there is none.
    """

    declaration: Mapping[str, object] | None
    variable: str | None
    train: Callable[[Any], object] | None
    file: str


class NoExperiment(Exception):
    """The script was imported, and does not declare exactly one experiment. The text says what to do."""


def load(what: ScriptOrder | TargetOrder) -> Script:
    """Import a script or a target. Raises whatever the user's code does.

    If the import fails because the script should be launched as a module, the error has a note that says so.
    """
    if "script" in what:
        loaded, experiment = _load_script(
            os.path.abspath(what["script"]), what["module"], what["root"], what["variable"]
        )
        return loaded._replace(train=experiment.validate) if what["validates"] else loaded
    target = what["target"]
    return Script(None, None, _load_target(target), target["file"])


def _load_script(path: str, name: str | None, root: str | None, wanted: str | None) -> tuple[Script, Any]:
    """The script, and its Experiment."""
    if name is not None:
        module = _import_module(path, name, root)
    else:
        # of a symlink: first the folder of the file itself, as python does, then that of the link
        sys.path[:0] = dict.fromkeys((os.path.dirname(os.path.realpath(path)), os.path.dirname(path)))
        try:
            module = _import_file(path)
        except ImportError as error:
            if remedy := _packaged(path, error):
                error.add_note(remedy)
            raise
    declared: dict[int, tuple[str, Any]] = {}
    # the class is known only if the script imported it
    kind = getattr(sys.modules.get("gpbt_async.experiment"), "Experiment", ())
    for variable, value in vars(module).items():
        if isinstance(value, kind) and (wanted is None or variable == wanted):
            declared.setdefault(id(value), (variable, value))
    if len(declared) != 1:
        variables = [variable for variable, value in vars(module).items() if isinstance(value, kind)]
        raise NoExperiment(_how_many(name or os.path.basename(path), path, variables, wanted))
    ((variable, experiment),) = declared.values()
    if problem := hydra.problem(experiment.train, path):
        raise NoExperiment(problem)
    return Script(experiment.to_json(), variable, experiment.train, path), experiment


def _how_many(name: str, path: str, variables: list[str], wanted: str | None) -> str:
    """What to do about a script with no or several experiments. name: as the user wrote it."""
    if wanted is not None:
        there = f"declares {', '.join(variables)}" if variables else "declares no experiment"
        return f"{name} has no experiment called {wanted!r} at its top level; it {there}"
    if variables:
        several = f"{len(variables)} experiments ({', '.join(variables)})"
        return f"{name} declares {several}: say which, as in gpbt-async launch {name}:{variables[0]}"
    main = os.path.join(os.path.dirname(path), "__main__.py")
    if os.path.basename(path) == "__init__.py":
        inside = f" (its __main__.py is {name}.__main__)" if os.path.isfile(main) else ""
        remedy = f"name the module in it that does, such as {name}.train{inside}"
        return f"the package {name} declares no experiment: {remedy}"
    return (
        f"{name} declares no experiment: put one at its top level, "
        "experiment = gpbt.Experiment(train, space={...}, score=...)"
    )


def _import_module(path: str, name: str, root: str | None) -> ModuleType:
    """Import a module from the folder in which it was found. Raises NoExperiment if another file has its name."""
    if root is not None and not f"{root}{os.sep}".startswith(LIBRARIES):
        sys.path.insert(0, root)
    module = importlib.import_module(name)
    got = getattr(module, "__file__", None)
    if got is None or not os.path.exists(got) or not os.path.samefile(got, path):
        raise NoExperiment(
            f"{name} is {path}, but importing it gave {got or 'a built-in module'}, which has the same name: rename "
            f"one of them, or launch it by its path"
        )
    return module


def _packaged(path: str, error: ImportError) -> str:
    """What to type for a script that imports from its own package; "" if that is not what is wrong."""
    address = None
    if "attempted relative import" in str(error):
        trace = error.__traceback__
        line = ""
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == path:
                line = linecache.getline(path, trace.tb_lineno).strip()
            trace = trace.tb_next
        words = line.split()
        dots = len(words[1]) - len(words[1].lstrip(".")) if line.startswith("from ") and len(words) > 1 else 1
        address = as_module(path, levels=max(1, dots))
    elif isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top in os.path.dirname(path).split(os.sep):
            address = as_module(path, package=top)
        elif os.path.exists(os.path.join(os.getcwd(), top)) and path.startswith(os.getcwd() + os.sep):
            name = os.path.relpath(path)[: -len(".py")].replace(os.sep, ".") if path.endswith(".py") else ""
            address = (name, os.getcwd()) if all(part.isidentifier() for part in name.split(".")) else None
    if address is None:
        return ""
    name, root = address
    where = "" if os.path.realpath(root) == os.path.realpath(os.getcwd()) else f" (in the folder {root})"
    return f"it is a module of a package, so launch it as one: gpbt-async launch -m {name}{where}"


def _load_target(target: TargetRecord) -> Callable[[Any], object]:
    sys.path[:] = [*target["sys_path"], *(entry for entry in sys.path if entry not in target["sys_path"])]
    if target["module"] is not None:
        value: Any = importlib.import_module(target["module"])
    else:
        value = _import_file(target["file"])
    for name in target["qualname"].split("."):
        value = getattr(value, name)
    return value  # type: ignore[no-any-return]


def _import_file(path: str) -> ModuleType:
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # no .py at its end
        from importlib.machinery import SourceFileLoader

        spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    execute(spec.loader, module)
    return module


def execute_whole(loader: Any, module: ModuleType) -> None:
    loader.exec_module(module)


#: how a module's file is run; the zygote does it statement by statement (fork_hazards.py)
execute: Callable[[Any, ModuleType], object] = execute_whole


def module_name(path: str) -> str:
    """The file's stem, if it is an identifier and no other module has this name; never __main__."""
    stem = os.path.splitext(os.path.basename(path))[0]
    taken = stem in sys.modules or stem in sys.stdlib_module_names
    if stem.isidentifier() and not taken and stem != "__main__":
        return stem
    return "gpbt_script_" + "".join(c if c.isalnum() else "_" for c in stem)


def refusal(error: BaseException) -> str:
    """One message for a script that cannot be imported: what is wrong, and at which of the user's lines."""
    if isinstance(error, NoExperiment):
        return str(error)
    text = str(error)
    what = type(error).__name__ + (f": {text}" if text else "") + breakpoints.advice(error)
    line = where(error.__traceback__)
    at = (line[0], line[1]) if line is not None else None
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        what, at = f"{type(error).__name__}: {error.msg}", (error.filename, error.lineno)
    if isinstance(error, SystemExit):
        what = f"the script called sys.exit({error.code!r}) while it was imported"
        if message := _argparse(error.__traceback__):
            what = f"{message} (argparse): the script is given no arguments here, so each needs a default"
    note = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    if at is None:
        return what + note
    if isinstance(error, ExperimentError):  # its text names the line already
        source = linecache.getline(*at).strip()
        return f"{text}\n    {source}" if source else text
    file, _, source = quoted(*at, "\n    ").partition("\n")
    return f"{file}: {what}" + (f"\n{source}" if source else "") + note


def _argparse(trace: TracebackType | None) -> str | None:
    """The message with which argparse has refused the arguments: argparse prints it and raises a bare SystemExit."""
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_globals.get("__name__") == "argparse" and frame.f_code.co_name == "error":
            return str(frame.f_locals.get("message"))
    return None
