"""A run from outside: open it, listen to it, stop it, read what it came to.

The door for applications and for the command line. It has the rooms opened (opening.py), hands them to a Scheduler, and
closes them again in reverse, whatever happens in between: one AsyncExitStack is the whole of that promise. It forces
nothing on the application: no signal handler, no event-loop policy, no logging set-up; what a person should know goes
to the logger "gpbt_async" and to listeners.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__ as VERSION
from .. import events
from ..analysis import results
from ..analysis.logs import failure
from ..declaration import standalone
from ..declaration.options import RunOptions
from ..errors import FolderError, GPBTError, first
from ..experiment import silenced
from ..preflight.checks import finding_of
from ..storage.checkpoints import CheckpointStore
from ..storage.control import GO_ON, PAUSE
from ..storage.files import bytes_below, write_json
from .admission import Briefing
from .clock import Clock
from .disk_budget import PERIOD, is_full
from .event_stream import EventStream
from .gpu_status import GpuStatus
from .loop import Scheduler
from .startup import Resume, Startup

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from ..analysis.results import Best
    from ..analysis.usage import Usage
    from ..devices.slots import Pool
    from ..engine.engine import Engine
    from ..events import Event
    from ..experiment import Experiment, Settings
    from ..findings import Finding
    from ..searchers.client import SearcherClient
    from ..storage.folder import RunFolder
    from ..storage.run_config import RunConfig


log = logging.getLogger("gpbt_async")


class Run:
    """One execution of an experiment, in one folder. An async context manager: entering starts it, leaving stops it.

    experiment: an Experiment, a script that declares one (a path, a module as "pkg.train", of several "FILE:NAME"), or
    None to resume `folder` as it was declared. folder: where the run lives; None = the first free `runs/NAME-N`.
    resume: "never" refuses a folder that holds a run, "must" one that does not, "auto" takes both. slots >= 1: on the
    CPU. gpus: "all", "none", indices or UUIDs with commas; None = as the experiment's resources say. start: "zygote"
    (fork of a process that has imported the script, even if that has started native threads) or "exec" (a fresh
    interpreter a member); None = forks where they are safe. A resumed run has the slots, gpus and start it was begun
    with, unless others are given. changes: fields of the experiment to replace, of a new run only.

    share, vram: over those of the experiment's resources. wait_for_gpus: when every GPU is taken, wait instead of
    refusing. xids: whose fault an Xid is ("member", "card", "nobody"), over health.XIDS. others_may_use: GPU memory, as
    "2GiB", that a desktop may use on a GPU given out. affinity: bind members to cores near their GPU. nvml_library: the
    path of libnvidia-ml.so.1. disk: the most that the checkpoints kept may take, as "50GiB"; then members wait. track:
    trackers, as "jsonl" or "mlflow:mlruns" (trackers.py); None = as the run was begun. changed_script: resume though
    the script is not what it was. adopt: fields to take over as they are declared now, as ("space",); what else is
    declared otherwise than when the run began is told, and stays as it was. retry_failed: give those that failed last
    all attempts again. strict: end at the first finding of the pre-flight (PreflightError). silence: findings that this
    session does not tell. again: begin a new run as that one was: its script, settings, slots, GPUs, trackers. Raises
    GPBTError's subclasses on entering when nothing can be started; RunFailed, LaunchError or SearcherError from `wait`
    and on leaving when it was started and failed.
    """

    def __init__(
        self,
        experiment: Experiment | str | os.PathLike[str] | None,
        folder: str | os.PathLike[str] | None = None,
        *,
        resume: Resume = "never",
        slots: int | None = None,
        gpus: str | None = None,
        start: Literal["zygote", "exec"] | None = None,
        runs: str | os.PathLike[str] = "runs",
        share: int | None = None,
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
        changes: Mapping[str, Any] | None = None,
        again: RunConfig | None = None,
    ) -> None:
        standalone.use()
        self._clock = Clock()
        self._opening = Startup(
            experiment,
            folder,
            resume=resume,
            options=RunOptions(
                slots=slots,
                gpus=gpus,
                share=share,
                vram=vram,
                start=start,
                disk=disk,
                wait_for_gpus=wait_for_gpus,
                xids=xids,
                others_may_use=others_may_use,
                affinity=affinity,
                nvml_library=nvml_library,
                track=None if track is None else tuple(track),
            ),
            runs=runs,
            changed_script=changed_script,
            adopt=adopt,
            retry_failed=retry_failed,
            changes=changes,
            again=again,
            clock=self._clock,
            warn=self.warn,
        )
        self._listeners: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._stack = contextlib.AsyncExitStack()
        self._task: asyncio.Task[None] | None = None
        self._scheduler: Scheduler | None = None
        self._strict, self._silence = strict, silenced(silence)
        self._stopping = self._pausing = self._entered = False
        self.warnings: list[str] = []
        #: "finished", "failed" or "interrupted", once over; None while it runs
        self.how: str | None = None

    # ---- what it is, what it came to

    @property
    def folder(self) -> RunFolder:
        """Where the run lives; once entered."""
        return self._opening.folder

    @property
    def settings(self) -> Settings:
        """What the experiment declares, options applied; once entered."""
        return self._opening.settings

    @property
    def engine(self) -> Engine:
        """The engine, to be read only; once entered."""
        return self._opening.engine

    @property
    def usage(self) -> Usage:
        """Where the slots' time went, in seconds, to be read only; once entered."""
        return self._opening.usage

    @property
    def slots(self) -> Pool | None:
        """The slots; None when the run had finished already."""
        return getattr(self._opening, "slots", None)

    @property
    def findings(self) -> list[Finding]:
        """What the pre-flight has found so far, in order (guide "findings"); of a resumed run, before that too."""
        return [finding_of(fact) for fact in self.engine.findings]

    @property
    def best(self) -> Best | None:
        """The best published member so far: member, score, config, schedule, checkpoint. None before the first."""
        best = self.engine.best if hasattr(self._opening, "engine") else None
        return results.best_of(best, self.folder.member(best.id).checkpoint if best else None)

    @property
    def name(self) -> str:
        """Its folder's name; once entered."""
        return self.folder.name

    def pids(self) -> dict[str, int | None]:
        """The processes beside the members: guardian and zygote, by name."""
        return self._opening.launcher.pids() if self._task is not None else {}

    def summary(self) -> dict[str, Any]:
        """What stands in summary.json, as of now."""
        size, names = bytes_below(self.folder.members), {"run": self.folder.name, "version": VERSION}
        return results.summary(self.engine, self.usage.so_far(), how=self.how, disk_bytes=size, **names)

    # ---- its life

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a Run is entered once; make another to go on")
        self._entered = True
        async with contextlib.AsyncExitStack() as stack:
            if await self._opening.open(stack):
                self._begin(stack)
            else:
                await self._complete()
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
        self._stopping = True
        if self._scheduler is not None:
            self._scheduler.stop()

    def pause(self, on: bool = True) -> None:
        """Begin no member from now on; on=False: begin them again. Those that train go on; a resume forgets it."""
        self._pausing = on
        if self._scheduler is not None:
            self._scheduler.gate.obey(PAUSE if on else GO_ON)

    def kill(self) -> None:
        """End every process of the run at once, without grace. For the second Ctrl-C."""
        self.stop()
        self._opening.launcher.kill()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Events from now on, until the run is over. A slow listener misses some (and is told), never holds it up."""
        listener = EventStream()
        if self._task is None or self._task.done():
            listener.close()
        self._listeners.add(listener)
        return listener

    # ---- running

    def _begin(self, stack: contextlib.AsyncExitStack) -> None:
        """Everything is there: open the last rooms and set the loop going."""
        rooms, s = self._opening, self.settings
        slots = len(rooms.slots)
        if s.schedule == "async" and s.replay is None and slots > max(1, s.population // 2):
            self.warn(
                f"{slots} slots for a population of {s.population}: with more slots than half the population fast "
                "configs are favoured; a larger population or --evidence 1 avoids it"
            )
        if s.notice and not self.engine.count:
            log.info(s.notice)
        rooms.launcher.log_to(self.folder.script_log)
        if s.command is None:
            rooms.launcher.spares(min(slots, s.population))
        store = CheckpointStore()
        stack.callback(store.close)
        rooms.sweep(store)
        self._board = GpuStatus(self.folder.gpus, rooms.slots, self._clock.now, self.warn)
        board = asyncio.create_task(self._board.keep(), name="gpbt-async notice board")
        stack.push_async_callback(_ended, board)
        control = self.folder.listen(self._told)
        stack.callback(control.close)
        self._scheduler = Scheduler(
            engine=self.engine,
            usage=self.usage,
            journal=rooms.journal,
            folder=self.folder,
            store=store,
            slots=rooms.slots,
            launcher=rooms.launcher,
            asking=rooms.asking,
            briefing=Briefing(s, self.folder, store, rooms.record.cwd),
            disk=rooms.disk,
            clock=self._clock,
            tell=self._tell,
            strict=self._strict,
            silence=self._silence,
        )
        self.pause(self._pausing)  # both may have been asked for while the run was opened
        if self._stopping:
            self.stop()
        straying = asyncio.create_task(self._stray(self._scheduler), name="gpbt-async folder")
        stack.push_async_callback(_ended, straying)
        self._task = asyncio.create_task(self._main(rooms.asking), name=f"gpbt-async {self.folder.name}")

    async def _stray(self, scheduler: Scheduler) -> None:
        scheduler.stop(await self.folder.strayed())

    async def _complete(self) -> None:
        """The run had ended. If it was killed before it could tidy up, do it now; it takes no process."""
        ended = self.engine.ended
        assert ended is not None
        self.how = "failed" if ended.reason else "finished"
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
                    self._note(events.Discarded(t=self._clock.now(), member=command.member))
        finally:
            store.close()
        if not self._opening.closed:
            await self._close(ended.reason)
        elif not (self.folder.summary.exists() and self.folder.schedule.exists()):
            await self._write_down()  # lost, or of a version that said so in the journal first
        if ended.reason:
            raise failure(self.engine, self.folder, already=True)

    def _note(self, fact: events.Fact) -> None:  # outside the loop
        self._opening.journal.append(fact)
        self.engine.handle(fact)
        self.usage.fold(fact, self.engine)

    def _told(self, line: str) -> None:
        if line == "stop":
            self.stop()
        elif line in (PAUSE, GO_ON):
            self.pause(line == PAUSE)
        elif not self._board.obey(line):
            self.warn(f"somebody told this run {line!r}, which it does not understand")

    async def _main(self, asking: SearcherClient) -> None:
        assert self._scheduler is not None
        early = asyncio.create_task(asking.open())
        try:
            reason = await self._scheduler.run(self._opening.opened(self._clock.now()))
            self.how = "interrupted" if reason is None else "failed" if reason else "finished"
            await self._close(reason or "")
            if self.how == "failed":
                raise failure(self.engine, self.folder)
        except BaseExceptionGroup as group:
            # whatever it was, a bug of ours included: the run stays one that is told and can be resumed
            error = FolderError(astray) if (astray := self.folder.astray()) else first(group)  # it tripped over that
            self.how = "interrupted"
            with contextlib.suppress(GPBTError):  # the first error is the one to be told
                await self._close(str(error or group))
            raise error or group from None
        finally:
            early.cancel()
            await self._opening.tracking.close()
            for listener in tuple(self._listeners):
                listener.close()

    async def _close(self, reason: str) -> None:
        """Write down what the run came to, so far or for good."""
        self.how = self.how or "interrupted"
        if self.how != "interrupted":
            try:
                await self._write_down()  # before the fact that says so
            except GPBTError:
                self.how = "interrupted"
                raise
        measures = results.measures(self.engine)
        closed = events.Closed(t=self._clock.now(), how=self.how, reason=reason, measures=measures)  # type: ignore[arg-type]
        self._note(closed)
        self._tell(closed)
        await self._opening.journal.durable()
        if self.how == "interrupted":
            await self._write_down()

    async def _write_down(self) -> None:
        """Schedule and summary, and the best pointed at. A run that has ended waits for room to do it."""
        while True:
            if astray := self.folder.astray():  # what stands at its path now may be another run's
                raise FolderError(astray)
            try:
                if self.engine.best is not None:
                    self.folder.point_best(self.engine.best.id)
                await write_json(self.folder.schedule, results.schedule(self.engine, self.folder.name))
                await write_json(self.folder.summary, self.summary())
                return
            except FolderError as error:
                if not is_full(error):
                    raise
                if self._stopping or self.how == "interrupted":
                    self.how = "interrupted"  # it is written when the run is taken up again
                    return
                self.warn(f"{error}: waiting for room")
            await asyncio.sleep(PERIOD)

    def warn(self, text: str) -> None:
        """Tell a person one sentence (text), once."""
        if text not in self.warnings:
            self.warnings.append(text)
            log.warning(text)
            self._tell(events.Warned(t=self._clock.now(), text=text))

    def _tell(self, event: Event) -> None:
        if isinstance(event, events.Found):
            log.warning(finding_of(event).sentence)
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
