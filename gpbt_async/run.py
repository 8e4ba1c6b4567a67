"""A run from outside: open it, listen to it, stop it, read what it came to.

This is the door for applications (`async with gpbt.Run(...)`, `await gpbt.launch(...)`) and for the command line. It
opens every room in order, hands them to a Scheduler, and closes them again in reverse, whatever happens in between:
one AsyncExitStack is the whole of that promise. It forces nothing on the application: no signal handler, no event-loop
policy, no logging set-up; what a person should know goes to the logger "gpbt_async" and to listeners.

The surprise: a script is imported by the zygote alone, so a run of a script learns what it will do only after the
first processes have started. Everything that can be refused earlier (names, folders, locks, options) is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import events, results
from .asking import FD, Asking, argv
from .checkpoints import Store
from .devices import discover
from .errors import ExperimentError, GPBTError, JournalError, RunFailed, ScriptError
from .experiment import Experiment, Settings
from .files import write_json
from .folder import Folder, check_name
from .journal import Journal
from .launcher import Launcher
from .lineage import Lineage
from .listeners import Listener
from .record import Record
from .scheduler import Clock, Scheduler
from .tree import State
from .usage import Usage

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType
    from typing import Self

    from .devices import Slots
    from .events import Event
    from .results import Best

log = logging.getLogger("gpbt_async")

VERSION = "0.1.0"
Resume = Literal["never", "auto", "must"]
#: seconds to wait for the processes of a scheduler that was killed a moment ago to be cleared away
PATIENCE = 5.0


class Run:
    """One execution of an experiment, in one folder. An async context manager: entering starts it, leaving stops it.

    experiment: an Experiment, the path of a script that declares one, or None to resume `folder` as it was declared.
    folder: where the run lives; None = the first free `runs/NAME-N`. resume: "never" refuses a folder that holds a
    run, "must" one that does not, "auto" takes both. slots: CPU slots. gpus: "all", "none", indices or UUIDs with
    commas; None = as the experiment's resources say. start: "zygote" (fork of a process that has imported the script)
    or "exec" (a fresh interpreter a member). changes: fields of the experiment to replace, of a new run only.

    Raises GPBTError's subclasses on entering when nothing can be started, and RunFailed, LaunchError or SearcherError
    from `wait` and on leaving when it was started and failed.
    """

    def __init__(
        self,
        experiment: Experiment | str | os.PathLike[str] | None,
        folder: str | os.PathLike[str] | None = None,
        *,
        resume: Resume = "never",
        slots: int | None = None,
        gpus: str | None = None,
        start: Literal["zygote", "exec"] = "zygote",
        runs: str | os.PathLike[str] = "runs",
        nvml_library: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        if resume not in ("never", "auto", "must"):
            raise ExperimentError.of("resume", resume, "must be 'never', 'auto' or 'must'")
        if start not in ("zygote", "exec"):
            raise ExperimentError.of("start", start, "must be 'zygote' or 'exec'")
        if folder is None and (experiment is None or resume == "must"):
            raise ExperimentError.of("folder", folder, "must be given to resume a run")
        self._experiment = experiment if isinstance(experiment, Experiment) else None
        self._script = Path(os.path.abspath(experiment)) if isinstance(experiment, str | os.PathLike) else None
        self._path = Path(os.path.abspath(folder)) if folder is not None else None
        self._resume = resume
        self._cpu_slots, self._gpus, self._start, self._runs = slots, gpus, start, Path(os.path.abspath(runs))
        self._nvml_library = nvml_library
        self._changes = dict(changes or {})
        self._listeners: list[Listener] = []
        self._stack = contextlib.AsyncExitStack()
        self._task: asyncio.Task[None] | None = None
        self._scheduler: Scheduler | None = None
        self._journal: Journal | None = None
        self._record = Record(run=secrets.token_hex(8), cwd=os.getcwd())
        self._clock = Clock()
        self._entered = False
        self.warnings: list[str] = []
        #: the run's folder, once entered
        self.folder: Folder
        self.settings: Settings
        self.lineage: Lineage
        self.usage = Usage()
        self.slots: Slots | None = None
        #: "finished", "failed" or "interrupted", once over; None while it runs
        self.how: str | None = None

    # ---- what it is, what it came to

    @property
    def best(self) -> Best | None:
        """The best published member so far: member, score, config, schedule, checkpoint. None before the first."""
        if not hasattr(self, "lineage"):
            return None
        best = self.lineage.best
        return results.best_of(best, self.folder.member(best.id).checkpoint if best else None)

    @property
    def name(self) -> str:
        return self.folder.name

    def pids(self) -> dict[str, int | None]:
        """The processes beside the members: guardian and zygote, by name."""
        return self._launcher.pids() if self._task is not None else {}

    def summary(self) -> dict[str, Any]:
        """What stands in summary.json, as of now."""
        try:
            size = sum(entry.stat().st_size for entry in self.folder.members.rglob("*") if entry.is_file())
        except OSError:  # a checkpoint is being deleted under us
            size = 0
        return results.summary(
            self.lineage,
            self.usage.so_far(),
            run=self.folder.name,
            how=self.how,
            disk_bytes=size,
            version=VERSION,
        )

    # ---- its life

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a Run is entered once; make another to go on")
        self._entered = True
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._task is not None and not self._task.done():
                self.stop()
            # not shielded from a second cancellation: whoever cancels twice wants out, and the guardian cleans up
            with contextlib.suppress(GPBTError) if kind is not None else contextlib.nullcontext():
                await self.wait()
        finally:
            await self._stack.aclose()

    async def wait(self) -> Best | None:
        """Until the run is over; its best. Raises what made it fail."""
        if self._task is not None:
            await asyncio.shield(self._task)
        return self.best

    def stop(self) -> None:
        """Ask the run to stop: its members are ended, and it can be resumed. Returns at once; `wait` for the end."""
        if self._scheduler is not None:
            self._scheduler.stop()

    def kill(self) -> None:
        """End every process of the run at once, without grace. For the second Ctrl-C."""
        self.stop()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Events from now on, until the run is over. A slow listener misses some (and is told), never holds it up."""
        listener = Listener()
        if self._task is None or self._task.done():
            listener.close()
        self._listeners.append(listener)
        return listener

    # ---- opening

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        existing = self._existing()
        if existing is not None:
            self.folder = existing
            await self._lock(stack)
            if await self._reopen(stack):
                return
        else:
            self._create(stack)
            await self._lock(stack)
        self._launcher = Launcher(
            self._record.run,
            cwd=self._record.cwd,
            start=self._start,
            log=self.warn,
        )
        await stack.enter_async_context(self._launcher)
        self._launcher.hold(self._held.fileno())
        await self._declare(existing is None)
        resources = self.settings.resources
        self.slots = await discover(
            gpus=self._gpus,
            wants_gpus=resources.gpus,
            cpu_slots=self._cpu_slots,
            population=self.settings.population,
            cpus=resources.cpus,
            environ=os.environ,
            nvml_library=self._nvml_library,
            warn=self.warn,
        )
        stack.push_async_callback(self.slots.close)
        if existing is None:
            self._record.settings = self.settings
            await self._record.write(self.folder.experiment, created=self._clock.now())
            self._open_journal(stack)
            self.lineage = Lineage(self.settings)
        await self._begin(stack)

    def _existing(self) -> Folder | None:
        """The folder to resume, None for a new run. Raises FolderError when it must be there and is not."""
        if self._path is None or self._resume == "never":
            return None
        if self._resume == "auto" and not Folder(self._path).experiment.exists():
            return None
        return Folder.open(self._path)

    def _create(self, stack: contextlib.AsyncExitStack) -> None:
        """Take the new run's name, before anything is started; give it back if nothing comes of it."""
        if self._script is not None and not self._script.is_file():
            what = "is not a file" if self._script.exists() else "does not exist"
            raise ScriptError(f"{self._script} {what}: give the path of a Python script that declares an Experiment")
        if self._path is not None:
            check_name(self._path.name)
            self.folder = Folder.create(self._path)
        else:
            self.folder = Folder.fresh(self._runs, self._stem())
        stack.callback(self.folder.unmake)

    def _stem(self) -> str:
        if self._script is not None:
            return self._script.stem
        assert self._experiment is not None
        settings = self._experiment.settings
        return Path(settings.target.file if settings.target else (settings.command or ("run",))[0]).stem

    async def _lock(self, stack: contextlib.AsyncExitStack) -> None:
        self._held = await self.folder.lock(PATIENCE)
        stack.callback(self._held.release)

    async def _reopen(self, stack: contextlib.AsyncExitStack) -> bool:
        """Read what the run was and how far it came. True when it has ended, and nothing is to be started."""
        self._record = Record.read(self.folder.experiment)
        assert self._record.settings is not None
        self.settings = self._record.settings
        if self._script is None and self._record.script is not None:
            self._script = Path(self._record.script)
        self._open_journal(stack)
        assert self._journal is not None
        facts = self._journal.replay()
        self.lineage = Lineage(self.settings)
        for fact in facts:
            try:
                self.lineage.handle(fact)
            except JournalError as error:
                raise JournalError(f"{self.folder.journal}: {error}") from None
            self.usage.fold(fact, self.lineage)
        if self.lineage.ended is None:
            return False
        self.how = "failed" if self.lineage.ended.reason else "finished"
        if self.lineage.ended.reason:
            raise RunFailed(f"the run has failed already: {self.lineage.ended.reason}")
        return True

    def _open_journal(self, stack: contextlib.AsyncExitStack) -> None:
        self._journal = Journal.open(self.folder.journal, version=VERSION)
        stack.callback(self._journal.close)

    async def _declare(self, new: bool) -> None:
        """Let guardian and zygote start, and settle what the run is to do."""
        if self._script is not None:
            declared = await self._launcher.open_script(self._script)
            self._same_script()
            if new:
                self.settings = Settings.from_json(declared["experiment"])
        else:
            if new:
                assert self._experiment is not None
                self.settings = self._experiment.settings
            if self.settings.target is not None:
                await self._launcher.open_target(self.settings.target.to_json())
            else:
                await self._launcher.open_command()
        if new and self._changes:
            self.settings = self.settings.replaced(**self._changes)

    def _same_script(self) -> None:
        assert self._script is not None
        if not self._record.same_script(self._script):
            self.warn(f"{self._script} has changed since the run began: its new code trains the rest")

    async def _begin(self, stack: contextlib.AsyncExitStack) -> None:
        """Everything is there: open the last rooms and set the loop going."""
        assert self.slots is not None
        assert self._journal is not None
        s = self.settings
        if s.schedule == "async" and len(self.slots) > max(1, s.population // 2):
            self.warn(
                f"{len(self.slots)} slots for a population of {s.population}: with more slots than half the population "
                "fast configs are favoured; a larger population or --evidence 1 avoids it"
            )
        self._launcher.log_to(self.folder.script_log)
        if s.command is None:
            self._launcher.spares(min(len(self.slots), s.population))
        if self._held.rebooted:
            self._distrust()
        store = Store()
        stack.callback(store.close)
        trained = [m for m in self.lineage.tree.members if m.state is State.TRAINED]
        store.sweep(self.folder.members, {self.folder.member(m.id).path.name for m in trained})
        asking = Asking(s.space, s.searcher, self._spawn_searcher)
        stack.push_async_callback(asking.close)
        control = self.folder.listen(self._told)
        stack.callback(control.close)
        self._scheduler = Scheduler(
            lineage=self.lineage,
            usage=self.usage,
            journal=self._journal,
            folder=self.folder,
            store=store,
            slots=self.slots,
            launcher=self._launcher,
            asking=asking,
            clock=self._clock,
            cwd=self._record.cwd,
            tell=self._tell,
        )
        self._task = asyncio.create_task(self._main(asking), name=f"gpbt-async {self.folder.name}")

    def _distrust(self) -> None:
        """The machine was started anew: what was trained but not published was never synced. Train it again."""
        assert self._journal is not None
        for member in self.lineage.tree.members:
            if member.state is State.TRAINED:
                fact = events.Lost(
                    t=self._clock.now(), member=member.id, attempt=member.attempt, reason="the machine was restarted"
                )
                self._journal.append(fact)
                self.lineage.handle(fact)
                self.usage.fold(fact, self.lineage)

    async def _spawn_searcher(self) -> tuple[socket.socket, int]:
        return await self._launcher.spawn_helper(argv(), {**os.environ, FD: "3"})

    def _told(self, line: str) -> None:
        if line == "stop":
            self.stop()
        else:
            self.warn(f"somebody told this run {line!r}, which it does not understand")

    # ---- running

    async def _main(self, asking: Asking) -> None:
        assert self._scheduler is not None
        assert self.slots is not None
        opened = events.Opened(t=self._clock.now(), slots=len(self.slots), version=VERSION, pid=os.getpid())
        early = asyncio.create_task(asking.open())
        try:
            reason = await self._scheduler.run(opened)
            self.how = "interrupted" if reason is None else "failed" if reason else "finished"
            await self._close(reason or "")
            if self.how == "failed":
                raise RunFailed(f"{reason}; see {self.folder.path}")
        except BaseExceptionGroup as group:
            error = _first(group)
            if error is None:
                raise
            self.how = "interrupted"
            await self._close(str(error))
            raise error from None
        finally:
            early.cancel()
            for listener in self._listeners:
                listener.close()

    async def _close(self, reason: str) -> None:
        """Write down what the run came to, so far or for good."""
        assert self._scheduler is not None
        assert self._journal is not None
        how = self.how or "interrupted"
        closed = events.Closed(t=self._clock.now(), how=how, reason=reason)  # type: ignore[arg-type]
        self._scheduler.turn(closed)
        await self._journal.durable()
        await write_json(self.folder.schedule, results.schedule(self.lineage))
        await write_json(self.folder.summary, self.summary())

    def warn(self, text: str) -> None:
        """Tell a person one sentence, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            log.warning(text)
            self._tell(events.Warned(t=self._clock.now(), text=text))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener.put(event)


def _first(group: BaseExceptionGroup[BaseException]) -> GPBTError | None:
    """The first of our own errors among a task group's, unless a bug is among them too."""
    ours, others = group.split(GPBTError)
    if ours is None or others is not None:
        return None
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, GPBTError)
    return error


async def launch(
    experiment: Experiment,
    folder: str | os.PathLike[str] | None = None,
    *,
    resume: Resume = "never",
    **options: Any,
) -> Best | None:
    """Run an experiment to its end and return its best member: the short form of `async with Run(...)`.

    Takes Run's arguments, and raises what it raises. Cancelling it stops every member and leaves a run to resume.
    """
    async with Run(experiment, folder, resume=resume, **options) as run:
        return await run.wait()
