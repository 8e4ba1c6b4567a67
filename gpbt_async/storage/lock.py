"""The lock of a run: one scheduler at a time, and the kernel is the judge.

It is a flock, which the kernel drops with the last process that holds the file open: nothing is ever stale. The
guardian holds the file too, so a killed scheduler's run stays locked until its last process is gone. What is written in
the file (pid, host, boot, time) is only for people, and to tell that the machine was started anew since.
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

#: how often a taken lock is tried again
_POLL = 0.01


class Lock:
    """Held from `acquire` until `release`, and as long as any other process has the file open."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        #: who held it before, None in a new run
        self.previous = _read(fd) or None
        me = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "t": time.time()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(me).encode() + b"\n", 0)

    @property
    def rebooted(self) -> bool:
        """Whether the machine was started anew since the run was last held: what nobody synced may be lost then."""
        return self.previous is not None and self.previous.get("boot") != _boot()

    def fileno(self) -> int:
        return self._fd

    def current_path(self) -> str | None:
        """Where the locked folder is now: "" where it was, None if it, or what we hold in it, is nowhere any more."""
        try:
            # the file, not the folder: who deletes a folder under a run that makes new ones does not get to its end
            if self._fd < 0 or _place(self._path) == _place(self._fd):
                return ""
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:  # a file server, rights: it may be there
            return ""
        try:  # the kernel knows the file we hold open by the name it has now
            now = os.readlink(f"/proc/self/fd/{self._fd}")
            return os.path.dirname(now) if _place(now) == _place(self._fd) else None
        except OSError:
            return None

    def release(self) -> None:
        """Let go. A process that inherited the file keeps the run locked until it ends. Twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)  # not LOCK_UN: that would unlock it for the guardian as well
            self._fd = -1


async def acquire(path: Path, patience: float) -> Lock:
    """The lock at `path`. Tries for `patience` seconds, then raises FolderError naming the holder.

    A mere probe (`holder`) holds it for microseconds, so that patience 0 may be refused by nobody in particular.
    """
    with explained("cannot lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + patience
            if holder(path) and _orphaned(_read(fd)):
                _rouse(fd)
            while not _flock(fd, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    who = _read(fd)
                    raise FolderError(f"{path.parent} is being run by {_told(path.parent, who)}")
                await asyncio.sleep(_POLL)
            return Lock(fd, path)
        except BaseException:
            os.close(fd)
            raise


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock at `path` now (pid, host, boot, t; empty if just being written), or None. Disturbs nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with explained("cannot probe the lock", path):
            return None if _flock(fd, fcntl.LOCK_SH) else _read(fd)
    finally:
        os.close(fd)


def _orphaned(who: dict[str, Any]) -> bool:
    """Is the scheduler that took the lock gone, while others of its run hold it still?"""
    return who.get("host") == socket.gethostname() and "pid" in who and not os.path.exists(f"/proc/{who['pid']}")


def _rouse(fd: int) -> None:
    """Have those who hold the file go on: a guardian that somebody has stopped cannot end what it guards."""
    ours = _place(fd)
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # not ours to look at, or gone
            if place.parts[2] != str(os.getpid()) and _place(place) == ours:
                os.kill(int(place.parts[2]), signal.SIGCONT)


def _place(file: Path | str | int) -> tuple[int, int]:
    there = os.stat(file)
    return there.st_dev, there.st_ino


def _flock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _told(folder: Path, who: dict[str, Any]) -> str:
    """Whom to name, and what to do about him."""
    here = who.get("host") == socket.gethostname()
    if "pid" not in who or _orphaned(who):
        return "processes of a scheduler that is gone, which are being ended: try again in a moment"
    stop = f"gpbt-async stop {shlex.quote(str(folder))}"
    return f"process {who['pid']} on {who.get('host')}: let it, or stop it (`{stop}`{'' if here else ', there'})"


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
