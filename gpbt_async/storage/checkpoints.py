"""Checkpoints: a folder that a member has filled becomes visible whole or not at all, and never changes again.

The store publishes, verifies and deletes such folders, in a few threads of its own (the event loop's default ones
belong to the application). The paths are the folder's business, and who needs a checkpoint is the engine's. A child
reads its parent's folder in place; nothing is copied.

Publishing digests each file and removes its write permission, adds the manifest, syncs everything, and renames the
attempt's scratch folder to its final name. From that rename on, the checkpoint exists. So every state that a crash can
leave has one meaning:

* The scratch folder exists: it was not published. Publishing starts again, and replaces what is at the final name: an
  earlier try that no fact mentions.
* It is gone, and the manifest at the final name names this attempt: it was published, only the fact is missing.

Deleting goes the other way round: first a rename to a name that no one uses, then the long part. Folders keep their
write permission, so that `rm -r` of a run works; files lose it, so that saving over the parent's file fails.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from xxhash import xxh3_128

from ..errors import GPBTError
from .files import bytes_below, explained, sync
from .manifest import GONE, MANIFEST, PART, Manifest, PublishedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


T = TypeVar("T")

_CHUNK = 1 << 20
_TRASH = ".trash-"
_ATTEMPT = "attempt-"
_FINAL = "checkpoint"


class CheckpointError(GPBTError):
    """A checkpoint could not be published, prepared or deleted. The text names the path and the cause."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint: the size of all files in bytes, and one digest of their names and contents."""

    size: int
    digest: str


class CheckpointStore:
    """Publishes, verifies and deletes checkpoints, at most `threads` at a time."""

    def __init__(self, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpbt-checkpoint")
        # verifying reads all old checkpoints, and publishing must not wait for that
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="gpbt-verify")
        self._closing = False

    def prepare(self, scratch: Path) -> None:
        """Make an empty folder for an attempt: one mkdir, unless an old one is there. Raises CheckpointError."""
        with explained("cannot make", scratch, CheckpointError):
            try:
                os.mkdir(scratch)
            except FileNotFoundError:
                os.makedirs(scratch)
            except FileExistsError:
                trash = _set_aside(scratch)
                os.mkdir(scratch)
                self._pool.submit(_delete, trash)

    async def publish(self, scratch: Path, final: Path) -> Checkpoint:
        """Make the scratch folder the checkpoint `final`, whole and durable. Raises CheckpointError.

        May be called twice. A cancelled call may still publish.
        """
        return await self._do(self._publish, scratch, final)

    async def verify(self, final: Path) -> str | None:
        """None if every file of a published checkpoint is as it was, else one sentence on what is wrong.

        Raises CheckpointError when the checkpoint cannot be read at the moment.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.check, final)

    async def discard(self, *paths: Path) -> None:
        """Delete checkpoints or scratch folders, if they exist.

        Raises CheckpointError when one cannot be renamed. What was renamed and cannot be deleted is left to `sweep`.
        """
        await self._do(_discard, paths)

    async def size(self, path: Path) -> int:
        """Bytes of all readable files below a folder."""
        return await self._do(bytes_below, path)

    def sweep(self, members_dir: Path, keep: Collection[str], published: Collection[str] | None = None) -> None:
        """When a run is resumed: delete what a crash left, in the background. Raises CheckpointError.

        keep: the scratch folders that are still to be published, relative to members_dir: "0007/attempt-2". published:
        the members that may have a checkpoint, "0007", as no fact mentions one of any other member; None: all members.
        """
        assert all(path.count("/") == 1 for path in keep), keep
        with explained("cannot clean up", members_dir, CheckpointError):
            for member in members_dir.iterdir():
                mentioned = published is None or member.name in published or not member.name.isdecimal()
                for name in os.listdir(member) if member.is_dir() else ():
                    path = member / name
                    abandoned = name.startswith(_ATTEMPT) and f"{member.name}/{name}" not in keep
                    if name.startswith((_TRASH, PART)):
                        self._pool.submit(_delete, path)
                    elif abandoned or (name == _FINAL and not mentioned):
                        self._pool.submit(_delete, _set_aside(path))

    def close(self) -> None:
        """End the threads: publishing stops at the next chunk, deleting is finished."""
        self._closing = True
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True)

    # ---- in the threads

    async def _do(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def _publish(self, scratch: Path, final: Path) -> Checkpoint:
        with explained("cannot publish", scratch, CheckpointError):
            if os.path.lexists(scratch):
                manifest = self._seal(scratch)
                trash = _set_aside(final)
                os.rename(scratch, final)
            else:
                manifest, trash = _published_before(scratch, final), None
                if problem := self.check(final):  # it may have been damaged since
                    raise CheckpointError(problem)
            sync(final.parent)
        with suppress(OSError):  # the checkpoint exists; the next sweep deletes what it replaced
            _delete(trash)
        return Checkpoint(manifest.size, manifest.digest)

    def _seal(self, scratch: Path) -> Manifest:
        """Publish all but the rename: digest the files, make them read-only, add the manifest, sync. The manifest."""
        paths, folders = _walk(scratch)
        files: list[PublishedFile] = []
        for path in paths:
            name = path.relative_to(scratch).as_posix()
            if name == MANIFEST:
                # a manifest of an earlier try, or of the parent's folder that was copied here, is replaced
                if Manifest.read(scratch) is None:
                    raise CheckpointError(f"{path} has a reserved name: save it under another one")
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                size, digest = self._digest(fd)
                os.fchmod(fd, os.fstat(fd).st_mode & 0o7555)
            finally:
                os.close(fd)
            files.append(PublishedFile(name, size, digest))
        manifest = Manifest(scratch.name, tuple(sorted(files, key=lambda file: file.name)))
        manifest.write(scratch)
        # all syncs after all changes: each sync of something new costs a commit of the file system
        for path in (*paths, scratch / MANIFEST, *reversed(folders)):
            sync(path)
        return manifest

    def check(self, final: Path) -> str | None:
        """Like `verify`, in this thread."""
        with explained("cannot read", final / MANIFEST, CheckpointError):
            manifest = Manifest.read(final)
        if manifest is None:
            return f"{final} has no whole {MANIFEST}"
        for file in manifest.files:
            path = final / file.name
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    size, digest = self._digest(fd)
                finally:
                    os.close(fd)
            except FileNotFoundError:
                return f"{path} is missing"
            except OSError as error:
                if error.errno not in GONE:  # too many open files, permissions, a file server: it may be whole
                    raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
                return f"{path} cannot be read: {error.strerror}"
            if size != file.size:
                return f"{path} has {size} bytes where {file.size} were published"
            if digest != file.digest:
                return f"{path} is not what was published: its digest differs"
        return None

    def _digest(self, fd: int) -> tuple[int, str]:
        size, digest = 0, xxh3_128()
        while chunk := os.read(fd, _CHUNK):
            if self._closing:
                raise CheckpointError("stopped: the run is being closed")
            size += len(chunk)
            digest.update(chunk)
        return size, digest.hexdigest()


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files and all folders below a folder, outer ones first. Raises CheckpointError for anything else."""
    files, folders, todo = [], [], [folder]
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a symbolic link: a checkpoint is a folder of files")
    while todo:
        folders.append(todo.pop())
        with os.scandir(folders[-1]) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    files.append(Path(entry.path))
                else:
                    what = "a symbolic link" if entry.is_symlink() else "a socket, pipe or device"
                    raise CheckpointError(f"{entry.path} is {what}: a checkpoint is a folder of files")
    return files, folders


def _published_before(scratch: Path, final: Path) -> Manifest:
    manifest = Manifest.read(final)
    if manifest is None or manifest.attempt != scratch.name:
        raise CheckpointError(f"{scratch} is gone, and was not published as {final}")
    return manifest


def _set_aside(path: Path) -> Path | None:
    """Rename what is to be deleted; its new path, None if there is nothing."""
    trash = path.with_name(f"{_TRASH}{path.name}-{secrets.token_hex(4)}")
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return None
    return trash


def _discard(paths: Collection[Path]) -> None:
    trash = []
    try:
        for path in paths:
            with explained("cannot delete", path, CheckpointError):
                trash.append(_set_aside(path))
    finally:
        for aside in trash:
            with suppress(OSError):  # it has lost its name; the next sweep deletes it
                _delete(aside)


def _delete(path: Path | None) -> None:
    """Delete a file or a folder, also one with read-only folders in it."""
    if path is None:
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    path.chmod(0o700)
    for name in os.listdir(path):
        _delete(path / name)
    path.rmdir()
