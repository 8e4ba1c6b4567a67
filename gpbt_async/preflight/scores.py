"""Checks of the first members' scores: do they exist, are they finite, do they differ, do they depend on training?

The last question is the hard one. If children end with exactly their parent's score, or all siblings with the same one,
they may report before they train, or the training may not affect the score. One such child proves nothing. Eight do, if
the score has many possible values. An accuracy on 75 images has only 76 values, so there correct members are often
equal.

Scores cannot show whether children begin where their parents ended, so that is not checked here. Noise, a learning rate
that begins high, and the luck of the chosen parents look the same.
"""

from __future__ import annotations

import difflib
import math
from fractions import Fraction
from typing import TYPE_CHECKING

from ..engine import termination
from ..findings import Finding
from ..formatting import report_call
from .observations import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..engine.tree import Node
    from ..experiment import Settings


#: members whose scores must be equal, over different configs, to be called constant
CONSTANT = 4
#: children whose scores are compared with their families'; the fewest that show anything
MOST, FEWEST = 8, 4
#: a score that is a whole number of this many parts, or of fewer, is a count or a share
PARTS = 1000


class ScoreChecks:
    """Folds the scores of members that have trained."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: members whose score was not finite; and whether one was
        self._not_finite, self._finite = 0, False
        self._constant = ConstantScore(settings)
        self._families = FamilyScores(settings)

    def scored(self, member: Node, score: float | None, metrics: Mapping[str, float]) -> Iterator[Finding]:
        """A member's training function has returned with this score, None if none was reported."""
        name = self._settings.score
        if score is not None:
            yield from self._chosen_by(member, metrics)
        if score is None:
            reports = f"reported {', '.join(map(repr, list(metrics)[:8]))}" if metrics else "reported nothing"
            yield Finding(
                "GPBT011",
                name,
                f"member {member.id} ended without its score {name!r}: it {reports}",
                termination.remedy(self._settings, list(metrics)),
                member.id,
            )
        elif not math.isfinite(score):
            self._not_finite += 1
            if self._not_finite == CONSTANT and not self._finite:
                yield Finding(
                    "GPBT014",
                    name,
                    f"the first {CONSTANT} members all ended with {name}={score}: no config gives a finite one",
                    "look at one member (gpbt-async try SCRIPT); a smaller learning rate, or the data, most likely",
                    member.id,
                )
        else:
            self._finite = True
            yield from self._families.scored(member, score, metrics)
            yield from self._constant.scored(member, score, metrics)

    def _chosen_by(self, member: Node, metrics: Mapping[str, float]) -> Iterator[Finding]:
        name, _ = self._settings.choose_by or ("", "")
        if not name or name in metrics:
            return
        close = difflib.get_close_matches(name, metrics, 1, 0.6)
        yield Finding(
            "GPBT021",
            name,
            f"member {member.id} ended without the metric {name!r} of choose_by: of the best of the last generation, "
            "a member without it cannot be chosen",
            f"did you mean {close[0]!r}?" if close else f"report it beside the score: {report_call(name, '...')}",
            member.id,
        )


class ConstantScore:
    """Do members with different configs all end with the same score? Folds until two scores differ."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._score = ""
        self._varied = settings.replay is not None
        #: hashes of the configs, and what else was reported, as long as all scores are the same
        self._configs: set[int] = set()
        self._metrics: set[str] = set()

    def scored(self, member: Node, score: float, metrics: Mapping[str, float]) -> Iterator[Finding]:
        self._score = self._score or repr(score)
        self._varied |= self._score != repr(score)
        if self._varied:  # nothing more is remembered, however long the run
            self._configs.clear()
            self._metrics.clear()
            return
        s = self._settings
        self._configs.add(hash(tuple(sorted((name, repr(value)) for name, value in member.config.items()))))
        self._metrics.add(repr({name: value for name, value in metrics.items() if name != s.score}))
        # a success rate of 0, an accuracy of 1, chance: many members tie at first, so whole generations must
        may_tie = len(self._metrics) > 1 or coarse(score)
        enough = max(PATIENCE, s.population) if may_tie else CONSTANT
        if len(self._configs) >= enough and (not may_tie or member.generation == s.generations - 1):
            yield Finding(
                "GPBT009",
                s.score,
                f"{len(self._configs)} members with different configs all ended with exactly {s.score}={score:.6g}",
                "the config does not reach the training, or the score cannot tell models apart: take a finer one",
                member.id,
            )


class FamilyScores:
    """Do children end with exactly the score of their parent, or of their siblings? Folds the first children."""

    def __init__(self, settings: Settings) -> None:
        self._name = settings.score
        self._needed = min(MOST, settings.population)
        if settings.population < FEWEST or settings.replay is not None:
            self._needed = 0
        #: parent → its children's scores, each with all that the child reported
        self._families: dict[int, list[tuple[float, str]]] = {}
        #: of each child: its score, and its parent's
        self._children: list[tuple[float, float]] = []

    def scored(self, member: Node, score: float, metrics: Mapping[str, float]) -> Iterator[Finding]:
        parent = member.parent
        if parent is None or parent.score is None or len(self._children) >= self._needed:
            return
        self._children.append((score, parent.score))
        self._families.setdefault(parent.id, []).append((score, repr(sorted(metrics.items()))))
        if len(self._children) < self._needed or not (self._as_parents() or self._as_siblings()):
            return
        whose = "their parents had" if self._as_parents() else "their siblings had, whatever their configs"
        yield Finding(
            "GPBT019",
            self._name,
            f"the first {self._needed} children all ended with exactly the {self._name!r} that {whose}",
            "report after training, and the model's own score rather than the best so far",
            member.id,
        )

    def _as_parents(self) -> bool:
        """If siblings differ in another metric, the score may be the best of a lineage so far, and stay."""
        return (
            all(score == theirs for score, theirs in self._children)
            and all(len(set(scores)) == 1 for scores in self._families.values())
            and _tells_apart(theirs for _, theirs in self._children)
        )

    def _as_siblings(self) -> bool:
        families = [scores for scores in self._families.values() if len(scores) > 1]
        return (
            sum(map(len, families)) >= FEWEST
            and all(len(set(scores)) == 1 for scores in families)
            and _tells_apart(scores[0][0] for scores in self._families.values())
        )


def _tells_apart(scores: Iterable[float]) -> bool:
    """Can the score tell models apart?"""
    values = set(scores)
    return len(values) > 1 and not all(map(coarse, values))


def coarse(score: float) -> bool:
    """Is the score a count or a coarse share (also in per cent), as an accuracy is? Such scores tie easily."""
    if score == int(score) or abs(score) > 100:
        return score == int(score)
    share = score if abs(score) <= 1 else score / 100
    return abs(float(Fraction(share).limit_denominator(PARTS)) - share) <= 1e-7 * abs(share)  # float32's precision
