"""The proof that a forked member hangs for ever: every thread of it waits for another thread of it.

A fork copies one thread, and every lock in its state of the moment. A member whose library waits for a thread, or for
the holder of a lock, that was not copied makes no sound and uses no CPU, just like one that waits for a download. The
kernel knows the difference. A futex in memory that is not shared can be woken by the same process only. So when all its
threads wait for one, without a time limit, none of them has run between two looks, and no signal handler of its own
could run, nothing can ever happen again. No sound member looks like that, however long it is silent.

Some libraries (XLA) look at their futex a few times a second instead. They do so with a relative limit, as neither
glibc nor Python does. A process that does nothing else in all of its threads, look after look, has nothing that could
change what it looks at. Each such thread must have run between two looks: one that has not is asleep until its limit
is over, which proves nothing. This is the weaker proof: a member whose threads only ask for the state of a file between
such waits looks the same. On musl every wait with a limit is a relative one, so there none counts as looking again.
A member that spins instead (OMP_WAIT_POLICY=active) looks like one that works.

This module only reads /proc, with a timer for each forked member, which reads nothing while messages come.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sysconfig
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from . import linux

if TYPE_CHECKING:
    from collections.abc import Callable

    from .worker import Worker


#: seconds of silence before the first look: after Hello, and before it; and seconds between looks
SILENCE, MUTE, PERIOD = 3.0, 1.0, 1.0
#: seconds between two looks that prove a deadlock: if all threads wait without limit, if some look again and again, and
#: where the kernel does not say what a thread waits for
UNLIMITED, POLLING, WEAK = 2.0, 3.0, 6.0
#: the number of the futex call
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}.get(platform.machine())
#: its operations that wait: WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2
_WAITS = frozenset({0, 6, 9, 11, 13})
_WAIT, _PRIVATE = 0, 128
_MUSL = "musl" in str(sysconfig.get_config_var("SOABI"))
#: signals that a process sends itself, or is sent to go on: HUP, USR1, USR2, ALRM, VTALRM, PROF, IO, and the real-time
#: ones, of POSIX timers (glibc keeps 32 and 33 for itself)
_WAKING = sum(1 << (number - 1) for number in (1, 10, 12, 14, 26, 27, 29, *range(34, 65)))


class Stand(NamedTuple):
    """The state of a process that may be deadlocked.

    threads: for each its number, what it waits for, and how often it was scheduled (None for one that polls).
    polls: for each that waits with a limit, how often it was scheduled. known: the kernel says what they wait for.
    """

    threads: tuple[tuple[int, str, int | None], ...]
    ticks: int
    read: str
    polls: tuple[int, ...]
    known: bool

    @property
    def polling(self) -> bool:
        """Whether some look at their futex again and again."""
        return bool(self.polls)

    def still(self, before: Stand) -> bool:
        """Whether nothing has moved since that look but the threads that poll, all of which have looked again."""
        polled = all(now > then for now, then in zip(self.polls, before.polls, strict=False))
        return self._replace(polls=()) == before._replace(polls=()) and polled

    @property
    def needed(self) -> float:
        """Seconds that the process must stay like this to count as deadlocked."""
        return UNLIMITED if self.known and not self.polling else POLLING if self.known else WEAK

    def __str__(self) -> str:
        count = len(self.threads)
        waits = "its only thread waits" if count == 1 else f"all its {count} threads wait"
        return f"{waits} for another that is not there" if self.known else f"{waits} for a lock, and nothing moves"


def look(pid: int) -> Stand | None:
    """The state of the process; None when it may still go on by itself, or is gone."""
    try:
        return _look(pid)
    except (OSError, ValueError, IndexError):
        return None


def _look(pid: int) -> Stand | None:
    threads: list[tuple[int, str, int | None]] = []
    polled: list[int] = []
    ticks, known = 0, True
    # the first thread first: if it computes, nothing else is read
    for task in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        here = f"/proc/{pid}/task/{task}"
        fields = _read(f"{here}/stat").rpartition(")")[2].split()
        if fields[0] != "S":
            return None
        ticks += int(fields[11]) + int(fields[12])
        wait = _wait(pid, here)
        if wait is None:
            return None
        waits_for, polls = wait
        known &= waits_for != ""
        switches = _switches(here)
        if polls:
            polled.append(switches)
        threads.append((task, waits_for, None if polls else switches))
    if _caught(pid) & _WAKING or linux.children(pid):
        return None
    read = ""
    if polled:
        with suppress(OSError):
            read = _read(f"/proc/{pid}/io")
    return Stand(tuple(threads), ticks, read, tuple(polled), known)


def _wait(pid: int, here: str) -> tuple[str, bool] | None:
    """What a thread waits for ("" where that cannot be known), and whether it may be looking again and again.

    None if it does not wait for another thread, or only for a while.
    """
    try:
        call = _read(f"{here}/syscall")
    except PermissionError:
        call = ""
    if not call or _FUTEX is None:
        return ("", False) if _read(f"{here}/wchan").startswith("futex") else None
    fields = call.split()
    if fields[0] != str(_FUTEX):
        return None
    address, operation, limit = int(fields[1], 16), int(fields[2], 16), int(fields[4], 16)
    if operation & 127 not in _WAITS or not (operation & _PRIVATE or _unshared(pid, address)):
        return None
    if limit and (operation & 127 != _WAIT or _MUSL):
        return None  # Python's and the C library's own, with a time limit
    # the last two are the stack pointer and the program counter
    return " ".join([*fields[:4], *fields[-2:]]), bool(limit)


def _unshared(pid: int, address: int) -> bool:
    """Is this memory private to the process? Then so is a futex in it that is not marked so (pthread_join's is not)."""
    for line in _read(f"/proc/{pid}/maps").splitlines():
        area, permissions, _ = line.split(maxsplit=2)
        start, _, end = area.partition("-")
        if int(start, 16) <= address < int(end, 16):
            return permissions.endswith("p")
    return False


def _switches(here: str) -> int:
    return sum(int(line.split()[1]) for line in _read(f"{here}/status").splitlines() if "ctxt_switches" in line)


def _caught(pid: int) -> int:
    """The signals that the process has handlers for, as bits."""
    return next(int(line.split()[1], 16) for line in _read(f"/proc/{pid}/status").splitlines() if "SigCgt" in line)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


class DeadlockWatch:
    """Looks at a forked member from now until its training ends. hangs: called once, with what proves the deadlock.

    forks_live: whether a forked member of this run has ever sent a report; then weak evidence counts as none.
    """

    def __init__(self, worker: Worker, hangs: Callable[[str], object], forks_live: Callable[[], bool]) -> None:
        self._worker, self._hangs, self._forks_live = worker, hangs, forks_live
        self._loop = asyncio.get_running_loop()
        self._stand: Stand | None = None
        self._since = 0.0
        worker.heard = self._loop.time()
        self._loop.call_later(MUTE, self._turn)

    def _turn(self) -> None:
        worker, now = self._worker, self._loop.time()
        if worker.dead or worker.closed or worker.end is not None:
            return
        pause = worker.heard + (SILENCE if worker.hello.done() else MUTE) - now
        if pause > 0:
            self._stand = None
        else:
            pause = PERIOD
            stand = look(worker.pid)
            if stand is not None and not stand.known and self._forks_live():
                stand = None
            if stand is None or self._stand is None or not stand.still(self._stand):
                self._since = now
            elif now - self._since >= stand.needed:
                self._hangs(f"{stand}, and has not moved for {now - self._since:.0f} s")
                return
            self._stand = stand
        self._loop.call_later(pause, self._turn)
