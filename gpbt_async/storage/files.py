"""Files: written whole, synced, appended to, measured; and OSErrors as sentences.

A file is replaced by writing another one beside it and renaming that, so that a reader, or a crash, meets the old
content or the new one. `explained` is the one place where an OSError becomes a message for a person. The names of a
run's files are in folder.py.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import errno
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiofiles
import aiofiles.os

from ..errors import FolderError
from .full_disk import FULL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..errors import GPBTError


_fsync = aiofiles.os.wrap(os.fsync)


@contextmanager
def explained(what: str, path: Path, kind: type[GPBTError] = FolderError) -> Iterator[None]:
    """Turns an OSError into an error of that kind, with one sentence that names the path and the cause."""
    try:
        yield
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            in_the_way = next((p for p in (path, *path.parents) if os.path.lexists(p) and not p.is_dir()), None)
            cause = f"{in_the_way} is not a folder" if in_the_way else cause
        if error.errno in FULL:
            cause += " (make room there)"
        raise kind(f"{what} {path}: {cause}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside it. The file written there replaces `path` after the block; after an exception it is deleted.

    One write to a path at a time.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder, which syncs of its files do not cover."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def bytes_below(path: Path) -> int:
    """Bytes of all readable files below a folder.

    (Path.rglob keeps every path in memory: 40 MB at the end of a run of 20,000 members.)
    """
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # it was deleted meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def reserve(fd: int, offset: int, length: int) -> bool:
    """Reserve space behind a file's end, without changing its size. False only when the disk is full.

    Nothing is reserved on file systems that cannot (NFS and some others).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    keep_size = ctypes.c_int(1)
    if libc.fallocate(ctypes.c_int(fd), keep_size, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0:
        return True
    return ctypes.get_errno() not in FULL


class Appended:
    """A file that is only appended to, each time completely or not at all. Raises OSError.

    Other processes may append to it as well, each in one write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.size = os.fstat(self._fd).st_size
        #: it ends in an incomplete line
        self.torn = bool(self.size) and os.pread(self._fd, 1, self.size - 1) != b"\n"

    def append(self, data: bytes) -> None:
        begun = os.fstat(self._fd).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except BaseException:
            # on a full disk, a part is written first; remove it, unless another process has appended behind it
            if written and os.fstat(self._fd).st_size == begun + written:
                os.ftruncate(self._fd, begun)
            raise
        self.size = begun + written

    def sync(self) -> None:
        with suppress(OSError):  # a device or a pipe cannot be
            os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Replace the file, as `replacing` does. Raises FolderError.

    Non-finite numbers, which JSON lacks, become "NaN", "Infinity", "-Infinity". durable=False: without a sync, for
    files that can be written again. One write to a path at a time; a cancelled one is finished first.
    """
    text = json.dumps(spelled(value), allow_nan=False, indent=1, ensure_ascii=False) + "\n"
    writing = asyncio.ensure_future(_write(path, text, durable))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        with suppress(FolderError):
            await writing
        raise


async def _write(path: Path, text: str, durable: bool) -> None:
    # a thread for this write alone: aiofiles would use the loop's default pool, and leave threads behind in an
    # application; its `async with` closes there even if it was given another executor
    pool = ThreadPoolExecutor(1, thread_name_prefix="gpbt-files")
    with explained("cannot write", path), pool, replacing(path) as beside:
        file = await aiofiles.open(beside, "w", encoding="utf-8", errors="surrogatepass", executor=pool)
        try:
            await file.write(text)
            await file.flush()
            if durable:
                await _fsync(file.fileno(), executor=pool)
        finally:
            await file.close()


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises FolderError when it is missing, unreadable or not JSON."""
    with explained("cannot read", path):
        try:
            return json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise FolderError(f"cannot read {path}: {error}") from None


def spelled(value: Any) -> Any:
    """The value with every non-finite number, which JSON lacks, as "NaN", "Infinity" or "-Infinity".

    A dataclass becomes an object, under the names of its fields.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: spelled(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: spelled(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
