"""Which file system is full? The one of a path, or the one that an error is about.

The kernel's error "No space left on device" does not name the device. A member writes to the run's disk, to /dev/shm
(the tensors of a DataLoader's workers), to /tmp, and to caches in the home folder. Some libraries even hide the cause
(torch.save: "unexpected pos 576 vs 534"). So the member's process looks immediately after the error, while the
incomplete file still takes up space. It checks the path in the error, the file being written, and the usual places.

Standard library only, as it runs in a member's process. The kernel knows what is free (statvfs), but not what a quota
leaves; to learn that, a file without a name is written.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..formatting import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


#: a file system with fewer free bytes is full
ROOM = 1 << 20
#: the errors of a full file system, or of a quota on it that is used up
FULL = (errno.ENOSPC, errno.EDQUOT)
#: bytes that are written to test a quota
_PROBE = 1 << 16
SHM = "/dev/shm"
#: characters of an exception's text that are searched
LONGEST = 8000
#: certain texts; and those of libraries that do not know the cause themselves (torch.save, numpy.tofile)
_SAYS = re.compile(
    r"no space left on device|disk quota exceeded|\[Errno (28|122)\]|os error (28|122)\b|database or disk is full", re.I
)
_HINTS = re.compile(r"inline_container|PytorchStreamWriter failed|iostream error|\d+ requested and \d+ written")
_QUOTA = re.compile(r"disk quota exceeded|\[Errno 122\]|os error 122\b", re.I)
#: a path in quotes or brackets, or alone; not that of a shell's script ("/a/b.sh: line 3: echo: write error")
_PATH = re.compile(r"""['"`‘<](/[^'"`’>\n]+)['"`’>]|(?:^|[\s:=])(/[^\s:'"]+)(?!:? line \d)(?=[\s:'"]|$)""")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """path: where it is mounted. device: its number (st_dev). size, free: bytes in all, and free for this user.

    inodes: no more files can be made. quota: the user's quota on it is used up.
    """

    path: str
    device: int
    size: int
    free: int
    inodes: bool = False
    quota: bool = False

    @property
    def full(self) -> bool:
        return self.free < ROOM or self.inodes or self.quota

    def __str__(self) -> str:
        if self.quota:
            return f"the quota on {self.path} is used up"
        left = "no inodes left" if self.inodes else f"{format_bytes(self.free)} free"
        return f"{self.path} has no room ({format_bytes(self.size)} in all, {left})"


def of(path: str | os.PathLike[str], quota: bool = False) -> FileSystem | None:
    """The file system that a path is on, or would be on; None if it cannot be determined."""
    try:
        place = os.path.abspath(os.fsdecode(path))
        while not os.path.exists(place) and place != os.path.dirname(place):
            place = os.path.dirname(place)
        place = os.path.realpath(place)
        device, status = os.stat(place).st_dev, os.statvfs(place)
        while place != os.path.dirname(place) and os.stat(os.path.dirname(place)).st_dev == device:
            place = os.path.dirname(place)
    except (OSError, ValueError, TypeError):
        return None
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    return FileSystem(place, device, size, free, bool(status.f_files) and not status.f_favail, quota)


def says(text: str) -> bool:
    """Does the text say that a file system, or a quota, is full?"""
    return _SAYS.search(text) is not None


def over_quota(text: str) -> bool:
    """Does it say that a quota is used up?"""
    return _QUOTA.search(text) is not None


def hints(text: str) -> bool:
    """Is it the text of a library that fails so when a file system is full, and perhaps for other reasons?"""
    return _HINTS.search(text) is not None


def usual(*folders: str) -> list[str]:
    """The folders given, then those that members usually write to: shared memory, /tmp, the working folder, home."""
    return [*folders, SHM, os.environ.get("TMPDIR") or "/tmp", os.curdir, os.path.expanduser("~")]


def culprit(chain: Sequence[BaseException], folder: str) -> tuple[bool, FileSystem | None]:
    """Was an error (with its causes) raised because a file system is full? And which one?

    To be called in the process that raised it. folder: the member's checkpoint, the first place to look at when the
    error names no path.
    """
    texts = [said(error) for error in chain]
    certain = any(getattr(e, "errno", None) in FULL for e in chain if isinstance(e, OSError)) or any(map(says, texts))
    if not certain and not any(map(hints, texts)):
        return False, None
    quota = any(getattr(e, "errno", None) == errno.EDQUOT for e in chain) or any(map(over_quota, texts))
    named = [*_named(chain), *(path for text in texts for path in paths(text))]
    if named:
        return True, of(named[0], quota)
    found = next((f for f in filesystems(_written(chain)) if f.full), None)
    if found is None:
        found = exhausted(usual(folder), quota)
    return certain or found is not None, found


def logged(text: str, folder: str) -> tuple[bool, FileSystem | None]:
    """The same for the end of a program's log, after it has ended."""
    if not says(text):
        return False, None
    quota = over_quota(text)
    for path in paths(text):
        return True, of(path, quota)
    return True, exhausted(usual(folder), quota)


def exhausted(folders: Iterable[str], quota: bool = False) -> FileSystem | None:
    """The first of the folders' file systems that is full; quota: on which the user's quota is used up."""
    for folder in folders:
        found = of(folder, quota)
        if found is not None and (_refuses(folder) if quota else found.full):
            return found
    return None


def filesystems(folders: Iterable[str]) -> Iterator[FileSystem]:
    for folder in folders:
        found = of(folder)
        if found is not None:
            yield found


def paths(text: str) -> list[str]:
    """The absolute paths in those lines that say that a file system is full; of each line the last one first (cp a b).

    torch names its shared memory without the folder.
    """
    lines = [line.replace("</torch_", f"<{SHM}/torch_") for line in text.splitlines() if says(line)]
    return [match[1] or match[2] for line in lines for match in reversed(list(_PATH.finditer(line)))]


def said(error: BaseException) -> str:
    """An exception's text, even if its __str__ raises; of a very long one the beginning and the end."""
    try:
        text = str(error)
    except Exception as problem:
        return f"(without text: __str__ raised {type(problem).__name__})"
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def _named(chain: Sequence[BaseException]) -> list[str]:
    """The paths in the errors of a full file system; of two, the second is the one written to (shutil.copy)."""
    errors = [error for error in chain if isinstance(error, OSError) and error.errno in FULL]
    names = [name for error in errors for name in (error.filename2, error.filename)]
    return [os.fsdecode(name) for name in names if isinstance(name, str | bytes) and name]


def _written(chain: Sequence[BaseException]) -> Iterator[str]:
    """The files that were open for writing where the errors were raised, the innermost frame first."""
    for error in chain:
        frames, trace = [], error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame)
            trace = trace.tb_next
        for frame in reversed(frames):
            for value in list(frame.f_locals.values()):
                with contextlib.suppress(Exception):
                    file: Any = value if isinstance(value, io.IOBase) else None
                    if file is not None and isinstance(file.name, str) and set("wax+") & set(file.mode):
                        yield file.name  # even if its `with` has closed it
                    elif isinstance(value, str | os.PathLike) and os.path.isfile(value):
                        yield os.fsdecode(value)


def _refuses(folder: str) -> bool:
    """Does writing a file without a name fail in the folder because there is no space?"""
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, b"\0" * _PROBE)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        return error.errno in FULL
    return False


def elsewhere(where: FileSystem) -> str:
    """What to do about a full file system that is not the run's."""
    if where.quota:
        return f"{where}, which is not the run's disk: delete something there, or write elsewhere"
    if where.path == SHM:
        how = "DataLoader(num_workers=0) or fewer, or a larger one (docker run --shm-size=8g)"
    elif where.path == "/tmp":
        how = "delete something there, or set TMPDIR to a folder with room"
    else:
        how = "delete something there, or write elsewhere (caches: HF_HOME, TORCH_HOME, XDG_CACHE_HOME; TMPDIR)"
    return f"{where}, which is not the run's disk: {how}"
