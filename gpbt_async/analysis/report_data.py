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
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..engine.tree import State
from ..events import RunStatus
from . import results
from .history import AttemptState
from .importance import importances
from .logs import curve, log_tail, traceback_of
from .usage import Elapsed, timeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..engine.tree import Node
    from ..storage.folder import RunFolder
    from .history import Attempt, History
    from .reader import RunReader


#: the layout of the dict
FORMAT = 1
FAILURES = ("failed", "lost", "no score")
#: kinds of failures that are listed, and members named for each
KINDS, NAMED = 50, 20
#: of members' logs and curves together, in characters and points; of one log; points of one curve
LOGS, CURVES, LOG, POINTS = 2_000_000, 120_000, 3000, 60


def report_data(reader: RunReader, importance: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The data of a run that was read with its history.

    importance: what `importance_of` returned before, as it is most of the work; a page that follows a run keeps it.
    """
    usage, history, best = reader.usage.so_far(), reader.history, reader.engine.best
    elapsed = Elapsed(history.sessions)
    space = reader.settings.space
    return {
        "format": FORMAT,
        "run": _run(reader),
        "summary": results.summary(reader.engine, usage, run=reader.folder.name),
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


def _run(reader: RunReader) -> dict[str, Any]:
    """The run and its settings. began, told (the last fact): in seconds since the epoch."""
    settings, sessions = reader.settings, reader.history.sessions
    names = ("mode", "population", "generations", "searcher", "history", "selection", "schedule", "seed")
    return {
        "name": reader.folder.name,
        "state": reader.state,
        "reason": reader.why_ended,
        "metric": settings.score,
        "parents": reader.engine.selection.parents,
        **{name: getattr(settings, name) for name in names},
        "constants": settings.space.constants,
        "began": sessions[0].begin if sessions else None,
        "told": reader.last.t if reader.last else None,
    }


def importance_of(reader: RunReader) -> list[dict[str, Any]]:
    """All generations together first, then one by one."""
    generations = [generation.members for generation in reader.engine.tree.generations]
    return [asdict(importance) for importance in importances(generations, reader.engine.adoption.hull)]


def _members(reader: RunReader, elapsed: Elapsed) -> dict[str, list[Any]]:
    tree, space, history = reader.engine.tree, reader.settings.space, reader.history
    members = tree.members
    last: dict[int, Attempt] = {attempt.member: attempt for attempt in history.attempts}
    order = {member: place for place, member in enumerate(history.ended, 1)}
    ranks = {m.id: rank for g in tree.generations for rank, m in enumerate(g.ranking)}
    running = reader.state == RunStatus.RUNNING
    places = _places(reader)
    return {
        #: the last number of its path
        "index": [m.path[-1] for m in members],
        "parent": [m.parent.id if m.parent is not None else None for m in members],
        "generation": [m.generation for m in members],
        "state": [_state(m, running) for m in members],
        "score": [m.score for m in members],
        #: among the finished of its generation, 0 is the best
        "rank": [ranks.get(m.id) for m in members],
        #: where it stands in its generation when families are kept together, from 0
        "place": [places[m.id] for m in members],
        #: when it became terminal, and as which in that order, from 1
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


def failures(reader: RunReader) -> dict[str, Any]:
    """Failures by kind, the most frequent first. Reasons that differ in numbers only are one kind.

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


def member_files(reader: RunReader, data: dict[str, Any]) -> dict[str, Any]:
    """What members left in their folders, the most interesting first, up to LOGS and CURVES.

    logs: [member, end of its log]. curves: [member, values of the score it reported]. tracebacks: one for each of the
    data's kinds of failures, "" where there is none. Members without such files are left out.
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


def traceback(folder: RunFolder, kind: dict[str, Any]) -> str:
    """The last traceback of a member that failed in this way; "" if there is none."""
    if kind["kind"] != "failed":
        return ""
    tracebacks = (traceback_of(log_tail(folder.member(id).log, 4 * LOG)) for id in kind["members"])
    return next((text for text in tracebacks if text), "")


def _interesting(reader: RunReader, data: dict[str, Any]) -> Iterable[int]:
    """All members, once: the winning lineage, failed ones, then the best of all generations, rank by rank."""
    members = reader.engine.tree.members
    ranked = sorted(
        (m for m in members if m.state is State.FINISHED), key=lambda m: (data["members"]["rank"][m.id], m.id)
    )
    named = (id for kind in data["failures"]["list"] for id in kind["members"])
    return dict.fromkeys([*data["lineage"], *named, *(m.id for m in ranked), *(m.id for m in members)])
