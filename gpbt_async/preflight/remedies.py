"""What to do about a failure, and whether another attempt can help: a small table of errors that people meet.

`remedy` and `fault` look at the exception itself, in the member's process, where its class, its causes, the file it
names and the file systems are at hand; what they find travels in the member's End. `remedy_for` has the text alone, of
a program or of a process that died. An error that is not known here has no remedy: none is better than a wrong one.

Whether to try again is the surroundings' doing or the script's. Files, networks, memory, GPUs and other processes come
and go: what they raise gets all its attempts, even in the same words. All else is tried a second time, and what fails
twice in the same words at the same line would fail for ever. One kind is known for certain at once: a model that does
not fit the weights it loads, as the config and the parent, which decide it, are the same in every attempt.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from typing import TYPE_CHECKING

from .. import filesystems
from . import hydra, telemetry
from .config import missed_names, peek

if TYPE_CHECKING:
    from collections.abc import Iterable

#: whose doing a failure is: the surroundings' of the moment; the script's, for ever; or lack of room, on the run's own
#: disk or elsewhere; "" = not known
PASSING, LASTING, DISK, ELSEWHERE = "passing", "lasting", "disk", "elsewhere"
FAULTS = (PASSING, LASTING, DISK, ELSEWHERE)
#: characters of a remedy
LONGEST = 300
#: errors of a group or a chain that are looked at
_MOST = 50

#: the weights do not fit the model: PyTorch, its optimizers, Flax, Keras
_SHAPE = re.compile(
    r"Error\(s\) in loading state_dict|size mismatch for \S+: copying a param|"
    r"loaded state dict (contains a parameter group that doesn't match|has a different number of parameter groups)|"
    r"ScopeParamShapeError|Layer count mismatch when loading weights"
)
SHAPE = (
    "a hyperparameter that changes the model's shape cannot be inherited: take it out of the space, and give each "
    "shape a run of its own"
)
UNKNOWN_DISK = "a file system is full, and it is none that a member usually writes to: look at what it writes"
_SHM = (
    "/dev/shm, the shared memory, is too small for the DataLoader's workers: num_workers=0 or fewer, or a larger one "
    "(docker run --shm-size=8g; mount -o remount,size=8g /dev/shm)"
)
_OOM = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|RESOURCE_EXHAUSTED"
)
#: how an error's text begins to be known → what to do about it; the first that is found
TABLE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Weights only load failed|weights_only"),
        "torch.load takes tensors only: save model.state_dict() and numbers, or load a checkpoint of your own with "
        "weights_only=False",
    ),
    (
        re.compile(r"Cannot re-initialize CUDA in forked subprocess"),
        "CUDA was used before a fork: at the script's top level (move it into the training function, or use --start "
        "exec), or beside a DataLoader whose workers use it (multiprocessing_context='spawn')",
    ),
    (
        re.compile(r"Attempting to deserialize object on (a )?CUDA|Attempting to deserialize object on CUDA device"),
        "the checkpoint's tensors are on another device: torch.load(path, map_location=member.device)",
    ),
    (
        _OOM,
        "use a smaller batch or model, or let fewer members share a GPU (--share 1, or --vram with what one takes)",
    ),
    (re.compile(r"DataLoader worker .*[Bb]us error|insufficient shared memory|[Kk]illed by SIGBUS"), _SHM),
    (
        re.compile(r"DataLoader worker \(pid\(?s?\)? .*(killed by signal: Killed|exited unexpectedly)"),
        "a worker of the DataLoader was killed, for lack of memory most likely (`dmesg` says so): fewer num_workers, "
        "or fewer --slots",
    ),
    (
        re.compile(r"daemonic processes are not allowed to have children"),
        "a process of multiprocessing.Pool may not start others: use num_workers=0 there, or "
        "concurrent.futures.ProcessPoolExecutor instead of the Pool",
    ),
    (
        re.compile(r"Can't get attribute|[Cc]an't pickle|cannot pickle"),
        "a pickle holds the names of classes and functions, not their code: define them at the top level of a module "
        "that the script imports, or save plain data (a state_dict)",
    ),
    (
        re.compile(r"attempted relative import"),
        "the script is part of a package: launch it by its module's name (gpbt-async launch package.module)",
    ),
    (
        re.compile(r"No module named '([\w.]+)'"),
        "install it where gpbt-async runs; of a file of your own: it is looked for beside the script and along "
        "PYTHONPATH",
    ),
    (
        re.compile(r"Too many open files|\[Errno 24\]"),
        "raise the limit (`ulimit -n 65536` before launch), or "
        "torch.multiprocessing.set_sharing_strategy('file_system')",
    ),
    (
        re.compile(r"Address already in use|EADDRINUSE"),
        "members train beside each other: give each a port of its own (port 0, or one plus member.id)",
    ),
    (
        re.compile(r"Cannot allocate memory|can't allocate memory|Unable to allocate .* for an array|^MemoryError"),
        "main memory is used up: fewer --slots, or less data in each member (loaded at the script's top level, it is "
        "shared)",
    ),
    (
        re.compile(r"\bBdbQuit\b"),
        "a debugger has no terminal in a run: `gpbt-async try SCRIPT` trains one member in yours",
    ),
    (
        re.compile(r"^killed by SIGKILL"),
        "most likely by the kernel, for lack of memory (`dmesg` says so): fewer --slots, or less memory a member",
    ),
)  # fmt: skip

#: texts of errors that come and go, whatever their class
_PASSES = re.compile(
    r"CUDA|CUDNN|CUBLAS|NCCL|\bHIP\b|out of memory|allocate memory|shared memory|DataLoader worker|timed? ?out|"
    r"connection|Too many open files|temporar|Broken pipe|is locked|server error|rate limit|\bHTTP|"
    r"unable to (open|mmap|write)|inline_container|PytorchStream|iostream|requested and \d+ written",
    re.I,
)
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


def elsewhere(where: filesystems.FileSystem) -> str:
    """What to do about a full file system that is not the run's."""
    if where.quota:
        return f"{where}, which is not the run's disk: delete something there, or write elsewhere"
    if where.path == filesystems.SHM:
        how = "DataLoader(num_workers=0) or fewer, or a larger one (docker run --shm-size=8g)"
    elif where.path == "/tmp":
        how = "delete something there, or set TMPDIR to a folder with room"
    else:
        how = "delete something there, or write elsewhere (caches: HF_HOME, TORCH_HOME, XDG_CACHE_HOME; TMPDIR)"
    return f"{where}, which is not the run's disk: {how}"


def fault(error: BaseException, parent: str | None = None) -> str:
    """PASSING, LASTING or "" of an exception that is not for lack of room. parent: the parent's checkpoint, if any."""
    if lasting(filesystems.said(error)):
        return LASTING
    missing = error.filename if isinstance(error, FileNotFoundError) else None
    if parent is not None and isinstance(missing, str) and _below(missing, (parent,)):
        return LASTING  # a checkpoint that was published never changes
    return PASSING if any(map(_passes, chain(error))) else ""


def lasting(text: str) -> bool:
    """Is it an error that depends on the config and the parent alone, so that every attempt would raise it?"""
    return _SHAPE.search(text) is not None


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


def remedy_for(reason: str) -> str:
    """The same of an error's text alone, or of the way in which a process died."""
    if lasting(reason):
        return SHAPE
    return next((what for known, what in TABLE if known.search(reason)), "")


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


def same(reason: str, before: str) -> bool:
    """Are two reasons of one member's attempts the same, but for addresses and the number of the attempt?"""
    return _bare(reason) == _bare(before)


def _bare(reason: str) -> str:
    return re.sub(r"0x[0-9a-fA-F]+|attempt-\d+", "#", reason)
