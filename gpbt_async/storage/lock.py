"""The lock of a run: one scheduler at a time, decided by the kernel.

It is a flock, which the kernel drops with the last process that holds the file open, so it is never stale. The guardian
holds the file too: a killed scheduler's run stays locked until its last process is gone. The text in the file (pid,
host, boot, time) is only for people, and shows whether the machine has restarted since.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shlex
import signal
import socket
import time
from pathlib import Path
from typing import TypedDict

from ..errors import FolderError
from .files import explained

#: seconds between two tries to take a lock
_POLL = 0.01


class Lock:
    """Held from `acquire` until `release`, and as long as any other process has the file open."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        #: its holder before, None in a new run
        self.previous = _read(fd) or None
        ours = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "t": time.time()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(ours).encode() + b"\n", 0)

    @property
    def rebooted(self) -> bool:
        """Whether the machine has restarted since the run was last held: what was not synced may be lost then."""
        return self.previous is not None and self.previous.get("boot") != _boot()

    def fileno(self) -> int:
        return self._fd

    def current_path(self) -> str | None:
        """Where the locked folder is now: "" at its path, None if the folder or the lock file was deleted."""
        try:
            # the file, not the folder: deleting a folder fails half-way while a run makes new ones in it
            if self._fd < 0 or _place(self._path) == _place(self._fd):
                return ""
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:  # a file server or permissions: it may be there
            return ""
        try:  # the kernel knows the present name of a file that we hold open
            now = os.readlink(f"/proc/self/fd/{self._fd}")
            return os.path.dirname(now) if _place(now) == _place(self._fd) else None
        except OSError:
            return None

    def release(self) -> None:
        """Close the file. A process that inherited it keeps the run locked until it ends. Twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)  # not LOCK_UN: that would unlock it for the guardian as well
            self._fd = -1


async def acquire(path: Path, patience: float) -> Lock:
    """The lock at `path`. Tries for `patience` seconds, then raises FolderError naming the holder.

    A probe (`holder`) takes it for microseconds, so with patience 0 a free lock may be refused.
    """
    with explained("cannot lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + patience
            if holder(path) and _orphaned(_read(fd)):
                _continue_holders(fd)
            while not _flock(fd, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise FolderError(f"{path.parent} is being run by {_holder_text(path.parent, _read(fd))}")
                await asyncio.sleep(_POLL)
            return Lock(fd, path)
        except BaseException:
            os.close(fd)
            raise


class Holder(TypedDict, total=False):
    """The scheduler that holds a lock: its process, its machine, and since when. Empty while it is written."""

    pid: int
    host: str
    boot: str
    t: float


def holder(path: Path) -> Holder | None:
    """The holder of the lock at `path`, or None. Takes no lock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with explained("cannot probe the lock", path):
            return None if _flock(fd, fcntl.LOCK_SH) else _read(fd)
    finally:
        os.close(fd)


def _orphaned(holder: Holder) -> bool:
    """Is the scheduler that took the lock gone, while other processes of its run still hold it?"""
    here = holder.get("host") == socket.gethostname()
    return here and "pid" in holder and not os.path.exists(f"/proc/{holder['pid']}")


def _continue_holders(fd: int) -> None:
    """Send SIGCONT to the processes that hold the file: a guardian that was stopped cannot end its run's processes."""
    ours = _place(fd)
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # another user's process, or one that is gone
            if place.parts[2] != str(os.getpid()) and _place(place) == ours:
                os.kill(int(place.parts[2]), signal.SIGCONT)


def _place(file: Path | str | int) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino


def _flock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder_text(folder: Path, holder: Holder) -> str:
    """Describes the holder, and how to stop it."""
    here = holder.get("host") == socket.gethostname()
    if "pid" not in holder or _orphaned(holder):
        return "processes of a scheduler that is gone, which are being ended: try again in a moment"
    stop = f"gpbt-async stop {shlex.quote(str(folder))}"
    return (
        f"process {holder['pid']} on {holder.get('host')}: let it run, or stop it (`{stop}`{'' if here else ', there'})"
    )


def _read(fd: int) -> Holder:
    try:
        held: Holder = json.loads(os.pread(fd, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
