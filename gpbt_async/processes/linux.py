"""Processes and the kernel: who descends from whom, how to kill a tree, file descriptors sent over a socket.

Standard library only and no asyncio: the guardian runs this with `python -I -S`. Nothing here knows what a member is.

The surprise is PR_SET_CHILD_SUBREAPER: the orphans of a process become children of its nearest ancestor that has
the flag. Guardian, zygote and every member have it. So what a *live* member's helpers leave behind hangs below that
member, and any child of guardian or zygote that these did not start is the orphan of a dead member: kill it, until
none is left. A new session or a double fork does not escape this, and nothing has to be attributed to anybody.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import signal
import socket
import time
from typing import Any, NamedTuple

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: who asks them: OpenMP, and the linear algebra libraries below numpy
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: GLIBC_TUNABLES that make malloc ask for huge pages, of which a fork copies one entry instead of 512
HUGE_HEAP = "glibc.malloc.hugetlb=1"

#: whether every child of this process is a run's (the command line's is; an application has its own)
alone = False
_libc = ctypes.CDLL(None, use_errno=True)
_MOST_FDS = 16


class HelperLost(NamedTuple):
    """In place of an exit status: it died because `who`, above it, did, and nobody saw how."""

    who: str


def prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def madvise(address: int, length: int, advice: int) -> bool:
    return bool(_libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(advice)) == 0)


def adopt_orphans() -> None:
    """Become a subreaper: survives exec, is not inherited by a fork."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def be_alone() -> None:
    """Say that this process is ours alone: its children are a run's, and so is whatever falls to it as a subreaper.

    Not so if it has children already: a shell that became us (`tensorboard & exec gpbt-async ...`) has left us its own.
    """
    global alone
    alone = not children(os.getpid())
    if alone:
        adopt_orphans()


def die_with(parent: int) -> None:
    """Die when `parent` does: survives exec, is cleared by a fork. The parent may be dead already: look again."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(113)


def children(pid: int) -> list[int]:
    """The living and the zombie children of a process. A process that is gone has none."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        return found if not os.path.exists(f"/proc/{pid}/task") else _children_by_scan(pid)
    except ProcessLookupError:
        pass
    return found


def _children_by_scan(pid: int) -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    found = []
    for entry in _pids():
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
            # the name, in parentheses, may hold anything; the parent is the second field behind it
            if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                found.append(entry)
    return found


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, parents first."""
    found = children(pid)
    for each in found:  # grows while we walk
        found += children(each)
    return found


def ancestors(pid: int) -> list[int]:
    """Its parent, the parent's parent and so on, as far as can be seen."""
    above: list[int] = []
    while pid > 1 and len(above) < 64:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            break
        above.append(pid)
    return above


def exists(pid: int) -> bool:
    """Is there such a process, in our pid namespace? One of another user, and hidden in /proc, counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def told(pid: int) -> str:
    """What it is and whose, for people: "python of alice"; as much of it as can be seen."""
    import pwd

    words = "unknown"
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as file:
        words = file.read().strip()
    with contextlib.suppress(OSError, KeyError):
        words += f" of {pwd.getpwuid(os.stat(f'/proc/{pid}').st_uid).pw_name}"
    return words


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_tree(pid: int, pidfd: int | None = None) -> None:
    """SIGKILL a process and everything below it. What it forked meanwhile becomes its reaper's: call again.

    pidfd: of a process that may have been reaped already, so that the pid may be somebody else's by now.
    """
    below = descendants(pid)
    if pidfd is None:
        kill(pid)
    else:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # so who was below that pid a moment ago is unknown
    for each in below:
        kill(each)


def kill_below() -> None:
    """Kill and reap everything below this process, until it has no child. May wait for ever on a stuck kernel."""
    while True:
        for pid in descendants(os.getpid()):
            kill(pid)
        try:
            # one at a time: what a dying process forked last is ours only after its death, so look again after each
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def kill_fallen(within: float) -> None:
    """Where we are alone: kill and reap all below this process, for so many seconds at most."""
    deadline = time.monotonic() + within
    while alone and time.monotonic() < deadline:
        below = descendants(os.getpid())
        for pid in below:
            kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def marked(run: str) -> list[int]:
    """Every other process whose environment says GPBT_RUN=run: what left our tree, however it did."""
    mark = b"GPBT_RUN=" + os.fsencode(run)
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if pid != os.getpid() and mark in file.read().split(b"\0"):
                found.append(pid)
    return found


def sweep(run: str) -> int:
    """SIGKILL every process marked with the run; how many there were."""
    found = marked(run)
    for pid in found:
        kill(pid)
    return len(found)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


class Line:
    """One end of a stream socketpair that carries JSON objects, one a line, and file descriptors with them.

    The kernel delivers descriptors no later than the first byte of their line, and in order; so each line says how
    many are its own ("fds") and takes them off the front of a queue.
    """

    __slots__ = ("_data", "_fds", "sock")

    def __init__(self, sock: socket.socket) -> None:
        # whoever inherited this end would keep the talk from ending, and its end is what tells a death
        sock.set_inheritable(False)
        self.sock = sock
        self._data = bytearray()
        self._fds: list[int] = []

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send a message whole; the socket must be a blocking one."""
        data = pack(message, fds)
        sent = socket.send_fds(self.sock, [data], fds or [])
        if sent < len(data):
            self.sock.sendall(data[sent:])

    def receive(self) -> list[tuple[dict[str, Any], list[int]]] | None:
        """What has come, possibly nothing yet; None at the end. A line that is no JSON object is left out."""
        try:
            data, ancillary, _flags, _address = self.sock.recvmsg(
                1 << 16, socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds += fds
        if not data:
            return None
        self._data += data
        return self._split()

    def _split(self) -> list[tuple[dict[str, Any], list[int]]]:
        found = []
        *lines, rest = self._data.split(b"\n")
        self._data = rest
        for line in lines:
            try:
                message = json.loads(line)
                count = max(0, int(message.get("fds", 0)))
            except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
                continue
            found.append((message, self._fds[:count]))
            del self._fds[:count]
        return found

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self.sock.close()


def pack(message: dict[str, Any], fds: list[int] | None = None) -> bytes:
    return json.dumps({**message, "fds": len(fds or ())}).encode() + b"\n"


class Reaper:
    """The children of a subreaper: its own by pid, and strays, which are killed.

    own: pid → status, None while it lives. An own child is told as ended only once no stray is left, because some of
    them may be its leftovers: told means "it and everything it started is gone".
    """

    __slots__ = ("_household", "_own")

    def __init__(self) -> None:
        self._own: dict[int, int | None] = {}
        # what a script started while it was imported (a data server, multiprocessing's tracker) is no stray
        self._household = set(children(os.getpid()))

    def add(self, pid: int) -> None:
        self._own[pid] = None

    def discard(self) -> None:
        """Forget everything: for a fork of the reaper, whose children these are not."""
        self._own.clear()
        self._household.clear()

    def reap(self) -> list[tuple[int, int]]:
        """Collect the dead; (pid, exit status or minus the signal) of those that ended and left nothing behind."""
        for pid, status in self._own.items():
            if status is None:
                self._own[pid] = _collect(pid)
        ended = [(pid, status) for pid, status in self._own.items() if status is not None]
        # orphans come to us as their parent dies, so strays are looked for after the dead are collected
        if self._kill_strays():
            return []
        for pid, _status in ended:
            del self._own[pid]
        return ended

    def _kill_strays(self) -> bool:
        """True while strays are left; their deaths raise SIGCHLD, and `reap` is called again."""
        while strays := [pid for pid in children(os.getpid()) if pid not in self._own and pid not in self._household]:
            for pid in strays:
                kill_tree(pid)
            if None in [_collect(pid) for pid in strays]:
                return True
            # all were dead by now, some perhaps since we listed them: what they left is ours since then. Look again
        return False


def _collect(pid: int) -> int | None:
    """The exit status of a dead child, None of a living one."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0  # somebody else's code collected it
    return os.waitstatus_to_exitcode(status) if done else None
