"""TODO head."""

from __future__ import annotations

import difflib
import errno
import os
import re
from typing import TYPE_CHECKING

from ..processes.remedies import _PASSES, DISK, ELSEWHERE, LASTING, LONGEST, PASSING, UNKNOWN_DISK, lasting, remedy_for
from ..storage import filesystems
from ..storage.filesystems import elsewhere
from . import hydra, telemetry
from .config import missed_names, peek

if TYPE_CHECKING:
    from collections.abc import Iterable

#: errors of a group or a chain that are looked at
_MOST = 50
#: words in the names of such classes, and the packages such classes come from
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
    """The error, its causes and what it was raised beside, and the members of groups: each once, the nearest first."""
    found: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue and len(found) < _MOST:
        each = queue.pop(0)
        if each is None or any(each is known for known in found):
            continue
        found.append(each)
        beside = None if each.__suppress_context__ else each.__context__
        queue += [*(each.exceptions if isinstance(each, BaseExceptionGroup) else ()), each.__cause__, beside]
    return found


def described(error: BaseException, most: int = 4000) -> str:
    """An exception on a line of its own: its class, its text, and of a group the first that it holds."""
    text = filesystems.said(error)
    told = type(error).__name__ + (f": {text[:most]}" if text else "")
    if isinstance(error, BaseExceptionGroup):
        told += f": the first: {described(error.exceptions[0], most // 2)}"
    return told[:most]


def diagnosed(error: BaseException, checkpoint: str, parent: str | None) -> tuple[str, str]:
    """(fault, remedy) of what a training function raised, in its process. checkpoint, parent: the member's folders."""
    lacks, where = filesystems.culprit(chain(error), checkpoint)
    if lacks:
        if where is None:
            return PASSING, UNKNOWN_DISK
        own = filesystems.of(checkpoint)
        if own is not None and own.device == where.device:
            return DISK, str(where)
        return ELSEWHERE, elsewhere(where)
    return fault(error, parent), remedy(error, checkpoint, parent)


def fault(error: BaseException, parent: str | None = None) -> str:
    """PASSING, LASTING or "" of an exception that is not for lack of room. parent: the parent's checkpoint, if any."""
    if lasting(filesystems.said(error)):
        return LASTING
    missing = error.filename if isinstance(error, FileNotFoundError) else None
    if parent is not None and isinstance(missing, str) and _below(missing, (parent,)):
        return LASTING  # a checkpoint that was published never changes
    return PASSING if any(map(_passes, chain(error))) else ""


def _passes(error: BaseException) -> bool:
    if isinstance(error, OSError | MemoryError | EOFError | SystemExit | KeyboardInterrupt):
        return True
    kinds = [kind for kind in type(error).__mro__ if kind.__module__ != "builtins"]
    if any(kind.__module__.partition(".")[0] in _PACKAGES or _CLASSES.search(kind.__name__) for kind in kinds):
        return True
    return _PASSES.search(filesystems.said(error)) is not None


def remedy(error: BaseException, checkpoint: str = "", parent: str | None = None) -> str:
    """What to do about an exception, in at most `LONGEST` characters; "" if that is not known here.

    checkpoint: where the member writes; parent: its parent's checkpoint, if it has one. The nearest error that is known
    decides: of `raise X from Y` X, then Y.
    """
    errors = chain(error)
    if said := hydra.remedy(errors):
        return said[:LONGEST]
    for each in errors:
        if isinstance(each, KeyError) and (asked := _asked(each)):
            return asked[:LONGEST]
        text = f"{type(each).__name__}: {filesystems.said(each)}"
        if lasting(text) and parent is None:
            continue  # it does not load its parent's weights
        found = _of_file(each, checkpoint, parent) if isinstance(each, OSError) else ""
        if found := found or remedy_for(text):
            return found[:LONGEST]
    return ""


def _asked(error: KeyError) -> str:
    """What to do about a name that the config does not have."""
    now = telemetry.current
    name = error.args[0] if error.args else None
    if now is None or name not in missed_names(now.config):
        return ""
    space = list(peek(now.config))
    close = difflib.get_close_matches(str(name), space, 1, 0.5)
    return f"the space has {', '.join(space)}" + (f": did you mean {close[0]!r}?" if close else "")


def _of_file(error: OSError, checkpoint: str, parent: str | None) -> str:
    """What to do about a file that cannot be read or written."""
    name = error.filename
    if not isinstance(name, str):
        return ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        if parent is not None and _below(name, (parent,)):
            return (
                "member.parent is read-only, for its other children: write to member.checkpoint (shutil.copytree("
                "member.parent, member.checkpoint, dirs_exist_ok=True, copy_function=shutil.copyfile))"
            )
        if checkpoint and _below(name, (checkpoint,)):
            return "a copy of a parent's file is as read-only as that: use shutil.copyfile, which leaves out the mode"
        return ""
    if error.errno != errno.ENOENT:
        return ""
    if parent is not None and _below(name, (parent,)):
        return (
            f"the parent's checkpoint holds no {os.path.basename(name)}: every member must save it under that name in "
            "member.checkpoint"
        )
    if not os.path.isabs(name):
        return (
            f"a relative path is taken from the folder that launch was called in, {os.getcwd()}: launch from there "
            "where the file is, or build the path from Path(__file__).parent"
        )
    return ""


def _below(path: str, folders: Iterable[str]) -> bool:
    path = os.path.realpath(path)
    return any(path.startswith(os.path.realpath(folder) + os.sep) for folder in folders)
