"""Starts everything a run consists of: the guardian, below it the zygote, and members, forked or exec'd.

The scheduler's only way to a new process. Guardian and zygote are programs of their own (guardian.py, zygote.py); this
is their other end. A member is a fork of the zygote, taken from the spares forked ahead; or a fresh interpreter, when
asked for, when the script touches CUDA while it is imported, or when two forks in a row never said Hello; or any
program. The surprise is that spares and forks are the same thing: a spare is a future of a Worker, asked for early.

Whatever dies is started again for the next member: guardian, zygote, a spare. Members that died with them are told
as died by their Workers. Leaving the context means that no process of the run is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import processes, wire
from .channel import Channel
from .command import Program, fill
from .errors import ExperimentError, LaunchError, ScriptError
from .worker import Worker, describe, uncancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Launcher", "fill"]

_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_GUARDIAN = "import sys; sys.path.insert(0, sys.argv[1]); from gpbt_async.guardian import main; \
main(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))"
# behind everything else on the path: an installed package must win over its neighbours in our folder
_PROGRAM = "import sys; sys.path[len(sys.path):] = [sys.argv[1]][sys.argv[1] in sys.path:]; "
_ZYGOTE = _PROGRAM + "from gpbt_async.zygote import main; sys.argv[:] = sys.argv[3:]; main(3)"
_MEMBER = _PROGRAM + "from gpbt_async.child import main; w = sys.argv[2]; sys.argv[:] = sys.argv[3:]; main(3, w)"

#: zygotes or guardians that may die in a row, without a member entering between, before we give up
DEATHS = 3


class Launcher:
    """An async context manager. run_id marks every process of the run (GPBT_RUN). log: told what a person should know.

    hello_timeout: how long a fork may take to speak. grace: from SIGTERM to SIGKILL.
    """

    def __init__(
        self,
        run_id: str,
        *,
        cwd: str | os.PathLike[str] | None = None,
        start: str = "zygote",
        hello_timeout: float = 10.0,
        grace: float = 2.0,
        log: Callable[[str], object] = lambda text: print(text, file=sys.stderr),
    ) -> None:
        self.run_id = run_id
        self.exec = start == "exec"
        self._cwd = os.fspath(cwd) if cwd is not None else os.getcwd()
        self._hello_timeout = hello_timeout
        self._grace = grace
        self._log = log
        self._what: dict[str, Any] | None = None  # what the zygote imports, None: there is no zygote
        self._guardian: Channel | None = None
        self._guardian_process: subprocess.Popen[bytes] | None = None
        self._zygote: Channel | None = None
        self._zygote_pid: int | None = None
        self._zygote_ready = False
        self._declared: asyncio.Future[dict[str, Any]] | None = None
        self._tags = 0
        self._spawning: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._forking: dict[int, asyncio.Future[Worker]] = {}
        self._gone: dict[int, asyncio.Future[int]] = {}
        self._forked: set[int] = set()  # members of the zygote that lives: they die with it
        self._ahead: deque[asyncio.Future[Worker]] = deque()
        self._spares = 1
        self._starting = 0
        self._warmth = "warm"  # → "cold" → "warming" → "warm", if the script has something to warm
        self._deaths = 0
        self._mute = 0
        self._held: list[int] = []
        self._log_path: str | None = None
        self._output = -1
        self._mending = asyncio.Lock()
        self._closing = False

    # -- the context

    async def __aenter__(self) -> Launcher:
        self._output = os.memfd_create("output", os.MFD_CLOEXEC)
        self._start_guardian()
        return self

    async def __aexit__(self, *_: object) -> None:
        await uncancelled(self._close())

    async def _close(self) -> None:
        self._closing = True
        self._drop_spares()
        for channel in (self._zygote, self._guardian):
            if channel is not None:
                channel.close()
        await self._guardian_ends(5.0)
        for fd in [*self._held, self._output]:
            os.close(fd)
        self._held.clear()
        for future in [*self._spawning.values(), *self._forking.values(), *self._gone.values()]:
            future.cancel()

    async def _guardian_ends(self, within: float) -> None:
        process, self._guardian_process = self._guardian_process, None
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(process.pid)
                if not await readable(pidfd, within):
                    self._log(f"the guardian (process {process.pid}) is still cleaning up: something cannot be killed")
                    process.returncode = 0  # not ours to wait for any longer
                os.close(pidfd)
        if process.returncode is None:
            process.wait()

    def pids(self) -> dict[str, int | None]:
        process = self._guardian_process
        return {"guardian": process.pid if process is not None else None, "zygote": self._zygote_pid}

    # -- what there is to start from

    async def open_script(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Import the script; its declaration: experiment (JSON), variable, cuda. Raises ScriptError, ExperimentError."""
        return await self._open({"script": os.path.abspath(path)})

    async def open_target(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """Import what an application's own experiment trains (Target as JSON). Raises ScriptError."""
        return await self._open({"target": dict(target)})

    async def open_command(self) -> None:
        """Nothing to import: members are programs."""

    async def _open(self, what: dict[str, Any]) -> dict[str, Any]:
        self._what = what
        declaration = await self._start_zygote()
        if declaration["cuda"] is not None and not self.exec:
            self.exec = True
            self._log(
                f"CUDA is initialised while the script is imported, at {declaration['cuda']}\n"
                "so members start as fresh processes, which is slower: move this line into the training function"
            )
        experiment = declaration["experiment"]
        if self.exec or (experiment is not None and experiment.get("command")):
            self._end_zygote()  # it has told all it knows, and would only hold memory, a GPU's perhaps
        else:
            self._refill()
        return declaration

    async def _start_zygote(self) -> dict[str, Any]:
        assert self._what is not None
        ours, theirs = socket.socketpair()
        channel = Channel(ours, self._on_zygote, lambda: self._zygote_lost(channel))
        self._zygote, self._zygote_ready = channel, False
        self._declared = declared = asyncio.get_running_loop().create_future()
        channel.send({"op": "open", **self._what})
        env = {**dict.fromkeys(processes.THREADS, "1"), "PYTORCH_NVML_BASED_CUDA_CHECK": "1", "GPBT_RUN": self.run_id}
        script = self._what.get("script") or self._what["target"]["file"]
        argv = [sys.executable, "-P", "-c", _ZYGOTE, _HOME, "", script]
        try:
            with theirs:
                fds = [theirs.fileno(), self._output, self._output]
                self._zygote_pid, pidfd = await self._spawn(argv, env, fds, [3, 1, 2])
            os.close(pidfd)
            declaration = await self._or_its_death(declared, self._zygote_pid)
        except BaseException:
            self._end_zygote()
            raise
        self._zygote_ready = True
        self._warmth = "cold" if declaration["warms"] else "warm"
        if self._log_path is not None:
            channel.send({"op": "log", "path": self._log_path})
        return declaration

    async def _or_its_death(self, declared: asyncio.Future[dict[str, Any]], pid: int) -> dict[str, Any]:
        gone = self._gone[pid]
        await asyncio.wait([declared, gone], return_when=asyncio.FIRST_COMPLETED)
        if not declared.done():
            # what it said last may stand behind the news of its death: two sockets have no order
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(declared), 0.2)
        if not declared.done():
            raise ScriptError(
                f"the process that imports the script was lost: {describe(gone.result())}{self._last_output()}"
            )
        return declared.result()

    def _last_output(self) -> str:
        text = os.pread(self._output, 1 << 20, 0).decode(errors="replace").strip()
        return "\nits last output:\n    " + "\n    ".join(text.splitlines()[-10:]) if text else ""

    def _end_zygote(self) -> None:
        self._drop_spares()
        if self._zygote is not None:
            self._zygote.close()
        self._zygote, self._zygote_pid, self._zygote_ready = None, None, False

    def hold(self, fd: int) -> None:
        """Keep this file open (and so a lock on it) until the last process of the run is gone."""
        self._held.append(os.dup(fd))
        if self._guardian is not None:
            self._guardian.send({"op": "hold"}, [fd])

    def log_to(self, path: str | os.PathLike[str]) -> None:
        """Where the zygote's output goes, what it has written so far included."""
        self._log_path = os.fspath(path)
        if self._zygote_ready and self._zygote is not None:
            self._zygote.send({"op": "log", "path": self._log_path})

    def spares(self, n: int) -> None:
        """How many forks to keep ready: one for each slot."""
        self._spares = n
        self._refill()

    # -- guardian

    def _start_guardian(self) -> None:
        """From the loop's own thread: a process that is to die with its parent dies with the parent's *thread*."""
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-I", "-S", "-c", _GUARDIAN, _HOME, str(theirs.fileno()), self.run_id, str(os.getpid())]
        with theirs:
            self._guardian_process = subprocess.Popen(
                argv, cwd=self._cwd, pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._output,
            )  # fmt: skip
        channel = Channel(ours, self._on_guardian, lambda: self._guardian_lost(channel))
        self._guardian = channel
        for fd in self._held:
            channel.send({"op": "hold"}, [fd])

    def _on_guardian(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "spawned":
            self._gone[message["pid"]] = asyncio.get_running_loop().create_future()
            future = self._spawning.pop(message["tag"])
            if future.cancelled():  # nobody wants it any more
                processes.kill_tree(message["pid"])
                os.close(fds[0])
            else:
                future.set_result((message["pid"], fds[0]))
        elif message["op"] == "failed":
            future = self._spawning.pop(message["tag"])
            if not future.cancelled():
                future.set_exception(LaunchError(f"a process could not be started: {message['error']}"))
        elif message["op"] == "exit":
            if message["pid"] == self._zygote_pid:
                self._forked_gone()
                self._zygote_pid = None
            self._is_gone(message["pid"], message["status"])

    def _guardian_lost(self, channel: Channel) -> None:
        if channel is not self._guardian:
            return
        self._guardian = None
        for future in self._spawning.values():
            if not future.done():
                future.set_exception(LaunchError("the guardian died"))
        self._spawning.clear()
        # its children die with it, theirs with them; what escaped is marked with the run's id
        while processes.sweep(self.run_id):
            pass
        for pid in list(self._gone):
            self._is_gone(pid, -9)

    async def _spawn(
        self, argv: Sequence[str], env: Mapping[str, str], fds: list[int], at: list[int], log: str | None = None,
        cwd: str | None = None,
    ) -> tuple[int, int]:  # fmt: skip
        """A process below the guardian: its pid and a pidfd. Raises LaunchError."""
        if self._guardian is None:
            raise LaunchError("the guardian is gone")
        self._tags += 1
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._spawning[self._tags] = future
        self._guardian.send(
            {"op": "spawn", "tag": self._tags, "argv": list(argv), "env": {**env, "GPBT_RUN": self.run_id},
             "cwd": cwd or self._cwd, "log": log, "at": at}, fds
        )  # fmt: skip
        return await future

    async def spawn_helper(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[socket.socket, int]:
        """A program below the guardian, whose descriptor 3 is the other end of the socket. Returns socket and pidfd."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                _pid, pidfd = await self._spawn(argv, env, [theirs.fileno(), self._output, self._output], [3, 1, 2])
        except BaseException:
            ours.close()
            raise
        return ours, pidfd

    def _is_gone(self, pid: int, status: int) -> None:
        future = self._gone.pop(pid, None)
        if future is not None and not future.done():
            future.set_result(status)

    # -- zygote

    def _on_zygote(self, message: dict[str, Any], fds: list[int]) -> None:
        op = message["op"]
        declared = self._declared
        if op == "forked":
            self._on_forked(message, fds)
        elif op == "failed":
            self._fork_failed(message["n"], f"a member could not be forked: {message['error']}")
        elif op == "exit":
            self._forked.discard(message["pid"])
            self._is_gone(message["pid"], message["status"])
        elif op == "warmed":
            self._warmth = "warm"
            self._drop_spares()  # those forked before are cold
            self._refill()
        elif op == "threads":
            self._log(message["text"])
        elif declared is not None and not declared.done():
            if op == "declared":
                declared.set_result(message)
            else:
                kind = ExperimentError if message["kind"] == "experiment" else ScriptError
                declared.set_exception(kind(message["message"]))

    def _on_forked(self, message: dict[str, Any], fds: list[int]) -> None:
        future = self._forking.pop(message["n"])
        gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._gone[message["pid"]] = gone
        self._forked.add(message["pid"])
        sock = socket.socket(fileno=fds[0])
        worker = Worker(message["pid"], fds[1], sock, gone, grace=self._grace, warn=self._log)
        if future.cancelled():
            worker.close()
        else:
            future.set_result(worker)

    def _fork_failed(self, n: int, text: str) -> None:
        future = self._forking.pop(n)
        if not future.done():
            future.set_exception(LaunchError(text))
            future.exception()  # a spare's failure is told to whoever takes it, if anybody

    def _zygote_lost(self, channel: Channel) -> None:
        """Its members die with it; that they are gone is known when the guardian says so of the zygote."""
        if channel is not self._zygote:
            return
        self._zygote, self._zygote_ready = None, False
        for n in list(self._forking):
            self._fork_failed(n, "the zygote died")

    def _forked_gone(self) -> None:
        for pid in self._forked:
            self._is_gone(pid, -9)
        self._forked.clear()

    def _fork(self) -> asyncio.Future[Worker]:
        self._tags += 1
        future: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._forking[self._tags] = future
        if self._zygote is None:
            self._fork_failed(self._tags, "the zygote died")
        else:
            self._zygote.send({"op": "fork", "n": self._tags})
        return future

    def _refill(self) -> None:
        """Fork ahead; but while the zygote is cold only before the first member begins, then not until it is warm."""
        if self._closing or self.exec or not self._zygote_ready or self._zygote is None:
            return
        if self._warmth == "warming" or (self._warmth == "cold" and self._starting):
            return
        while len(self._ahead) < self._spares:
            self._ahead.append(self._fork())

    def _drop_spares(self) -> None:
        while self._ahead:
            spare = self._ahead.popleft()
            if spare.done() and not spare.cancelled() and spare.exception() is None:
                spare.result().close()  # it sees the end of its socket and exits
            else:
                spare.cancel()

    # -- members

    async def start(self, begin: wire.Begin, *, argv: Sequence[str] | None = None) -> Worker:
        """A member's process, told to begin. argv: a program instead of the training function.

        Raises LaunchError when no process can be had, ScriptError when the script can no longer be imported.
        """
        begin = replace(begin, env={**self._standard(begin), **begin.env})
        self._starting += 1
        worker: Worker | None = None
        try:
            while worker is None:
                try:
                    await self._mend(argv is None)
                    worker = await self._obtain(begin, argv)
                except LaunchError:
                    if self._guardian is not None and (self.exec or argv is not None or self._zygote is not None):
                        raise  # nobody died: the machine refuses
        finally:
            if worker is None:
                self._settled(False)
        worker.on_first = self._settled
        worker.begin(begin)
        self._refill()
        return worker

    async def _obtain(self, begin: wire.Begin, argv: Sequence[str] | None) -> Worker | None:
        """A worker that has said Hello; None to try again."""
        if argv is not None:
            return await self._program(begin, argv)
        worker = await (self._executed(begin) if self.exec else self._taken())
        try:
            await asyncio.wait([worker.hello], timeout=self._hello_timeout)
            if worker.hello.done() and worker.hello.result() and not worker.dead:
                self._mute = 0
                return worker
            await self._unheard(worker)
        except BaseException:
            processes.kill_tree(worker.pid)
            worker.close()
            raise
        return None

    async def _unheard(self, worker: Worker) -> None:
        """The hello-watchdog: a fork that hangs is killed, and after two in a row we stop forking."""
        died = worker.dead
        async with worker:
            processes.kill(worker.pid)
        if died and not self.exec and self._zygote is None:
            return  # it died with the zygote: that is counted elsewhere
        self._mute += 1
        how = "died" if died else f"said nothing for {self._hello_timeout:g} s and was killed"
        if self.exec and self._mute >= 2:
            raise LaunchError(f"a member's process {how} before it could begin; its log may say why")
        if self._mute >= 2:
            self.exec, self._mute = True, 0
            self._log(
                f"a forked member {how} before it could begin, twice: members start as fresh processes from now on, "
                "which is slower (does the script run threads while it is imported?)"
            )
            self._end_zygote()

    async def _taken(self) -> Worker:
        """The next spare, or a new fork."""
        while True:
            future = self._ahead.popleft() if self._ahead else self._fork()
            try:
                worker = await asyncio.shield(future)
            except asyncio.CancelledError:
                if not future.done() or not future.cancelled():
                    self._ahead.appendleft(future)  # somebody else's spare now
                    raise
                continue  # the spare was dropped while we waited for it
            if not worker.dead:
                return worker
            worker.close()

    async def _executed(self, begin: wire.Begin) -> Worker:
        threads = dict.fromkeys(processes.THREADS, str(begin.threads)) if begin.threads is not None else {}
        assert self._what is not None
        script = self._what.get("script") or self._what["target"]["file"]
        argv = [sys.executable, "-P", "-c", _MEMBER, _HOME, json.dumps(self._what), script]
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid, pidfd = await self._spawn(
                    argv, {**threads, **begin.env}, [theirs.fileno()], [3], begin.log, begin.cwd
                )
        except BaseException:
            ours.close()
            raise
        return Worker(pid, pidfd, ours, self._gone[pid], grace=self._grace, warn=self._log)

    async def _program(self, begin: wire.Begin, argv: Sequence[str]) -> Worker:
        pid, pidfd = await self._spawn(argv, begin.env, [], [], begin.log, begin.cwd)
        return Program(pid, pidfd, None, self._gone[pid], grace=self._grace, warn=self._log, metrics=begin.metrics)

    def _standard(self, begin: wire.Begin) -> dict[str, str]:
        return {
            "GPBT_RUN": self.run_id,
            "GPBT_MEMBER": str(begin.member),
            "GPBT_ATTEMPT": str(begin.attempt),
            "GPBT_GENERATION": str(begin.generation),
            "GPBT_SEED": str(begin.seed),
            "GPBT_DEVICE": begin.device,
            "GPBT_PARENT": begin.parent or "",
            "GPBT_CHECKPOINT": begin.checkpoint,
            "GPBT_METRICS": begin.metrics,
        }

    def _settled(self, entered: bool) -> None:
        """A member has entered, or will not. Once none is on its way, the zygote has time to warm up."""
        self._starting -= 1
        if entered:
            self._deaths = 0
        if not self._starting and self._warmth == "cold" and self._zygote_ready and self._zygote is not None:
            self._warmth = "warming"
            self._zygote.send({"op": "warm"})

    async def _mend(self, needs_zygote: bool) -> None:
        """Start again what died: the guardian, the zygote. Raises LaunchError when that has no end."""
        needs_zygote = needs_zygote and not self.exec
        if self._guardian is not None and (not needs_zygote or self._zygote_ready):
            return
        async with self._mending:
            if self._guardian is None:
                self._count_death("guardian")
                await self._guardian_ends(5.0)
                self._start_guardian()
            if needs_zygote and not self._zygote_ready:
                self._count_death("zygote")
                self._drop_spares()
                if self._zygote_pid in self._gone:
                    await asyncio.wait([self._gone[self._zygote_pid]], timeout=5.0)
                self._forked_gone()
                await self._start_zygote()

    def _count_death(self, who: str) -> None:
        self._deaths += 1
        self._log(f"the {who} died; starting it again")
        if self._deaths > DEATHS:
            raise LaunchError(f"the {who} died {self._deaths} times in a row{self._last_output()}")


async def readable(fd: int, within: float) -> bool:
    """Wait until a descriptor becomes readable: of a pidfd, until the process is dead."""
    loop = asyncio.get_running_loop()
    event = loop.create_future()
    loop.add_reader(fd, lambda: event.done() or event.set_result(None))
    try:
        await asyncio.wait([event], timeout=within)
        return event.done()
    finally:
        loop.remove_reader(fd)
