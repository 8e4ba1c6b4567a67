"""What the telemetry of a member shows, by itself or beside another's: pure, from plain JSON to what is to be said.

Does a child's score depend on its training? What the scores of the first children show of it.

Children that all end with exactly the score that their parent had, or with exactly their siblings', report before they
train, or their interval changes nothing that the score can see. One such child shows nothing; eight do, if the score
can tell models apart at all: an accuracy on 75 images has 76 values, and sound members tie in it for generations.

What is not asked here, because scores cannot answer it: whether children begin where their parents ended. Noise, a
rate that begins high, and the luck of the parents that are chosen look the same.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..engine.tree import Node
    from ..experiment import Settings


if TYPE_CHECKING:
    #: telemetry, as JSON
    Noted = Mapping[str, Any]


def overwritten(member: Node, noted: Noted) -> Iterator[Said]:
    """Searched values that the script has set before it read them."""
    for name, searched, given in noted.get("overwritten", ()):
        yield Said(
            "GPBT020",
            name,
            f"member {member.id} was to train with {name}={searched}, and the script set {given} before it read that",
            f"let the searched values come last ({{**defaults, **member.config}}), or take {name!r} out of the space",
        )


def splits(member: Node, noted: Noted, others: Iterable[tuple[Node, Noted]]) -> Iterator[Said]:
    """Data split differently by two members. Another split that is the same for both may be the one that judges."""
    mine: Mapping[str, str] = noted.get("splits", {})
    for other, theirs in others if mine else ():
        seen: Mapping[str, str] = theirs.get("splits", {})
        if other.seed == member.seed or any(seen.get(place) == mine[place] for place in mine):
            continue
        for place in mine.keys() & seen.keys():
            yield Said(
                "GPBT017",
                "split",
                f"members {other.id} and {member.id} split the data differently at {place}: each is judged by other "
                "data, and a child by what its parent has trained on",
                "draw the split from a seed of its own (generator=torch.Generator().manual_seed(0), random_state=0)",
            )


class Said(NamedTuple):
    """A finding, but for the member in which it was seen."""

    code: str
    subject: str
    text: str
    remedy: str


#: children that are looked at, and the fewest that show anything
MOST, FEWEST = 8, 4
#: a score that is a whole number of as many parts, or of fewer, is a count or a share
PARTS = 1000


class Heirs:
    """Folds members that have trained."""

    def __init__(self, settings: Settings) -> None:
        self._name = settings.score
        self._needed = min(MOST, settings.population)
        if settings.population < FEWEST or settings.replay is not None:
            self._needed = 0
        #: by parent: its children's scores, each with all that they reported
        self._families: dict[int, list[tuple[float, str]]] = {}
        #: of children: the score, and the parent's
        self._children: list[tuple[float, float]] = []

    def trained(self, member: Node, score: float, metrics: Mapping[str, float]) -> Said | None:
        """A member has ended with a finite score. metrics: all that it reported last."""
        parent = member.parent
        if parent is None or parent.score is None or len(self._children) >= self._needed:
            return None
        self._children.append((score, parent.score))
        self._families.setdefault(parent.id, []).append((score, repr(sorted(metrics.items()))))
        if len(self._children) < self._needed or not (self._same() or self._siblings()):
            return None
        whose = "their parents had" if self._same() else "their siblings had, whatever their configs"
        return Said(
            "GPBT019",
            self._name,
            f"the first {self._needed} children all ended with exactly the {self._name!r} that {whose}",
            "report after training, and the model's own score rather than the best so far",
        )

    def _same(self) -> bool:
        """If siblings differ in another metric, the score may be the best of a lineage so far, and stay."""
        return (
            all(score == theirs for score, theirs in self._children)
            and all(len(set(each)) == 1 for each in self._families.values())
            and _differ(theirs for _, theirs in self._children)
        )

    def _siblings(self) -> bool:
        families = [each for each in self._families.values() if len(each) > 1]
        return (
            sum(map(len, families)) >= FEWEST
            and all(len(set(each)) == 1 for each in families)
            and _differ(each[0][0] for each in self._families.values())
        )


def _differ(scores: Iterable[float]) -> bool:
    """Can the score tell models apart?"""
    values = set(scores)
    return len(values) > 1 and not all(map(coarse, values))


def coarse(score: float) -> bool:
    """Is the score a count, or a share of few (or so many per cent), as an accuracy is? Such scores tie easily."""
    if score == int(score) or abs(score) > 100:
        return score == int(score)
    share = score if abs(score) <= 1 else score / 100
    return abs(float(Fraction(share).limit_denominator(PARTS)) - share) <= 1e-7 * abs(share)  # float32's precision
