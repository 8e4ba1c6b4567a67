"""Is a file the user's? Messages use this to name the line in the user's code that caused an error or a finding.

A file is the user's if it is neither ours, nor the standard library's, nor an installed package's.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
import sysconfig
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading
    from types import CodeType, FrameType, TracebackType


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: folders of the standard library and of installed packages
LIBRARIES = tuple(
    sorted({path + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
            if (path := sysconfig.get_paths().get(name))})
)  # fmt: skip
_NOT_USERS = (*LIBRARIES, _OURS, "<")
#: the most files of the user's that are watched for edits
MOST_IMPORTS = 500


def is_users(file: str) -> bool:
    """(An installed package is recognized by the folder's name, of whichever interpreter or user.)"""
    return not (file.startswith(_NOT_USERS) or "/site-packages/" in file or "/dist-packages/" in file)


def defines(kind: type) -> bool:
    """Whether the class is the user's own."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return isinstance(file, str) and os.path.isabs(file) and is_users(file)


def is_ours(file: str) -> bool:
    return file.startswith(_OURS)


def runs_in(thread: threading.Thread) -> bool:
    """Whether the thread was started to run a function of the user's."""
    run: Any = getattr(thread, "function", None) or getattr(thread, "_target", None) or type(thread).run
    while hasattr(run, "func") or hasattr(run, "__wrapped__"):  # a partial; a decorated function
        run = getattr(run, "func", None) or run.__wrapped__
    code = getattr(run, "__code__", None)
    return code is not None and is_users(code.co_filename)


def quoted(file: str, line: int, between: str = ": ") -> str:
    """`file:line`, then `between` and the source if it can be read; the file relative to here if it lies below."""
    source = linecache.getline(file, line).strip()
    shown = os.path.relpath(file) if not os.path.relpath(file).startswith("..") else file
    return f"{shown}:{line}" + (f"{between}{source}" if source else "")


def nearest(frame: FrameType | None, library: str = "") -> FrameType | None:
    """Of this frame and its callers the nearest that is the user's, and not in this library."""
    while frame is not None and (
        not is_users(frame.f_code.co_filename)
        or (library and frame.f_globals.get("__name__", "").partition(".")[0] == library)
    ):
        frame = frame.f_back
    return frame


def place(frame: FrameType | None, library: str) -> str | None:
    """`file:line: source` of the nearest of these frames that is the user's, and not in this library."""
    frame = nearest(frame, library)
    return quoted(frame.f_code.co_filename, frame.f_lineno) if frame is not None else None


def where(trace: TracebackType | None) -> tuple[str, int, CodeType] | None:
    """File, line and code of the last frame in the user's files, or else the last that is not ours."""
    users = other = None
    while trace is not None:
        code = trace.tb_frame.f_code
        here = code.co_filename, trace.tb_lineno, code
        if is_users(code.co_filename):
            users = here
        elif not code.co_filename.startswith((_OURS, "<")):
            other = here
        trace = trace.tb_next
    return users or other


def imports(script: str) -> dict[str, str]:
    """Path → SHA-256 of the files beside the script and below its folder that have been imported; at most 500.

    Paths are relative to that folder; for a module of a package, to the folder from which the package is imported.
    Files that are installed elsewhere, or that the training function imports later, are not included.
    """
    import hashlib

    name = next((name for name, m in sys.modules.items() if getattr(m, "__file__", None) == script), "")
    folder = os.path.dirname(script)
    for _ in range(name.count(".") + (os.path.basename(script) == "__init__.py")):
        folder = os.path.dirname(folder)
    digests: dict[str, str] = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file == script or not is_users(file):
            continue
        if file.startswith(folder + os.sep) and file.endswith(".py") and len(digests) < MOST_IMPORTS:
            with contextlib.suppress(OSError), open(file, "rb") as opened:
                digests[os.path.relpath(file, folder)] = hashlib.file_digest(opened, "sha256").hexdigest()
    return digests


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
        value = queue.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type):
            queue += vars(value).values()
        elif isinstance(value, classmethod | staticmethod | property):
            queue += [getattr(value, part, None) for part in ("__func__", "fget")]
        elif hasattr(value, "co_consts"):
            found |= words & {*(c for c in value.co_consts if isinstance(c, str)), *value.co_names}
            queue += value.co_consts
        else:
            queue += [getattr(value, part) for part in ("__code__", "__wrapped__") if hasattr(value, part)]
    return found
