"""The lock of a run: one scheduler at a time, decided by the kernel.

It is a flock, which the kernel drops with the last process that has the file open, so no lock is ever stale. The
guardian has the file open too: the run of a scheduler that was killed stays locked until its last process has ended.
The content of the file (pid, host, boot, time) is for people, and shows whether the machine was restarted since.
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
from typing import Any

from ..errors import FolderError
from .files import explained

#: seconds between two tries to take a lock
_POLL = 0.01


class Lock:
    """Held from `acquire` to `release`, and beyond that while any other process has the file open."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        #: the holder before; None in a new run
        self.previous = _read(fd) or None
        me = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "t": time.time()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(me).encode() + b"\n", 0)

    @property
    def rebooted(self) -> bool:
        """Was the machine restarted since the lock was last held? Then what was not synced may be lost."""
        return self.previous is not None and self.previous.get("boot") != _boot()

    def fileno(self) -> int:
        return self._fd

    def moved_to(self) -> str | None:
        """The path of the locked folder now; "" if it is where it was, None if it, or the lock file, was deleted."""
        try:
            # look at the file, not at the folder: `rm -r` does not end in a folder in which a run makes new files
            if self._fd < 0 or _place(self._path) == _place(self._fd):
                return ""
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:  # a file server, permissions: it may be there
            return ""
        try:  # the kernel knows the present name of an open file
            now = os.readlink(f"/proc/self/fd/{self._fd}")
            return os.path.dirname(now) if _place(now) == _place(self._fd) else None
        except OSError:
            return None

    def release(self) -> None:
        """May be called twice. A process that inherited the file keeps the run locked until it ends."""
        if self._fd >= 0:
            os.close(self._fd)  # not LOCK_UN: that would unlock it for the guardian as well
            self._fd = -1


async def acquire(path: Path, patience: float) -> Lock:
    """The lock at `path`. Tries for `patience` seconds, then raises FolderError, which names the holder.

    A probe (`holder`) holds the lock for microseconds, so patience 0 may fail although no scheduler has it.
    """
    with explained("cannot lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + patience
            if holder(path) and _orphaned(_read(fd)):
                _continue_holders(fd)
            while not _flock(fd, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise FolderError(f"{path.parent} is being run by {_described(path.parent, _read(fd))}")
                await asyncio.sleep(_POLL)
            return Lock(fd, path)
        except BaseException:
            os.close(fd)
            raise


def holder(path: Path) -> dict[str, Any] | None:
    """The holder of the lock (pid, host, boot, t; empty while it is being written), or None. Disturbs no process."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with explained("cannot probe the lock", path):
            return None if _flock(fd, fcntl.LOCK_SH) else _read(fd)
    finally:
        os.close(fd)


def _orphaned(held: dict[str, Any]) -> bool:
    """Has the scheduler that took the lock ended, while other processes of its run still hold it?"""
    return held.get("host") == socket.gethostname() and "pid" in held and not os.path.exists(f"/proc/{held['pid']}")


def _continue_holders(fd: int) -> None:
    """Continue the processes that hold the file: a guardian that was stopped (SIGSTOP) cannot end what it guards."""
    ours = _place(fd)
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # another user's process, or one that has ended
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


def _described(folder: Path, held: dict[str, Any]) -> str:
    """The holder of the lock, and how to stop it."""
    here = held.get("host") == socket.gethostname()
    if "pid" not in held or _orphaned(held):
        return "processes of a scheduler that has ended, and they are being ended, too: try again in a moment"
    stop = f"gpbt-async stop {shlex.quote(str(folder))}"
    return f"process {held['pid']} on {held.get('host')}: wait for it, or stop it (`{stop}`{'' if here else ', there'})"


def _read(fd: int) -> dict[str, Any]:
    try:
        held = json.loads(os.pread(fd, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
