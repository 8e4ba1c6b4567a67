"""A run as a trace, in the Trace Event Format: which ui.perfetto.dev and chrome://tracing show.

A row for each slot, with a slice for each attempt at a member and one for each stretch of idleness, named by its cause;
rows for the searcher's asks and for the publishing of checkpoints, as many as happened at once; arrows from
parents to children; the best score as a counter. Times are microseconds of the run's own time (usage.Elapsed), which
stands still between its sessions; the beginning of each is marked.

The format has two traps. Slices of one row must not overlap in part, or a viewer drops or misplaces them; so spans that
may overlap are spread over rows. And process and thread 0 mean the kernel's idle process: ours begin at 1.
"""

from __future__ import annotations

import heapq
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from ..ask import path_text
from ..storage.files import explained, replacing, spelled
from .usage import Elapsed, timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from .history import Attempt
    from .reader import RunReader


#: the arguments of an event
Args = Mapping[str, object]


class Event(TypedDict, total=False):
    """An event of the format. ph: its kind. ts, dur: in microseconds. pid, tid: the row."""

    name: str
    cat: str
    ph: str
    s: str
    bp: str
    id: int
    ts: int
    dur: int
    pid: int
    tid: int
    args: Args


class Trace(TypedDict):
    """A trace: first the rows' names, then all events in order of time."""

    traceEvents: list[Event]
    displayTimeUnit: str
    otherData: Args


SLOTS, SEARCHER, CHECKPOINTS, SCORE = 1, 2, 3, 4
_NAMES = {SLOTS: "slots", SEARCHER: "searcher", CHECKPOINTS: "checkpoints", SCORE: "best score"}


def write(reader: RunReader, target: Path) -> None:
    """Write the trace of a run that was read with its history, whole or not at all. Raises FolderError."""
    text = json.dumps(spelled(trace(reader)), allow_nan=False, separators=(",", ":"))
    with explained("cannot write the trace", target), replacing(target) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogatepass")


def trace(reader: RunReader) -> Trace:
    """The trace of a run that was read with its history."""
    trace = _Trace(reader)
    events = [*trace.attempts(), *trace.idle(), *trace.asks(), *trace.publishing(), *trace.best(), *trace.sessions()]
    return {
        "traceEvents": [*trace.names(), *sorted(events, key=lambda event: event["ts"])],
        "displayTimeUnit": "ms",
        "otherData": {
            "run": reader.folder.name,
            "state": reader.state,
            "began": reader.history.sessions[0].begin if reader.history.sessions else None,
        },
    }


class _Trace:
    def __init__(self, reader: RunReader) -> None:
        self._reader, self._history = reader, reader.history
        self._usage = reader.usage.so_far()
        self._elapsed = Elapsed(self._history.sessions)
        self._begins = [session.begin for session in self._history.sessions]
        self._rows: dict[int, int] = {SLOTS: self._usage.slots}
        #: by member, where its last slice stands: row, begin, end
        self._slices: dict[int, tuple[int, int, int]] = {}
        #: by row, the slices of members in the order of time: begin, end
        self._taken: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def _us(self, t: float) -> int:
        return round(self._elapsed.of(t) * 1e6)

    def _slice(self, name: str, place: tuple[int, int], begin: int, end: int, args: Args) -> Event:
        pid, tid = place
        kind = _NAMES[pid]
        return {
            "name": name, "cat": kind, "ph": "X", "ts": begin, "dur": max(0, end - begin), "pid": pid, "tid": tid,
            "args": args,
        }  # fmt: skip

    # ---- slots

    def attempts(self) -> Iterator[Event]:
        """A slice for each attempt that entered `train`, a mark for the others, an arrow from each parent.

        Times are the members' own, but no slice begins before the last one in its slot or its parent's has ended, even
        if that leaves a slice empty.
        """
        tree = self._reader.engine.tree
        for number, attempt in enumerate(self._history.attempts, 1):
            member, row = tree.members[attempt.member], attempt.slot + 1
            if attempt.entered is None:
                at = self._us(attempt.left if attempt.left is not None else self._session_end(attempt.started))
                name = f"member {member.id} did not begin"
                yield {
                    "name": name, "cat": "slots", "ph": "i", "s": "t", "ts": at, "pid": SLOTS, "tid": row,
                    "args": self._attempt(attempt),
                }  # fmt: skip
                continue
            end = attempt.entered + attempt.seconds if attempt.left is not None else self._session_end(attempt.entered)
            parent = None if member.parent is None else self._slices.get(member.parent.id)
            begin = max(self._us(attempt.entered), self._taken[row][-1][1] if self._taken[row] else 0)
            begin = begin if parent is None else max(begin, parent[2])
            until = max(self._us(end), begin)
            self._taken[row].append((begin, until))
            yield self._slice(f"member {member.id}", (SLOTS, row), begin, until, self._attempt(attempt))
            if parent is not None:
                yield from self._arrow(number, parent, (row, begin))
            self._slices[member.id] = (row, begin, until)

    def _session_end(self, t: float) -> float:
        """The end of the session that contains `t`, or its last fact so far."""
        return self._history.sessions[bisect_right(self._begins, t) - 1].end

    def _attempt(self, attempt: Attempt) -> Args:
        member = self._reader.engine.tree.members[attempt.member]
        last = attempt.number == member.attempt
        return {
            "member": member.id,
            "path": path_text(member.path),
            "generation": member.generation,
            "attempt": attempt.number,
            "parent": member.parent.id if member.parent is not None else None,
            "how": attempt.how.value,
            **({"reason": attempt.reason} if attempt.reason else {}),
            **({"score": member.score} if last and member.score is not None else {}),
            "config": member.config,
        }

    def _arrow(self, number: int, parent: tuple[int, int, int], child: tuple[int, int]) -> Iterator[Event]:
        row, begin, end = parent
        names: Event = {"name": "checkpoint", "cat": "lineage", "id": number, "pid": SLOTS}
        yield {**names, "ph": "s", "ts": max(begin, end - 1), "tid": row}  # inside the slice in which it begins
        yield {**names, "ph": "f", "bp": "e", "ts": child[1], "tid": child[0]}

    def idle(self) -> Iterator[Event]:
        """A slice for each idle span; call it after `attempts`.

        Spans are cut where attempts overlap them: a member's own times may be slightly older than the scheduler's.
        """
        slots = timeline(self._usage.trail or (), self._elapsed, self._usage.slots)
        for cause, spans in slots["idle"].items():
            for slot, begin, end in zip(spans["slot"], spans["begin"], spans["end"], strict=True):
                place, text = (SLOTS, slot + 1), cause.replace("_", " ")
                for since, until in _gaps(self._taken[slot + 1], round(begin * 1e6), round(end * 1e6)):
                    yield self._slice(f"idle: {text}", place, since, until, {"cause": cause})

    # ---- beside the slots

    def asks(self) -> Iterator[Event]:
        """From the fact after which the engine asked, to the answer."""
        times = self._reader.times
        found = [
            (times[fact.asked - 1], fact.t, f"config of {fact.path}", {"path": fact.path, "generation": fact.generation,
             "config": fact.config})
            for fact in self._history.suggested if 0 < fact.asked <= len(times)
        ]  # fmt: skip
        yield from self._spread(SEARCHER, found)

    def publishing(self) -> Iterator[Event]:
        found = [
            (attempt.left, attempt.published, f"member {attempt.member}", {"member": attempt.member})
            for attempt in self._history.attempts
            if attempt.left is not None and attempt.published is not None
        ]
        yield from self._spread(CHECKPOINTS, found)

    def _spread(self, pid: int, spans: Iterable[tuple[float, float, str, Args]]) -> Iterator[Event]:
        """Slices on as few rows as possible, so that none overlaps another."""
        free: list[int] = []
        taken: list[tuple[int, int]] = []  # end, row
        rows = 0
        for begin, end, name, args in sorted(((self._us(b), self._us(e), n, a) for b, e, n, a in spans), key=_begin):
            while taken and taken[0][0] <= begin:
                heapq.heappush(free, heapq.heappop(taken)[1])
            if not free:
                rows += 1
                free.append(rows)
            row = heapq.heappop(free)
            heapq.heappush(taken, (max(end, begin + 1), row))
            yield self._slice(name, (pid, row), begin, end, args)
        self._rows[pid] = rows

    def best(self) -> Iterator[Event]:
        members, metric = self._reader.engine.tree.members, self._reader.settings.score
        for t, _, id in self._history.best:
            args = {metric: members[id].score}
            yield {"name": f"best {metric}", "ph": "C", "ts": self._us(t), "pid": SCORE, "tid": 1, "args": args}

    def sessions(self) -> Iterator[Event]:
        for number, begin in enumerate(self._begins[1:], 2):
            name = f"session {number}: the run was resumed"
            yield {"name": name, "cat": "slots", "ph": "i", "s": "g", "ts": self._us(begin), "pid": SLOTS, "tid": 1}

    def names(self) -> Iterator[Event]:
        """The names of the rows; call it last, when all of them are known."""
        for pid, name in _NAMES.items():
            names: Event = {"ph": "M", "pid": pid, "tid": 1}
            yield {**names, "name": "process_name", "args": {"name": name}}
            yield {**names, "name": "process_sort_index", "args": {"sort_index": pid}}
            for row in range(1, self._rows.get(pid, 0) + 1):
                label = f"slot {row - 1}" if pid == SLOTS else name if row == 1 else f"{name} {row}"
                yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": row, "args": {"name": label}}
                yield {"name": "thread_sort_index", "ph": "M", "pid": pid, "tid": row, "args": {"sort_index": row}}


def _begin(span: tuple[int, int, str, Args]) -> tuple[int, int]:
    return span[:2]


def _gaps(taken: list[tuple[int, int]], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of begin to end outside of `taken`, whose spans are in order and do not overlap."""
    for i in range(bisect_left(taken, begin, key=lambda span: span[1]), len(taken)):
        since, until = taken[i]
        if since >= end:
            break
        if since > begin:
            yield begin, since
        begin = max(begin, until)
    if begin < end:
        yield begin, end
