"""Opening a run: from what was asked for to rooms that stand ready, new or taken up again.

The order is the point. First what may be refused without starting anything (script, name, folder, lock), then the
processes, which alone can tell what a script declares; then devices; and only when everything is settled the record
and the journal, from which moment on the folder holds a run. Each room is put on the caller's exit stack as it opens,
so a refusal half-way closes what stands, and gives a new run's folder back.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__ as VERSION
from .. import events
from ..analysis.usage import Usage, replay
from ..declaration.address import find
from ..devices.discovery import DeviceOptions, discover
from ..devices.slots import usable_cores
from ..engine.engine import Engine
from ..engine.tree import State
from ..errors import ExperimentError, FolderError, ScriptError
from ..experiment import Experiment, Settings
from ..processes.launcher import Launcher
from ..processes.program import missing
from ..searchers.client import SearcherClient, SearcherStarter
from ..storage.folder import RunFolder, check_name
from ..storage.journal import Journal
from ..storage.run_config import RunConfig, digest
from ..trackers.client import Tracking
from .changes import compare
from .disk_budget import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AsyncExitStack

    from ..declaration.options import RunOptions
    from ..devices.slots import Pool
    from ..storage.checkpoints import CheckpointStore
    from ..storage.lock import Lock
    from .clock import Clock


Resume = Literal["never", "auto", "must"]
#: seconds to wait for the processes of a scheduler that was killed a moment ago to be cleared away
PATIENCE = 5.0


class Startup:
    """What was asked for, and, as `open` goes on, the rooms. Arguments as of Run."""

    def __init__(
        self,
        experiment: Experiment | str | os.PathLike[str] | None,
        folder: str | os.PathLike[str] | None,
        *,
        resume: Resume,
        options: RunOptions,
        runs: str | os.PathLike[str],
        changed_script: bool,
        adopt: Sequence[str],
        retry_failed: bool,
        changes: Mapping[str, Any] | None,
        again: RunConfig | None,
        clock: Clock,
        warn: Callable[[str], None],
    ) -> None:
        if resume not in ("never", "auto", "must"):
            raise ExperimentError.of("resume", resume, "must be 'never', 'auto' or 'must'")
        if folder is None and ((experiment is None and again is None) or resume == "must"):
            raise ExperimentError.of("folder", folder, "must be given to resume a run")
        if experiment is not None and not isinstance(experiment, Experiment | str | os.PathLike):
            raise ExperimentError.of("experiment", experiment, "must be an Experiment, or the path of a script")
        self._experiment = experiment if isinstance(experiment, Experiment) else None
        self._script = find(experiment) if isinstance(experiment, str | os.PathLike) else None
        self._sha256 = ""  # of the script, before it is imported
        self._path = Path(os.path.abspath(folder)) if folder is not None else None
        self._runs = Path(os.path.abspath(runs))
        self._resume, self._options = resume, options
        self._changed_script, self._retry = changed_script, retry_failed
        self._adopt = (adopt,) if isinstance(adopt, str) else tuple(adopt)
        self._changes = dict(changes or {})
        self.tracking = Tracking(options.track or (), warn)
        self._clock = clock
        self._warn = warn
        declared = self._experiment.settings if self._experiment is not None else None
        self.record = RunConfig(run=secrets.token_hex(8), cwd=os.getcwd(), settings=declared, options=options)
        self._again = again
        if again is not None:
            cwd = again.cwd if os.path.isdir(again.cwd) else os.getcwd()
            self.record = replace(again, run=self.record.run, cwd=cwd, options=options.over(again.options.for_replay()))
        self.usage = Usage()
        #: whether a run that has ended was also closed, its summary written and its checkpoints cleared
        self.closed = False
        # in the order in which `open` sets them
        self.folder: RunFolder
        self.lock: Lock
        self.journal: Journal
        self.engine: Engine
        self.settings: Settings
        self.launcher: Launcher
        self.searcher: SearcherStarter
        self.asking: SearcherClient
        self.slots: Pool
        self.disk: Disk

    async def open(self, stack: AsyncExitStack) -> bool:
        """Open every room. False when the run has ended already, and no process was started."""
        existing = self._existing()
        if existing is not None:
            self.folder = existing
            await self._take_lock(stack)
            if not self._read_back(stack):
                return False
        else:
            self._create()
            self.disk = Disk(self.folder.path, self.record.options.disk_bytes, self.folder.logs)
            await self._take_lock(stack)
            stack.callback(self.folder.unmake)  # not before it is ours: another launch may be importing there
        self._settle_trackers()
        # the mark its processes bear: a copy of the folder has the same id, and must not be taken for it
        mark = f"{self.record.run}-{self.folder.place()}"
        self.launcher = Launcher(
            mark, cwd=self.record.cwd, start=self.record.options.start, log=lambda w: self._warn(str(w))
        )
        await stack.enter_async_context(self.launcher)
        self.launcher.hold(self.lock.fileno())
        self._start_searcher(stack)
        await self._declare(existing is None)
        path = self.record.import_path
        if self._options.track is not None:
            self.tracking.check(path)
        self.asking = SearcherClient(self.settings.space, self.settings.searcher, self.searcher.start, path=path)
        stack.push_async_callback(self.asking.close)
        await self.asking.check()  # a module or package that is missing is told before anything is begun
        # a replay trains as its original did, and so with as many cores a member
        population = ((self._again and self._again.settings) or self.settings).population
        options = self.record.options
        wanted = DeviceOptions.of(options).wanted(
            self.settings.resources, population,
            gpus=options.gpus, slots=options.slots,
            nvml_library=options.nvml_library, before=self.record.on_gpus,
        )  # fmt: skip
        self.slots = await discover(wanted, os.environ, warn=self._warn, now=self._clock.now)
        stack.push_async_callback(self.slots.close)
        if existing is None:
            self.record.on_gpus = bool(self.slots.rows())
            if self._again is not None and not self.record.on_gpus:
                # as many threads a member, after a resume too
                self.record.options = replace(options, slots=len(self.slots))
            await self.record.write(self.folder.experiment, created=self._clock.now(), version=VERSION)
            self._open_journal(stack)
            self.engine = Engine(self.settings)
        else:
            await self.record.update(self.folder.experiment)
        self.tracking.open(self.launcher.spawn_helper, self.folder, path)
        stack.push_async_callback(self.tracking.close)
        return True

    def _settle_trackers(self) -> None:
        """Those asked for now must be there; those the run was begun with warn if they are not any more.

        A module of the user's own may lie where only the script says: it is looked for once that is imported.
        """
        if self._options.track is None:
            self.tracking = Tracking(self.record.options.track or (), self._warn)
        else:
            self.tracking.check(None)
            self.record.options = replace(self.record.options, track=tuple(self.tracking.wanted))

    def _start_searcher(self, stack: AsyncExitStack) -> None:
        """Start the searcher's process beside the import of the script, on the guess that it is what it mostly is.

        Only where there are cores to spare: on two, a second import costs the first member a second (measured).
        """
        self.searcher = SearcherStarter(self.launcher.spawn_helper)
        stack.push_async_callback(self.searcher.close)
        if usable_cores() > 2:
            known = self.record.settings
            self.searcher.start_ahead(
                self._changes.get("searcher") or (known.searcher if known is not None else "local")
            )

    # ---- a new run

    def _create(self) -> None:
        """Take the new run's name, before anything is started; give it back if nothing comes of it."""
        if self._adopt:
            raise ExperimentError(f"adopt: got {self._adopt!r}; this is a new run, which has nothing to adopt")
        if self._again is not None:
            self._check_script()
        elif self._script is not None:
            self._script.check()
            self._sha256 = digest(self._script.file)
        if self._path is not None:
            check_name(self._path.name)
            self.folder = RunFolder.create(self._path)
        else:
            self.folder = RunFolder.fresh(self._runs, self._stem())

    def _stem(self) -> str:
        if (replay := self._changes.get("replay")) is not None:
            return f"{replay.origin.run}-replay"
        if self._script is not None:
            return self._script.stem
        assert self._experiment is not None
        settings = self._experiment.settings
        return Path(settings.target.file if settings.target else (settings.command or ("run",))[0]).stem

    # ---- a run that is there already

    def _existing(self) -> RunFolder | None:
        """The folder to resume, None for a new run. Raises FolderError when it must be there and is not."""
        if self._path is None or self._resume == "never":
            return None
        if self._resume == "auto" and not RunFolder(self._path).experiment.exists():
            return None
        return RunFolder.open(self._path)

    def _read_back(self, stack: AsyncExitStack) -> bool:
        """Read what the run was and how far it came. False when it has ended."""
        self.record = RunConfig.read(self.folder.experiment)
        self.record.options = self._options.over(self.record.options)
        self.disk = Disk(self.folder.path, self.record.options.disk_bytes, self.folder.logs)
        assert self.record.settings is not None
        self._check_script()
        self._open_journal(stack)
        self.engine = Engine(self.record.settings)
        facts = self.journal.replay()
        if not facts and (members := self.folder.count_members()):
            raise self.folder.emptied(members)
        for fact in replay(facts, self.engine, self.usage, self.folder.journal):
            self.disk.fold(fact)
            self.closed = isinstance(fact, events.Closed) and fact.how != "interrupted"
        self.settings = self.engine.settings  # with what was adopted before
        if self.engine.best is not None:
            self.folder.point_best(self.engine.best.id)  # it may have been killed between the fact and the link
        if self.engine.ended is not None and not self._to_retry():
            if self._adopt:
                self._warn(f"{self.folder.name} has ended: nothing is adopted")
            return False
        self._miss_checkpoints()
        if self.lock.rebooted:
            self._distrust()
        if not os.path.isdir(self.record.cwd):
            raise FolderError(
                f"{self.folder.name} was launched in {self.record.cwd}, which is no folder any more: make it, or say "
                "where the script is now (--script PATH), and members run in the folder this is called in"
            )
        return True

    def opened(self, t: float) -> events.Opened:
        """The fact that the run is taken up."""
        return events.Opened(t=t, slots=len(self.slots), version=VERSION, pid=os.getpid(), retry=self._retry)

    def _to_retry(self) -> bool:
        """Is it a run that has ended, and that those who failed are to be tried again of?"""
        ended = self.engine.ended
        if not self._retry or ended is None:
            return False
        if ended.reason and not self.engine.reopens:
            raise FolderError(
                f"{self.folder.name}: no failed member can be tried again, as what they began from was let go of, or "
                f"their scores were not finite, which is their configs' doing; begin a new run. (It failed: "
                f"{ended.reason})"
            )
        return self.engine.reopens

    def _miss_checkpoints(self) -> None:
        """Refuse to go on with nothing to go on from: it was moved, most likely, and can be brought back."""
        tree, stored = self.engine.tree, self.engine.stored.values()
        if not tree.generations[0].full or (tree.generations[-1].full and not tree.unsettled):
            return  # there will be others, or nobody begins
        gone = [path for m in stored if not (path := self.folder.member(m.id).checkpoint).exists()]
        if len(gone) == len(stored) and any(m.state is State.FINISHED for m in stored):
            raise FolderError(
                f"{self.folder.name}: the checkpoints that members would begin from are gone, {gone[0]} among them: "
                "bring them back from where they were moved or copied to, and resume"
            )

    def _check_script(self) -> None:
        """The script is where it was, or where it is said to be now, and what it was."""
        found = self.record.check_script(self._script, self._changed_script, self._warn)
        if found is not None:
            self._script, self._sha256 = found

    def _compare(self, now: dict[str, Any]) -> None:
        """Say what is declared otherwise than when the run began, and adopt what is to be. now: as JSON."""
        if changes := compare(self.record, self.engine, now, self._adopt, self._experiment is None, self._warn):
            self._note(events.Adopted(t=self._clock.now(), settings=changes))
            self.settings = self.engine.settings

    def _note(self, fact: events.Fact) -> None:
        self.journal.append(fact)
        self.engine.handle(fact)
        self.usage.fold(fact, self.engine)

    def _distrust(self) -> None:
        """The machine was started anew: what was trained but not published was never synced. Train it again."""
        for member in self.engine.tree.members:
            if member.state is State.TRAINED:
                now, why = self._clock.now(), "the machine was restarted"
                self._note(events.Lost(t=now, member=member.id, attempt=member.attempt, reason=why))

    def sweep(self, store: CheckpointStore) -> None:
        """Delete what a crash left half done: what was written by members that, as the journal tells, have not trained.

        (Which may have lost its last lines with the power: a checkpoint, too, may be of a member that trains again.)
        """
        kept, published = set(), set()
        for member in self.engine.tree.members:
            name = self.folder.member(member.id).path.name
            if member.state is State.TRAINED:
                kept.add(f"{name}/attempt-{member.attempt}")
            if member.state not in (State.WAITING, State.TRAINING, State.FAILED):
                published.add(name)
        store.sweep(self.folder.members, kept, published)

    # ---- both

    async def _take_lock(self, stack: AsyncExitStack) -> None:
        self.lock = await self.folder.lock(PATIENCE)
        stack.callback(self.lock.release)

    def _open_journal(self, stack: AsyncExitStack) -> None:
        self.journal = Journal.open(self.folder.journal, version=VERSION)
        stack.callback(self.journal.close)

    async def _declare(self, new: bool) -> None:
        """Let guardian and zygote start, and settle what the run is to do."""
        given = self._experiment.to_json() if self._experiment is not None else None
        if self._script is not None:
            told = await self.launcher.open_script(self._script)
            if digest(self._script.file) != self._sha256:
                raise ScriptError(f"{self._script.file} was edited while it was imported: once more, please")
            given = told["experiment"]
            self.record.check_imports(told["imports"], self._warn)
            self.record.address, self.record.script_sha256 = self._script, self._sha256
            if new:
                self.settings = self.record.settings or Settings.from_json(given)
        else:
            if new:
                assert self.record.settings is not None
                self.settings = self.record.settings
            # an application that resumes says where its function is now
            target = (self._experiment or self).settings.target or self.settings.target
            if target is not None:
                await self.launcher.open_target(target.to_json())
            else:
                await self.launcher.open_command()
        if new:
            self.record.declared = given
        elif given is not None and self.settings.replay is None:
            self._compare(given)
        elif self._adopt:
            raise ExperimentError(
                f"adopt: got {self._adopt!r}; no experiment was given to adopt it from, or a replay's"
            )
        if new:
            self._changes["resources"] = DeviceOptions.of(self._options).over(self.settings.resources)
            self.record.settings = self.settings = self.settings.with_options(self._changes)
        command = self.settings.command
        if command is not None and (problem := missing(command, self.record.cwd)):
            raise ExperimentError(f"command: got {command[0]!r}; {problem}")
