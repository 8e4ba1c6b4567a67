"""Checkpoints: a folder a member filled becomes one that is visible whole or not at all, and never changes again.

What lives here: publishing, verifying and deleting such folders, in a few threads of their own (never the event loop's
default ones, which belong to the application). What does not: where they stand (folder), who may still need them (the
engine). A child reads its parent's folder in place; nothing is ever copied.

Publishing digests each file and takes the right to write it away, adds the manifest, syncs everything, and renames the
attempt's scratch folder to its final name. The rename is the one moment at which a checkpoint comes to be, and gives
every state a crash can leave its meaning:

* the scratch folder is there: it was not published; publishing starts over, and whatever stands at the final name came
  from an earlier try that no fact mentions, and is replaced;
* it is gone, and a manifest that names this attempt stands at the final name: it was published, only the fact is
  missing.

Deleting goes the other way round: first a rename to a name nobody looks for, then the long part. Folders keep their
write permission, so that `rm -r` of a run just works; files lose it, so that saving over the parent's file fails.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from xxhash import xxh3_128, xxh3_128_hexdigest

from ..errors import GPBTError
from .files import bytes_below, explained, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


T = TypeVar("T")

#: written last; a member's own file must not have this name at the top of its folder
MANIFEST = "manifest.json"
#: the manifest's layout
FORMAT = 1
_CHUNK = 1 << 20
_TRASH = ".trash-"
_PART = ".manifest-"
_ATTEMPT = "attempt-"
_FINAL = "checkpoint"
#: errors that tell of a file that it is not what was published, or never can be read again
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)


class CheckpointError(GPBTError):
    """A checkpoint could not be published, prepared or deleted. The text names the path and the cause."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What publishing tells: the size of all files in bytes, and one digest over all of them and their names."""

    size: int
    digest: str


class CheckpointStore:
    """Publishes, verifies and deletes checkpoints, at most `threads` at a time."""

    def __init__(self, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpbt-checkpoint")
        # a thread of its own kind: who publishes, or clears a slot, must not wait until all that is old has been read
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="gpbt-verify")
        self._closing = False

    def prepare(self, scratch: Path) -> None:
        """Make an empty folder for an attempt: one mkdir, unless something is left there. Raises CheckpointError."""
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
        """Turn the scratch folder into the checkpoint `final`, beside it, whole and durable. Raises CheckpointError.

        Doing it twice is harmless. Cancelled, it may still come to its end.
        """
        return await self._do(self._publish, scratch, final)

    async def verify(self, final: Path) -> str | None:
        """None if every file of a published checkpoint is as it was, else one sentence on what is wrong.

        Raises CheckpointError when that cannot be told just now.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.check, final)

    async def discard(self, *paths: Path) -> None:
        """Delete checkpoints or scratch folders; absent ones are fine.

        Raises CheckpointError when one keeps its name. What has lost it and cannot be deleted is left to the sweep.
        """
        await self._do(_discard, paths)

    async def size(self, path: Path) -> int:
        """Bytes of all files below a folder, as far as they can be seen."""
        return await self._do(bytes_below, path)

    def sweep(self, members_dir: Path, keep: Collection[str], published: Collection[str] | None = None) -> None:
        """When a run is taken up: delete what a crash left half done, in the background. Raises CheckpointError.

        keep: the scratch folders that are still to be published, relative to members_dir: "0007/attempt-2". published:
        the members who may have a checkpoint, "0007"; of another one nobody has ever been told. None: all of them.
        """
        assert all(path.count("/") == 1 for path in keep), keep
        with explained("cannot clean up", members_dir, CheckpointError):
            for member in members_dir.iterdir():
                told = published is None or member.name in published or not member.name.isdecimal()
                for name in os.listdir(member) if member.is_dir() else ():
                    path = member / name
                    begun = name.startswith(_ATTEMPT) and f"{member.name}/{name}" not in keep
                    if name.startswith((_TRASH, _PART)):
                        self._pool.submit(_delete, path)
                    elif begun or (name == _FINAL and not told):
                        self._pool.submit(_delete, _set_aside(path))

    def close(self) -> None:
        """End the threads: publishing is given up at the next chunk, deleting is finished."""
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
                if problem := self.check(final):  # much may have happened since
                    raise CheckpointError(problem)
            sync(final.parent)
        with suppress(OSError):  # the checkpoint stands; the next sweep has another go at what it replaced
            _delete(trash)
        return Checkpoint(manifest["size"], manifest["digest"])

    def _seal(self, scratch: Path) -> dict[str, Any]:
        """Everything but the rename: all files digested, read-only and synced, and the manifest among them."""
        paths, folders = _walk(scratch)
        files: list[dict[str, Any]] = []
        for path in paths:
            name = path.relative_to(scratch).as_posix()
            if name == MANIFEST:
                # ours, of an earlier try or of the parent's folder that was copied here, is simply replaced
                if _manifest_of(scratch) is None:
                    raise CheckpointError(f"{path} has a name that is reserved: save it under another one")
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                size, digest = self._digest(fd)
                os.fchmod(fd, os.fstat(fd).st_mode & 0o7555)
            finally:
                os.close(fd)
            files.append({"name": name, "size": size, "digest": digest})
        files.sort(key=lambda file: file["name"])
        manifest = {
            "checkpoint": FORMAT,
            "attempt": scratch.name,
            "size": sum(file["size"] for file in files),
            "digest": _combined(files),
            "files": files,
        }
        manifest["self"] = _self(manifest)
        _write_manifest(scratch, manifest)
        # all syncs after all changes: each sync that finds something new makes the file system commit once more
        for path in (*paths, scratch / MANIFEST, *reversed(folders)):
            sync(path)
        return manifest

    def check(self, final: Path) -> str | None:
        """`verify`, at once and in this thread."""
        manifest = _manifest_of(final, sure=True)
        if manifest is None:
            return f"{final} has no whole {MANIFEST}"
        for file in manifest["files"]:
            path = final / file["name"]
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    size, digest = self._digest(fd)
                finally:
                    os.close(fd)
            except FileNotFoundError:
                return f"{path} is missing"
            except OSError as error:
                if error.errno not in _GONE:  # too many open files, no rights, a file server: it may be whole
                    raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
                return f"{path} cannot be read: {error.strerror}"
            if size != file["size"]:
                return f"{path} has {size} bytes where {file['size']} were published"
            if digest != file["digest"]:
                return f"{path} is not what was published: its digest differs"
        return None

    def _digest(self, fd: int) -> tuple[int, str]:
        size, digest = 0, xxh3_128()
        while chunk := os.read(fd, _CHUNK):
            if self._closing:
                raise CheckpointError("given up: the run is being closed")
            size += len(chunk)
            digest.update(chunk)
        return size, digest.hexdigest()


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, and all folders, each before those in it. Raises CheckpointError on anything else."""
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


def _combined(files: list[dict[str, Any]]) -> str:
    return xxh3_128_hexdigest(json.dumps([[f["name"], f["size"], f["digest"]] for f in files]).encode())


def _self(manifest: dict[str, Any]) -> str:
    """The digest of all that a manifest says, itself left out."""
    said = {name: value for name, value in manifest.items() if name != "self"}
    return xxh3_128_hexdigest(json.dumps(said, sort_keys=True).encode())


def _write_manifest(scratch: Path, manifest: dict[str, Any]) -> None:
    # written beside the folder and moved in, so that what bears its name is always whole
    part = scratch.with_name(_PART + scratch.name)
    part.unlink(missing_ok=True)
    with open(part, "x", encoding="ascii") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        os.fchmod(file.fileno(), 0o444)
    os.rename(part, scratch / MANIFEST)


def _manifest_of(folder: Path, sure: bool = False) -> dict[str, Any] | None:
    """The manifest in a folder, None unless it is there, ours and undamaged.

    sure: raise CheckpointError when it may be all that, and cannot be read just now.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        files = manifest["files"]
        whole = manifest["digest"] == _combined(files) and manifest["self"] == _self(manifest)
        whole = whole and manifest["size"] == sum(file["size"] for file in files)
    except OSError as error:
        if sure and error.errno not in _GONE:
            raise CheckpointError(f"cannot read {folder / MANIFEST}: {error.strerror}") from error
        return None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return manifest if whole else None


def _published_before(scratch: Path, final: Path) -> dict[str, Any]:
    manifest = _manifest_of(final)
    if manifest is None or manifest.get("attempt") != scratch.name:
        raise CheckpointError(f"{scratch} is gone, and was not published as {final}")
    return manifest


def _set_aside(path: Path) -> Path | None:
    """Take the name from what is to be deleted, at once. None if there is nothing."""
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
            with suppress(OSError):  # it has no name any more; the next sweep has another go at it
                _delete(aside)


def _delete(path: Path | None) -> None:
    """Delete whatever is there. A member may have made its folders read-only; that is no obstacle."""
    if path is None:
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    path.chmod(0o700)
    for name in os.listdir(path):
        _delete(path / name)
    path.rmdir()
