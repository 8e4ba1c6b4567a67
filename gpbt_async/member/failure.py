"""An exception of the training function: what caused it, and what to do about it.

This runs in the member's process, which has the exception's class, its causes, the file that it names and the file
systems. `processes.remedies` knows the same errors by their text alone, for programs and for processes that died. The
member's End carries the result, (fault, remedy), and the fault decides whether another attempt can help:

    PASSING           an error of files, networks, memory, GPUs or other processes: it may go away, so every attempt is
                      made
    LASTING           weights that do not fit the model: another attempt would fail, too
    DISK, ELSEWHERE   a full disk: the run waits

An unknown error has no remedy: none is better than a wrong one.
"""

from __future__ import annotations

import difflib
import errno
import os
import re

from ..processes.remedies import DISK, ELSEWHERE, LASTING, LONGEST, PASSES, PASSING, UNKNOWN_DISK, lasting, remedy_for
from ..storage import full_disk
from ..storage.full_disk import elsewhere
from . import hydra, telemetry
from .config import missed_names, peek

#: errors of a group or a chain that are examined
_MOST = 50
#: words in the names of classes whose errors come and go, and packages of such classes
_CLASSES = re.compile(
    r"Timeout|Connection|HTTP|Transport|Protocol|Network|Unavailable|OutOfMemory|ResourceExhausted|Remote|Broken|"
    r"Temporar|Transient|RateLimit|Locked|Subprocess|ProcessError|ClientError|ServerError|ServiceError|Operational|"
    r"Rpc|DistBackend|DistNetwork|DistStore|XlaRuntime|JaxRuntime|Interrupt|Cancelled|UnpicklingError"
)
_PACKAGES = {
    "aiohttp", "boto3", "botocore", "concurrent", "fsspec", "google", "grpc", "gzip", "http", "httpx",
    "huggingface_hub", "lzma", "mlflow", "multiprocessing", "psycopg2", "pymongo", "ray", "redis", "requests",
    "socket", "sqlalchemy", "sqlite3", "ssl", "subprocess", "tarfile", "urllib", "urllib3", "wandb", "zipfile",
    "zlib", "zmq",
}  # fmt: skip


def chain(error: BaseException) -> list[BaseException]:
    """The error, its causes and contexts, and the members of groups: each once, the nearest first."""
    errors: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue and len(errors) < _MOST:
        nearest = queue.pop(0)
        if nearest is None or any(nearest is seen for seen in errors):
            continue
        errors.append(nearest)
        context = None if nearest.__suppress_context__ else nearest.__context__
        inside = nearest.exceptions if isinstance(nearest, BaseExceptionGroup) else ()
        queue += [*inside, nearest.__cause__, context]
    return errors


def described(error: BaseException, most: int = 4000) -> str:
    """An exception in one line: its class, its text, and the first exception of a group."""
    text = full_disk.said(error)
    line = type(error).__name__ + (f": {text[:most]}" if text else "")
    if isinstance(error, BaseExceptionGroup):
        line += f": the first: {described(error.exceptions[0], most // 2)}"
    return line[:most]


def diagnosed(error: BaseException, checkpoint: str, parent: str | None) -> tuple[str, str]:
    """(fault, remedy) of an exception of the training function. checkpoint, parent: the member's folders."""
    lacks, where = full_disk.culprit(chain(error), checkpoint)
    if lacks:
        if where is None:
            return PASSING, UNKNOWN_DISK
        own = full_disk.of(checkpoint)
        if own is not None and own.device == where.device:
            return DISK, str(where)
        return ELSEWHERE, elsewhere(where)
    return fault(error, parent), remedy(error, checkpoint, parent)


def fault(error: BaseException, parent: str | None = None) -> str:
    """PASSING, LASTING or "" (unknown) of an exception not from a full disk. parent: the parent's checkpoint."""
    if lasting(full_disk.said(error)):
        return LASTING
    missing = error.filename if isinstance(error, FileNotFoundError) else None
    if parent is not None and isinstance(missing, str) and _below(missing, parent):
        return LASTING  # a checkpoint that was published never changes
    return PASSING if any(map(_passes, chain(error))) else ""


def _passes(error: BaseException) -> bool:
    if isinstance(error, OSError | MemoryError | EOFError | SystemExit | KeyboardInterrupt):
        return True
    kinds = [kind for kind in type(error).__mro__ if kind.__module__ != "builtins"]
    if any(kind.__module__.partition(".")[0] in _PACKAGES or _CLASSES.search(kind.__name__) for kind in kinds):
        return True
    return PASSES.search(full_disk.said(error)) is not None


def remedy(error: BaseException, checkpoint: str = "", parent: str | None = None) -> str:
    """What to do about an exception, in at most `LONGEST` characters; "" if unknown.

    checkpoint: where the member writes; parent: its parent's checkpoint, if it has one. The nearest known error
    decides: of `raise X from Y` X, then Y.
    """
    errors = chain(error)
    if text := hydra.remedy(errors):
        return text[:LONGEST]
    for cause in errors:
        if isinstance(cause, KeyError) and (text := _of_name(cause)):
            return text[:LONGEST]
        line = f"{type(cause).__name__}: {full_disk.said(cause)}"
        if lasting(line) and parent is None:
            continue  # it does not load its parent's weights
        text = _of_file(cause, checkpoint, parent) if isinstance(cause, OSError) else ""
        if text := text or remedy_for(line):
            return text[:LONGEST]
    return ""


def _of_name(error: KeyError) -> str:
    """What to do about a name that the config does not have."""
    notes = telemetry.current
    name = error.args[0] if error.args else None
    if notes is None or name not in missed_names(notes.config):
        return ""
    space = list(peek(notes.config))
    close = difflib.get_close_matches(str(name), space, 1, 0.5)
    return f"the space has {', '.join(space)}" + (f": did you mean {close[0]!r}?" if close else "")


def _of_file(error: OSError, checkpoint: str, parent: str | None) -> str:
    """What to do about a file that cannot be read or written."""
    name = error.filename
    if not isinstance(name, str):
        return ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        if parent is not None and _below(name, parent):
            return (
                "member.parent is read-only, for its other children: write to member.checkpoint (shutil.copytree("
                "member.parent, member.checkpoint, dirs_exist_ok=True, copy_function=shutil.copyfile))"
            )
        if checkpoint and _below(name, checkpoint):
            return "a copy of a parent's file is read-only, too: use shutil.copyfile, which does not copy the mode"
        return ""
    if error.errno != errno.ENOENT:
        return ""
    if parent is not None and _below(name, parent):
        return (
            f"the parent's checkpoint holds no {os.path.basename(name)}: every member must save it under that name in "
            "member.checkpoint"
        )
    if not os.path.isabs(name):
        return (
            f"a relative path starts at the folder that launch was called in, {os.getcwd()}: launch from the folder "
            "that has the file, or build the path from Path(__file__).parent"
        )
    return ""


def _below(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
