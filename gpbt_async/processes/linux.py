"""Processes and the kernel: process trees and how to kill them, children's deaths, descriptors sent over a socket.

Standard library only and no asyncio: the guardian runs this with `python -I -S`. Nothing here knows what a member is.

The surprise is PR_SET_CHILD_SUBREAPER: the orphans of a process become children of its nearest ancestor that has
the flag. Guardian, zygote and every member have it. So what a *live* member's helpers leave behind hangs below that
member, and any child of guardian or zygote that these did not start is the orphan of a dead member: kill it, until
none is left. A new session or a double fork does not escape this, and no orphan has to be attributed to a member.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: read by OpenMP, and by the linear algebra libraries below numpy
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: GLIBC_TUNABLES that make malloc ask for huge pages, of which a fork copies one entry instead of 512
HUGE_HEAP = "glibc.malloc.hugetlb=1"

#: whether every child of this process belongs to a run (of a command, yes; an application has children of its own)
alone = False
_libc = ctypes.CDLL(None, use_errno=True)
_MOST_FDS = 16


class AncestorDied(NamedTuple):
    """In place of an exit status, which nothing could collect: the process died because the one above it did."""

    ancestor: str


def prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def madvise(address: int, length: int, advice: int) -> bool:
    return bool(_libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(advice)) == 0)


def trim_heap() -> None:
    """Give back to the kernel what malloc keeps for later (glibc only)."""
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(ctypes.c_size_t(0))


def adopt_orphans() -> None:
    """Become a subreaper: survives exec, is not inherited by a fork."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def be_alone() -> None:
    """Declare that this process serves runs only: its children belong to one, and so do orphans that fall to it.

    Without effect if it has children already: a shell that became us (`tensorboard & exec gpbt-async ...`) has some.
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
    pids: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                pids += map(int, file.read().split())
    except FileNotFoundError:
        return pids if not os.path.exists(f"/proc/{pid}/task") else _children_by_scan(pid)
    except ProcessLookupError:
        pass
    return pids


def _children_by_scan(pid: int) -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    return [child for child in _pids() if _parent(child) == pid]


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the name, in parentheses, may hold anything; the parent is the second field behind it
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, parents first."""
    pids = children(pid)
    for below in pids:  # grows while we walk
        pids += children(below)
    return pids


def ancestors(pid: int) -> list[int]:
    """Its parent, the parent's parent and so on, as far as can be seen."""
    above: list[int] = []
    while pid > 1 and len(above) < 64 and (parent := _parent(pid)) is not None:
        above.append(pid := parent)
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


def program_and_owner(pid: int) -> str:
    """ "python of alice", or as much of it as can be seen."""
    import pwd

    text = "unknown"
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as file:
        text = file.read().strip()
    with contextlib.suppress(OSError, KeyError):
        text += f" of {pwd.getpwuid(os.stat(f'/proc/{pid}').st_uid).pw_name}"
    return text


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_tree(pid: int, pidfd: int | None = None) -> None:
    """SIGKILL a process and everything below it. What it forked meanwhile becomes its reaper's: call again.

    pidfd: needed where the process may have been reaped already, so that the pid may be another's by now.
    """
    below = descendants(pid)
    if pidfd is None:
        kill(pid)
    else:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # the pid may have been another's when we looked below it
    for descendant in below:
        kill(descendant)


def kill_below() -> None:
    """Kill and reap everything below this process, until it has no child. May wait for ever on a stuck kernel."""
    while True:
        for pid in descendants(os.getpid()):
            kill(pid)
        try:
            # one at a time: what a dying process forked last falls to us only after its death, so look again after each
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def kill_and_reap() -> bool:
    """One round: kill everything below this process, and reap what is dead. False if it has no child left."""
    for pid in descendants(os.getpid()):
        kill(pid)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def kill_fallen(within: float) -> None:
    """Where this process serves runs only: kill and reap all below it, for so many seconds at most."""
    deadline = time.monotonic() + within
    while alone and time.monotonic() < deadline:
        if not kill_and_reap():
            return
        time.sleep(0.001)


def marked(run: str) -> list[int]:
    """Every other process whose environment has GPBT_RUN=run, even one that has left our process tree."""
    mark = b"GPBT_RUN=" + os.fsencode(run)
    pids = []
    for pid in _pids():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if pid != os.getpid() and mark in file.read().split(b"\0"):
                pids.append(pid)
    return pids


def sweep(run: str) -> int:
    """SIGKILL every process marked with the run; how many there were."""
    pids = marked(run)
    for pid in pids:
        kill(pid)
    return len(pids)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def wake_on_child() -> int:
    """A descriptor that becomes readable when a child changes state: SIGCHLD for a loop that polls."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


def wait(*fds: int, forever: bool = True) -> list[int]:
    """Those of the descriptors that have something to read, once one has; as of now if not for ever."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _event in poll.poll(None if forever else 0)]


def drain(fd: int) -> None:
    """Read a descriptor empty that does not block."""
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass


class Line:
    """One end of a stream socketpair that carries JSON objects, one a line, and file descriptors with them.

    The kernel delivers descriptors no later than the first byte of their line, and in order; so each line says how
    many are its own ("fds") and takes them off the front of a queue.
    """

    __slots__ = ("_data", "_fds", "sock")

    def __init__(self, sock: socket.socket) -> None:
        # the other side learns of our death by the end of the stream, which a process that inherited this would prevent
        sock.set_inheritable(False)
        self.sock = sock
        self._data = bytearray()
        self._fds: list[int] = []

    def send(self, message: Mapping[str, object], fds: list[int] | None = None) -> None:
        """Send a message whole; the socket must be a blocking one."""
        data = pack(message, fds)
        sent = socket.send_fds(self.sock, [data], fds or [])
        if sent < len(data):
            self.sock.sendall(data[sent:])

    def receive(self) -> list[tuple[dict[str, Any], list[int]]] | None:
        """The messages that have come, possibly none; None at the end. A line that is no JSON object is left out."""
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
        messages = []
        *lines, rest = self._data.split(b"\n")
        self._data = rest
        for line in lines:
            try:
                message = json.loads(line)
                count = max(0, int(message.get("fds", 0)))
            except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
                continue
            messages.append((message, self._fds[:count]))
            del self._fds[:count]
        return messages

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self.sock.close()


def pack(message: Mapping[str, object], fds: list[int] | None = None) -> bytes:
    return json.dumps({**message, "fds": len(fds or ())}).encode() + b"\n"


class Reaper:
    """The children of a subreaper: its own by pid, and strays, which are killed.

    An own child is reported as ended only once no stray is left, because strays may be its leftovers: ended means "it
    and everything it started is gone".
    """

    __slots__ = ("_earlier", "_own")

    def __init__(self) -> None:
        self._own: dict[int, int | None] = {}  # pid → exit status, None while it lives
        # what a script started while it was imported (a data server, multiprocessing's tracker) is no stray
        self._earlier = set(children(os.getpid()))

    def add(self, pid: int) -> None:
        self._own[pid] = None

    def discard(self) -> None:
        """Forget all children: a fork of the reaper's process does not have them."""
        self._own.clear()
        self._earlier.clear()

    def reap(self) -> list[tuple[int, int]]:
        """Collect the dead: (pid, exit status or minus the signal) of those that ended and left nothing behind."""
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
        while strays := [pid for pid in children(os.getpid()) if pid not in self._own and pid not in self._earlier]:
            for pid in strays:
                kill_tree(pid)
            if None in [_collect(pid) for pid in strays]:
                return True
            # all are dead, some perhaps since we listed them: what they left has fallen to us since then. Look again
        return False


def _collect(pid: int) -> int | None:
    """The exit status of a dead child, None of a living one."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0  # other code in this process has collected it
    return os.waitstatus_to_exitcode(status) if done else None
