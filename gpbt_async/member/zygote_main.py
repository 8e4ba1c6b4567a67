"""The zygote: the process that has imported the user's script once, and forks every member from itself.

A program of its own, started by the guardian with the user's interpreter and environment: one thread, a select loop.
It never trains. It receives, over its socketpair to the scheduler, {op: open, script | target}, then {op: fork, n},
{op: warm, modules, first_use}, {op: log, path}. It sends {op: declared, ...} or {op: refused, kind, message};
{op: forked, n, pid} with the member's socket and pidfd; {op: importing, module} and {op: warmed, hazard, why};
{op: exit, pid, status} once a member and all its processes are gone.

Two surprises, both measured. If a process has run an OpenMP operation with two threads, its forks hang in their own
OpenMP operations. So this process uses one thread. If the script starts native threads or CUDA during its import, the
zygote reports the line to move (fork_hazards.py). And libraries import much on their first use: torch's first optimizer
takes two seconds. The zygote makes such imports once ("warm"), but only when the first members train (warm_up.py).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ExperimentError
from ..processes import linux
from . import breakpoints, fork_hazards, member_main, script, user_code, warm_up

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..processes.zygote_messages import Declaration, Order


def main(control: int) -> NoReturn:
    """Serve until the scheduler closes; then end at once: the guardian does the rest."""
    parent = os.getppid()
    linux.adopt_orphans()
    linux.die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ.get("GLIBC_TUNABLES") == linux.HUGE_HEAP:
        del os.environ["GLIBC_TUNABLES"]  # it was read at our start; our children do not need it
    line = linux.Line(socket.socket(fileno=control))
    backlog: list[tuple[dict[str, Any], list[int]]] = []
    while not backlog:
        received = line.receive()
        if received is None:
            os._exit(0)
        backlog += received
    request, _ = backlog.pop(0)
    loaded = _open(line, _order(request))
    if loaded is None:
        os._exit(2)
    _flush()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Server(line, *loaded).serve(backlog)
    os._exit(0)


def _order(request: dict[str, Any]) -> Order:
    if "target" in request:
        return {"target": request["target"]}
    return {
        "script": request["script"],
        "module": request["module"],
        "root": request["root"],
        "variable": request["variable"],
        "validates": request["validates"],
    }


def _open(line: linux.Line, order: Order) -> tuple[script.Script, bool] | None:
    """Import the script and report the result. Returns the script, and whether native threads run now."""
    cuda_line = fork_hazards.watch_cuda()
    member_main.watch()
    breakpoints.refuse_breakpoints()
    # before the script can run an operation: torch asks OMP_NUM_THREADS first, and this decides
    member_main.limit_torch(1)
    importer = fork_hazards.StatementImporter(order["script"] if "script" in order else order["target"]["file"])
    try:
        with importer:
            loaded = script.load(order)
    except BaseException as error:
        kind = "experiment" if isinstance(error, ExperimentError) else "script"
        _flush()
        line.send({"op": "refused", "kind": kind, "message": script.refusal(error)})
        return None
    threads = importer.threads()
    declaration: Declaration = {
        "experiment": loaded.declaration or {},
        "variable": loaded.variable,
        "imports": user_code.imports(loaded.file),
        "cuda": cuda_line(),
        "threads": threads,
        "warms": hasattr(sys.modules.get("torch"), "optim"),
    }
    line.send({"op": "declared", **declaration})
    return loaded, threads is not None


class Server:
    """After the import: fork on request, reap, and kill what dead members have left."""

    def __init__(self, line: linux.Line, loaded: script.Script, native: bool) -> None:
        self.line = line
        self.script = loaded
        self.reaper = linux.Reaper()
        self.wakeup = linux.wake_on_child()
        #: native threads run, and the user wants forks all the same
        self.native = native
        self.threads_reported = native
        # A collection in a child would copy every page, so all objects are frozen; without a collection before, which
        # takes 0.15 s with torch imported while the first member waits
        gc.freeze()
        #: what is left to do while there is no request; the first forks do not wait for it
        self.tidying, self.tidy = _collapse(), False

    def serve(self, backlog: list[tuple[dict[str, Any], list[int]]]) -> None:
        while True:
            for message, _fds in backlog:
                self.handle(message)
            for pid, status in self.reaper.reap():
                self.line.send({"op": "exit", "pid": pid, "status": status})
            ready = linux.wait(self.line.sock.fileno(), self.wakeup, forever=self.tidy)
            if not ready:
                self.tidy = next(self.tidying, True)
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
            self.warm(message["modules"], message["first_use"])
        elif message["op"] == "log":
            with contextlib.suppress(OSError):
                _log_to(message["path"])

    def warm(self, modules: list[str], first_use: bool) -> None:
        def importing(name: str) -> None:
            self.line.send({"op": "importing", "module": name})

        skipped, hazard = warm_up.warm_up(modules, importing, first_use)
        for name, why in skipped.items():
            print(f"gpbt-async: members import {name} each for itself: {why}", file=sys.stderr, flush=True)
        gc.collect()  # only what is new: frozen objects stay untouched
        gc.freeze()
        self.tidying = _collapse()
        self.tidy = not any(self.tidying)  # to its end: the spares are forked from this
        self.threads_reported |= bool(hazard)  # no thread of the script's
        self.line.send({"op": "warmed", "hazard": hazard, "why": skipped.get(hazard, "")})

    def fork(self, n: int) -> None:
        self.report_threads()
        member_main.thread_pools()
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

    def report_threads(self) -> None:
        """Report once that a fork leaves Python threads behind, for which a member would wait in vain."""
        if self.threads_reported or len(os.listdir("/proc/self/task")) == 1:
            return
        names = fork_hazards.python_threads()
        if not names:
            return
        self.threads_reported = True
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


def _collapse() -> Generator[bool, None, None]:
    """Move our memory into huge pages, where malloc did not (linux.HUGE_HEAP): python's own arenas.

    Measured with torch imported: a fork takes 1.3 ms instead of 6.5, and its exit half as long. All of it takes 0.1 to
    0.4 s, so a step, which yields False, is one page. Linux 6.1 and later; an older kernel refuses, without harm.
    """
    huge, collapse = 1 << 21, 25  # MADV_COLLAPSE
    left = 1.0  # seconds: the most that gigabytes of data may cost
    with open("/proc/self/maps") as file:
        areas = [line.split() for line in file]
    for area in areas:
        if area[1] != "rw-p" or area[4] != "0" or (len(area) > 5 and area[5][:5] not in ("[heap", "[anon")):
            continue
        start, end = (int(number, 16) for number in area[0].split("-"))
        for address in range(-(-start // huge) * huge, end // huge * huge, huge):
            began = time.monotonic()
            linux.madvise(address, huge, collapse)
            left -= time.monotonic() - began
            if left < 0:
                return
            yield False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _log_to(path: str) -> None:
    """From now on write to this file, and copy there what was written so far."""
    _flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with contextlib.suppress(OSError):  # until now the output is a memory file, unless we were started otherwise
        os.write(file, os.pread(1, 1 << 20, 0))
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
