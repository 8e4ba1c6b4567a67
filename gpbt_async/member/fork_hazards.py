"""What a script starts while the zygote imports it that does not survive a fork: native threads, and CUDA.

A fork copies one thread. If a library started threads of its own before the fork (OpenMP with two threads, XLA, a C++
pool), the forked member waits for threads that are not there. So the zygote imports the script statement by statement
and looks after each one whether this process has threads that are not Python's. If it has, the launcher starts members
in fresh interpreters instead, and names the line. Python's own threads are no such hazard: the interpreter is made for
their loss. CUDA does not survive a fork either, and the line that initialises it is remembered in the same way.

Each statement is a code object of its own, with the file's name and its line, so that tracebacks, `inspect` and
`linecache` see what they always see. The surprises: a text that stands alone would become the module's docstring,
wherever it stands; and a thread that has been joined is still listed for a moment, so only those that stay count.

Some threads do survive, because their library starts them again in the child or does without them: Arrow's, jemalloc's,
tokenizers', those of scipy's FFT. A thread's library is found on its stack: the shared objects that it returns to.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import suppress
from importlib.machinery import PathFinder, SourceFileLoader
from typing import TYPE_CHECKING, Any

from . import hooks, script
from .user_code import place, quoted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType

    from ..processes.zygote_messages import NativeThreads


#: libraries whose threads survive a fork (each was tried: used before it, and again in the child)
SAFE = frozenset({"libarrow", "libparquet", "pypocketfft", "_pocketfft", "tokenizers"})
#: threads known by their name alone
SAFE_NAMES = frozenset({"jemalloc_bg_thd"})
#: TOKENIZERS_PARALLELISM during the import: no threads then; members may start them. (Users write "false")
ALONE = "off"
#: seconds that a thread which has ended may still be listed
GHOST = 0.05
#: bytes of a thread's stack in which its library is looked for
_STACK = 4096
_EVERYWHERE = re.compile(r"ld-|libc[.-]|libm[.-]|libpthread|libstdc\+\+|libgcc_s|\[")
_PYTHON = re.compile(r"(lib)?python\d*(\.\d+)*t?($|\.)")
#: one function of the whole module gathers its annotations (PEP 649)
_ANNOTATIONS_ARE_WHOLE = sys.version_info >= (3, 14)


class StatementImporter:
    """A context in which the module in `file` is imported statement by statement."""

    def __init__(self, file: str) -> None:
        self._file = file
        #: thread id → the statement after which the thread was first seen
        self._places: dict[int, str] = {}

    def __enter__(self) -> StatementImporter:
        script.execute = self._execute
        places = [i for i, finder in enumerate(sys.meta_path) if finder is PathFinder]
        sys.meta_path.insert(places[0] if places else len(sys.meta_path), self)
        if "TOKENIZERS_PARALLELISM" not in os.environ:
            os.environ["TOKENIZERS_PARALLELISM"] = ALONE
        return self

    def __exit__(self, *_: object) -> None:
        script.execute = script.execute_whole
        with suppress(ValueError):
            sys.meta_path.remove(self)
        if os.environ.get("TOKENIZERS_PARALLELISM") == ALONE:
            del os.environ["TOKENIZERS_PARALLELISM"]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the path finder finds; for our file, with a loader that executes statement by statement."""
        if name.rpartition(".")[2] != os.path.splitext(os.path.basename(self._file))[0]:
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader = spec.loader if spec is not None else None
        if spec is not None and loader is not None and spec.origin == self._file:
            loader.exec_module = lambda module: self._execute(loader, module)  # type: ignore[method-assign]
        return spec

    def _execute(self, loader: Any, module: ModuleType) -> None:
        codes = None
        if type(loader) is SourceFileLoader:
            codes = statements(loader.get_data(loader.path), loader.path)
        if codes is None:
            script.execute_whole(loader, module)
            return
        self._look("")
        for line, code in codes:
            exec(code, module.__dict__)
            self._look(f"{code.co_filename}\0{line}")

    def _look(self, place: str) -> None:
        tasks = os.listdir("/proc/self/task")
        if len(tasks) > 1:
            for task in tasks:
                self._places.setdefault(int(task), place)

    def threads(self) -> NativeThreads | None:
        """The native threads that stay and do not survive a fork; None if there are none."""
        until = time.monotonic() + GHOST
        while (unsafe := [(task, library) for task in native() if (library := hazard(task)) is not None]) and (
            time.monotonic() < until
        ):
            time.sleep(0.005)
        if not unsafe:
            return None
        first = next((place for task, place in self._places.items() if place and task in dict(unsafe)), "")
        file, _, line = first.partition("\0")
        return {
            "count": len(unsafe),
            "libraries": sorted({library for _, library in unsafe if library}),
            "place": quoted(file, int(line)) if line else "",
        }


def statements(source: bytes, file: str) -> list[tuple[int, CodeType]] | None:
    """Line and code of each statement at a module's top level; None if the module must be executed whole.

    Raises SyntaxError before any statement has run.
    """
    tree = ast.parse(source, file)
    # the whole first: some errors (a late __future__ or global) show in no single statement
    compile(tree, file, "exec", dont_inherit=True)
    if _ANNOTATIONS_ARE_WHOLE and any(isinstance(node, ast.AnnAssign) for node in ast.walk(tree)):
        return None
    flags = 0
    codes: list[tuple[int, CodeType]] = []
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # the whole has warned already
        for i, node in enumerate(tree.body):
            if i and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # does nothing; alone it would be the docstring
            code = compile(ast.Module([node], []), file, "exec", flags=flags, dont_inherit=True)
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                flags |= code.co_flags & _FUTURE
            codes.append((node.lineno, code))
    return codes


def _future_flags() -> int:
    import __future__

    flags = 0
    for name in __future__.all_feature_names:
        flags |= getattr(__future__, name).compiler_flag
    return flags


_FUTURE = _future_flags()


def native() -> list[int]:
    """The threads of this process that are not Python's."""
    tasks = [int(task) for task in os.listdir("/proc/self/task")]
    if len(tasks) <= len(sys._current_frames()):  # includes threads started without `threading`
        return []
    own = {thread.native_id for thread in threading.enumerate()} | {os.getpid()}
    return [task for task in tasks if task not in own]


def hazard(task: int) -> str | None:
    """The library of a native thread, "" if unknown; None if the thread has ended or survives a fork."""
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            name = file.read().strip()
        if name in SAFE_NAMES:
            return None
        library = owner(task)
    except (OSError, ValueError):
        return "" if os.path.exists(f"/proc/self/task/{task}") else None
    return None if library in SAFE or _PYTHON.match(library) else library


def owner(task: int) -> str:
    """The shared object that a waiting thread of this process most often returns to; "" if unknown."""
    with open(f"/proc/self/task/{task}/syscall") as file:
        fields = file.read().split()
    if len(fields) < 3:  # it runs
        return ""
    with open("/proc/self/maps") as file:
        areas = [line.split(maxsplit=5) for line in file]
    code = [(*_range(area[0]), area[5].strip()) for area in areas if "x" in area[1] and len(area) > 5]
    low = int(fields[-2], 16)
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        stack = os.pread(memory.fileno(), _STACK, low)
    counts: Counter[str] = Counter()
    for value in memoryview(stack[: len(stack) // 8 * 8]).cast("Q"):
        for start, end, path in code:
            if start <= value < end:
                counts[os.path.basename(path)] += 1
    libraries = [name for name, _ in counts.most_common() if not _EVERYWHERE.match(name)]
    return _short(libraries[0]) if libraries else ""


def _range(text: str) -> tuple[int, int]:
    start, _, end = text.partition("-")
    return int(start, 16), int(end, 16)


def _short(name: str) -> str:
    """libgomp-a34b3233.so.1 → libgomp; tokenizers.abi3.so → tokenizers."""
    stem = name if _PYTHON.match(name) else name.split(".so")[0].split(".")[0]
    return re.sub(r"-[0-9a-f]{6,}$", "", stem)


def python_threads() -> list[str]:
    """The names of Python's threads but the main one, and but tqdm's monitor, which a forked member does not need."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    return [thread.name for thread in others if type(thread).__module__.partition(".")[0] != "tqdm"]


def watch_cuda() -> Callable[[], str | None]:
    """Remember which of the user's lines initialises CUDA; the returned function names it, None before that."""
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

    hooks.after_import("torch.cuda", wrap)
    return initialised
