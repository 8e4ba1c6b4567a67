"""Start-up: it opens a run, new or resumed, for the arguments of `Run`.

The order matters. First come the checks that need no process: script, name, folder, lock. Then the processes start and
import the script, which shows what it declares. Then come the devices. At the end start-up writes experiment.json and
the journal; from then on the folder holds a run. Each part goes onto the caller's exit stack as it opens. So an error
closes the parts that are open, and removes the folder of a new run.

The surprise is how little is imported at the top: the first member waits for all that comes before its processes. What
a run needs later is imported in `_import_the_rest`, while the zygote starts and imports the script.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import __version__ as VERSION
from ..declaration.address import find
from ..declaration.arguments import close_to
from ..declaration.run_options import RunOptions
from ..errors import ExperimentError, FolderError, ScriptError
from ..experiment import Changes, Experiment, Settings
from ..processes.launcher import Launcher
from ..processes.program import missing
from ..storage.folder import RunFolder, check_name
from ..storage.run_config import RunConfig, digest
from ..trackers.client import Tracking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AsyncExitStack

    from ..declaration.address import Address
    from ..devices.slots import Pool
    from ..events import Fact
    from ..searchers.client import SearcherClient, SearcherStarter
    from ..storage.journal import Journal
    from ..storage.lock import Lock
    from .clock import Clock
    from .open_run import OpenRun, RunState


Resume = Literal["never", "auto", "must"]
#: seconds to wait until the processes of a scheduler that was killed a moment ago are gone
PATIENCE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `Run` was asked for; arguments as of Run. Raises ExperimentError."""

    experiment: Experiment | str | os.PathLike[str] | None
    folder: str | os.PathLike[str] | None
    resume: Resume
    options: RunOptions
    runs: str | os.PathLike[str]
    changed_script: bool
    adopt: Sequence[str]
    retry_failed: bool
    changes: Changes
    again: RunConfig | None

    def __post_init__(self) -> None:
        if self.resume not in ("never", "auto", "must"):
            raise ExperimentError.of("resume", self.resume, "must be 'never', 'auto' or 'must'")
        if self.folder is None and ((self.experiment is None and self.again is None) or self.resume == "must"):
            raise ExperimentError.of("folder", self.folder, "must be given to resume a run")
        if self.experiment is not None and not isinstance(self.experiment, Experiment | str | os.PathLike):
            raise ExperimentError.of("experiment", self.experiment, "must be an Experiment, or the path of a script")
        for name in self.changes:
            if name not in Settings.__dataclass_fields__:
                close = close_to(str(name), Settings.__dataclass_fields__)
                meant = f"did you mean {close!r}?" if close else "give fields of Experiment, such as 'population'"
                raise ExperimentError.of(
                    "changes", dict(self.changes), f"{name!r} is no field of an experiment; {meant}"
                )


class Startup:
    """`open` it once. Paths are resolved here, as an application may change its working directory meanwhile."""

    def __init__(self, request: RunRequest, clock: Clock, warn: Callable[[str], None]) -> None:
        self._request, self._clock, self._warn = request, clock, warn
        given = request.experiment
        self._experiment = given if isinstance(given, Experiment) else None
        self._script = find(given) if isinstance(given, str | os.PathLike) else None
        self._path = Path(os.path.abspath(request.folder)) if request.folder is not None else None
        self._runs = Path(os.path.abspath(request.runs))
        self._adopt = (request.adopt,) if isinstance(request.adopt, str) else tuple(request.adopt)
        self._cwd = os.getcwd()
        #: once there are processes to end: `Run.kill` may come while the script is imported
        self.launcher: Launcher | None = None
        Tracking(request.options.track or (), warn)  # raises ExperimentError for a tracker that does not exist

    async def open(self, stack: AsyncExitStack) -> OpenRun | RunState:
        """The run's state alone when the run has ended: then no process was started."""
        path, resume = self._path, self._request.resume
        if path is None or resume == "never" or (resume == "auto" and not RunFolder(path).experiment.exists()):
            if self._request.experiment is None and self._request.again is None:
                where = f"resume={resume!r}, folder={str(self._request.folder)!r}: this begins a new run"
                remedy = "give an Experiment or a script, or the folder of a run and resume='must'"
                raise ExperimentError(f"experiment: got None; {where}, which needs an experiment: {remedy}")
            return await self.new_run(stack)
        return await self.resume_run(stack, RunFolder.open(path))

    async def new_run(self, stack: AsyncExitStack) -> OpenRun:
        if self._adopt:
            raise ExperimentError(f"adopt: got {self._adopt!r}; this is a new run, which has nothing to adopt")
        record = self._new_record()
        script, sha256 = self._new_script(record)
        folder = self._new_folder(script)
        lock = await self._lock(folder, stack)
        stack.callback(folder.unmake)  # not before it is ours: another launch may be importing there
        tracking = self._trackers(record)
        launcher = await self._launcher(folder, lock, record, stack)
        starter = self._searcher_starter(launcher, record.settings, stack)
        declared = await self._imported(launcher, script, sha256, record, record.settings)
        from ..analysis.run_fold import RunFold
        from ..devices.request import member_needs
        from .disk_budget import Disk
        from .open_run import OpenRun, RunState

        record.declared = declared or record.declared
        settings = record.settings or declared
        assert settings is not None
        needs = member_needs(self._request.options, settings.resources)
        record.settings = settings = settings.with_options({**self._request.changes, "resources": needs})
        _find_program(settings, record.cwd)
        searcher = await self._searcher(settings, record, starter, tracking, stack)
        slots = await self._slots(settings, record, stack)
        record.on_gpus = bool(slots.rows())
        if self._request.again is not None and not record.on_gpus:  # as many threads a member, after a resume too
            record.options = RunOptions(slots=len(slots)).over(record.options)
        await record.write(folder.experiment, created=self._clock.now(), version=VERSION)
        state = RunState(
            folder=folder,
            record=record,
            journal=_journal(folder, stack),
            replay=RunFold(settings),
            disk=Disk(folder.path, record.options.disk_bytes, folder.logs),
        )
        tracking.open(launcher.spawn_helper, folder, record.import_path)
        stack.push_async_callback(tracking.close)
        return OpenRun(state=state, launcher=launcher, searcher=searcher, slots=slots, tracking=tracking)

    async def resume_run(self, stack: AsyncExitStack, folder: RunFolder) -> OpenRun | RunState:
        from .open_run import OpenRun

        lock = await self._lock(folder, stack)
        record = RunConfig.read(folder.experiment)
        record.options = self._request.options.over(record.options)
        script, sha256 = self._known_script(record)
        state = self._read_back(folder, record, stack)
        if state.engine.ended is not None and not self._reopens(state):
            if self._adopt:
                self._warn(f"{folder.name} has ended: nothing is adopted")
            return state
        _refuse_missing_checkpoints(state)
        if lock.rebooted:
            self._distrust(state)
        if not os.path.isdir(record.cwd):
            raise FolderError(
                f"{folder.name} was launched in {record.cwd}, which is no folder any more: make it, or give "
                "the script's new path (--script PATH), and members run in the current folder"
            )
        tracking = self._trackers(record)
        launcher = await self._launcher(folder, lock, record, stack)
        starter = self._searcher_starter(launcher, record.settings, stack)
        declared = await self._imported(launcher, script, sha256, record, state.settings)
        self._adopt_edits(state, declared)
        _find_program(state.settings, record.cwd)
        searcher = await self._searcher(state.settings, record, starter, tracking, stack)
        slots = await self._slots(state.settings, record, stack)
        await record.update(folder.experiment)
        tracking.open(launcher.spawn_helper, folder, record.import_path)
        stack.push_async_callback(tracking.close)
        return OpenRun(state=state, launcher=launcher, searcher=searcher, slots=slots, tracking=tracking)

    # ---- a new run

    def _new_record(self) -> RunConfig:
        run, again, options = secrets.token_hex(8), self._request.again, self._request.options
        if again is None:
            declared = self._experiment.settings if self._experiment is not None else None
            return RunConfig(run=run, cwd=self._cwd, settings=declared, options=options)
        cwd = again.cwd if os.path.isdir(again.cwd) else self._cwd
        return replace(again, run=run, cwd=cwd, options=options.over(again.options.for_replay()))

    def _new_script(self, record: RunConfig) -> tuple[Address | None, str]:
        """The script and its digest, before it is imported."""
        if self._request.again is not None:
            return self._known_script(record)
        if self._script is None:
            return None, ""
        self._script.check()
        return self._script, digest(self._script.file)

    def _new_folder(self, script: Address | None) -> RunFolder:
        """Take the new run's name before anything is started."""
        if self._path is not None:
            check_name(self._path.name)
            return RunFolder.create(self._path)
        return RunFolder.fresh(self._runs, self._stem(script))

    def _stem(self, script: Address | None) -> str:
        if (replay := self._request.changes.get("replay")) is not None:
            return f"{replay.origin.run}-replay"
        if script is not None:
            return script.stem
        assert self._experiment is not None
        settings = self._experiment.settings
        return Path(settings.target.file if settings.target else (settings.command or ("run",))[0]).stem

    # ---- a run that is there already

    def _known_script(self, record: RunConfig) -> tuple[Address | None, str]:
        """The script, where it was or where `Run` was told that it is now, and its digest."""
        return record.check_script(self._script, self._request.changed_script, self._warn) or (None, "")

    def _read_back(self, folder: RunFolder, record: RunConfig, stack: AsyncExitStack) -> RunState:
        """What the run was, and how far it came, by its journal."""
        from .. import events
        from ..analysis.run_fold import RunFold
        from .disk_budget import Disk
        from .open_run import RunState

        assert record.settings is not None
        replay, disk = RunFold(record.settings), Disk(folder.path, record.options.disk_bytes, folder.logs)
        last: events.Fact | None = None

        def take(facts: Iterator[events.Fact]) -> None:
            nonlocal last
            for last in replay.read(facts, folder.journal):
                disk.fold(last)

        journal = _journal(folder, stack, take)
        if last is None and (members := folder.count_members()):
            raise folder.emptied(members)
        closed = isinstance(last, events.Closed) and last.how != events.RunStatus.INTERRUPTED.value
        if (best := replay.engine.best) is not None:
            folder.point_best(best.id)  # a scheduler may have been killed between the fact and the link
        return RunState(folder=folder, record=record, journal=journal, replay=replay, disk=disk, closed=closed)

    def _reopens(self, state: RunState) -> bool:
        """Does a run that has ended go on, because its failed members are to be tried again?"""
        engine = state.engine
        if not self._request.retry_failed or engine.ended is None:
            return False
        if engine.ended.reason and not engine.reopens:
            raise FolderError(
                f"{state.folder.name}: no failed member can be tried again, as the checkpoints they began from are "
                f"discarded, or their scores were not finite, which is their configs' doing; begin a new run. "
                f"(It failed: {engine.ended.reason})"
            )
        return engine.reopens

    def _distrust(self, state: RunState) -> None:
        """The machine was restarted: checkpoints that were trained but not published were never synced. Train again."""
        from .. import events
        from ..engine.tree import State

        for member in state.engine.tree.members:
            if member.state is State.TRAINED:
                now, why = self._clock.now(), "the machine was restarted"
                state.apply(events.Lost(t=now, member=member.id, attempt=member.attempt, reason=why))

    def _adopt_edits(self, state: RunState, declared: Settings | None) -> None:
        """Name what is declared otherwise than when the run began, and adopt what `adopt` names."""
        from .. import events
        from .experiment_diff import compare

        if declared is not None and state.settings.replay is None:
            script = self._experiment is None
            if changes := compare(state.record, state.engine, declared, self._adopt, script, self._warn):
                state.apply(events.Adopted(t=self._clock.now(), settings=changes))
        elif self._adopt:
            raise ExperimentError(
                f"adopt: got {self._adopt!r}; no experiment was given to adopt it from, or a replay's"
            )

    # ---- both

    async def _lock(self, folder: RunFolder, stack: AsyncExitStack) -> Lock:
        lock = await folder.lock(PATIENCE)
        stack.callback(lock.release)
        return lock

    def _trackers(self, record: RunConfig) -> Tracking:
        """Trackers that this session names must be there; those of an earlier one only warn if they are not any more.

        A module of the user's own may lie where only the script says: `_searcher` looks again, after the import.
        """
        tracking = Tracking(record.options.track or (), self._warn)
        if self._request.options.track is not None:
            tracking.check(None)
            record.options = replace(record.options, track=tuple(tracking.wanted))
        return tracking

    async def _launcher(self, folder: RunFolder, lock: Lock, record: RunConfig, stack: AsyncExitStack) -> Launcher:
        # the mark of its processes: a copy of the folder has the same id, and must not be taken for it
        mark = f"{record.run}-{folder.place()}"
        launcher = Launcher(
            mark, cwd=record.cwd, start=record.options.start, log=lambda advice: self._warn(str(advice))
        )
        await stack.enter_async_context(launcher)
        self.launcher = launcher
        launcher.hold(lock.fileno())
        return launcher

    def _searcher_starter(self, launcher: Launcher, known: Settings | None, stack: AsyncExitStack) -> SearcherStarter:
        """Start the searcher's process beside the import of the script, on the guess that the searcher needs one.

        Only where there are cores to spare: on two, a second import costs the first member a second (measured).
        """
        from ..devices.slots import usable_cores  # here the guardian starts: to import these costs no time
        from ..searchers.client import SearcherStarter

        starter = SearcherStarter(launcher.spawn_helper)
        stack.push_async_callback(starter.close)
        if usable_cores() > 2:
            starter.start_ahead(self._request.changes.get("searcher") or (known.searcher if known else "local"))
        return starter

    async def _imported(
        self, launcher: Launcher, script: Address | None, sha256: str, record: RunConfig, settings: Settings | None
    ) -> Settings | None:
        """Start guardian and zygote; what the script or application declares now; None if it says nothing."""
        asyncio.get_running_loop().call_soon(_import_the_rest, record.options)  # once we wait
        if script is not None:
            imported = await launcher.open_script(script)
            if digest(script.file) != sha256:
                raise ScriptError(f"{script.file} was edited during its import: run the command again")
            record.check_imports(imported["imports"], self._warn)
            record.address, record.script_sha256 = script, sha256
            return Settings.from_json(imported["experiment"])
        assert settings is not None
        own = self._experiment.settings if self._experiment is not None else settings
        # an application that resumes says where its function is now
        target = own.target or settings.target
        if target is not None:
            await launcher.open_target(target)
        else:
            await launcher.open_command()
        return self._experiment.settings if self._experiment is not None else None

    async def _searcher(
        self, settings: Settings, record: RunConfig, starter: SearcherStarter, tracking: Tracking, stack: AsyncExitStack
    ) -> SearcherClient:
        """Refuses a searcher, or a tracker that this session names, whose module or package is missing."""
        from ..searchers.client import SearcherClient

        path = record.import_path
        if self._request.options.track is not None:
            tracking.check(path)
        searcher = SearcherClient(settings.space, settings.searcher, starter.start, path=path)
        stack.push_async_callback(searcher.close)
        await searcher.check()
        return searcher

    async def _slots(self, settings: Settings, record: RunConfig, stack: AsyncExitStack) -> Pool:
        from ..devices.discovery import discover
        from ..devices.request import DeviceRequest, check_options

        again, options = self._request.again, record.options
        # a replay trains as its original did, and so with as many cores a member
        population = ((again and again.settings) or settings).population
        check_options(options)
        request = DeviceRequest.of(
            options, settings.resources, population, before=record.on_gpus, declared=record.declared_resources
        )
        slots = await discover(request, os.environ, warn=self._warn, now=self._clock.now)
        stack.push_async_callback(slots.close)
        return slots


def _import_the_rest(options: RunOptions) -> None:
    """Import what a run needs beside its processes. With what it imports in turn, that is half of all our modules."""
    from ..analysis import logs, run_fold, run_summary  # noqa: F401
    from ..devices import discovery, nvml  # noqa: F401
    from ..searchers import client  # noqa: F401
    from ..storage import checkpoints, journal  # noqa: F401

    if options.slots is None and options.gpus != "none":
        with suppress(ImportError):  # if it is missed, that is said where it is needed
            nvml.import_binding()
    from . import disk_budget, experiment_diff, gpu_status, loop, open_run  # noqa: F401


def _journal(
    folder: RunFolder, stack: AsyncExitStack, replay: Callable[[Iterator[Fact]], object] | None = None
) -> Journal:
    """replay: takes the facts that are in the journal."""
    from ..storage.journal import Journal

    journal = Journal.open(folder.journal, version=VERSION, replay=replay)
    stack.callback(journal.close)
    return journal


def _find_program(settings: Settings, cwd: str) -> None:
    """Refuse a command whose program does not exist."""
    command = settings.command
    if command is not None and (problem := missing(command, cwd)):
        raise ExperimentError(f"command: got {command[0]!r}; {problem}")


def _refuse_missing_checkpoints(state: RunState) -> None:
    """Refuse a run all of whose checkpoints are gone: they were moved, most likely, and can be brought back."""
    from ..engine.tree import State

    tree, stored = state.engine.tree, state.engine.stored.values()
    if not tree.generations[0].full or (tree.generations[-1].full and not tree.unsettled):
        return  # there will be others, or no member begins any more
    gone = [path for m in stored if not (path := state.folder.member(m.id).checkpoint).exists()]
    if len(gone) == len(stored) and any(m.state is State.FINISHED for m in stored):
        raise FolderError(
            f"{state.folder.name}: the checkpoints that members would begin from are gone, {gone[0]} among them: "
            "bring them back from where they were moved or copied to, and resume"
        )
