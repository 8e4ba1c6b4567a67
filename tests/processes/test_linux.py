"""The kernel's side: who descends from whom, orphans, reaping, descriptors over a socket; and the guardian itself."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from harness import until
from scripts.harness import Watch, dead

from gpbt_async.processes import linux
from gpbt_async.processes.guardian import _PROGRAM, HOME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def in_a_fork(work: Callable[[], object]) -> str:
    """What `work` returns, or raises, in a process of its own: what follows makes it a subreaper, and kills."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = repr(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def family() -> tuple[int, int]:
    """A shell with a child: their pids."""
    shell = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    return shell.pid, int(shell.stdout.readline())


def test_descendants_by_both_ways() -> None:
    def work() -> object:
        shell, sleep = family()
        found = linux.descendants(os.getpid()), linux._children_by_scan(shell)
        linux.kill_below()
        return found == ([shell, sleep], [sleep]), linux.children(os.getpid())

    assert in_a_fork(work) == "(True, [])"


def test_a_process_that_is_gone_has_no_children() -> None:
    assert linux.children(2**22 + 1) == []


def test_kill_below_takes_orphans_too() -> None:
    def work() -> object:
        linux.adopt_orphans()
        shell, sleep = family()
        with Watch(shell, sleep) as watch:
            os.kill(shell, signal.SIGKILL)
            linux.kill_below()
            return watch.alive()

    assert in_a_fork(work) == "[]"


def test_die_with_parent_that_is_dead_already() -> None:
    pid = os.fork()
    if pid == 0:
        linux.die_with(os.getpid())  # not our parent
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 113


def test_a_reaper_reports_a_death_only_when_nothing_is_left() -> None:
    def work() -> object:
        linux.adopt_orphans()
        household = subprocess.Popen(["sleep", "1000"])
        reaper = linux.Reaper()
        shell, sleep = family()
        reaper.add(shell)
        assert reaper.reap() == []
        with Watch(sleep) as watch:
            os.kill(shell, signal.SIGTERM)
            ended: list[tuple[int, int]] = []
            while not ended:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # a death is what a reaper is woken by
                ended = reaper.reap()
            gone = ended == [(shell, -signal.SIGTERM)], watch.alive(), household.poll()
        household.kill()
        return gone

    assert in_a_fork(work) == "(True, [], None)"


def test_a_reaper_sees_what_a_stray_left_that_died_while_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> object:
        linux.adopt_orphans()
        reaper = linux.Reaper()
        own = subprocess.Popen(["true"])
        os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
        reaper.add(own.pid)
        stray, left = family()
        look = linux.children

        def slow_look(pid: int) -> list[int]:
            found = look(pid)
            if pid == os.getpid() and stray in found:
                os.kill(stray, signal.SIGKILL)
                os.waitid(os.P_PID, stray, os.WEXITED | os.WNOWAIT)
            return found

        monkeypatch.setattr(linux, "children", slow_look)
        with Watch(left) as watch:
            while not (ended := reaper.reap()):
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            return ended == [(own.pid, 0)], watch.alive()

    assert in_a_fork(work) == "(True, [])"


@pytest.fixture
def lines() -> Iterator[tuple[linux.Line, linux.Line]]:
    a, b = map(linux.Line, socket.socketpair())
    yield a, b
    a.close()
    b.close()


def test_descriptors_arrive_with_their_line(lines: tuple[linux.Line, linux.Line]) -> None:
    a, b = lines
    pipes = [os.pipe() for _ in range(3)]
    a.send({"n": 0})
    a.send({"n": 1}, [pipes[0][0], pipes[1][0]])
    a.send({"n": 2, "long": "x" * 100_000})
    a.sock.sendall(b"garbage\n[]\n")
    a.send({"n": 3}, [pipes[2][0]])
    came: list[tuple[dict[str, Any], list[int]]] = []
    while len(came) < 4:
        came += b.receive() or []
    assert [message["n"] for message, _ in came] == [0, 1, 2, 3]
    for number, (_, write) in enumerate(pipes):
        os.write(write, bytes([number]))
    assert [[os.read(fd, 1)[0] for fd in fds] for _, fds in came] == [[], [0, 1], [], [2]]
    for fd in [fd for pipe in pipes for fd in pipe] + [fd for _, fds in came for fd in fds]:
        os.close(fd)


def test_the_end_of_the_stream(lines: tuple[linux.Line, linux.Line]) -> None:
    lines[0].sock.close()
    assert lines[1].receive() is None


class Ward:
    """A guardian and the other end of its socket, without the scheduler's code."""

    def __init__(self, run: str) -> None:
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, HOME, str(theirs.fileno()), run, str(os.getpid())]
        with theirs:
            self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], start_new_session=True)
        self.line = linux.Line(ours)

    def ask(self, message: dict[str, Any], fds: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
        self.line.send(message, fds)
        return self.hear()

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        while True:
            came = self.line.receive()
            assert came is not None, "the guardian is gone"
            if came:
                (first,) = came
                return first


@pytest.fixture
def ward(request: pytest.FixtureRequest) -> Iterator[Ward]:
    made = Ward(f"test-{os.getpid()}-{request.node.name}")
    yield made
    made.line.close()
    assert made.process.wait(10) == 0


def test_a_guardian_survives_bad_messages_and_signals(ward: Ward) -> None:
    assert ward.ask({"op": "dance"})[0]["op"] == "failed"  # so it is up
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        ward.process.send_signal(number)
    for bad in ({}, {"op": "dance"}, {"op": "spawn"}, {"op": "spawn", "tag": 1, "argv": 5}):
        assert ward.ask(bad)[0]["op"] == "failed"
    ward.line.sock.sendall(b'\xff\n{"fds":1e999}\n' + b"[" * 100_000 + b"\n{}\n")
    assert ward.hear()[0]["op"] == "failed"


def test_what_a_guardian_starts(ward: Ward, tmp_path: Path) -> None:
    read, write = os.pipe()
    log = tmp_path / "log"
    code = (
        'import os, signal; os.write(7, f\'{os.getcwd()} {os.environ["A"]} {os.getsid(0) == os.getpid()} '
        "{signal.getsignal(signal.SIGTERM)}'.encode()); print('logged'); os._exit(5) if 0 else exit(5)"
    )
    argv = [sys.executable, "-c", code]
    asked = {"op": "spawn", "tag": 9, "argv": argv, "env": {"A": "b"}, "cwd": str(tmp_path), "log": str(log), "at": [7]}
    answer, (pidfd,) = ward.ask(asked, [write])
    os.close(write)
    assert (answer["op"], answer["tag"]) == ("spawned", 9)
    ended, _ = ward.hear()
    assert (ended["op"], ended["pid"], ended["status"]) == ("exit", answer["pid"], 5)
    assert dead(pidfd)
    assert os.read(read, 1000).decode() == f"{tmp_path} b True 0"
    assert os.read(read, 1) == b"", "no other process holds the descriptor"
    assert log.read_text() == "logged\n"
    os.close(read)
    os.close(pidfd)


def test_a_program_that_is_not_there(ward: Ward, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _, (pidfd,) = ward.ask({"op": "spawn", "tag": 1, "argv": ["./nothing"], "log": str(log)})
    os.close(pidfd)
    assert ward.hear()[0]["status"] == 127
    assert "cannot start ./nothing: " in log.read_text()


def test_a_held_descriptor_is_closed_only_when_everything_is_dead(tmp_path: Path) -> None:
    run = f"test-{os.getpid()}-hold"
    ward = Ward(run)
    held, kept = os.pipe()
    ward.line.send({"op": "hold"}, [kept])
    os.close(kept)
    script = "trap '' TERM; setsid sleep 1000 & echo $! > pids; echo ready >&7; wait"
    asked = {"op": "spawn", "tag": 1, "argv": ["sh", "-c", script], "cwd": str(tmp_path), "at": [7]}
    read, write = os.pipe()
    answer, (pidfd,) = ward.ask(asked, [write])
    assert os.read(read, 10) == b"ready\n"
    # and one that left the family altogether, but carries the run's mark
    escaped = subprocess.Popen(["sleep", "1000"], env={**os.environ, "GPBT_RUN": run})
    with Watch(answer["pid"], int((tmp_path / "pids").read_text()), escaped.pid) as watch:
        assert not select.select([held], [], [], 0)[0]
        ward.line.close()
        assert os.read(held, 1) == b""
        assert watch.alive() == []
    assert ward.process.wait(10) == 0
    assert escaped.wait() == -signal.SIGKILL
    for fd in (held, read, write, pidfd):
        os.close(fd)


@pytest.mark.parametrize("mark", ["run-12", "4f1c.66306.131-12", "no hex, =, or\nsense 12"])
def test_only_the_exact_mark_is_swept(mark: str) -> None:
    other = subprocess.Popen(["sleep", "1000"], env={"GPBT_RUN": mark})
    until(lambda: linux.marked(mark))  # Popen returns a moment before the kernel has laid out the environment
    assert linux.marked(mark[:-1]) == linux.marked(mark + "3") == linux.marked(mark[1:]) == []
    assert linux.sweep(mark) == 1
    assert other.wait() == -signal.SIGKILL


def test_a_tree_whose_root_was_reaped_is_left_alone() -> None:
    def work() -> object:
        linux.adopt_orphans()
        shell, sleep = family()
        with Watch(shell, sleep) as watch:
            ended = subprocess.Popen(["true"])
            pidfd = os.pidfd_open(ended.pid)
            ended.wait()
            linux.kill_tree(shell, pidfd)  # as if its number had been given to the shell
            before = watch.alive() == [shell, sleep]
            linux.kill_tree(shell, watch.fds[shell])
            return before, watch.alive(5.0)

    assert in_a_fork(work) == "(True, [])"


def test_waiting_not_for_ever_says_what_is_there_now() -> None:
    read, write = os.pipe()
    other, other_write = os.pipe()
    try:
        assert linux.wait(read, other, forever=False) == []
        os.write(write, b"x")
        assert linux.wait(read, other, forever=False) == [read]
        assert linux.wait(other, read) == [read]
    finally:
        for fd in (read, write, other, other_write):
            os.close(fd)
