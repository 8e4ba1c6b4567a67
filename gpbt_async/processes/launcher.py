"""The launcher starts all processes of a run: the guardian, the zygote and helpers below it, and the members.

It also handles failed starts. If guardian or zygote die, it starts them again. If a forked member hangs (deadlock.py),
it kills the member, and starts members as fresh processes from then on. It does the same if the script uses CUDA or
starts native threads during its import. Each of these events is reported once.

When the context is left, no process of the run is alive. The surprise is how little the launcher does for that: it
closes two sockets and waits for the end of the guardian, which kills all others first. If a member dies together with
its zygote or guardian, its attempt does not count. The launcher counts these deaths, so that the run does not repeat
them for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ..declaration.address import Address
from ..errors import Advice, LaunchError
from . import deadlock, linux, wire
from .cancellation import uncancelled
from .guardian import HOME, Guardian
from .learned_imports import LearnedImports
from .program import Program
from .residents import Residents, place_of
from .worker import Worker
from .zygote import PATH, Zygote, ZygoteDied, file_of, unforkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..declaration.target import Target
    from .zygote_messages import Declaration, Order


_MEMBER = (
    PATH
    + "from gpbt_async.member.member_main import main; what = sys.argv[2]; sys.argv[:] = sys.argv[3:]; main(3, what)"
)
#: guardians and zygotes that may die in a row, no member returning in between, before the run is given up
DEATHS = 3
#: seconds: of training before the zygote warms up beside it (what ends sooner uses no optimizer); of killing everything
SHORT, DEADLINE = 0.1, 5.0


class Launcher:
    """An async context manager. run_id marks every process of the run (GPBT_RUN). log: called with every warning.

    start: "exec" = fresh processes; "zygote" = forks, even of a script that has native threads; None = forks where they
    are safe; "resident" = the same, and each process trains member after member. A fork that provably hangs ends
    forking in any case. hello_timeout: seconds a process may take to send its first message. grace: seconds from
    SIGTERM to SIGKILL. stays: whether processes train member after member; may be set to False.
    """

    def __init__(
        self,
        run_id: str,
        *,
        cwd: str | os.PathLike[str] | None = None,
        start: str | None = None,
        hello_timeout: float = 10.0,
        grace: float = 2.0,
        log: Callable[[Advice], object] = lambda warning: print(warning, file=sys.stderr),
    ) -> None:
        #: whether members start as fresh processes, by choice or as the fallback
        self.exec = start == "exec"
        self._insists = start == "zygote"
        self.stays, self._residents = start == "resident", Residents(log)
        self._hello_timeout = hello_timeout
        self._grace = grace
        self._log = log
        self._output = os.memfd_create("output", os.MFD_CLOEXEC)
        self._guardian = Guardian(run_id, os.fspath(cwd) if cwd is not None else os.getcwd(), self._output, log)
        self._zygote: Zygote | None = None
        self._retired: list[Zygote] = []  # their members train on
        self._order: Order | None = None  # what the zygote imports; None: members are programs
        self._spares = 1
        self._log_path: str | None = None
        self._starting = 0  # members that have been requested, and have neither entered training nor failed
        self._deaths = 0
        self._warms = True
        self._renews = start != "resident"  # else the zygote warms up once a process has to be replaced
        self._learned = LearnedImports(log)
        self._mute = 0
        self._forks_live = False  # whether one has reported, or returned
        self._mending = asyncio.Lock()

    # -- the context

    async def __aenter__(self) -> Launcher:
        # what an earlier session of this run has left, if its guardian was killed as well
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
        await self.end_residents()
        self._end_zygote()
        await self._guardian.close(DEADLINE)
        os.close(self._output)

    def _end_zygote(self) -> None:
        for zygote in (self._zygote, *self._retired):
            if zygote is not None:
                zygote.close()
        self._zygote = None
        self._retired.clear()

    def kill(self) -> None:
        """End every process of the run now, without grace. Workers see these deaths like any other."""
        self._guardian.kill_below()

    def pids(self) -> dict[str, int | None]:
        return {"guardian": self._guardian.pid, "zygote": self._zygote.pid if self._zygote is not None else None}

    # -- the script

    async def open_script(self, script: Address | str | os.PathLike[str]) -> Declaration:
        """Import the script, and return what it declares.

        Takes as long as the import does. Raises ScriptError or ExperimentError with one message for a person.
        """
        address = script if isinstance(script, Address) else Address(os.path.abspath(script))
        return await self._open(address.to_json())

    async def open_target(self, target: Target) -> Declaration:
        """Import what an application's own experiment trains. Raises ScriptError."""
        return await self._open({"target": target.to_json()})

    async def open_command(self) -> None:
        """Nothing to import: members are programs."""

    async def _open(self, order: Order) -> Declaration:
        self._order = order
        declaration: Declaration | None = None
        while declaration is None:
            declaration = await self._imported()
        hazard = unforkable(declaration, self._insists)
        if hazard is not None and not self.exec:
            forks, advice = hazard
            self.exec = not forks
            self._log(advice)
        if self.exec or declaration["experiment"].get("command"):
            self._end_zygote()  # not needed any more, and it would hold memory, a GPU's perhaps
        return declaration

    async def _imported(self) -> Declaration | None:
        """Import the script; None to try again, because the process that imported it was killed."""
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

    async def _start_zygote(self) -> Declaration:
        assert self._order is not None
        self._zygote = zygote = Zygote(
            self._guardian, self._order, spares=self._spares, patience=self._hello_timeout, grace=self._grace,
            warms=self._warms, learned=self._learned.safe, log=self._log,
        )  # fmt: skip
        zygote.on_hazard = self._hazard
        declaration = await zygote.open()
        if self._log_path is not None:
            zygote.log_to(self._log_path)
        return declaration

    def hold(self, fd: int) -> None:
        """Keep this file open, and so a lock on it, until the last process of the run is gone."""
        self._guardian.hold(fd)

    def log_to(self, path: str | os.PathLike[str]) -> None:
        """The file for the zygote's output, including what it has written so far."""
        self._log_path = os.fspath(path)
        if self._zygote is not None:
            self._zygote.log_to(self._log_path)

    def spares(self, n: int) -> None:
        """How many forks to keep ready: one for each slot. Resident processes are replaced one at a time."""
        self._spares = n = min(n, 1) if self.stays else n
        if self._zygote is not None:
            self._zygote.keep(n)

    async def spawn_helper(
        self, argv: Sequence[str], env: Mapping[str, str], log: str | None = None
    ) -> tuple[socket.socket, int]:
        """Start a program below the guardian whose descriptor 3 is a socket; our end of it, and the pidfd.

        log: the file its output goes to; by default it goes where the zygote's goes.
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

    async def start(self, begin: wire.Begin, *, argv: Sequence[str] | None = None, fresh: bool = False) -> Worker:
        """Start a member's process, and send it Begin. argv: a program instead of the training function. fresh: a
        process that has trained no other member, and trains no other afterwards.

        Raises LaunchError when no process can be started, ScriptError when the script can no longer be imported.
        """
        stays = self.stays and argv is None and not fresh
        begin = replace(begin, env={**self._standard(begin), **begin.env}, stays=stays)
        self._starting += 1
        worker = self._residents.take(place_of(begin)) if stays else None
        try:
            while worker is None:
                worker = await self._attempt(begin, argv)
        finally:
            if worker is None:
                self._start_ended(False)
        worker.on_first = lambda entered: self._start_ended(entered, worker)
        worker.on_returned = lambda: self._returned(worker)
        worker.on_free = self._free
        try:
            worker.begin(begin)
        except BaseException:  # a config may be longer than a message
            worker.kill()
            worker.close()
            self._start_ended(False)
            raise
        if self._zygote is not None:
            self._zygote.keep()
        return worker

    async def _attempt(self, begin: wire.Begin, argv: Sequence[str] | None) -> Worker | None:
        """A worker that has sent Hello; None to try again."""
        forked = argv is None and not self.exec
        guardian, zygote = self._guardian.pid, self._zygote
        try:
            await self._mend(forked)
            guardian, zygote = self._guardian.pid, self._zygote
            if argv is not None:
                return await self._program(begin, argv)
            if not forked:
                return await self._greeted(await self._executed(begin))
            return await self._forked()
        except LaunchError as error:
            if isinstance(error.__cause__, OSError):
                raise  # not even a guardian can be started
            alive = self._guardian.alive and self._guardian.pid == guardian  # not one that was started since
            alive &= not forked or (zygote is not None and zygote.alive and zygote is self._zygote)
            if alive or self._deaths > DEATHS:
                raise  # if neither died, the machine refuses
            return None

    async def _forked(self) -> Worker | None:
        if self.exec or self._zygote is None:
            return None  # a fork hung while this one waited, and ended forking
        worker = await self._zygote.take()
        worker.on_life = self._fork_lives
        deadlock.DeadlockWatch(worker, lambda evidence: self._hangs(worker, evidence), lambda: self._forks_live)
        return await self._greeted(worker)

    async def _greeted(self, worker: Worker) -> Worker | None:
        try:
            # a fork has only to send Hello; half the time, as forking ends after two that do not
            await asyncio.wait([worker.hello], timeout=self._hello_timeout / (1 + worker.forked))
            if worker.hello.done() and worker.hello.result() and not worker.dead:
                self._mute = 0
                return worker
            await self._silent(worker)
        except BaseException:
            worker.kill()
            worker.close()
            raise
        return None

    async def _silent(self, worker: Worker) -> None:
        """A process has sent no Hello in time: kill it, and after two in a row stop forking."""
        died = worker.dead
        async with worker:
            worker.kill()
        if worker.outcome.how is wire.Exit.LOST:
            return  # it died with the zygote, whose deaths _mend counts
        self._mute += 1
        if self._mute < 2:
            return
        how = "died" if died else f"said nothing for {self._hello_timeout / (1 + worker.forked):g} s and was killed"
        if not worker.forked:
            raise LaunchError(f"a member's process {how} before it could begin; its log may say why")
        self._stop_forking(f"a forked member {how} before it could begin, twice", "")

    def _hangs(self, worker: Worker, evidence: str) -> None:
        """A fork is deadlocked: it is lost, and so would be the next."""
        worker.lose(f"hung after its fork: {evidence}")
        name = f"member {worker.member}" if worker.begun is not None else "a forked member"
        self._stop_forking(
            f"{name} hung after its fork and was killed ({evidence})",
            " (a lock of the script's own that is never released looks the same)",
        )

    def _stop_forking(self, why: str, caveat: str) -> None:
        """From now on members are fresh processes; those that train already go on."""
        self._mute = 0
        if self.exec:
            return
        self.exec = True
        self._retire_zygote()
        slower = f"{why}: members start as fresh processes from now on, which is slower"
        self._log(Advice(slower, f"move what starts threads at the top level of the script into train{caveat}"))

    def _retire_zygote(self) -> None:
        """No more forks of this zygote; those that train go on."""
        if self._zygote is not None:
            self._zygote.retire()
            self._retired.append(self._zygote)
            self._zygote = None

    def _free(self, worker: Worker) -> None:
        """The member is over, and its process stays: it may train another."""
        if worker.begun is not None:
            self._residents.put(place_of(worker.begun), worker)

    def end_resident(self, pid: int) -> None:
        """End an idle resident process: its GPU is wanted."""
        self._residents.end(pid)

    async def end_residents(self) -> None:
        """End all idle resident processes, each by itself if it can."""
        await self._residents.close(self._grace)

    def _learn(self, worker: Worker) -> None:
        """A member has returned: the zygote imports what the member had to, so that later members need not."""
        if (end := worker.end) is not None and worker.forked and self._zygote is not None:
            self._learned.heard(end)
            self._renews |= bool(worker.retires)
            self._zygote.learn(self._learned.safe if self._renews else ())
            self._zygote.members_return()

    def _hazard(self, name: str, why: str) -> None:
        """The zygote has imported a module after which it cannot fork: the next one imports the script without that."""
        self._learned.leave_out(name, why)
        self._retire_zygote()

    async def _executed(self, begin: wire.Begin) -> Worker:
        """A fresh interpreter. It gets its environment at once, as the script may touch CUDA while it is imported."""
        assert self._order is not None
        threads = dict.fromkeys(linux.THREADS, str(begin.threads)) if begin.threads is not None else {}
        argv = [sys.executable, "-P", "-c", _MEMBER, HOME, json.dumps(self._order), file_of(self._order)]
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
            with contextlib.suppress(OSError):  # the program may have ended already
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

    def _start_ended(self, entered: bool, worker: Worker | None = None) -> None:
        """A member has entered training, or never will. While one trains, the zygote has time to warm up."""
        self._starting -= 1
        if entered and worker is not None and self._renews:
            asyncio.get_running_loop().call_later(SHORT, self._warm_beside, worker)

    def _warm_beside(self, worker: Worker) -> None:
        if worker.end is None and not worker.dead and not self._starting and self._zygote is not None:
            self._zygote.warm()

    def _returned(self, worker: Worker) -> None:
        """A member has returned: guardian and zygote live long enough."""
        self._deaths = 0
        self._learn(worker)
        self._residents.heard(worker)

    def _fork_lives(self) -> None:
        self._forks_live = True

    # -- deaths of guardian and zygote

    async def _mend(self, forked: bool) -> None:
        """Start the guardian and the zygote again if they died. Raises LaunchError after too many deaths."""
        async with self._mending:
            if not self._guardian.alive:
                self._count_death(f"guardian {self._guardian.fate}")
                await self._guardian.reap(DEADLINE)
                self._guardian.start()
            if forked and not self.exec and not (self._zygote is not None and self._zygote.alive):
                if self._zygote is not None:
                    module = self._zygote.importing
                    self._warms &= not self._zygote.hung_warming or module != ""
                    await self._zygote.ended(DEADLINE)
                    if module and not self._zygote.lost:
                        self._learned.leave_out(module, f"the process that forks them {self._zygote.fate} while it did")
                    elif not self._zygote.lost:  # else it died with the guardian, whose death is counted
                        self._count_death(f"zygote {self._zygote.fate}")
                    self._zygote.close()  # alone: retired ones end with their last members
                try:
                    await self._start_zygote()
                except ZygoteDied as error:  # the script could be imported before, so it is not the script's fault
                    raise LaunchError(str(error)) from None

    def _count_death(self, fate: str) -> None:
        self._deaths += 1
        if self._deaths > DEATHS:
            output = self._zygote.last_output() if self._zygote is not None else ""
            raise LaunchError(f"the {fate} {self._deaths} times in a row{output}")
        self._log(Advice(f"the {fate}; starting it again"))
