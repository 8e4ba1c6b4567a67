"""The zygote: the process that has imported the user's script once, and forks every member from itself.

A program of its own, started by the guardian with the user's interpreter and environment, one thread, a select loop.
It never trains. In, over its socketpair to the scheduler: {op: open, script | target}, then {op: fork, n},
{op: warm}, {op: log, path}. Out: {op: declared, ...} or {op: refused, kind, message}; {op: forked, n, pid} with the
member's socket and pidfd; {op: warmed}; {op: exit, pid, status} once a member and all it started is gone.

The surprises, each measured the hard way: a process that ran one two-threaded OpenMP operation has children that hang
in theirs, so everything here has one thread, and a script that starts native threads while it is imported is reported
with the line to move (importing.py); CUDA does not survive a fork, so the same is done with it; and torch's first
optimizer takes two seconds of imports, which are paid here once ("warm"), but only when the first members train.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from ..errors import ExperimentError
from ..processes import linux
from . import importer, member_main, script, terminal

__all__ = ["main", "random"]


def main(control: int) -> NoReturn:
    """Serve until the scheduler closes; then end at once: the guardian sees to the rest."""
    parent = os.getppid()
    linux.adopt_orphans()
    linux.die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ.get("GLIBC_TUNABLES") == linux.HUGE_HEAP:
        del os.environ["GLIBC_TUNABLES"]  # read when we started; what we start need not have it
    line = linux.Line(socket.socket(fileno=control))
    backlog: list[tuple[dict[str, Any], list[int]]] = []
    while not backlog:
        received = line.receive()
        if received is None:
            os._exit(0)
        backlog += received
    request, _ = backlog.pop(0)
    loaded = _open(line, request)
    if loaded is None:
        os._exit(2)
    _flush()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Server(line, *loaded).serve(backlog)
    os._exit(0)


def _open(line: linux.Line, request: dict[str, Any]) -> tuple[script.Script, bool] | None:
    """Import it, and say how that went: the script, and whether native threads run now."""
    initialised = script.watch_cuda()
    member_main.watch()
    terminal.refuse_breakpoints()
    # before the script gets a chance to run something: torch asks OMP_NUM_THREADS first, and this settles it
    script.after_import("torch", lambda torch: getattr(torch, "set_num_threads", int)(1))
    watched = importer.Importing(request["script"] if "script" in request else request["target"]["file"])
    try:
        with watched:
            loaded = script.load(request)
    except BaseException as error:
        kind = "experiment" if isinstance(error, ExperimentError) else "script"
        _flush()
        line.send({"op": "refused", "kind": kind, "message": script.refusal(error)})
        return None
    threads = watched.threads()
    line.send(
        {
            "op": "declared",
            "experiment": loaded.declaration,
            "variable": loaded.variable,
            "imports": script.imports(loaded),
            "cuda": initialised(),
            "threads": threads,
            "warms": hasattr(sys.modules.get("torch"), "optim") and script.mentions(loaded, "optim"),
        }
    )
    return loaded, threads is not None


class Server:
    """After the import: fork on request, reap, and kill what dead members left behind."""

    def __init__(self, line: linux.Line, loaded: script.Script, native: bool) -> None:
        self.line = line
        self.script = loaded
        self.reaper = linux.Reaper()
        self.wakeup = linux.wake_on_child()
        #: native threads run, and there shall be forks all the same
        self.native = native
        self.threads_told = native
        # Out of the collector's sight: a collection in a child would copy every page. Without one here, which costs
        # 0.15 s with torch imported while the first member waits
        gc.freeze()
        # before the first fork: pages that are shared with a member have to be copied for this
        _collapse()

    def serve(self, backlog: list[tuple[dict[str, Any], list[int]]]) -> None:
        while True:
            for message, _fds in backlog:
                self.handle(message)
            for pid, status in self.reaper.reap():
                self.line.send({"op": "exit", "pid": pid, "status": status})
            ready = linux.wait(self.line.sock.fileno(), self.wakeup)
            if self.wakeup in ready:
                linux.drain(self.wakeup)
            received = self.line.receive() if self.line.sock.fileno() in ready else []
            if received is None:
                return
            backlog = received

    def handle(self, message: dict[str, Any]) -> None:
        if message["op"] == "fork":
            self.fork(message["n"])
        elif message["op"] == "warm":
            with contextlib.suppress(Exception):  # a warming that fails leaves a cold start, no more
                warm()
            gc.collect()  # of what came since: what is frozen stays untouched
            gc.freeze()
            _collapse()
            self.line.send({"op": "warmed"})
        elif message["op"] == "log":
            with contextlib.suppress(OSError):
                _log_to(message["path"])

    def fork(self, n: int) -> None:
        self.tell_threads()
        ours, theirs = socket.socketpair()
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self.line.send({"op": "failed", "n": n, "error": str(error)})
        else:
            if pid == 0:
                ours.close()
                self.become_member(zygote, theirs)
            self.reaper.add(pid)
            pidfd = os.pidfd_open(pid)
            self.line.send({"op": "forked", "n": n, "pid": pid}, [ours.fileno(), pidfd])
            os.close(pidfd)
        finally:
            ours.close()
            theirs.close()

    def tell_threads(self) -> None:
        """Say once that a fork leaves threads behind: what a member waits for, or hands to them, is lost."""
        if self.threads_told or len(os.listdir("/proc/self/task")) == 1:
            return
        names = importer.python_threads()
        if not names:
            return
        self.threads_told = True
        self.line.send(
            {
                "op": "threads",
                "what": f"the script leaves {len(names)} thread{'s' * (len(names) > 1)} running after its import "
                f"({', '.join(sorted(set(names)))}), which members do not have",
                "remedy": "start threads in the training function, or use --start exec",
            }
        )

    def become_member(self, zygote: int, sock: socket.socket) -> NoReturn:
        try:
            linux.die_with(zygote)
            linux.adopt_orphans()
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self.wakeup)
            self.line.close()
            member_main.disown()
            if self.native:
                member_main.probe()
        except BaseException:
            os._exit(1)
        member_main.live(sock, lambda: self.script.train)


def warm() -> None:
    """Make torch's first optimizer step, so that later forks have its two seconds of imports behind them; and ours."""
    torch: Any = sys.modules["torch"]
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    weight.grad = torch.zeros(1)
    optimizer.step()
    from . import optimizers, weights

    del optimizers, weights  # ten milliseconds of every member that uses gpbt.torch


def _collapse() -> None:
    """Have our memory in huge pages, what malloc did not (processes.HUGE_HEAP): python's own arenas.

    Measured with torch imported: a fork takes 1.3 ms instead of 6.5, and the fork's exit half as long. Linux 6.1 and
    later; a kernel that cannot merely says so.
    """
    huge, collapse = 1 << 21, 25  # MADV_COLLAPSE
    until = time.monotonic() + 1.0  # gigabytes of data are worth some of it
    with open("/proc/self/maps") as file:
        areas = [line.split() for line in file]
    for area in areas:
        if area[1] != "rw-p" or area[4] != "0" or (len(area) > 5 and area[5][:5] not in ("[heap", "[anon")):
            continue
        start, end = (int(number, 16) for number in area[0].split("-"))
        for address in range(-(-start // huge) * huge, end // huge * huge, huge):
            linux.madvise(address, huge, collapse)
            if time.monotonic() > until:
                return


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _log_to(path: str) -> None:
    """From now on write to this file, and move there what was written so far."""
    _flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with contextlib.suppress(OSError):  # what we write to now is a memory file, unless somebody gave us another
        os.write(file, os.pread(1, 1 << 20, 0))
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
