"""Starts everything a run consists of: the guardian, below it the zygote, and members, forked or exec'd.

The scheduler's one way to a new process, and the place for what to do when one does not come to life: guardian and
zygote are started again after their death, a fork that hangs is killed (deadlock.py), and members start as fresh
processes from then on, as they do when the script touches CUDA or starts native threads while it is imported. Each of
these is said once.

Leaving the context means that no process of the run is alive. The surprise is how little of that is done here: the
launcher closes two sockets and waits for the guardian to end, which it does only when nothing is left to kill.
A member that dies with its zygote or guardian is lost, not failed; so that this has an end, deaths are counted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..declaration.address import Address
from ..errors import Advice, LaunchError
from . import deadlock, linux, wire
from .guardian import HOME, Guardian
from .program import Program, fill
from .worker import Worker, uncancelled
from .zygote import PATH, Zygote, ZygoteDied, file_of, unforkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


__all__ = ["Launcher", "fill"]

_MEMBER = (
    PATH
    + "from gpbt_async.member.member_main import main; what = sys.argv[2]; sys.argv[:] = sys.argv[3:]; main(3, what)"
)
#: guardians and zygotes that may die in a row, without a member returning between, before we give up
DEATHS = 3
#: how long the kernel may take to kill everything
DEADLINE = 5.0


class Launcher:
    """An async context manager. run_id marks every process of the run (GPBT_RUN). log: told what a person should know.

    start: "exec" = fresh processes; "zygote" = forks, even of a script that has native threads; None = forks where they
    are safe. A fork that provably hangs ends forking in any case. hello_timeout: how long a process may take to speak.
    grace: from SIGTERM to SIGKILL.
    """

    def __init__(
        self,
        run_id: str,
        *,
        cwd: str | os.PathLike[str] | None = None,
        start: str | None = None,
        hello_timeout: float = 10.0,
        grace: float = 2.0,
        log: Callable[[str], object] = lambda text: print(text, file=sys.stderr),
    ) -> None:
        #: members start as fresh processes: asked for, or fallen back to
        self.exec = start == "exec"
        self._insists = start == "zygote"
        self._hello_timeout = hello_timeout
        self._grace = grace
        self._log = log
        self._output = os.memfd_create("output", os.MFD_CLOEXEC)
        self._guardian = Guardian(run_id, os.fspath(cwd) if cwd is not None else os.getcwd(), self._output, log)
        self._zygote: Zygote | None = None
        self._retired: Zygote | None = None  # its members train on
        self._what: dict[str, Any] | None = None  # what the zygote imports; None: members are programs
        self._spares = 1
        self._log_path: str | None = None
        self._starting = 0  # members asked for that have neither entered nor failed
        self._deaths = 0
        self._warms = True
        self._mute = 0
        self._forks_live = False  # one has reported, or returned
        self._mending = asyncio.Lock()

    # -- the context

    async def __aenter__(self) -> Launcher:
        # what is left of an earlier life of this run, if its guardian was killed as well
        linux.sweep(self._guardian.run_id)
        try:
            self._guardian.start()
        except BaseException:
            os.close(self._output)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await uncancelled(self._close())

    async def _close(self) -> None:
        self._end_zygote()
        await self._guardian.close(DEADLINE)
        os.close(self._output)

    def _end_zygote(self) -> None:
        for zygote in (self._zygote, self._retired):
            if zygote is not None:
                zygote.close()
        self._zygote = self._retired = None

    def kill(self) -> None:
        """End every process of the run now, without grace. Workers are told of the deaths as of any other."""
        self._guardian.kill_below()

    def pids(self) -> dict[str, int | None]:
        return {"guardian": self._guardian.pid, "zygote": self._zygote.pid if self._zygote is not None else None}

    # -- what there is to start from

    async def open_script(self, script: Address | str | os.PathLike[str]) -> dict[str, Any]:
        """Import the script; its declaration: experiment (JSON), variable, cuda, and the files it has imported.

        Takes as long as the import does. Raises ScriptError or ExperimentError with one message for a person.
        """
        known = script if isinstance(script, Address) else Address(os.path.abspath(script))
        return await self._open(known.to_json())

    async def open_target(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """Import what an application's own experiment trains (Target as JSON). Raises ScriptError."""
        return await self._open({"target": dict(target)})

    async def open_command(self) -> None:
        """Nothing to import: members are programs."""

    async def _open(self, what: dict[str, Any]) -> dict[str, Any]:
        self._what = what
        declaration: dict[str, Any] | None = None
        while declaration is None:
            declaration = await self._imported()
        hazard = unforkable(declaration, self._insists)
        if hazard is not None and not self.exec:
            forks, advice = hazard
            self.exec = not forks
            self._log(advice)
        if self.exec or (declaration["experiment"] or {}).get("command"):
            self._end_zygote()  # it has told all it knows, and would only hold memory, a GPU's perhaps
        return declaration

    async def _imported(self) -> dict[str, Any] | None:
        """Import the script; None to try again, as somebody has killed what imported it."""
        try:
            return await self._start_zygote()
        except (LaunchError, ZygoteDied) as error:
            if not self._guardian.alive:
                await self._mend(False)
            elif isinstance(error, ZygoteDied) and error.killed:
                self._count_death("process that imports the script was killed")
            else:
                raise
            return None

    async def _start_zygote(self) -> dict[str, Any]:
        assert self._what is not None
        self._zygote = zygote = Zygote(
            self._guardian, self._what, spares=self._spares, patience=self._hello_timeout,
            grace=self._grace, warms=self._warms, log=self._log,
        )  # fmt: skip
        declaration = await zygote.open()
        if self._log_path is not None:
            zygote.log_to(self._log_path)
        return declaration

    def hold(self, fd: int) -> None:
        """Keep this file open, and so a lock on it, until the last process of the run is gone."""
        self._guardian.hold(fd)

    def log_to(self, path: str | os.PathLike[str]) -> None:
        """Where the zygote's output goes, what it has written so far included."""
        self._log_path = os.fspath(path)
        if self._zygote is not None:
            self._zygote.log_to(self._log_path)

    def spares(self, n: int) -> None:
        """How many forks to keep ready: one for each slot."""
        self._spares = n
        if self._zygote is not None:
            self._zygote.keep(n)

    async def spawn_helper(
        self, argv: Sequence[str], env: Mapping[str, str], log: str | None = None
    ) -> tuple[socket.socket, int]:
        """A program below the guardian, whose descriptor 3 is the other end of the socket. Returns socket and pidfd.

        log: the file its output goes to; else it goes where the zygote's goes.
        """
        while True:
            await self._mend(False)
            guardian = self._guardian.pid
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    output = {1: self._output, 2: self._output} if log is None else {}
                    child = await self._guardian.spawn(argv, env, {3: theirs.fileno(), **output}, log=log)
                return ours, child.pidfd
            except BaseException as error:
                ours.close()
                if not isinstance(error, LaunchError) or (self._guardian.alive and self._guardian.pid == guardian):
                    raise

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
                worker = await self._attempt(begin, argv)
        finally:
            if worker is None:
                self._settled(False)
        worker.on_first = self._settled
        worker.on_returned = self._lives
        try:
            worker.begin(begin)
        except BaseException:  # a config that is longer than a message may be
            worker.kill()
            worker.close()
            self._settled(False)
            raise
        if self._zygote is not None:
            self._zygote.keep()
        return worker

    async def _attempt(self, begin: wire.Begin, argv: Sequence[str] | None) -> Worker | None:
        """A worker that has said Hello; None to try again."""
        forked = argv is None and not self.exec
        guardian, zygote = self._guardian.pid, self._zygote
        try:
            await self._mend(forked)
            guardian, zygote = self._guardian.pid, self._zygote
            if argv is not None:
                return await self._program(begin, argv)
            if not forked:
                return await self._greeted(await self._executed(begin))
            if self.exec or self._zygote is None:
                return None  # a fork hung while this one waited, and ended forking
            worker = await self._zygote.take()
            worker.on_life = self._fork_lives
            deadlock.DeadlockWatch(worker, lambda seen: self._hangs(worker, seen), lambda: self._forks_live)
            return await self._greeted(worker)
        except LaunchError as error:
            if isinstance(error.__cause__, OSError):
                raise  # not even a guardian
            alive = self._guardian.alive and self._guardian.pid == guardian  # not one that another has started since
            alive &= not forked or (zygote is not None and zygote.alive and zygote is self._zygote)
            if alive or self._deaths > DEATHS:
                raise  # nobody died, so the machine refuses; or too many did
            return None

    async def _greeted(self, worker: Worker) -> Worker | None:
        try:
            # a fork has only to speak, and of two that do not, the run is to know within the time of one
            await asyncio.wait([worker.hello], timeout=self._hello_timeout / (1 + worker.forked))
            if worker.hello.done() and worker.hello.result() and not worker.dead:
                self._mute = 0
                return worker
            await self._unheard(worker)
        except BaseException:
            worker.kill()
            worker.close()
            raise
        return None

    async def _unheard(self, worker: Worker) -> None:
        """The hello-watchdog: what hangs is killed, and after two in a row we stop forking."""
        died = worker.dead
        async with worker:
            worker.kill()
        if worker.outcome.how == "lost":
            return  # it died with the zygote, which is counted elsewhere
        self._mute += 1
        if self._mute < 2:
            return
        how = "died" if died else f"said nothing for {self._hello_timeout / (1 + worker.forked):g} s and was killed"
        if not worker.forked:
            raise LaunchError(f"a member's process {how} before it could begin; its log may say why")
        self._stop_forking(f"a forked member {how} before it could begin, twice", "")

    def _hangs(self, worker: Worker, seen: str) -> None:
        """A fork is deadlocked: it is lost, and so would be the next."""
        worker.lose(f"hung after its fork: {seen}")
        who = f"member {worker.member}" if worker.begun is not None else "a forked member"
        self._stop_forking(
            f"{who} hung after its fork and was killed ({seen})",
            " (a lock of its own that nothing releases looks so, too)",
        )

    def _stop_forking(self, why: str, perhaps: str) -> None:
        """From now on members are fresh processes; those that train already go on."""
        self._mute = 0
        if self.exec:
            return
        self.exec = True
        if self._zygote is not None:
            self._zygote.retire()
            self._retired, self._zygote = self._zygote, None
        slower = f"{why}: members start as fresh processes from now on, which is slower"
        self._log(Advice(slower, f"move what starts threads at the top level of the script into train{perhaps}"))

    async def _executed(self, begin: wire.Begin) -> Worker:
        """A fresh interpreter; its environment is given at once, as its script may touch CUDA while it is imported."""
        assert self._what is not None
        threads = dict.fromkeys(linux.THREADS, str(begin.threads)) if begin.threads is not None else {}
        argv = [sys.executable, "-P", "-c", _MEMBER, HOME, json.dumps(self._what), file_of(self._what)]
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                child = await self._guardian.spawn(
                    argv, {**threads, **begin.env}, {3: theirs.fileno()}, log=begin.log, cwd=begin.cwd
                )
        except BaseException:
            ours.close()
            raise
        return Worker(child.pid, child.pidfd, ours, child.gone, grace=self._grace, warn=self._log)

    async def _program(self, begin: wire.Begin, argv: Sequence[str]) -> Worker:
        child = await self._guardian.spawn(argv, begin.env, log=begin.log, cwd=begin.cwd)
        if begin.cpus:
            with contextlib.suppress(OSError):  # it may have ended already
                os.sched_setaffinity(child.pid, begin.cpus)
        return Program(
            child.pid, child.pidfd, None, child.gone, grace=self._grace, warn=self._log, metrics=begin.metrics
        )

    def _standard(self, begin: wire.Begin) -> dict[str, str]:
        return {
            "GPBT_RUN": self._guardian.run_id,
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
        if entered and not self._starting and self._zygote is not None:
            self._zygote.warm()

    def _lives(self) -> None:
        """A member has come to its end: what it hangs on lives long enough."""
        self._deaths = 0

    def _fork_lives(self) -> None:
        self._forks_live = True

    # -- what died

    async def _mend(self, forked: bool) -> None:
        """Start again what died: the guardian, the zygote. Raises LaunchError when that has no end."""
        async with self._mending:
            if not self._guardian.alive:
                self._count_death(f"guardian {self._guardian.fate}")
                await self._guardian.reap(DEADLINE)
                self._guardian.start()
            if forked and not self.exec and not (self._zygote is not None and self._zygote.alive):
                if self._zygote is not None:
                    self._warms &= not self._zygote.hung_warming
                    await self._zygote.ended(DEADLINE)
                    if not self._zygote.lost:  # with the guardian, which is counted
                        self._count_death(f"zygote {self._zygote.fate}")
                self._end_zygote()
                try:
                    await self._start_zygote()
                except ZygoteDied as error:  # the script could be imported before
                    raise LaunchError(str(error)) from None

    def _count_death(self, fate: str) -> None:
        self._deaths += 1
        if self._deaths > DEATHS:
            words = self._zygote.last_words() if self._zygote is not None else ""
            raise LaunchError(f"the {fate} {self._deaths} times in a row{words}")
        self._log(f"the {fate}; starting it again")
