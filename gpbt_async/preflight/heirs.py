"""Do children go on from where their parents ended? What the scores of the first children show of it.

Scores are noisy and configs differ, so one child shows nothing; a number of them, without exception, does.

*Fresh starts*: children of generation 0 whose first report is about as bad as their parent's first, though the parent
ended far better, and which then end no better than it: each interval is the first one again. This needs two reports an
interval. A rate that begins high may throw a child back, too, but then it ends better than its parent.

*Scores that do not depend on the interval*: children that all end with exactly the score that their parent had, or with
exactly their siblings'. They report before they train, or the interval changes nothing that the score can see.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..experiment import Settings
    from ..tree import Member


class Said(NamedTuple):
    """A finding, but for the member in which it was seen."""

    code: str
    subject: str
    text: str
    remedy: str


#: children that are looked at, and the fewest that show anything
MOST, FEWEST = 8, 4
#: the share of the way back to a fresh start from which a first report counts as one
BACK = 0.5


class Heirs:
    """Folds members that have trained; losses inside: the score, with its sign turned if more is better."""

    def __init__(self, settings: Settings) -> None:
        self._name = settings.score
        self._sign = -1.0 if settings.mode == "max" else 1.0
        self._needed = min(MOST, settings.population)
        if settings.population < FEWEST or settings.replay is not None:
            self._needed = 0
        #: by member, of those that reported twice or more: the first loss
        self._first: dict[int, float] = {}
        #: of generation 0: first and last loss
        self._roots: dict[int, tuple[float, float]] = {}
        #: by parent: its children's losses, each with all that they reported
        self._families: dict[int, list[tuple[float, str]]] = {}
        #: of children: the first loss (None: reported once), the last; and the parent's two
        self._children: list[tuple[float | None, float, float | None, float]] = []

    def heard(self, member: Member, telemetry: Mapping[str, Any]) -> None:
        first = telemetry.get("first")
        if telemetry.get("reports", 0) > 1 and isinstance(first, int | float) and math.isfinite(first):
            self._first[member.id] = self._sign * first

    def trained(self, member: Member, score: float, metrics: Mapping[str, float]) -> Said | None:
        """A member has ended with a finite score. metrics: all that it reported last."""
        loss, first = self._sign * score, self._first.pop(member.id, None)
        if member.parent is None:
            if first is not None:
                self._roots[member.id] = (first, loss)
            return None
        if len(self._children) >= self._needed or member.parent.score is None:
            return None
        begun, _ = self._roots.get(member.parent.id, (None, None))
        self._children.append((first, loss, begun, self._sign * member.parent.score))
        self._families.setdefault(member.parent.id, []).append((loss, repr(sorted(metrics.items()))))
        if len(self._children) < self._needed:
            return None
        if self._fresh():
            return Said(
                "GPBT018",
                self._name,
                f"the first {self._needed} children began as badly as their parents had begun, and not where those had "
                f"ended (by their first reports of {self._name!r}), and ended no better",
                "load the parent's weights into the model that is trained, after it was made; report what compares "
                "between generations",
            )
        whose = "their parents had" if self._same() else "their siblings had, whatever their configs"
        if not (self._same() or self._siblings()):
            return None
        return Said(
            "GPBT019",
            self._name,
            f"the first {self._needed} children all ended with exactly the {self._name!r} that {whose}",
            "report after training, and the model's own score rather than the best so far",
        )

    def _fresh(self) -> bool:
        told = [
            (f, loss, begun, theirs) for f, loss, begun, theirs in self._children if f is not None and begun is not None
        ]
        if len(told) < self._needed or len(self._roots) < FEWEST:
            return False
        back = sum(theirs < begun and f - theirs > BACK * (begun - theirs) for f, _, begun, theirs in told)
        learn = sum(loss < f for f, loss, _, _ in told)
        roots_learn = sum(loss < first for first, loss in self._roots.values())
        most = self._needed - self._needed // MOST  # one exception in eight
        return (
            back >= most
            and learn >= most
            and roots_learn >= 0.75 * len(self._roots)
            and median(loss for _, loss, _, _ in told) >= median(theirs for *_, theirs in told)
        )

    def _same(self) -> bool:
        """If siblings differ in another metric, the score may be the best of a lineage so far, and stay."""
        return (
            all(loss == theirs for _, loss, _, theirs in self._children)
            and all(len(set(each)) == 1 for each in self._families.values())
            and _differ(theirs for *_, theirs in self._children)
        )

    def _siblings(self) -> bool:
        families = [each for each in self._families.values() if len(each) > 1]
        return (
            sum(map(len, families)) >= FEWEST
            and all(len(set(each)) == 1 for each in families)
            and _differ(each[0][0] for each in self._families.values())
        )


def _differ(losses: Iterable[float]) -> bool:
    """Can the score tell models apart? Counts, and shares that are 0 or 1, tie easily."""
    values = set(losses)
    return len(values) > 1 and any(value != int(value) for value in values)
