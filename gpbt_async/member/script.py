"""The user's script, imported: under which name, what it declares, and what is wrong with it in one message.

Runs inside the zygote and inside exec'd members, never in the scheduler. Imports nothing heavy itself; what the
script imports is the script's business. The surprise: the script never becomes `__main__`, so that an application
that embeds us does not run twice, and so that functions and classes can be found again by name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import linecache
import os
import sys
import sysconfig
from typing import TYPE_CHECKING, Any, NamedTuple

from ..declaration.address import as_module
from ..errors import ExperimentError
from . import hydra, terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType, ModuleType, TracebackType


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    sorted({path + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
            if (path := sysconfig.get_paths().get(name))})
)  # fmt: skip
_NOT_USERS = (*_LIBRARIES, _OURS, "<")


#: more files of the user's than this are not watched for edits
MOST_IMPORTS = 500


class Script(NamedTuple):
    """What was imported. declaration: the experiment as JSON, None for a target. train: None for a command."""

    declaration: dict[str, Any] | None
    variable: str | None
    train: Callable[[Any], object] | None
    file: str


class NoExperiment(Exception):
    """The script was imported, and does not declare exactly one experiment. The text says what to do."""


def load(what: dict[str, Any]) -> Script:
    """Import {"script": path, …} (Address as JSON) or {"target": Target as JSON}. Raises whatever the user's code does.

    An import that fails as the script should have been named as a module bears a note that says so.
    """
    if "script" in what:
        return _load_script(os.path.abspath(what["script"]), what.get("module"), what.get("root"), what.get("variable"))
    target = what["target"]
    return Script(None, None, _load_target(target), target["file"])


def _load_script(path: str, name: str | None, root: str | None, wanted: str | None) -> Script:
    if name is not None:
        module = _import_module(path, name, root)
    else:
        # of a symlink: beside the file itself, as python has it, and then beside the link
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
        there = [variable for variable, value in vars(module).items() if isinstance(value, kind)]
        raise NoExperiment(_how_many(name or os.path.basename(path), path, there, wanted))
    ((variable, experiment),) = declared.values()
    if refused := hydra.refused(experiment.train, path):
        raise NoExperiment(refused)
    return Script(experiment.to_json(), variable, experiment.train, path)


def _how_many(name: str, path: str, variables: list[str], wanted: str | None) -> str:
    """What to do about a script that does not declare the one experiment. name: as it was addressed."""
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
    """Import a module from the folder in which it was found; it must be that file, and no other of its name."""
    if root is not None and not f"{root}{os.sep}".startswith(_LIBRARIES):
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
    """What to type for a script that imports from the package it lies in; "" where that is not what is wrong."""
    found = None
    if "attempted relative import" in str(error):
        trace = error.__traceback__
        line = ""
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == path:
                line = linecache.getline(path, trace.tb_lineno).strip()
            trace = trace.tb_next
        words = line.split()
        dots = len(words[1]) - len(words[1].lstrip(".")) if line.startswith("from ") and len(words) > 1 else 1
        found = as_module(path, levels=max(1, dots))
    elif isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top in os.path.dirname(path).split(os.sep):
            found = as_module(path, package=top)
        elif os.path.exists(os.path.join(os.getcwd(), top)) and path.startswith(os.getcwd() + os.sep):
            name = os.path.relpath(path)[: -len(".py")].replace(os.sep, ".") if path.endswith(".py") else ""
            found = (name, os.getcwd()) if all(part.isidentifier() for part in name.split(".")) else None
    if found is None:
        return ""
    name, root = found
    where = "" if os.path.realpath(root) == os.path.realpath(os.getcwd()) else f" (in the folder {root})"
    return f"it is a module of a package, so launch it as one: gpbt-async launch -m {name}{where}"


def _load_target(target: dict[str, Any]) -> Callable[[Any], object]:
    sys.path[:] = [*target["sys_path"], *(entry for entry in sys.path if entry not in target["sys_path"])]
    if target["module"] is not None:
        found: Any = importlib.import_module(target["module"])
    else:
        found = _import_file(target["file"])
    for name in target["qualname"].split("."):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]


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


#: how a module's file is run; the zygote does it statement by statement (importing.py)
execute: Callable[[Any, ModuleType], object] = execute_whole


def module_name(path: str) -> str:
    """The stem if a module may be called so and none is; never __main__."""
    stem = os.path.splitext(os.path.basename(path))[0]
    taken = stem in sys.modules or stem in sys.stdlib_module_names
    if stem.isidentifier() and not taken and stem != "__main__":
        return stem
    return "gpbt_script_" + "".join(c if c.isalnum() else "_" for c in stem)


def mentions(script: Script, word: str) -> bool:
    try:
        with open(script.file, encoding="utf-8", errors="replace") as file:
            return word in file.read()
    except OSError:
        return False


def imports(script: Script) -> dict[str, str]:
    """The files beside the script, and below its folder, that it has imported: by path from there, their SHA-256.

    Of a module, those below the folder it is imported from. What is installed elsewhere is not looked at; nor is what
    the training function imports later.
    """
    import hashlib

    name = next((name for name, m in sys.modules.items() if getattr(m, "__file__", None) == script.file), "")
    folder = os.path.dirname(script.file)
    for _ in range(name.count(".") + (os.path.basename(script.file) == "__init__.py")):
        folder = os.path.dirname(folder)
    found: dict[str, str] = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file == script.file or not is_users(file):
            continue
        if file.startswith(folder + os.sep) and file.endswith(".py") and len(found) < MOST_IMPORTS:
            with contextlib.suppress(OSError), open(file, "rb") as opened:
                found[os.path.relpath(file, folder)] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def named(words: set[str]) -> set[str]:
    """Those of the words that a function or class of the user's files holds as a text or an attribute: `c["lr"]`."""
    found: set[str] = set()
    queue: list[Any] = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and is_users(file):
            queue += [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    seen: set[int] = set()
    while queue and found != words:
        each = queue.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, type):
            queue += vars(each).values()
        elif isinstance(each, classmethod | staticmethod | property):
            queue += [getattr(each, part, None) for part in ("__func__", "fget")]
        elif hasattr(each, "co_consts"):
            found |= words & {*(c for c in each.co_consts if isinstance(c, str)), *each.co_names}
            queue += each.co_consts
        else:
            queue += [getattr(each, part) for part in ("__code__", "__wrapped__") if hasattr(each, part)]
    return found


def is_users(file: str) -> bool:
    """Not ours, not the standard library, not an installed package, not made up.

    An installed package lies in a folder of that name, whichever interpreter's, base's or user's (~/.local) it is.
    """
    return not (file.startswith(_NOT_USERS) or "/site-packages/" in file or "/dist-packages/" in file)


def is_ours(file: str) -> bool:
    return file.startswith(_OURS)


def where(trace: TracebackType | None) -> tuple[str, int, CodeType] | None:
    """File, line and code of the last frame in the user's files, or else the last that is not ours."""
    found = other = None
    while trace is not None:
        code = trace.tb_frame.f_code
        here = code.co_filename, trace.tb_lineno, code
        if is_users(code.co_filename):
            found = here
        elif not code.co_filename.startswith((_OURS, "<")):
            other = here
        trace = trace.tb_next
    return found or other


def place(frame: FrameType | None, library: str) -> str | None:
    """`file:line: source` of the nearest of these frames that is the user's, and not of this library."""
    while frame is not None and (
        not is_users(frame.f_code.co_filename) or frame.f_globals.get("__name__", "").partition(".")[0] == library
    ):
        frame = frame.f_back
    return quoted(frame.f_code.co_filename, frame.f_lineno, ": ") if frame is not None else None


def refusal(error: BaseException) -> str:
    """One message for a script that cannot be imported: what, and at which of the user's lines."""
    if isinstance(error, NoExperiment):
        return str(error)
    text = str(error)
    what = type(error).__name__ + (f": {text}" if text else "") + terminal.advice(error)
    found = where(error.__traceback__)
    at = (found[0], found[1]) if found is not None else None
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        what, at = f"{type(error).__name__}: {error.msg}", (error.filename, error.lineno)
    if isinstance(error, SystemExit):
        what = f"the script called sys.exit({error.code!r}) while it was imported"
        if refused := _argparse(error.__traceback__):
            what = f"{refused} (argparse): the script is given no arguments here, so each needs a default"
    note = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    if at is None:
        return what + note
    if isinstance(error, ExperimentError):  # says its line itself
        source = linecache.getline(*at).strip()
        return f"{text}\n    {source}" if source else text
    file, _, source = quoted(*at, "\n    ").partition("\n")
    return f"{file}: {what}" + (f"\n{source}" if source else "") + note


def _argparse(trace: TracebackType | None) -> str | None:
    """What argparse has refused, which it prints, and says in no exception of its own."""
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_globals.get("__name__") == "argparse" and frame.f_code.co_name == "error":
            return str(frame.f_locals.get("message"))
    return None


def quoted(file: str, line: int, between: str) -> str:
    """`file:line` and, if it can be read, that line behind `between`; the file relative to here if it lies below."""
    source = linecache.getline(file, line).strip()
    shown = os.path.relpath(file) if not os.path.relpath(file).startswith("..") else file
    return f"{shown}:{line}" + (f"{between}{source}" if source else "")


class _AfterImport:
    """A meta path finder that calls somebody back when a module has been imported, once."""

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


def after_import(name: str, callback: Callable[[ModuleType], object]) -> None:
    """Call back with the module: now if it is loaded, else whenever somebody imports it."""
    if name in sys.modules:
        callback(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, callback))


def watch_cuda() -> Callable[[], str | None]:
    """Remember which of the user's lines initialises CUDA first; the result tells, None while nobody has."""
    first: list[str] = []

    def wrap(cuda: Any) -> None:
        real = cuda._lazy_init

        def lazy_init(*args: Any, **kwargs: Any) -> Any:
            if not first and not cuda.is_initialized():
                first.append(place(sys._getframe(1), "torch") or "?")
            return real(*args, **kwargs)

        cuda._lazy_init = lazy_init

    def initialised() -> str | None:
        cuda: Any = sys.modules.get("torch.cuda")
        if cuda is None or not cuda.is_initialized():
            return None
        return first[0] if first else "a line of the script"

    after_import("torch.cuda", wrap)
    return initialised
