"""Do the scores generalise? The best of each generation, by the score and by metrics that selected nothing.

A run that selects by a score improves the score, also where the model does not improve: it overfits the data of the
score. Metrics that members report beside it show this, if their names say that they are on data of their own (a word
such as "test" or "holdout"), or if `choose_by` names them. Here are kept, for each generation, the best k members that
report such a metric. It decides nothing: the report shows it, and the pre-flight judges it.

The gap is how much worse the metric is than the score. `overfits` does not judge the gap of one generation: the best by
a score are expected to be worse by any other measure. It compares two generations, the last complete one (b) and the
one in the middle of the run so far (a = b // 2), so that the fast progress at the beginning does not count. It asks
whether less than half of what the score has gained since a is found in the metric. In symbols, for each member
x = metric - score / 2, all as losses; does the mean of x grow? A drift of the data between score and metric is no
reason, as long as both improve alike. Where the metric is of another kind than the score (an accuracy beside a loss),
a half has no meaning, and x = metric: does it become worse while the score improves?

Against false alarms: at least three members on each side and six generations; both changes must be larger than SURE
standard errors, and must be so twice running, for b - 1 and for b. Members of one generation share ancestors and rows,
so their standard error is too small; this is why SURE is 3.
"""

from __future__ import annotations

import math
import statistics
from bisect import insort
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING

from ..declaration.direction import direction, words_of

if TYPE_CHECKING:
    from ..experiment import Settings
    from .tree import Node

#: complete generations and members in each that a verdict needs; standard errors that a change must exceed
GENERATIONS, MEMBERS, SURE = 6, 3, 3.0
#: larger scores and metrics are left out: a model that reports them has diverged, and their squares overflow
LARGEST = 1e100
#: words that say which data a metric is on: of its own; of any kind
_OWN = frozenset(("test", "testing", "holdout", "heldout"))
_DATA = _OWN | frozenset(("val", "valid", "validation", "dev", "eval", "evaluation", "held", "hold", "out", "train"))


@dataclass(frozen=True, slots=True)
class GapRow:
    """The best of one generation that report the metric: how many, and means of the score and of the metric."""

    generation: int
    members: int
    score: float
    metric: float


class Generalisation:
    """Folds the members of a run as they are published. most: how many of a generation are kept."""

    def __init__(self, settings: Settings, most: int) -> None:
        self._most = most
        #: by generation, best first: members and what they report on data of their own
        self._best: list[list[tuple[Node, dict[str, float]]]] = [[] for _ in range(settings.generations)]

    def published(self, member: Node, settings: Settings) -> None:
        values = {n: v for n, v in member.metrics.items() if abs(v) <= LARGEST and mode_of(settings, n) is not None}
        if values and member.score is not None and abs(member.score) <= LARGEST:
            here = self._best[member.generation]
            insort(here, (member, values), key=itemgetter(0))
            del here[self._most :]

    @property
    def metrics(self) -> list[str]:
        """Their names, in the order in which generations report them."""
        return list({name: None for best in self._best for _, values in best for name in values})

    def rows(self, metric: str) -> list[GapRow]:
        """A row for each generation in which a member reports the metric."""
        pairs = {generation: self._pairs(generation, metric) for generation in range(len(self._best))}
        return [
            GapRow(generation, len(each), *(statistics.fmean(column) for column in zip(*each, strict=True)))
            for generation, each in pairs.items()
            if each
        ]

    def _pairs(self, generation: int, metric: str) -> list[tuple[float, float]]:
        """(score, metric) of each member that reports it."""
        best = self._best[generation]
        return [(m.score, values[metric]) for m, values in best if metric in values and m.score is not None]

    def overfits(self, settings: Settings, metric: str, complete: int) -> tuple[GapRow, GapRow] | None:
        """The two generations between which the run has overfitted; None if it has not, or that is not sure.

        complete: how many generations, from the first on, have settled.
        """
        if complete < GENERATIONS or not all(self._worse(settings, metric, b) for b in (complete - 2, complete - 1)):
            return None
        rows = {row.generation: row for row in self.rows(metric)}
        return rows[(complete - 1) // 2], rows[complete - 1]

    def _worse(self, settings: Settings, metric: str, b: int) -> bool:
        before, after = (self._pairs(generation, metric) for generation in (b // 2, b))
        if min(len(before), len(after)) < MEMBERS:
            return False
        half = 0.5 if alike(settings.score, metric) else 0.0
        own, theirs = (-1 if mode == "max" else 1 for mode in (settings.mode, mode_of(settings, metric)))
        gained = _change([own * s for s, _ in after], [own * s for s, _ in before])
        grown = _change(*([theirs * m - half * own * s for s, m in pairs] for pairs in (before, after)))
        return gained > SURE and grown > SURE


def _change(before: list[float], after: list[float]) -> float:
    """By how many standard errors the mean has grown."""
    error = math.sqrt(sum(statistics.variance(each) / len(each) for each in (before, after)))
    grown = statistics.fmean(after) - statistics.fmean(before)
    return grown / error if error else math.copysign(math.inf, grown) if grown else 0.0


def mode_of(settings: Settings, metric: str) -> str | None:
    """ "max" or "min" for a metric on data of its own; None for any other, and where its name implies neither."""
    if metric == settings.score:
        return None
    if settings.choose_by is not None and metric == settings.choose_by[0]:
        return settings.choose_by[1]
    if not _on_own_data(metric):
        return None
    return settings.mode if alike(settings.score, metric) else direction(metric)


@cache
def _on_own_data(metric: str) -> bool:
    words = words_of(metric)
    return bool(_OWN & set(words)) or {"held", "out"} <= set(words) or {"hold", "out"} <= set(words)


@cache
def alike(score: str, metric: str) -> bool:
    """Do the two measure the same thing on different data, as val_loss and test_loss do?"""
    one, other = ([word for word in words_of(name) if word not in _DATA] for name in (score, metric))
    return one == other
