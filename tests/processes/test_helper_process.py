"""A program of ours that is talked to over a socket: requests, its end, and every way in which it fails."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpbt_async.errors import LaunchError
from gpbt_async.processes.helper_main import FD
from gpbt_async.processes.helper_process import HelperError, HelperProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: a module of ours, as the tests see it: answers requests, and writes down what it was sent without an id
ECHO = """
import os, sys
from gpbt_async.processes.helper_main import SchedulerLink
def main():
    with SchedulerLink.inherited() as scheduler:
        while (message := scheduler.receive()) is not None:
            if "id" in message:
                scheduler.send({**message, "threads": os.environ["OMP_NUM_THREADS"], "json": "json" in sys.modules})
            elif message.get("raw"):
                scheduler.connection.sendall(message["raw"].encode())
            elif message.get("dies"):
                os._exit(3)
    print("ended", flush=True)
"""


class Spawned:
    """Starts programs as the launcher does, but as plain subprocesses."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    async def __call__(
        self, argv: Sequence[str], env: Mapping[str, str], log: str | None = None
    ) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220
                argv, env={**env, FD: str(theirs.fileno())}, pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        self.processes.append(process)
        return ours, os.pidfd_open(process.pid)


@pytest.fixture
def spawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spawned:
    (tmp_path / "echo_helper.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    return Spawned()


async def started(spawn: Spawned) -> HelperProcess:
    return await HelperProcess.start(spawn, "echo_helper", "the helper", ahead="json")


async def test_requests_are_answered_and_the_end_of_the_input_ends_it(spawn: Spawned) -> None:
    helper = await started(spawn)
    for n in (1, 2):
        message = {"word": "x" * n}
        answer = await helper.request(message.copy)
        assert answer == {"id": n, "word": "x" * n, "threads": "1", "json": True}
    helper.end_input()
    assert await helper.ended(30)
    assert spawn.processes[0].communicate() == ("ended\n", None)
    await helper.end()
    await helper.end()


async def test_ending_a_helper_kills_it_and_leaves_no_descriptor(spawn: Spawned) -> None:
    before = len(os.listdir("/proc/self/fd"))
    helper = await started(spawn)
    await helper.end()
    assert await helper.ended()
    assert spawn.processes[0].wait() == -9
    spawn.processes[0].communicate()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"dies": True}, "the helper died"),
        ({"raw": "what?\n"}, "the helper sent an invalid answer: b'what?'"),
        ({"raw": '{"id": 9}\n'}, "the helper sent an invalid answer: {'id': 9}"),
        ({"raw": "[" * 100_000 + "\n"}, "the helper sent an invalid answer: "),
    ],
)
async def test_a_helper_that_fails_is_an_error_that_says_how(
    spawn: Spawned, message: dict[str, object], problem: str
) -> None:
    helper = await started(spawn)
    await helper.send(message)
    with pytest.raises(HelperError) as caught:
        await helper.request(dict)
    assert str(caught.value).startswith(problem)
    await helper.end()
    spawn.processes[0].communicate()


async def test_a_helper_that_cannot_be_started() -> None:
    async def spawn(argv: Sequence[str], env: Mapping[str, str], log: str | None = None) -> tuple[socket.socket, int]:
        raise LaunchError("no more processes")

    with pytest.raises(HelperError, match=r"^the helper could not be started: LaunchError: no more processes$"):
        await HelperProcess.start(spawn, "anything", "the helper")


async def test_an_answer_comes_after_a_cancelled_wait_for_the_death(spawn: Spawned) -> None:
    helper = await started(spawn)
    assert not await helper.ended(0.01)
    waiting = asyncio.ensure_future(helper.ended())
    await asyncio.wait([waiting], timeout=0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (await helper.request(dict))["id"] == 1
    await helper.end()
    spawn.processes[0].communicate()


def test_the_program_side_needs_no_event_loop() -> None:
    code = "import sys, gpbt_async.processes.helper_main; print('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
