"""The proof that a forked member hangs for ever: every thread of it waits for another thread of it.

A fork copies one thread and every lock as it was. A member whose library waits for a thread, or a lock's holder, that
was not copied makes no sound and uses no CPU, just like one that waits for a download. The kernel knows the difference:
a futex in memory that is not shared can be woken by the same process only, so when all its threads wait for one,
without a time limit, none of them has run between two looks, and no signal handler of its own could run, nothing can
ever happen again. No sound member looks so, however long it is silent.

Some libraries (XLA) look at their futex a few times a second instead. They do so with a relative limit, as neither
glibc nor Python does; a process that does nothing else in all of its threads, look after look, has nothing that could
change what it looks at. Each such thread must have run between two looks: one that has not is asleep until its limit
is over, which proves nothing. This is the weaker proof: a member whose threads only ask for the state of a file between
such waits looks the same. On musl every wait with a limit is a relative one, so there none counts as looking again.
A member that spins instead (OMP_WAIT_POLICY=active) cannot be told from one that works.

Pure reading of /proc, and a timer for each forked member, which reads nothing while the member is heard of.
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


#: seconds of silence before the first look, of one that has said Hello, and of one that has not; and between looks
SILENCE, MUTE, PERIOD = 3.0, 1.0, 1.0
#: seconds between two looks that prove a deadlock: of all waiting without limit, of some looking again and again, and
#: of what is seen where the kernel does not say what a thread waits for
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
    """How a process stands that may be deadlocked.

    threads: of each its number, what it waits for, and how often it was scheduled (None for one that polls).
    polls: of each that waits with a limit, how often it was scheduled. known: the kernel says what they wait for.
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
        """Whether nothing has moved since that look, but those that poll, all of which have looked again."""
        polled = all(now > then for now, then in zip(self.polls, before.polls, strict=False))
        return self._replace(polls=()) == before._replace(polls=()) and polled

    @property
    def needed(self) -> float:
        """Seconds for which it must stand so."""
        return UNLIMITED if self.known and not self.polling else POLLING if self.known else WEAK

    @property
    def words(self) -> str:
        count = len(self.threads)
        who = "its only thread waits" if count == 1 else f"all its {count} threads wait"
        return f"{who} for another that is not there" if self.known else f"{who} for a lock, and nothing moves"


def look(pid: int) -> Stand | None:
    """How the process stands; None when it may still go on by itself, or has gone."""
    try:
        return _look(pid)
    except (OSError, ValueError, IndexError):
        return None


def _look(pid: int) -> Stand | None:
    threads: list[tuple[int, str, int | None]] = []
    polled: list[int] = []
    ticks, known = 0, True
    # the first thread first: of one that computes, it is all that is read
    for task in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        here = f"/proc/{pid}/task/{task}"
        fields = _read(f"{here}/stat").rpartition(")")[2].split()
        if fields[0] != "S":
            return None
        ticks += int(fields[11]) + int(fields[12])
        wait = _wait(pid, here)
        if wait is None:
            return None
        what, polls = wait
        known &= what != ""
        switches = _switches(here)
        if polls:
            polled.append(switches)
        threads.append((task, what, None if polls else switches))
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
    words = call.split()
    if words[0] != str(_FUTEX):
        return None
    address, operation, limit = int(words[1], 16), int(words[2], 16), int(words[4], 16)
    if operation & 127 not in _WAITS or not (operation & _PRIVATE or _unshared(pid, address)):
        return None
    if limit and (operation & 127 != _WAIT or _MUSL):
        return None  # Python's and the C library's own, with a time limit
    # the last two are where its stack and its code stand
    return " ".join([*words[:4], *words[-2:]]), bool(limit)


def _unshared(pid: int, address: int) -> bool:
    """Is this memory the process's alone? Then so is a futex in it, whatever it is called (one joins a thread so)."""
    for line in _read(f"/proc/{pid}/maps").splitlines():
        area, permissions, _ = line.split(maxsplit=2)
        start, _, end = area.partition("-")
        if int(start, 16) <= address < int(end, 16):
            return permissions.endswith("p")
    return False


def _switches(here: str) -> int:
    return sum(int(line.split()[1]) for line in _read(f"{here}/status").splitlines() if "ctxt_switches" in line)


def _caught(pid: int) -> int:
    """The signals that it has handlers for, as bits."""
    return next(int(line.split()[1], 16) for line in _read(f"/proc/{pid}/status").splitlines() if "SigCgt" in line)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


class DeadlockWatch:
    """Looks at a forked member from now until its training ends. hangs: told once, what was seen.

    lives: whether a forked member of this run has ever been heard of; then weak evidence is none.
    """

    def __init__(self, worker: Worker, hangs: Callable[[str], object], lives: Callable[[], bool]) -> None:
        self._worker, self._hangs, self._lives = worker, hangs, lives
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
            seen = look(worker.pid)
            if seen is not None and not seen.known and self._lives():
                seen = None
            if seen is None or self._stand is None or not seen.still(self._stand):
                self._since = now
            elif now - self._since >= seen.needed:
                self._hangs(f"{seen.words}, and has not moved for {now - self._since:.0f} s")
                return
            self._stand = seen
        self._loop.call_later(pause, self._turn)
