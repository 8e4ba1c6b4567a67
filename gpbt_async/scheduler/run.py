"""A run from outside: start it, listen to it, stop it, read its results.

Applications and the command line use it. `Run` lets startup.py open a run, gives it to a Scheduler, and closes it again
in reverse order, also after an error: one AsyncExitStack does that. It installs nothing in the application: no signal
handler, no event-loop policy, no logging set-up. Warnings go to the logger "gpbt_async" and to listeners.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__ as VERSION
from ..declaration import standalone
from ..declaration.run_options import RunOptions
from ..errors import FolderError, GPBTError, first
from ..experiment import silenced
from ..findings import Finding
from ..storage.control import ControlListener, ControlRequest
from ..storage.files import bytes_below, write_json
from .clock import Clock
from .event_stream import EventStream
from .startup import Resume, RunRequest, Startup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType
    from typing import Self

    from ..analysis.run_summary import Best, Summary
    from ..analysis.usage import Usage
    from ..devices.slots import Pool
    from ..engine.engine import Engine
    from ..events import Event, RunStatus
    from ..experiment import Changes, Experiment, Settings
    from ..storage.folder import RunFolder
    from ..storage.run_config import RunConfig
    from .gpu_status import GpuStatus
    from .loop import Scheduler
    from .open_run import OpenRun, RunState


log = logging.getLogger("gpbt_async")


class Run:
    """One execution of an experiment, in one folder. An async context manager: entering starts it, leaving stops it.

    experiment: an Experiment, a script that declares one (a path, a module as "pkg.train", of several "FILE:NAME"), or
    None to resume `folder` as it was declared. folder: where the run lives; None = the first free `runs/NAME-N`.
    resume: "never" refuses a folder that holds a run, "must" one that does not, "auto" takes both. changes: fields of
    the experiment to replace, of a new run only. changed_script: resume though the script is not what it was. adopt:
    fields to take over as they are declared now, as ("space",); a warning names any other difference, and the run
    goes on as it began. retry_failed: give the members that failed last all attempts again. strict: end at the first
    finding of the pre-flight (PreflightError). silence: findings that this session does not report. again: begin a new
    run as that one began: its script, settings, slots, GPUs, trackers.

    The others are options (declaration.run_options.RunOptions, which gives their values): None = not given, and then a
    resume has what the run had before. slots >= 1: on the CPU. gpus: None = as the experiment's resources say. share >=
    1, vram, as "6GiB": over those of the resources. start: "zygote" (fork of a process that has imported the script,
    even if that has started native threads), "exec" (a fresh interpreter a member) or "resident" (each slot has one
    process, which trains member after member); None = forks where they are safe. wait_for_gpus: when every GPU is
    taken, wait instead of refusing. xids: over devices.xids.XIDS. affinity: bind members to cores near their GPU (the
    default). disk: the most that the checkpoints kept may take, as "50GiB"; then members wait. others_may_use: GPU
    memory, as "2GiB". track: as "jsonl" or "mlflow:mlruns" (guide "report"). At a resume, "none" resets share, vram,
    start, others_may_use, nvml_library and disk; {} resets xids, and () track.

    Raises GPBTError's subclasses on entering when nothing can be started; RunFailed, LaunchError or SearcherError from
    `wait` and on leaving when it was started and failed.
    """

    #: finished, failed or interrupted, once over; None while it runs
    how: RunStatus | None = None
    _state: RunState | None = None
    _open: OpenRun | None = None
    _scheduler: Scheduler | None = None
    _task: asyncio.Task[None] | None = None
    _stopping = _pausing = _entered = False

    def __init__(
        self,
        experiment: Experiment | str | os.PathLike[str] | None,
        folder: str | os.PathLike[str] | None = None,
        *,
        resume: Resume = "never",
        slots: int | None = None,
        gpus: str | None = None,
        start: Literal["zygote", "exec", "resident", "none"] | None = None,
        runs: str | os.PathLike[str] = "runs",
        share: int | Literal["none"] | None = None,
        vram: str | None = None,
        wait_for_gpus: bool | None = None,
        xids: Mapping[int, Literal["member", "card", "nobody"]] | None = None,
        others_may_use: str | None = None,
        affinity: bool | None = None,
        nvml_library: str | None = None,
        disk: str | None = None,
        track: Sequence[str] | None = None,
        changed_script: bool = False,
        adopt: Sequence[str] = (),
        retry_failed: bool = False,
        strict: bool = False,
        silence: Sequence[str] = (),
        changes: Changes | None = None,
        again: RunConfig | None = None,
    ) -> None:
        standalone.use()
        options = RunOptions(
            slots=slots, gpus=gpus, share=share, vram=vram, start=start, disk=disk, wait_for_gpus=wait_for_gpus,
            xids=dict(xids) if isinstance(xids, Mapping) else xids, others_may_use=others_may_use, affinity=affinity,
            nvml_library=nvml_library,
            track=None if track is None else (track,) if isinstance(track, str) else tuple(track),
        )  # fmt: skip
        self._clock = Clock()
        self._listeners: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self.warnings: list[str] = []
        request = RunRequest(
            experiment=experiment, folder=folder, resume=resume, options=options, runs=runs, adopt=adopt,
            changed_script=changed_script, retry_failed=retry_failed, changes=changes or {}, again=again,
        )  # fmt: skip
        self._startup = Startup(request, self._clock, self.warn)
        self._retry, self._strict, self._silence = retry_failed, strict, silenced(silence)
        self._stack = contextlib.AsyncExitStack()

    # ---- what it is, and its results

    def _entered_state(self) -> RunState:
        if self._state is None:
            raise RuntimeError("a Run knows this once it is entered: async with Run(...) as run")
        return self._state

    @property
    def folder(self) -> RunFolder:
        """Where the run lives; once entered."""
        return self._entered_state().folder

    @property
    def settings(self) -> Settings:
        """What the experiment declares, options applied; once entered."""
        return self._entered_state().settings

    @property
    def engine(self) -> Engine:
        """The engine, to read only; once entered."""
        return self._entered_state().engine

    @property
    def usage(self) -> Usage:
        """Where the slots' time went, in seconds, to read only; once entered."""
        return self._entered_state().usage

    @property
    def slots(self) -> Pool | None:
        """The slots; None when the run had finished already."""
        return self._open.slots if self._open is not None else None

    @property
    def findings(self) -> list[Finding]:
        """What the pre-flight has found so far, in order (guide "findings"); of a resumed run, before that too."""
        from ..analysis import run_summary

        return run_summary.findings(self.engine)

    @property
    def best(self) -> Best | None:
        """The best published member so far by the score, or a finished run's final choice; None before the first."""
        from ..analysis import run_summary

        return run_summary.best_of(self._state.engine, self._state.folder) if self._state is not None else None

    @property
    def name(self) -> str:
        """Its folder's name; once entered."""
        return self.folder.name

    def pids(self) -> dict[str, int | None]:
        """The processes beside the members: guardian and zygote, by name."""
        return self._startup.launcher.pids() if self._startup.launcher is not None else {}

    def summary(self) -> Summary:
        """The content of summary.json, as of now."""
        from ..analysis import run_summary

        folder, usage = self.folder, self.usage.so_far()
        size = bytes_below(folder.members)
        return run_summary.summary(self.engine, usage, how=self.how, disk_bytes=size, run=folder.name, version=VERSION)

    # ---- its life

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a Run is entered once; make another to go on")
        self._entered = True
        async with contextlib.AsyncExitStack() as stack:
            opened = await self._startup.open(stack)
            from .open_run import OpenRun

            if isinstance(opened, OpenRun):
                self._open, self._state = opened, opened.state
                self._begin(opened, stack)
            else:
                self._state = opened
                await self._complete(opened)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._task is not None and not self._task.done():
                self.stop()
            # not shielded from a second cancellation, which is meant to be quick: the guardian cleans up then
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
        self._stopping = True
        if self._scheduler is not None:
            self._scheduler.stop()

    def pause(self, on: bool = True) -> None:
        """Begin no member from now on; on=False: begin them again. Those that train go on; a resume forgets it."""
        self._pausing = on
        if self._scheduler is not None:
            self._scheduler.admission.pause(on)

    def kill(self) -> None:
        """End every process of the run at once, without grace. For the second Ctrl-C."""
        self.stop()
        if self._startup.launcher is not None:
            self._startup.launcher.kill()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Events from now on, until the run is over. A slow listener misses some (Missed), and never delays the run."""
        listener = EventStream()
        if self._task is None or self._task.done():
            listener.close()
        self._listeners.add(listener)
        return listener

    # ---- running

    def _begin(self, run: OpenRun, stack: contextlib.AsyncExitStack) -> None:
        """Open what the loop needs beside the run, and set the loop going."""
        from ..storage.checkpoints import CheckpointStore
        from .gpu_status import GpuStatus
        from .loop import Scheduler

        self._advise(len(run.slots))
        run.launcher.log_to(self.folder.script_log)
        if self.settings.command is None:
            run.launcher.spares(min(len(run.slots), self.settings.population))
        store = CheckpointStore()
        stack.callback(store.close)
        run.state.sweep(store)
        status = GpuStatus(self.folder.gpus, run.slots, self._clock.now, self.warn)
        keeping = asyncio.create_task(status.keep(), name="gpbt-async GPU status")
        stack.push_async_callback(_ended, keeping)
        control = ControlListener(self.folder.control, lambda line: self._obey(line, status))
        stack.callback(control.close)
        scheduler = Scheduler(run, store, self._clock, self._tell, strict=self._strict, silence=self._silence)
        self._scheduler = scheduler
        self.pause(self._pausing)  # both may have been asked for while the run was opened
        if self._stopping:
            self.stop()
        straying = asyncio.create_task(self._stray(scheduler), name="gpbt-async folder")
        stack.push_async_callback(_ended, straying)
        self._task = asyncio.create_task(self._main(run, scheduler), name=f"gpbt-async {self.folder.name}")

    def _advise(self, slots: int) -> None:
        s = self.settings
        if s.schedule == "async" and s.replay is None and slots > max(1, s.population // 2):
            self.warn(
                f"{slots} slots for a population of {s.population}: with more slots than half the population fast "
                "configs are favoured; a larger population or --evidence 1 avoids it"
            )
        if s.notice and not self.engine.count:
            log.info(s.notice)

    async def _stray(self, scheduler: Scheduler) -> None:
        scheduler.stop(await self.folder.until_moved())

    def _obey(self, line: str, status: GpuStatus) -> None:
        """Do what a line of the control FIFO asks for."""
        match ControlRequest.parse(line):
            case None:
                self.warn(f"unknown control command {line!r}")
            case ControlRequest.STOP, _:
                self.stop()
            case (ControlRequest.PAUSE | ControlRequest.GO_ON) as request, _:
                self.pause(request is ControlRequest.PAUSE)
            case request, gpu:
                status.obey(request, gpu)

    async def _main(self, run: OpenRun, scheduler: Scheduler) -> None:
        from .. import events
        from ..analysis.logs import failure
        from ..events import RunStatus

        early = asyncio.create_task(run.searcher.open())
        slots, pid = len(run.slots), os.getpid()
        opened = events.Opened(t=self._clock.now(), slots=slots, version=VERSION, pid=pid, retry=self._retry)
        try:
            reason = await scheduler.run(opened)
            self.how = RunStatus.without_process(None if reason is None else events.Finish(reason))
            await self._close(run.state, reason or "")
            if self.how == RunStatus.FAILED:
                raise failure(self.engine, self.folder)
        except BaseExceptionGroup as group:
            # whatever it was, a bug of gpbt-async included: the run is closed in its journal, and can be resumed
            error = FolderError(moved) if (moved := self.folder.moved()) else first(group)  # it tripped over that
            self.how = RunStatus.INTERRUPTED
            with contextlib.suppress(GPBTError):  # the first error is the one to raise
                await self._close(run.state, str(error or group))
            raise error or group from None
        finally:
            early.cancel()
            await run.tracking.close()
            for listener in tuple(self._listeners):
                listener.close()

    # ---- its end

    async def _complete(self, state: RunState) -> None:
        """The run had ended. If it was killed before it could tidy up, do it now; it takes no process."""
        from .. import events
        from ..analysis.logs import failure
        from ..storage.checkpoints import CheckpointStore

        ended = state.engine.ended
        assert ended is not None
        self.how = events.RunStatus.without_process(ended)
        store = CheckpointStore()
        try:
            store.sweep(self.folder.members, set())
            best = self.engine.best
            problem = await store.verify(self.folder.member(best.id).checkpoint) if best is not None else None
            if problem is not None:
                raise FolderError(f"{problem}: it is the run's best; bring it back from where it was copied to")
            for command in self.engine.outstanding():
                if isinstance(command, events.Discard):
                    await store.discard(self.folder.member(command.member).checkpoint)
                    state.apply(events.Discarded(t=self._clock.now(), member=command.member))
        finally:
            store.close()
        if not state.closed:
            await self._close(state, ended.reason)
        elif not (self.folder.summary.exists() and self.folder.schedule.exists()):
            await self._write_results()  # they were lost
        if ended.reason:
            raise failure(self.engine, self.folder, already=True)

    async def _close(self, state: RunState, reason: str) -> None:
        """Write down the run's results, so far or for good, and close it in its journal."""
        from .. import events
        from ..analysis import run_summary
        from ..events import RunStatus

        self.how = self.how or RunStatus.INTERRUPTED
        if self.how != RunStatus.INTERRUPTED:
            try:
                await self._write_results()  # before the fact that says so
            except GPBTError:
                self.how = RunStatus.INTERRUPTED
                raise
        measures = run_summary.measures(self.engine)
        closed = events.Closed(t=self._clock.now(), how=self.how, reason=reason, measures=measures)  # type: ignore[arg-type]
        state.apply(closed)
        self._tell(closed)
        await state.journal.durable()
        if self.how == RunStatus.INTERRUPTED:
            await self._write_results()

    async def _write_results(self) -> None:
        """Write schedule and summary, and link the best. A run that has ended waits for room on the disk to do it."""
        from ..analysis import run_summary
        from ..events import RunStatus
        from .disk_budget import PERIOD, is_full

        while True:
            if moved := self.folder.moved():  # what stands at its path now may be another run's
                raise FolderError(moved)
            try:
                if self.engine.best is not None:
                    self.folder.point_best(self.engine.best.id)
                await write_json(self.folder.schedule, run_summary.schedule(self.engine, self.folder.name))
                await write_json(self.folder.summary, self.summary())
                return
            except FolderError as error:
                if not is_full(error):
                    raise
                if self._stopping or self.how == RunStatus.INTERRUPTED:
                    self.how = RunStatus.INTERRUPTED  # a resume writes them
                    return
                self.warn(f"{error}: waiting for room")
            await asyncio.sleep(PERIOD)

    def warn(self, text: str) -> None:
        """Show a person one sentence (text), once."""
        if text not in self.warnings:
            from ..events import Warned

            self.warnings.append(text)
            log.warning(text)
            self._tell(Warned(t=self._clock.now(), text=text))

    def _tell(self, event: Event) -> None:
        from ..events import Found

        if isinstance(event, Found):
            log.warning(Finding.of(event).sentence)
        for listener in tuple(self._listeners):
            listener.put(event)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


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
