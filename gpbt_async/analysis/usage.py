"""Where the slots' time went: a fold of the journal's facts, during the run or afterwards.

Every slot is at every moment in one state: inside `train` (busy), or idle for one cause. Pure: `fold` takes a fact
just after the engine has handled it, and asks the engine why a free slot stays free. So the same code accounts for a
run as it goes, after a resume, and from the journal of a run that crashed.

Times count from the first `train` entered to the last `train` returned of each session. (A session begins with Opened;
the hours between a crash and its resume are no idle time.) Within that window, by construction, busy + idle of all
causes = slots · wall.

With a thousand slots, to look at every slot after every fact would cost more than the run's decisions. So the slots
without a member are kept in a list, and where the causes along that list are what they were, only the slots that have
just become free are looked at. Spans wait in a heap until the window has grown over their ends.

`timeline` shows the same spans, slot by slot, in *elapsed* seconds: since the run began, without the time between
sessions. Its busy and idle seconds are those of the summary, span by span.
"""

from __future__ import annotations

import heapq
import math
import statistics
from array import array
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from .. import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..engine.engine import Engine
    from ..events import Fact
    from .history import Session


#: start: a process starts or ends; device: no GPU may be used now; disk: no room for a checkpoint, so no member begins;
#: paused: a person has paused the run; the others as the engine names them (Engine.idle_cause)
CAUSES = ("start", "searcher", "checkpoint", "evidence", "device", "disk", "paused", "no_work")
BUSY = "busy"
#: what a slot did: slot, BUSY or a cause, the member inside `train` or None, begin, end
Span = tuple[int, str, int | None, float, float]
#: a span that waits, behind its end and its number in the order of making. (Spans are added up in that order: sums of
#: floats depend on it.)
Waiting = tuple[float, int, Span]


@dataclass(slots=True)
class _Slot:
    state: str
    since: float
    #: when the last `train` in it returned; None once it has waited for anything but a start
    returned: float | None = None
    #: the member inside `train`
    member: int | None = None


@dataclass(slots=True)
class Usage:
    """Totals in seconds. Read them off `so_far`: there, busy + sum of idle = slots · wall, summed over sessions."""

    busy: float = 0.0
    wall: float = 0.0
    idle: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0.0))
    #: slots · wall, summed over sessions
    offered: float = 0.0
    #: seconds from a `train` returned to the next one entered in that slot, if there was work for it all along
    turnovers: array[float] = field(default_factory=lambda: array("d"))
    slots: int = 0
    #: what of its start → seconds of all members that have trained, and how many members those are
    starts: dict[str, tuple[float, int]] = field(default_factory=dict)
    _slots: dict[int, _Slot] = field(default_factory=dict)
    #: a heap of the spans that are not inside the window yet; those that begin before it, as far as it is known
    _spans: list[Waiting] = field(default_factory=list)
    _early: list[Waiting] = field(default_factory=list)
    _made: int = 0
    #: where the window began when those were looked at
    _early_since: float | None = None
    #: every span that was added up, cut to its session's window, in no order; None: not kept
    trail: list[Span] | None = None
    _first: float | None = None
    #: when the session began; how many slots can be used now
    _opened: float = 0.0
    _available: int = 0
    _last: float | None = None
    #: why no member begins now: no room on the disk, and a person's pause; "" if members begin
    paused: str = ""
    by_hand: str = ""
    #: the slot and the moment of entering `train`, by member
    _inside: dict[int, tuple[int, float]] = field(default_factory=dict)
    #: by member, the slot; by slot, its members (in a damaged journal there may be two); the other slots, sorted
    _where: dict[int, int] = field(default_factory=dict)
    _members: dict[int, int] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    #: of the free slots, those not explained yet; and how the others were explained (`_explain`)
    _fresh: list[int] = field(default_factory=list)
    _explained: tuple[float, float, str, str] | None = None

    @property
    def utilisation(self) -> float:
        """busy / (slots · wall), 0 before anything has trained."""
        return self.busy / self.offered if self.offered else 0.0

    @property
    def overhead(self) -> float | None:
        """The median turnover in seconds; None if no slot was ever used twice with work at hand."""
        return statistics.median(self.turnovers) if self.turnovers else None

    def fold(self, fact: Fact, engine: Engine) -> None:
        """Account for a fact the engine has just handled."""
        match fact:
            case events.Opened():
                self.close()
                self.slots = fact.slots
                self._available = fact.slots
                self._slots = {}
                self._opened = fact.t
                self.paused = self.by_hand = ""
                self._grow(fact.slots)
            case events.Capacity():
                self._available = fact.slots
                self._grow(fact.slots)
            case events.Paused(by_hand=True):
                self.by_hand = fact.reason
            case events.Paused():
                self.paused = fact.reason
            case events.Started():
                self._grow(fact.slot + 1)
                self._occupy(fact.slot, fact.member)
                self._set(fact.slot, "start", fact.t)
            case events.Entered():
                self._enter(self._where[fact.member], fact.member, fact.t)
            case events.Trained() | events.StoppedEarly() | events.Failed() | events.Lost():
                self._leave(fact)
                if isinstance(fact, events.Trained):
                    self._add_start(fact.start)
        if self._slots:
            self._explain(fact.t, engine)

    def _add_start(self, start: Mapping[str, float]) -> None:
        for name, seconds in start.items():
            total, count = self.starts.get(name, (0.0, 0))
            self.starts[name] = total + seconds, count + 1

    @property
    def start(self) -> dict[str, float]:
        """Mean seconds before a member's first report, by what they go into (events.Trained.start)."""
        return {name: total / count for name, (total, count) in self.starts.items()}

    def close(self) -> None:
        """End the session: add its spans, cut to its window, to the totals. More facts may follow."""
        if self._first is not None and self._last is not None:
            waiting = sorted((*self._early, *self._spans), key=_number)
            open_spans = [(i, s.state, s.member, s.since, self._last) for i, s in self._slots.items()]
            for slot, state, member, begin, end in (*(span for _, _, span in waiting), *open_spans):
                self._add((slot, state, member, max(begin, self._first), min(end, self._last)))
            self.wall += self._last - self._first
            self.offered += (self._last - self._first) * len(self._slots)
        self._slots, self._inside, self._where, self._members = {}, {}, {}, {}
        self._spans, self._early, self._free, self._fresh = [], [], [], []
        self._explained = None
        self._first = self._last = None

    def _add(self, span: Span) -> None:
        _, state, _, begin, end = span
        seconds = end - begin
        if seconds <= 0:
            return
        if state == BUSY:
            self.busy += seconds
        else:
            self.idle[state] += seconds
        if self.trail is not None:
            self.trail.append(span)

    def _settle(self) -> None:
        """Add up the spans inside the window, which only grows. Kept, they would be most of a run's memory."""
        assert self._first is not None
        assert self._last is not None
        ended = []
        while self._spans and self._spans[0][0] <= self._last:
            ended.append(heapq.heappop(self._spans))
        if self._early and self._early_since != self._first:
            ended += self._early
            self._early = []
        for waiting in sorted(ended, key=_number):
            if self._first <= waiting[2][3]:
                self._add(waiting[2])
            else:
                self._early.append(waiting)
        self._early_since = self._first

    def so_far(self) -> Usage:
        """The totals as they stand now, as if the session had ended with the last `train` returned."""
        copy = Usage(
            self.busy, self.wall, dict(self.idle), self.offered, self.turnovers[:], self.slots, dict(self.starts)
        )
        copy._slots, copy._spans, copy._early = dict(self._slots), list(self._spans), list(self._early)
        copy._first, copy._last = self._first, self._last
        copy.trail = None if self.trail is None else list(self.trail)
        copy.close()
        return copy

    def _grow(self, count: int) -> None:
        """There are `count` slots. New ones had no device until now."""
        for index in range(len(self._slots), count):
            self._slots[index] = _Slot("device", self._opened)
            self._release(index)
        self.slots = max(self.slots, len(self._slots))

    def _set(self, index: int, state: str, t: float, member: int | None = None) -> None:
        slot = self._slots[index]
        if state == slot.state:
            return
        t = max(t, slot.since)  # a member's own stamp may be a hair older than the scheduler's
        self._made += 1
        heapq.heappush(self._spans, (t, self._made, (index, slot.state, slot.member, slot.since, t)))
        slot.state, slot.since, slot.member = state, t, member
        if state not in (BUSY, "free", "start", "searcher", "checkpoint"):
            slot.returned = None

    def _enter(self, index: int, member: int, t: float) -> None:
        slot = self._slots[index]
        if slot.returned is not None:
            self.turnovers.append(t - slot.returned)
            slot.returned = None
        self._set(index, BUSY, t, member)
        self._inside[member] = (index, t)
        self._first = t if self._first is None else min(self._first, t)

    def _leave(self, fact: events.Trained | events.StoppedEarly | events.Failed | events.Lost) -> None:
        index = self._where.pop(fact.member, None)
        if index is None:
            return  # its checkpoint could not be published, and its slot was free before that
        inside = self._inside.pop(fact.member, None)
        if inside is not None:
            returned = inside[1] + fact.seconds
            self._set(index, "start", returned)
            self._slots[index].returned = returned
            self._last = returned if self._last is None else max(self._last, returned)
            self._settle()
        if self._vacate(index):
            self._set(index, "free", fact.t)

    def _occupy(self, index: int, member: int) -> None:
        before = self._where.get(member)
        self._where[member] = index
        self._members[index] = self._members.get(index, 0) + 1
        if self._members[index] == 1:
            del self._free[bisect_left(self._free, index)]
        if before is not None:
            self._vacate(before)

    def _vacate(self, index: int) -> bool:
        """A member has left the slot. Is it free now, or did another one start in it, in a damaged journal?"""
        self._members[index] -= 1
        if self._members[index]:
            return False
        del self._members[index]
        self._release(index)
        return True

    def _release(self, index: int) -> None:
        insort(self._free, index)
        self._fresh.append(index)

    def _explain(self, t: float, engine: Engine) -> None:
        """Set the cause of every slot without a member, as the engine names it now.

        The first ones wait for a start, those behind for what the engine names, the last ones for a device.
        """
        free = self._free
        if not free:
            return
        starting = engine.at_work - len(self._where)
        usable = max(0, self._available - len(self._members))
        cause = engine.idle_cause() if starting < len(free) else "start"
        begins = "disk" if self.paused else "start"
        idle: str = cause
        if self.by_hand:  # nothing else would let a member begin
            begins, idle = "paused", "no_work" if cause == "no_work" else "paused"
        waits_from = free[starting] if starting < len(free) else math.inf
        device_from = free[usable] if usable < len(free) else math.inf
        for index in self._unexplained((waits_from, device_from, begins, idle)):
            self._set(index, "device" if index >= device_from else begins if index < waits_from else idle, t)

    def _unexplained(self, now: tuple[float, float, str, str]) -> list[int]:
        """The free slots whose cause may have changed, sorted. now: the first slots of two causes, and two names."""
        free, before, fresh = self._free, self._explained, self._fresh
        self._explained, self._fresh = now, []
        if before is None or before[2:] != now[2:]:
            return list(free)
        moved = {index for index in fresh if index in self._slots and index not in self._members}
        for was, is_now in zip(before[:2], now[:2], strict=True):
            if was != is_now:
                moved.update(free[bisect_left(free, min(was, is_now)) : bisect_left(free, max(was, is_now))])
        return sorted(moved)


def _number(waiting: Waiting) -> int:
    return waiting[1]


#: a run's time is cut into so many equal parts, each of which says how all slots were used
PARTS = 200
#: idle spans below this share of the run are not drawn; the parts count them
SHORTEST = 1 / 20_000


class Elapsed:
    """Turns times into elapsed seconds: the clock stands still between sessions."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._begins = [session.begin for session in sessions]
        self.marks: list[float] = []
        self._ends: list[float] = []
        total = 0.0
        for session in sessions:
            self.marks.append(total)
            total += max(0.0, session.end - session.begin)
            self._ends.append(total)

    @property
    def total(self) -> float:
        return self._ends[-1] if self._ends else 0.0

    def __call__(self, t: float | None) -> float | None:
        return None if t is None else self.of(t)

    def of(self, t: float) -> float:
        i = bisect_right(self._begins, t) - 1
        if i < 0:
            return 0.0
        return min(self.marks[i] + t - self._begins[i], self._ends[i])


class Spans(TypedDict):
    """Spans of slots as columns; begin and end are elapsed seconds."""

    slot: list[int]
    begin: list[float]
    end: list[float]


class BusySpans(Spans):
    """The intervals that members trained."""

    member: list[int | None]


class Timeline(TypedDict):
    """What each slot did when. sessions: where they begin. width: of a part. See `timeline`."""

    slots: int
    total: float
    sessions: list[float]
    busy: BusySpans
    idle: dict[str, Spans]
    width: float
    parts: dict[str, list[float]]


def timeline(spans: Iterable[Span], elapsed: Elapsed, slots: int) -> Timeline:
    """busy: slot, member, begin, end of each interval. idle: by cause, slot, begin, end, without the shortest.

    parts: slot-seconds by state in each of `PARTS` equal parts of the time; they add up to all spans.
    """
    total = elapsed.total
    width = total / PARTS
    busy: list[tuple[int, int | None, float, float]] = []
    idle: dict[str, list[tuple[int, float, float]]] = {cause: [] for cause in CAUSES}
    parts = {kind: [0.0] * PARTS for kind in (BUSY, *CAUSES)}
    for slot, kind, member, t0, t1 in spans:
        begin, end = elapsed.of(t0), elapsed.of(t1)
        if width:
            _spread(parts[kind], begin, end, width)
        if kind == BUSY:
            busy.append((slot, member, begin, end))
        elif end - begin >= SHORTEST * total:
            idle[kind].append((slot, begin, end))
    busy.sort(key=lambda span: (span[3], span[0]))  # by their ends, so that new ones come last
    return {
        "slots": slots,
        "total": total,
        "sessions": elapsed.marks,
        "busy": {
            "slot": [b[0] for b in busy],
            "member": [b[1] for b in busy],
            "begin": [b[2] for b in busy],
            "end": [b[3] for b in busy],
        },
        "idle": {
            cause: {"slot": [s[0] for s in merged], "begin": [s[1] for s in merged], "end": [s[2] for s in merged]}
            for cause, spans in idle.items()
            for merged in [sorted(_merged(spans, SHORTEST * total), key=lambda span: (span[2], span[0]))]
        },
        "width": width,
        "parts": parts,
    }


def _spread(parts: list[float], begin: float, end: float, width: float) -> None:
    first, last = min(int(begin / width), PARTS - 1), min(int(end / width), PARTS - 1)
    for i in range(first, last + 1):
        low = begin if i == first else i * width
        high = end if i == last else (i + 1) * width
        parts[i] += max(0.0, high - low)


def _merged(spans: list[tuple[int, float, float]], gap: float) -> list[tuple[int, float, float]]:
    """The spans in order; those that touch become one."""
    merged: list[tuple[int, float, float]] = []
    for slot, begin, end in sorted(spans):
        if merged and merged[-1][0] == slot and begin - merged[-1][2] < gap * 1e-6:
            merged[-1] = (slot, merged[-1][1], end)
        else:
            merged.append((slot, begin, end))
    return merged
