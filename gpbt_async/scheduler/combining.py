"""Combining: it merges the members of a run that has ended, or chooses an ensemble of them (analysis/combination.py).

The result is a folder in the run's folder, beside the best member and never instead of it:

    merged/    checkpoint/ (the average), summary.json, log.txt
    ensemble/  members/0012/ and so on (hard links to the chosen checkpoints), summary.json, log.txt

All work happens in a hidden folder beside it, `.merged.part` or `.ensemble.part`, which is renamed at the end. So a
result is there whole, or not at all. Each validation appends a line to steps.jsonl there: a command that was killed
goes on after the last one, if candidates and script are the same. The surprise: such a line does not mean that the
merge of that step is on the disk. The end checks the merge by its manifest, which names the members, and makes it again
if it is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import shutil
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..analysis import combination
from ..analysis.combination import Combination, CombinationError, Step
from ..analysis.reader import RunReader
from ..codec import decoded, encoded
from ..engine.selection import loss
from ..errors import ExperimentError, FolderError
from ..storage.checkpoints import CheckpointStore
from ..storage.control import ControlListener, ControlRequest
from ..storage.files import explained, read_json, replacing, sync, write_json
from ..storage.manifest import Manifest
from ..storage.run_config import digest
from .startup import PATIENCE
from .validator import Validated, Validator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..analysis.combination import How
    from ..declaration.address import Address
    from ..declaration.run_options import RunOptions
    from ..engine.tree import Node
    from ..storage.folder import RunFolder


SUMMARY, CHECKPOINT, MEMBERS = "summary.json", "checkpoint", "members"
#: members of an ensemble: fewer are none, and more are a typing error
FEWEST, MOST = 2, 1000


async def combine(
    folder: RunFolder,
    how: How,
    most: int | None,
    options: RunOptions,
    *,
    script: Address | None = None,
    changed: bool = False,
    warn: Callable[[str], None],
    told: Callable[[Step], None],
) -> Combination:
    """Make a combination, or return the one that is there and was made of the same.

    most: members that it may have; None = any number. options: over those of the run. script, changed: as of Validator.
    told: called after each validation. `gpbt-async stop` cancels it. Raises GPBTError's subclasses.
    """
    reader = RunReader(folder)
    best = combination.ended(reader)
    if most is not None and not FEWEST <= most <= MOST:
        raise ExperimentError(f"--ensemble: got {most}; must be from {FEWEST} to {MOST}, the members that it may have")
    reader.record.options = options.over(reader.record.options)
    there = combination.candidates(reader)
    target = reader.settings.validate
    file = script.file if script is not None else reader.record.script or (target.file if target is not None else "")
    metric, mode, reported = reader.settings.score, reader.settings.mode, best.score or 0.0
    choice = reader.engine.final_choice
    if choice is not None and choice.value is not None:  # the score has selected the members already
        metric, mode, reported = choice.metric, choice.mode, choice.value
    key = Combination(
        how=how, run=folder.name, metric=metric, mode=mode, members=(best.id,),
        score=0.0, metrics={}, best=best.id, best_score=0.0, reported=reported, gain=0.0,
        candidates=tuple(member.id for member in there), most=most or len(there), script=digest(file), steps=(),
    )  # fmt: skip
    place = folder.path / combination.FOLDERS[how]
    if (made := _made(place)) is not None and _same(made, key):
        return replace(made, folder=str(place))
    async with AsyncExitStack() as stack:
        lock = await folder.lock(PATIENCE)
        stack.callback(lock.release)
        stack.callback(ControlListener(folder.control, _stopping(asyncio.current_task())).close)
        work = Work(place, key)
        validator = Validator(reader, work.path, lock, warn, script=script, changed=changed)
        return await Combiner(reader, work, await stack.enter_async_context(validator), told).run(there)


def _stopping(task: asyncio.Task[Any] | None) -> Callable[[str], None]:
    """What obeys `gpbt-async stop RUN`: it cancels the task."""

    def obey(line: str) -> None:
        if task is not None and ControlRequest.parse(line) == (ControlRequest.STOP, ""):
            task.cancel()

    return obey


def _made(place: Path) -> Combination | None:
    """A result that is there; None if there is none, or it is damaged."""
    try:
        made = decoded(Combination, read_json(place / SUMMARY))
    except (FolderError, ValueError, TypeError, AttributeError):
        return None
    return made if all((place / each).is_dir() for each in made.checkpoints) else None


def _same(one: Combination, other: Combination) -> bool:
    """Were both made of the same candidates, by the same script?"""
    names = ("how", "candidates", "most", "script", "metric", "mode")
    return all(getattr(one, name) == getattr(other, name) for name in names)


class Work:
    """The hidden folder in which a combination is made, and the validations of a command that was killed there.

    place: of the result. key: what tells it from other results; its scores say nothing. Raises FolderError.
    """

    def __init__(self, place: Path, key: Combination) -> None:
        self.place, self.key = place, key
        self.path = place.with_name(f".{place.name}.part")
        self._steps = self.path / "steps.jsonl"
        self._known: dict[tuple[int, ...], Step] = {}
        with explained("cannot write to", self.path):
            lines = self._lines()
            if not lines or not self._continues(lines[0]):
                shutil.rmtree(self.path, ignore_errors=True)
                self.path.mkdir()
                lines = [encoded(key)]
            with replacing(self._steps) as beside:  # without the torn line that a killed command may have left
                beside.write_text("".join(map(_line, lines)), encoding="utf-8")
        with suppress(ValueError):  # damaged: it is validated again
            for line in lines[1:]:
                step = decoded(Step, line)
                self._known[step.members] = step

    def _lines(self) -> list[dict[str, object]]:
        """The whole lines of an earlier command."""
        lines: list[dict[str, object]] = []
        with suppress(FileNotFoundError, ValueError), open(self._steps, encoding="utf-8") as file:
            for line in file:
                lines.append(json.loads(line))
        return lines

    def _continues(self, line: dict[str, object]) -> bool:
        try:
            return _same(decoded(Combination, line), self.key)
        except (ValueError, TypeError):
            return False

    def known(self, members: Sequence[Node]) -> Step | None:
        """The validation of these members, if an earlier command came so far."""
        return self._known.get(tuple(member.id for member in members))

    def append(self, step: Step) -> None:
        with explained("cannot write to", self.path), open(self._steps, "a", encoding="utf-8") as file:
            file.write(_line(encoded(step)))
            file.flush()
            os.fsync(file.fileno())

    def candidate(self, members: Sequence[Node]) -> Path:
        """The folder of the members' merge until it is published; the manifest will have its name."""
        ids = ",".join(str(member.id) for member in members)
        return self.path / f"candidate-{hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()}"

    async def finish(self, made: Combination) -> None:
        """Write the summary, and rename the folder to the result's name. An older result is replaced."""
        await write_json(self.path / SUMMARY, replace(made, folder=""))
        with explained("cannot write to", self.path):
            for path in self.path.glob("candidate-*"):
                shutil.rmtree(path)
            former = self.place.with_name(f".{self.place.name}.former")
            shutil.rmtree(former, ignore_errors=True)
            if self.place.exists():
                self.place.rename(former)
            self.path.rename(self.place)
            sync(self.place.parent)
            shutil.rmtree(former, ignore_errors=True)
            (self.place / self._steps.name).unlink()


def _line(flat: Mapping[str, object]) -> str:
    return json.dumps(flat, allow_nan=False) + "\n"


class Combiner:
    """Adds one candidate after the other, and keeps those that improve the combination."""

    def __init__(self, reader: RunReader, work: Work, validator: Validator, told: Callable[[Step], None]) -> None:
        self._reader, self._work, self._validator, self._told = reader, work, validator, told
        self._key, self._ensemble = work.key, work.key.how == "ensemble"
        self._store = CheckpointStore()

    async def run(self, candidates: Sequence[Node]) -> Combination:
        """candidates: the best member first. Raises CombinationError."""
        try:
            steps, chosen = await self._chosen(candidates)
            if all(step.reason for step in steps[1:]):
                raise CombinationError(f"no member can be added: {self._explained(steps[1])}")
            checkpoints = await self._checkpoints(chosen) if len(chosen) > 1 else ()
        finally:
            self._store.close()
        last = next(step for step in reversed(steps) if step.kept)
        first, mode = steps[0], self._key.mode
        assert first.score is not None
        assert last.score is not None
        made = replace(
            self._key, members=last.members, score=last.score, metrics=last.metrics, best_score=first.score,
            gain=loss(first.score, mode) - loss(last.score, mode), steps=tuple(steps),
            checkpoints=checkpoints, folder=str(self._work.place),
        )  # fmt: skip
        await self._work.finish(made)
        return made

    async def _chosen(self, candidates: Sequence[Node]) -> tuple[list[Step], list[Node]]:
        chosen, untried = [candidates[0]], list(candidates[1:])
        steps = [await self._step(chosen, math.inf)]
        if not steps[0].kept:
            why = steps[0].reason or f"{self._key.metric} is {steps[0].score}"
            raise CombinationError(f"the best member alone cannot be validated: {self._explained(steps[0], why)}")
        bar = loss(steps[0].score, self._key.mode)
        while untried and len(chosen) < self._key.most:
            member = combination.following(self._key.how, chosen, untried)
            untried.remove(member)
            step = await self._step([*chosen, member], bar)
            steps.append(step)
            if step.kept:
                chosen.append(member)
                bar = loss(step.score, self._key.mode)
        return steps, chosen

    def _explained(self, step: Step, why: str = "") -> str:
        return f"member {step.members[-1]}: {why or step.reason} (output: {self._work.path / 'log.txt'})"

    async def _step(self, members: Sequence[Node], bar: float) -> Step:
        """Validate the members together, unless that is done. bar: the loss to improve on."""
        if (step := self._work.known(members)) is None:
            validated = self._measured(await self._validated(members))
            kept = not validated.reason and loss(validated.score, self._key.mode) < bar
            step = Step(
                members=tuple(member.id for member in members),
                score=validated.score, metrics=validated.metrics, kept=kept, reason=validated.reason,
            )  # fmt: skip
            if (merge := self._merge_of(members)) is not None:
                if kept:
                    await self._publish(members)
                else:  # a model's size for each would fill the disk
                    await asyncio.to_thread(shutil.rmtree, merge, ignore_errors=True)
            if loss(step.score, self._key.mode) < math.inf:  # the next command tries again what has failed
                self._work.append(step)
        self._told(step)
        return step

    def _measured(self, validated: Validated) -> Validated:
        """With the metric of choose_by as its score, if that has chosen the best."""
        metric = self._key.metric
        if validated.reason or metric == self._reader.settings.score:
            return validated
        if metric not in validated.metrics:
            return replace(validated, reason=f"validate did not report {metric!r}, by which the experiment chooses")
        return replace(validated, score=validated.metrics[metric])

    async def _validated(self, members: Sequence[Node]) -> Validated:
        folder = self._reader.folder.member(members[-1].id).checkpoint
        if problem := await self._store.verify(folder):
            return Validated(reason=problem)
        ensemble = self._ensemble and len(members) > 1
        return await self._validator.validate(members, merged=self._merge_of(members), ensemble=ensemble)

    def _merge_of(self, members: Sequence[Node]) -> Path | None:
        """Where their average is written; None where nothing is averaged: for an ensemble, and for the best alone."""
        return self._work.candidate(members) if not self._ensemble and len(members) > 1 else None

    async def _publish(self, members: Sequence[Node]) -> None:
        await self._store.publish(self._work.candidate(members), self._work.path / CHECKPOINT)

    async def _checkpoints(self, chosen: Sequence[Node]) -> tuple[str, ...]:
        """Have all that the result needs in its folder; the paths in there."""
        if self._ensemble:
            return await asyncio.to_thread(self._link, chosen)
        final = self._work.path / CHECKPOINT
        manifest = Manifest.read(final)
        if manifest is None or manifest.attempt != self._work.candidate(chosen).name or self._store.check(final):
            validated = await self._validated(chosen)  # the command that validated it was killed then
            if validated.reason:
                raise CombinationError(f"the merge cannot be made again: {validated.reason}")
            await self._publish(chosen)
        return (CHECKPOINT,)

    def _link(self, chosen: Sequence[Node]) -> tuple[str, ...]:
        """Link the members' checkpoints, which never change; copy them where that is impossible."""
        place = self._work.path / MEMBERS
        with explained("cannot write to", place):
            shutil.rmtree(place, ignore_errors=True)
            for member in chosen:
                places = self._reader.folder.member(member.id)
                shutil.copytree(places.checkpoint, place / places.path.name, copy_function=_linked)
        return tuple(f"{MEMBERS}/{self._reader.folder.member(member.id).path.name}" for member in chosen)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
