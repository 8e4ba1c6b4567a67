"""What each slot did, moment by moment, on a clock that stands still between the sessions of a run.

Pure: takes the spans that the account of the slots' time added up (usage.Usage.trail) and says them in *elapsed*
seconds: since the run began, the time between a session's end and the next one's beginning left out. So busy and idle
seconds here are those of the summary, span by span.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from .usage import BUSY, CAUSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .history import Session
    from .usage import Span

#: into so many equal parts a run's time is cut, to say how its slots were used all in all
PARTS = 200
#: idle for less than this share of the run is drawn by nobody; the parts have it
SHORTEST = 1 / 20_000


class Elapsed:
    """Turns times into elapsed seconds."""

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


def timeline(spans: Iterable[Span], elapsed: Elapsed, slots: int) -> dict[str, Any]:
    """busy: slot, member, begin, end of each interval. idle: by cause, slot, begin, end; the shortest are left out.

    parts: how much of each of `PARTS` equal parts of the time was spent how, in slot-seconds; they add up to all spans.
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
    busy.sort(key=lambda span: (span[3], span[0]))  # by their ends: what is new comes last
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
            cause: {"slot": [s[0] for s in found], "begin": [s[1] for s in found], "end": [s[2] for s in found]}
            for cause, spans in idle.items()
            for found in [sorted(_merged(spans, SHORTEST * total), key=lambda span: (span[2], span[0]))]
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
    """In order, and what touches is one."""
    merged: list[tuple[int, float, float]] = []
    for slot, begin, end in sorted(spans):
        if merged and merged[-1][0] == slot and begin - merged[-1][2] < gap * 1e-6:
            merged[-1] = (slot, merged[-1][1], end)
        else:
            merged.append((slot, begin, end))
    return merged
