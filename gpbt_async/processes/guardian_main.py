"""The guardian: it starts a run's other processes for the scheduler, outlives it, and then ends them.

It is a program of its own, run by `python -I -S` with the standard library only, so that it is small, starts in
milliseconds and can hardly fail. It is the parent of the zygote and of every member that is not forked. It has its own
session, so Ctrl-C in the terminal does not reach it. A socketpair connects it with the scheduler:

    from the scheduler   {op: spawn, tag, argv, env, cwd, log, at}, with descriptors: start a child. It has each
                         descriptor at the number that `at` gives
                         {op: hold}, with a descriptor: keep it open until the guardian ends
    to the scheduler     {op: spawned, tag, pid}, with a pidfd;  {op: failed, tag, error}
                         {op: exit, pid, status}: a child and every process that it started are gone

The surprise is the guardian's end. When the scheduler closes its end of the socketpair, or dies, the guardian kills its
children until it has none. Then it kills every process with the run's mark, and ends. The guardian holds the run's lock
file open, so the run cannot be resumed before all of this is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
from typing import Any

from . import linux

#: descriptors for a child are moved above any number that the child wants them at
_ABOVE = 200


def main(control: int, run: str, scheduler: int) -> None:
    """Serve until the scheduler's end of `control` closes or the scheduler is dead, then clean up."""
    linux.adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    wakeup = linux.wake_on_child()
    line = linux.Line(socket.socket(fileno=control))
    reaper = linux.Reaper()
    with contextlib.suppress(Exception):  # whatever happens, the clean-up happens
        # a fork of the scheduler may hold its end of the socketpair open: its own death counts too
        death = os.pidfd_open(scheduler)
        if os.getppid() == scheduler:
            _serve(line, reaper, wakeup, death)
    line.close()
    _clean_up(run, wakeup)


def _serve(line: linux.Line, reaper: linux.Reaper, wakeup: int, death: int) -> None:
    held: list[int] = []
    while True:
        ready = linux.wait(line.sock.fileno(), wakeup, death)
        if death in ready:
            return
        if wakeup in ready:
            linux.drain(wakeup)
        if line.sock.fileno() in ready:
            messages = line.receive()
            if messages is None:
                return
            for message, fds in messages:
                _handle(line, reaper, held, message, fds)
        for pid, status in reaper.reap():
            line.send({"op": "exit", "pid": pid, "status": status})


class NoFolder(Exception):
    """There is no such folder to work in. Found before the fork: after it only the log could say so."""


def _handle(line: linux.Line, reaper: linux.Reaper, held: list[int], message: dict[str, Any], fds: list[int]) -> None:
    if message.get("op") == "hold":
        held += fds
        return
    tag = message.get("tag")
    try:
        if message.get("op") != "spawn":
            raise ValueError(f"no such request: {message.get('op')!r}")
        pid = _spawn(message, fds)
        reaper.add(pid)
        pidfd = os.pidfd_open(pid)
    except NoFolder as error:
        line.send({"op": "failed", "tag": tag, "error": str(error)})
    except Exception as error:  # no memory, no more processes, a bad message: say so and go on
        line.send({"op": "failed", "tag": tag, "error": f"{type(error).__name__}: {error}"})
    else:
        line.send({"op": "spawned", "tag": tag, "pid": pid}, [pidfd])
        os.close(pidfd)
    finally:
        for fd in fds:
            os.close(fd)


def _spawn(message: dict[str, Any], fds: list[int]) -> int:
    argv = [str(word) for word in message["argv"]]
    env = {**os.environ, **message.get("env", {})}
    at = [int(number) for number in message.get("at", ())]
    cwd, log = message.get("cwd"), message.get("log")
    if cwd is not None:
        try:
            os.stat(os.path.join(cwd, "."))
        except OSError as error:
            raise NoFolder(f"the folder {cwd} cannot be worked in: {error.strerror}") from error
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(guardian, argv, env, cwd, log, list(zip(fds, at, strict=True)))
    except BaseException as error:
        # exec failed, and the answer has been sent: the error goes, as a shell's does, to the log and the exit status
        os.write(2, f"gpbt-async: cannot start {argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _become(
    guardian: int,
    argv: list[str],
    env: dict[str, str],
    cwd: str | None,
    log: str | None,
    fds: list[tuple[int, int]],
) -> None:
    os.setsid()
    linux.adopt_orphans()
    linux.die_with(guardian)
    signal.set_wakeup_fd(-1)
    number: int
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)  # what is ignored stays ignored across an exec
    waiting = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE), number) for fd, number in fds]
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
    for fd, number in waiting:
        os.dup2(fd, number)
    if cwd is not None:
        os.chdir(cwd)
    os.execvpe(argv[0], argv, env)


def _clean_up(run: str, wakeup: int) -> None:
    """Kill until nothing is left, however long that takes: the lock we hold promises exactly that."""
    while True:
        if linux.kill_and_reap():
            # a death wakes us; what the dying forked last may come without one, so do not wait long
            select.select([wakeup], [], [], 0.02)
            linux.drain(wakeup)
        elif linux.sweep(run):
            select.select([], [], [], 0.005)
        else:
            return
