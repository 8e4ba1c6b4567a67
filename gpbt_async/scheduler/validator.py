"""The validator: it has a checkpoint validated by the script's function `validate`, outside a run.

It opens what a run needs for that, and nothing else: the guardian and the zygote, which imports the script, and the
slots. It has no journal and no engine of its own.
Each validation is a member's process on a slot, like a training, but it gets the function `validate`, and what it
writes into its checkpoint folder is deleted. So a validation has the devices, threads, seed and config that its members
had.

    async with Validator(reader, work, lock, ...) as validator:
        validated = await validator.validate(members, ...)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .. import events
from ..devices.discovery import discover
from ..devices.request import DeviceRequest, check_options
from ..errors import ExperimentError, FolderError, ScriptError
from ..experiment import Settings
from ..processes import wire
from ..processes.launcher import Launcher
from ..storage.run_config import digest
from .clock import Clock
from .member_session import MemberSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from ..analysis.reader import RunReader
    from ..declaration.address import Address
    from ..devices.slots import Pool, Slot
    from ..engine.tree import Node
    from ..processes.outcome import Outcome
    from ..storage.lock import Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """score, metrics: as reported last. reason: why the validation has failed, else ""."""

    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


class Validator:
    """reader: of a run that has ended; its record has the options in force. work: an existing folder for its files.
    lock: the run's, held, so that no other process changes the run meanwhile.

    script: where the script is now, None = where it was. changed: the script may have been edited since the run began.
    """

    def __init__(
        self,
        reader: RunReader,
        work: Path,
        lock: Lock,
        warn: Callable[[str], None],
        *,
        script: Address | None = None,
        changed: bool = False,
    ) -> None:
        self._reader, self._work, self._lock, self._warn = reader, work, lock, warn
        self._given, self._changed = script, changed
        self._clock = Clock()
        self._stack = contextlib.AsyncExitStack()
        self._launcher: Launcher | None = None
        self._slots: Pool | None = None

    async def __aenter__(self) -> Self:
        record, folder = self._reader.record, self._reader.folder
        async with contextlib.AsyncExitStack() as stack:
            if not os.path.isdir(record.cwd):
                raise FolderError(f"{folder.name} was launched in {record.cwd}, which is no folder any more: make it")
            start = record.options.start
            launcher = Launcher(
                f"{record.run}-{folder.place()}", cwd=record.cwd, start=None if start == "resident" else start,
                log=lambda advice: self._warn(str(advice)),
            )  # fmt: skip
            await stack.enter_async_context(launcher)
            launcher.hold(self._lock.fileno())
            await self._import(launcher)
            launcher.log_to(self._work / "log.txt")
            check_options(record.options)
            request = DeviceRequest.of(
                record.options, self._reader.settings.resources, self._reader.settings.population,
                before=record.on_gpus, declared=record.declared_resources,
            )  # fmt: skip
            self._slots = await discover(request, os.environ, warn=self._warn, now=self._clock.now)
            stack.push_async_callback(self._slots.close)
            self._launcher = launcher
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _import(self, launcher: Launcher) -> None:
        """Import the script, or an application's function. Raises ScriptError, ExperimentError."""
        record, target = self._reader.record, self._reader.settings.validate
        known = record.check_script(self._given, self._changed, self._warn)
        if known is None:
            assert target is not None
            await launcher.open_target(target)
            return
        script, sha256 = known
        imported = await launcher.open_script(replace(script, validates=True))
        if digest(script.file) != sha256:
            raise ScriptError(f"{script.file} was edited during its import: run the command again")
        record.check_imports(imported["imports"], self._warn)
        if Settings.from_json(imported["experiment"]).validate is None:
            raise ExperimentError(f"{script.shell_name} declares no validation any more: Experiment(..., validate=...)")

    async def validate(self, members: Sequence[Node], *, merged: Path | None, ensemble: bool) -> Validated:
        """The score of the members' checkpoints, the best member's first.

        merged: a new folder that gets the average of their weights; None = one checkpoint as it is. ensemble: they are
        validated together. An attempt that was lost, or whose process died, is repeated as often as the experiment
        allows.
        """
        validated = Validated()
        for attempt in range(1, self._reader.settings.attempts + 1):
            validated, again = await self._attempt(members, attempt, merged, ensemble)
            if not again:
                break
        return validated

    async def _attempt(
        self, members: Sequence[Node], attempt: int, merged: Path | None, ensemble: bool
    ) -> tuple[Validated, bool]:
        """What came of one attempt, and whether another one may do better."""
        assert self._slots is not None
        settings = self._reader.settings
        scratch = self._work / "scratch"
        for place in (scratch, merged):
            if place is not None:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
        async with self._slots.lease() as slot:
            begin = self._begin(members, attempt, slot, scratch, merged, ensemble)
            session, outcome = await self._follow(begin, slot, settings)
        shutil.rmtree(scratch, ignore_errors=True)
        fact = session.ended(self._clock.now(), outcome)
        if isinstance(fact, events.Trained):
            missing = "" if fact.score is not None else self._reader.engine.selection.unusable(fact)
            return Validated(score=fact.score, metrics=fact.metrics, reason=missing), False
        again = outcome.how in (wire.Exit.LOST, wire.Exit.DIED) and not session.overdue
        return Validated(reason=session.why(outcome)), again

    async def _follow(self, begin: wire.Begin, slot: Slot, settings: Settings) -> tuple[MemberSession, Outcome]:
        """Have a process validate, and follow it until all of it is gone."""
        assert self._launcher is not None
        assert self._slots is not None
        asked = time.monotonic()
        async with await self._launcher.start(begin, fresh=True) as worker, asyncio.TaskGroup() as tasks:
            self._slots.bind(slot, worker.pid, begin.member)
            if slot.evicted is not None:
                slot.evicted.add_done_callback(lambda _: worker.kill())

            def end(why: str) -> None:
                tasks.create_task(worker.stop(why, 0.0))

            with MemberSession(settings, begin.member, begin.attempt, asked=asked, end=end) as session:
                async for message in worker:
                    session.hear(message)
        return session, worker.outcome

    def _begin(
        self, members: Sequence[Node], attempt: int, slot: Slot, scratch: Path, merged: Path | None, ensemble: bool
    ) -> wire.Begin:
        """What the process must know. The config, seed and generation are the best member's."""
        best = members[0]
        folders = [str(self._reader.folder.member(member.id).checkpoint) for member in members]
        parent = None if ensemble else str(merged) if merged is not None else folders[0]
        return wire.Begin(
            member=best.id,
            attempt=attempt,
            generation=best.generation,
            seed=best.seed,
            config=best.config,
            fold_seed=self._reader.settings.seed_of_folds,
            parent=parent,
            checkpoint=str(scratch),
            metrics="",
            log=str(self._work / "log.txt"),
            cwd=self._reader.record.cwd,
            device=slot.device,
            threads=slot.threads,
            env=slot.env,
            score=self._reader.settings.score,
            cpus=sorted(slot.cpus) or None,
            merges=folders if merged is not None else (),
            ensemble=folders if ensemble else (),
        )
