"""Our handle on the guardian: start it, have it start processes, know when they are gone, end it.

The guardian is the only process that the scheduler starts itself. A process that the guardian starts is a Child here: a
pid, a pidfd opened before the pid can be reused, and a future, `gone`, that is done once the child and every process
that it started are gone. The surprise: this must work even if the guardian is killed. Then this module searches the
machine for processes with the run's mark and kills them. Each child's future gets AncestorDied instead of an exit
status.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import Advice, LaunchError
from . import linux
from .channel import Channel, wait_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


#: the folder that holds this package
HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: seconds until a guardian that does not answer gets SIGCONT, and as many more until it is killed
ANSWER = 10.0
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from gpbt_async.processes.guardian_main import main; \
main(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))"


class Child(NamedTuple):
    """A process below the guardian. pidfd: the receiver's to close."""

    pid: int
    pidfd: int
    gone: asyncio.Future[int | linux.AncestorDied]


class Guardian:
    """One run's guardian; `start` starts it again after its death. output: the descriptor that it may write to."""

    def __init__(self, run_id: str, cwd: str, output: int, log: Callable[[Advice], object]) -> None:
        self.run_id = run_id
        self.cwd = cwd
        self.output = output
        #: how it ended, for a person
        self.fate = "died"
        self._log = log
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tags = 0
        self._spawning: dict[int, asyncio.Future[Child]] = {}
        self._gone: dict[int, asyncio.Future[int | linux.AncestorDied]] = {}
        self._held: list[int] = []

    @property
    def alive(self) -> bool:
        return self._channel is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Call in the event loop's thread: what dies with its parent dies with the *thread* that started it.

        Raises LaunchError, caused by an OSError, when the machine refuses.
        """
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, HOME, str(theirs.fileno()), self.run_id, str(os.getpid())]
        try:
            # not in the run's folder, which may be deleted or unmounted while the guardian goes on
            self._process = subprocess.Popen(
                argv, cwd="/", pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.output,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise LaunchError(f"the guardian could not be started: {error.strerror or error}") from error
        finally:
            theirs.close()
        self.fate = "died"
        self._channel = channel = Channel(ours, self._handle, lambda: self._lost(channel))
        for fd in self._held:
            channel.send({"op": "hold"}, [fd])

    def hold(self, fd: int) -> None:
        """Keep this file open, and so a lock on it, until the last process of the run is gone."""
        self._held.append(os.dup(fd))
        if self._channel is not None:
            self._channel.send({"op": "hold"}, [fd])

    async def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        fds: Mapping[int, int] | None = None,
        *,
        log: str | None = None,
        cwd: str | None = None,
    ) -> Child:
        """Start a program in a session of its own. env: beside the scheduler's. fds: number there → number here.

        Raises LaunchError, also for a cwd that does not exist, and when the guardian dies or has to be killed. A
        program that cannot be exec'd exits with status 127, and its log says why.
        """
        if self._channel is None:
            raise LaunchError("the guardian is gone")
        self._tags += 1
        future: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._spawning[self._tags] = future
        message = {
            "op": "spawn", "tag": self._tags, "argv": list(argv), "env": {**env, "GPBT_RUN": self.run_id},
            "cwd": cwd or self.cwd, "log": log, "at": list(fds or ()),
        }  # fmt: skip
        self._channel.send(message, list((fds or {}).values()))
        try:
            await self._answered(future)
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                child = future.result()  # came in the same turn of the loop, and has no other owner
                linux.kill_tree(child.pid, child.pidfd)
                os.close(child.pidfd)
            future.cancel()  # a child that comes for it from now on is killed
            raise

    async def _answered(self, future: asyncio.Future[Child]) -> None:
        """Wait for the guardian's answer; not for ever, as it may have been stopped (SIGSTOP, a debugger)."""
        channel, pid = self._channel, self.pid
        assert pid is not None
        for woken in (False, True):
            await asyncio.wait([future], timeout=ANSWER)
            if future.done() or channel is not self._channel:
                return
            if not woken:  # killing it would cost every member its interval
                self._log(Advice(f"the guardian (process {pid}) does not answer: sending it SIGCONT"))
                self._wake()
        self.fate = f"did not answer for {2 * ANSWER:g} s and was killed"
        linux.kill(pid)  # `_lost` does the rest

    def _wake(self) -> None:
        if self._process is not None and self._process.poll() is None:
            linux.kill(self._process.pid, signal.SIGCONT)

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "exit":
            gone = self._gone.pop(message["pid"])
            gone.set_result(message["status"])
            return
        future = self._spawning.pop(message["tag"])
        if message["op"] == "failed":
            if not future.done():
                future.set_exception(LaunchError(f"a process could not be started: {message['error']}"))
            return
        gone = asyncio.get_running_loop().create_future()
        self._gone[message["pid"]] = gone
        if future.done():  # the caller was cancelled meanwhile
            linux.kill_tree(message["pid"], fds[0])
            os.close(fds[0])
        else:
            future.set_result(Child(message["pid"], fds[0], gone))

    def _lost(self, channel: Channel) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        for future in self._spawning.values():
            if not future.done():
                future.set_exception(LaunchError("the guardian died"))
        self._spawning.clear()
        # its children die with it, theirs with them; what escapes that has the run's mark. Twice, since a process that
        # was being forked during the first search is visible in the second
        linux.sweep(self.run_id)
        linux.sweep(self.run_id)
        self._all_gone()

    def _all_gone(self) -> None:
        for gone in self._gone.values():
            if not gone.done():
                gone.set_result(linux.AncestorDied("guardian"))
        self._gone.clear()

    def kill_below(self) -> None:
        """SIGKILL for every process below the guardian; it goes on, and reaps them."""
        if self.pid is not None:
            for pid in linux.descendants(self.pid):
                linux.kill(pid)

    async def reap(self, within: float) -> None:
        """Wait for a guardian that is dead or about to be."""
        self._wake()  # while it is stopped, it does not clean up
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(process.pid)
                over = await wait_readable(pidfd, within)
                os.close(pidfd)
                if not over:
                    stuck = f"the guardian (process {process.pid}) is still cleaning up: something cannot be killed"
                    self._log(Advice(stuck))
                    process.returncode = 0  # so that Popen does not wait for it either
                    return
            process.wait()
        # what escaped it and has no mark may have fallen to us as orphans
        linux.kill_fallen(0.5)

    async def close(self, within: float) -> None:
        """Have it kill what is left of the run, and end; wait for that."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        await self.reap(within)
        self._all_gone()
        for future in self._spawning.values():
            future.cancel()
        for fd in self._held:
            os.close(fd)
        self._held.clear()
