"""A run as plain data: all that its report shows, and nothing of how it is drawn.

`report_data(reader)` is a function of the journal alone; `member_files(reader, …)` adds what the members' folders hold.
Both are plain JSON data (but numbers may be NaN or infinite), so that a file can hold them, or a page that follows the
run can be sent them. Members are *columns*: one list an attribute, with the member's id as the index. Names that the
user chose (hyperparameters, metrics) are values in lists, never keys. Times are elapsed seconds (usage.Elapsed) unless
noted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..engine.tree import State
from ..events import RunStatus
from . import run_summary
from .history import AttemptState
from .importance import importances
from .logs import curve, log_tail, traceback_of
from .usage import Elapsed, timeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..engine.tree import Node
    from ..space import Scalar
    from ..storage.folder import RunFolder
    from .history import Attempt, History
    from .importance import ImportanceRow
    from .reader import RunReader
    from .usage import Timeline


#: the layout of the dict
FORMAT = 1
FAILURES = ("failed", "lost", "no score")
#: kinds of failures that are listed, and members named for each
KINDS, NAMED = 50, 20
#: of members' logs and curves together, in characters and points; of one log; points of one curve
LOGS, CURVES, LOG, POINTS = 2_000_000, 120_000, 3000, 60


class RunRow(TypedDict):
    """The run and its settings. began, told (the time of the last fact): in seconds since the epoch."""

    name: str
    state: RunStatus
    reason: str
    metric: str
    parents: int
    mode: str
    population: int
    generations: int
    searcher: str
    history: str
    selection: str
    schedule: str
    seed: int
    constants: dict[str, Scalar]
    began: float | None
    told: float | None


class MemberColumns(TypedDict):
    """The members: a list an attribute, with the member's id as the index.

    index: the last number of its path. rank: among the finished of its generation, 0 is the best. place: where it
    stands in its generation when families are kept together, from 0. ended: when it became terminal; order: as which,
    from 1. config, metrics: a list a hyperparameter of the space, or a metric of "metrics".
    """

    index: list[int]
    parent: list[int | None]
    generation: list[int]
    state: list[str]
    score: list[float | None]
    rank: list[int | None]
    place: list[int]
    ended: list[float | None]
    order: list[int | None]
    seconds: list[float | None]
    slot: list[int | None]
    attempts: list[int]
    reason: list[str]
    config: list[list[Scalar]]
    metrics: list[list[float | None]]


class BestColumns(TypedDict):
    """Each best member so far: when, after how many finished intervals, and which."""

    t: list[float]
    interval: list[int]
    member: list[int]


class FailureKind(TypedDict):
    """FailureReport for one reason. members: up to NAMED of them. for_good: how many have no attempt left."""

    kind: str
    reason: str
    attempts: int
    members: list[int]
    for_good: int


class FailureReport(TypedDict):
    """attempts: how many of each of FAILURES. kinds: how many there are; list: up to KINDS of them."""

    attempts: dict[str, int]
    kinds: int
    list: list[FailureKind]


class MemberFiles(TypedDict):
    """logs: [member, end of its log]. curves: [member, values of the score it reported].

    tracebacks: one for each of the listed kinds of failures, "" where there is none.
    """

    logs: list[tuple[int, str]]
    curves: list[tuple[int, list[float]]]
    tracebacks: list[str]


class ReportData(TypedDict):
    """All that a report shows. lineage: ids from the root to the best. remains: what `member_files` returns."""

    format: int
    run: RunRow
    summary: run_summary.Summary
    space: list[dict[str, object]]
    members: MemberColumns
    metrics: list[str]
    best: BestColumns
    lineage: list[int]
    timeline: Timeline
    importance: list[ImportanceRow]
    failures: FailureReport
    remains: NotRequired[MemberFiles]


def report_data(reader: RunReader, importance: list[ImportanceRow] | None = None) -> ReportData:
    """The data of a run that was read with its history.

    importance: what `importance_of` returned before, as it is most of the work; a page that follows a run keeps it.
    """
    usage, history, best = reader.usage.so_far(), reader.history, reader.engine.best
    elapsed = Elapsed(history.sessions)
    space = reader.settings.space
    return {
        "format": FORMAT,
        "run": _run(reader),
        "summary": run_summary.summary(reader.engine, usage, run=reader.folder.name),
        "space": [{"name": name, **d} for name, d in space.to_json().items() if name in space],
        "members": _members(reader, elapsed),
        "metrics": metric_names(history),
        "best": {
            "t": [elapsed.of(t) for t, _, _ in history.best],
            "interval": [count for _, count, _ in history.best],
            "member": [member for _, _, member in history.best],
        },
        "lineage": [m.id for m in best.ancestry] if best is not None else [],
        "timeline": timeline(usage.trail or (), elapsed, usage.slots),
        "importance": importance_of(reader) if importance is None else importance,
        "failures": failures(reader),
    }


def _run(reader: RunReader) -> RunRow:
    settings, sessions = reader.settings, reader.history.sessions
    return {
        "name": reader.folder.name,
        "state": reader.state,
        "reason": reader.why_ended,
        "metric": settings.score,
        "parents": reader.engine.selection.parents,
        "mode": settings.mode,
        "population": settings.population,
        "generations": settings.generations,
        "searcher": settings.searcher,
        "history": settings.history,
        "selection": settings.selection,
        "schedule": settings.schedule,
        "seed": settings.seed,
        "constants": settings.space.constants,
        "began": sessions[0].begin if sessions else None,
        "told": reader.last.t if reader.last else None,
    }


def importance_of(reader: RunReader) -> list[ImportanceRow]:
    """All generations together first, then one by one."""
    generations = [generation.members for generation in reader.engine.tree.generations]
    return [importance.to_json() for importance in importances(generations, reader.engine.adoption.hull)]


def _members(reader: RunReader, elapsed: Elapsed) -> MemberColumns:
    tree, space, history = reader.engine.tree, reader.settings.space, reader.history
    members = tree.members
    last: dict[int, Attempt] = {attempt.member: attempt for attempt in history.attempts}
    order = {member: place for place, member in enumerate(history.ended, 1)}
    ranks = {m.id: rank for g in tree.generations for rank, m in enumerate(g.ranking)}
    running = reader.state == RunStatus.RUNNING
    places = _places(reader)
    return {
        "index": [m.path[-1] for m in members],
        "parent": [m.parent.id if m.parent is not None else None for m in members],
        "generation": [m.generation for m in members],
        "state": [_state(m, running) for m in members],
        "score": [m.score for m in members],
        "rank": [ranks.get(m.id) for m in members],
        "place": [places[m.id] for m in members],
        "ended": [elapsed(history.ended.get(m.id)) for m in members],
        "order": [order.get(m.id) for m in members],
        "seconds": [m.seconds if m.state.settled else None for m in members],
        "slot": [last[m.id].slot if m.id in last else None for m in members],
        "attempts": [m.attempt for m in members],
        "reason": [m.reason for m in members],
        "config": [[m.config[name] for m in members] for name in space],
        "metrics": [[history.metrics.get(m.id, {}).get(name) for m in members] for name in metric_names(history)],
    }


def _state(member: Node, running: bool) -> str:
    """In a run without a process no member trains; nor does one that has no slot yet."""
    waits = member.state is State.TRAINING and member.slot is None
    return member.state.value if member.state.settled or (running and not waits) else State.WAITING.value


def metric_names(history: History) -> list[str]:
    """The names of all that was reported, in the order of the members."""
    return list({name: None for _, metrics in sorted(history.metrics.items()) for name in metrics})


def _places(reader: RunReader) -> dict[int, int]:
    """Each member's place in its generation: families stand where their parents do, the better sibling first."""
    places: dict[int, int] = {}
    share: dict[int, float] = {}  # the place as a share of the generation: a survivor's children are further down
    for generation in reader.engine.tree.generations:
        standing = sorted(
            generation.members,
            key=lambda m: (
                share[m.parent.id] if m.parent is not None else 0.0,
                m.parent.id if m.parent is not None else -1,
                m.loss if m.loss == m.loss else float("inf"),
                m.id,
            ),
        )
        for place, member in enumerate(standing):
            places[member.id] = place
            share[member.id] = (place + 0.5) / len(standing)
    return places


def failures(reader: RunReader) -> FailureReport:
    """FailureReport by kind, the most frequent first. Reasons that differ in numbers only are one kind.

    kind: "failed"; "lost", which is no fault of the member's; or "no score", for a training that ended without a finite
    one.
    """
    kinds: defaultdict[tuple[str, str], list[Attempt]] = defaultdict(list)
    members = reader.engine.tree.members
    for attempt in reader.history.attempts:
        member = members[attempt.member]
        if attempt.how in (AttemptState.FAILED, AttemptState.LOST):
            kinds[attempt.how.value, re.sub(r"[0-9]+(\.[0-9]+)?", "#", attempt.reason)].append(attempt)
        elif attempt.how is AttemptState.TRAINED and attempt.number == member.attempt and member.state is State.FAILED:
            kinds["no score", re.sub(r"[0-9]+(\.[0-9]+)?", "#", member.reason)].append(attempt)
    ordered = sorted(kinds.items(), key=lambda item: (item[0][0] == "lost", -len(item[1]), item[1][0].started))
    return {
        "attempts": {name: sum(len(a) for (kind, _), a in ordered if kind == name) for name in FAILURES},
        "kinds": len(ordered),
        "list": [
            {
                "kind": kind,
                "reason": attempts[0].reason or members[attempts[0].member].reason,
                "attempts": len(attempts),
                "members": list(dict.fromkeys(a.member for a in attempts))[:NAMED],
                "for_good": sum(m.state is State.FAILED for m in {members[a.member] for a in attempts}),
            }
            for (kind, _), attempts in ordered[:KINDS]
        ],
    }


def member_files(reader: RunReader, data: ReportData) -> MemberFiles:
    """What members left in their folders, the most interesting first, up to LOGS and CURVES.

    Members without such files are left out.
    """
    folder, metric = reader.folder, reader.settings.score
    logs: list[tuple[int, str]] = []
    curves: list[tuple[int, list[float]]] = []
    characters, points = LOGS, CURVES
    for id in _interesting(reader, data):
        place = folder.member(id)
        if characters > 0:
            text = log_tail(place.log, LOG)
            characters -= len(text)
            if text:
                logs.append((id, text))
        if points > 0:
            values = curve(place.metrics, metric, POINTS)
            points -= len(values)
            if values:
                curves.append((id, values))
        if characters <= 0 and points <= 0:
            break
    tracebacks = [traceback(folder, kind) for kind in data["failures"]["list"]]
    return {"logs": logs, "curves": curves, "tracebacks": tracebacks}


def traceback(folder: RunFolder, kind: FailureKind) -> str:
    """The last traceback of a member that failed in this way; "" if there is none."""
    if kind["kind"] != "failed":
        return ""
    tracebacks = (traceback_of(log_tail(folder.member(id).log, 4 * LOG)) for id in kind["members"])
    return next((text for text in tracebacks if text), "")


def _interesting(reader: RunReader, data: ReportData) -> Iterable[int]:
    """All members, once: the winning lineage, failed ones, then the best of all generations, rank by rank."""
    members = reader.engine.tree.members
    ranked = sorted(
        (m for m in members if m.state is State.FINISHED), key=lambda m: (data["members"]["rank"][m.id], m.id)
    )
    named = (id for kind in data["failures"]["list"] for id in kind["members"])
    return dict.fromkeys([*data["lineage"], *named, *(m.id for m in ranked), *(m.id for m in members)])
