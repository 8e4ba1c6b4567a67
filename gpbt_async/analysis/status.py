"""What a run does now: what trains, what waits and for what. `status`, the pages and the list of runs show it.

Rows are dataclasses; `to_json` gives what `status --json` prints and the pages read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NotRequired, Required, TypedDict

from ..ask import path_text
from ..engine.tree import State
from ..errors import FolderError
from ..events import RunStatus
from ..storage.gpu_report import read_gpus
from . import run_summary
from .reader import RunReader
from .waiting import member_waits_for, slot_waits_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..declaration.run_options import RunOptions
    from ..engine.tree import Generation, Node
    from ..findings import Finding, FindingRow
    from ..space import Config
    from ..storage.folder import RunFolder
    from ..storage.gpu_report import DeviceStatus, GpuQueue
    from ..storage.lock import Holder
    from .run_summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One line about a run. Of a damaged one, only `run` and `error` say something.

    paused: why no member begins, or "". members: how many are terminal, of how many. t: when the last fact happened, in
    seconds since the epoch.
    """

    run: str
    state: RunStatus
    paused: str = ""
    paused_by_hand: bool = False
    members: int = 0
    of: int = 0
    metric: str = ""
    score: float | None = None
    best_member: int | None = None
    t: float | None = None
    findings: Sequence[Finding] = ()
    error: str = ""

    def to_json(self) -> RunLineRecord:
        if self.state is RunStatus.DAMAGED:
            return {"run": self.run, "state": self.state, "error": self.error}
        return {
            "run": self.run,
            "state": self.state,
            "paused": self.paused,
            "paused_by_hand": self.paused_by_hand,
            "members": self.members,
            "of": self.of,
            "metric": self.metric,
            "score": self.score,
            "best_member": self.best_member,
            "t": self.t,
            "findings": [finding.to_json() for finding in self.findings],
        }


class RunLineRecord(TypedDict, total=False):
    """A RunLine in JSON. Of a run that is not read yet, only `run`; of a damaged one, `state` and `error`, too."""

    run: Required[str]
    state: RunStatus
    paused: str
    paused_by_hand: bool
    members: int
    of: int
    metric: str
    score: float | None
    best_member: int | None
    t: float | None
    findings: list[FindingRow]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """A member in a slot. seconds: since it entered `train`, None before that."""

    slot: int | None
    member: int
    path: str
    generation: int
    attempt: int
    seconds: float | None
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRow:
    """A member that waits. cause: for what. after: why its last attempt failed. attempt: the next; None if unknown."""

    member: int
    generation: int
    cause: str
    after: str | None
    attempt: int | None = None

    def to_json(self) -> WaitingRecord:
        row: WaitingRecord = {
            "member": self.member,
            "generation": self.generation,
            "for": self.cause,
            "after": self.after,
        }
        if self.attempt is not None:
            row["attempt"] = self.attempt
        return row


#: a WaitingRow in JSON
WaitingRecord = TypedDict(
    "WaitingRecord",
    {"member": int, "generation": int, "attempt": NotRequired[int], "for": str, "after": str | None},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What a run does at this moment.

    to_retry: failed members that a resume can try again. reopens: could it go on after it has failed? free_slots and
    what they wait for: None and "" unless it is running; free_since: in seconds since the epoch, if known.
    """

    training: list[TrainingRow]
    waiting: list[WaitingRow]
    to_retry: list[int]
    reopens: bool
    gpus: tuple[DeviceStatus, ...]
    waiting_for_gpus: GpuQueue | None
    slots: int
    free_slots: int | None = None
    free_because: str | None = None
    free_until: str = ""
    free_since: float | None = None

    def to_json(self) -> dict[str, object]:
        training = [_flat(row) for row in self.training]
        return {**_flat(self), "training": training, "waiting": [row.to_json() for row in self.waiting]}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRow:
    """How many members of a generation are in which state, of how many; and its best score."""

    generation: int
    issued: int
    training: int
    finished: int
    stopped: int
    failed: int
    of: int
    best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """All that `status RUN` shows.

    holder: of its lock. never_begun, given_up: members that were not terminal when the run ended.
    """

    line: RunLine
    activity: Activity
    folder: str
    typed: str
    holder: Holder | None
    reason: str
    options: RunOptions
    options_typed: str
    generations: list[GenerationRow]
    never_begun: list[int]
    given_up: list[int]
    summary: Summary

    def to_json(self) -> dict[str, object]:
        """Flat: the line's and the activity's names beside its own."""
        generations = [_flat(row) for row in self.generations]
        own = {**_flat(self, "line", "activity"), "options": self.options.to_json(), "generations": generations}
        return {**self.line.to_json(), **own, **self.activity.to_json()}


def _flat(row: TrainingRow | Activity | GenerationRow | RunDetail, *without: str) -> dict[str, object]:
    return {field.name: getattr(row, field.name) for field in fields(row) if field.name not in without}


def brief(folder: RunFolder, reader: RunReader | None = None) -> RunLine:
    """One line about a run. A damaged run is shown as damaged, and does not hide the others.

    reader: one that was kept, so that the journal need not be read again.
    """
    try:
        return _line(reader or RunReader(folder))
    except (FolderError, KeyError, TypeError, ValueError) as error:
        return RunLine(run=folder.name, state=RunStatus.DAMAGED, error=str(error))


def _line(reader: RunReader) -> RunLine:
    tree, settings, best = reader.engine.tree, reader.settings, reader.engine.best
    return RunLine(
        run=reader.folder.name,
        state=reader.state,
        paused=reader.why_paused,
        paused_by_hand=reader.paused_by_hand,
        members=sum(generation.settled for generation in tree.generations),
        of=settings.population * settings.generations,
        metric=settings.score,
        score=best.score if best else None,
        best_member=best.id if best else None,
        t=reader.last.t if reader.last else None,
        findings=run_summary.findings(reader.engine),
    )


def detail(folder: RunFolder) -> RunDetail:
    """Everything about one run. Raises FolderError when it cannot be read."""
    reader = RunReader(folder)
    engine, activity = reader.engine, present(reader)
    left = [m.id for m in engine.tree.members if not m.state.settled] if engine.ended is not None else []
    return RunDetail(
        line=_line(reader),
        activity=activity,
        folder=str(folder.path),
        typed=folder.shell_name,
        holder=folder.locked(),
        reason=reader.why_ended,
        options=reader.record.options,
        options_typed=reader.record.options.command_line(),
        generations=[_generation(i, g, reader, activity) for i, g in enumerate(engine.tree.generations)],
        never_begun=[id for id in left if id not in reader.begun],
        given_up=[id for id in left if id in reader.begun],
        summary=run_summary.summary(engine, reader.usage.so_far(), run=folder.name),
    )


def _generation(index: int, generation: Generation, reader: RunReader, activity: Activity) -> GenerationRow:
    states = [member.state for member in generation.members]
    return GenerationRow(
        generation=index,
        issued=generation.issued,
        training=sum(row.generation == index for row in activity.training),
        finished=states.count(State.FINISHED),
        stopped=states.count(State.STOPPED),
        failed=states.count(State.FAILED),
        of=reader.settings.population,
        best=generation.ranking[0].score if generation.ranking else None,
    )


def present(reader: RunReader) -> Activity:
    """What the run does now."""
    engine, state, now = reader.engine, reader.state, time.time()
    running = state is RunStatus.RUNNING
    report = read_gpus(reader.folder) if running else None
    queue = report.waiting if report is not None else None
    given = engine.training if running else []  # a slot is meant for each, and not all have it yet
    activity = Activity(
        training=[_training(reader, member, now) for member in given if member.slot is not None],
        waiting=_waiting(reader, [member for member in given if member.slot is None], queue is not None, now),
        to_retry=[] if running else [member.id for member in engine.to_retry],
        reopens=state is RunStatus.FAILED and engine.reopens,
        gpus=tuple(report.gpus) if report is not None else (),
        waiting_for_gpus=queue,
        slots=engine.slots,
    )
    return _with_free_slots(activity, reader, max(0, engine.slots - len(given))) if running else activity


def _with_free_slots(activity: Activity, reader: RunReader, free: int) -> Activity:
    if not free:
        return replace(activity, free_slots=0)
    until, since = slot_waits_for(reader)
    cause = reader.engine.idle_cause()
    return replace(activity, free_slots=free, free_because=cause, free_until=until, free_since=since)


def _training(reader: RunReader, member: Node, now: float) -> TrainingRow:
    return TrainingRow(
        slot=member.slot,
        member=member.id,
        path=path_text(member.path),
        generation=member.generation,
        attempt=member.attempt,
        seconds=now - reader.entered[member.id] if member.id in reader.entered else None,
        config=member.config,
    )


def _waiting(reader: RunReader, without_slot: list[Node], gpu: bool, now: float) -> list[WaitingRow]:
    def row(member: Node, cause: str, attempt: int | None = None) -> WaitingRow:
        after = member.reason or None
        return WaitingRow(member=member.id, generation=member.generation, cause=cause, after=after, attempt=attempt)

    rows = [row(member, member_waits_for(reader, member, gpu, now), member.attempt) for member in without_slot]
    causes = {State.WAITING: "a slot", State.TRAINED: "its checkpoint to be published"}
    for state, cause in causes.items() if reader.engine.ended is None else ():
        rows += [row(member, cause) for member in reader.engine.tree.members if member.state is state]
    return rows
