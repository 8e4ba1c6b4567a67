"""How much each hyperparameter mattered: a share, by generation, of the differences between siblings.

In a family tree most of a score is inherited, so over a whole generation a hyperparameter would get the credit for the
values that a good family happened to have. Therefore siblings are compared with siblings: the siblings' mean is
subtracted from a member's rank in its generation, and from its place along the hyperparameter (in the unit cube, where
a logarithmic one is logarithmic). The result is the share of the variance of these ranks that a one-way analysis of
variance over 5 bins of equal counts explains (3 with fewer than 40 members; an option of a Choice is a bin), corrected
for the share that chance alone would explain (epsilon squared). It is the main effect of a functional ANOVA, without a
model to be fitted: a U-shaped effect counts, an interaction does not. `trend` is Spearman's rank correlation with being
better: above 0, more is better. Pure arithmetic: no clock, no files, no numpy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from ..space import Choice

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from ..engine.tree import Node
    from ..space import Space


#: members with a sibling that are needed for a result
FEWEST = 10


class ImportanceRow(TypedDict):
    """An Importance in JSON."""

    generation: int | None
    members: int
    shares: Sequence[float | None]
    trends: Sequence[float | None]
    parent: float | None


@dataclass(frozen=True, slots=True)
class Importance:
    """Shares in [0, 1] and trends in [-1, 1], one a hyperparameter in the space's order; None where there is no result.

    generation: None for all of them together. members: how many were compared. parent: the share of the variance of
    the ranks that lies between families, which is inherited; None in generation 0.
    """

    generation: int | None
    members: int
    shares: tuple[float | None, ...]
    trends: tuple[float | None, ...]
    parent: float | None

    def to_json(self) -> ImportanceRow:
        return ImportanceRow(
            generation=self.generation,
            members=self.members,
            shares=self.shares,
            trends=self.trends,
            parent=self.parent,
        )


def importances(generations: Sequence[Sequence[Node]], space: Space) -> list[Importance]:
    """All generations together first, then one by one. Members without a finite loss do not count."""
    ranked = [_ranked(members) for members in generations]
    together = [row for rows in ranked for row in rows]
    return [_importance(None, together, space)] + [_importance(i, rows, space) for i, rows in enumerate(ranked)]


#: a member, its family, and its rank in the generation scaled to [0, 1]: 0 is the best
_Row = tuple["Node", "Hashable", float]


def _ranked(members: Sequence[Node]) -> list[_Row]:
    compared = [m for m in members if m.state.settled and m.loss - m.loss == 0.0]
    ranks = _ranks([m.loss for m in compared])
    top = max(1, len(compared) - 1)
    families = ((m.generation, m.parent.id if m.parent is not None else None) for m in compared)
    return [(m, family, rank / top) for m, family, rank in zip(compared, families, ranks, strict=True)]


def _importance(generation: int | None, rows: list[_Row], space: Space) -> Importance:
    count: defaultdict[Hashable, int] = defaultdict(int)
    for _, family, _ in rows:
        count[family] += 1
    siblings = [row for row in rows if count[row[1]] > 1]
    families = [family for _, family, _ in siblings]
    free = len(siblings) - len(set(families))
    enough = generation != 0 and len(rows) >= FEWEST
    parent = _inherited(rows) if enough else None
    if len(siblings) < FEWEST or free < 2:
        return Importance(generation, len(siblings), (None,) * len(space), (None,) * len(space), parent)
    ranks = _centred([rank for _, _, rank in siblings], families)
    shares: list[float | None] = []
    trends: list[float | None] = []
    for name, dimension in space.items():
        units = [dimension.to_unit(m.config[name]) for m, _, _ in siblings]
        if isinstance(dimension, Choice):
            shares.append(_share(ranks, units, free))
            trends.append(None)
            continue
        steps = [round(step, 12) for step in _centred(units, families)]
        shares.append(_share(ranks, _binned(steps, 5 if len(siblings) >= 40 else 3), free))
        trends.append(_correlation(_ranks(steps), [-rank for rank in ranks]))
    return Importance(generation, len(siblings), tuple(shares), tuple(trends), parent)


def _inherited(rows: list[_Row]) -> float | None:
    """The share of the ranks' variance between families, of those that have parents."""
    of = [(rank, family) for m, family, rank in rows if m.parent is not None]
    generations = [m.generation for m, _, _ in rows if m.parent is not None]
    ranks = _centred([rank for rank, _ in of], generations)
    families, apart = [family for _, family in of], len(set(generations))
    return _share(ranks, families, len(of) - apart, used=len(set(families)) - apart)


def _ranks(values: Sequence[float]) -> list[float]:
    """From 0; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order) and values[order[end]] == values[order[begin]]:
            end += 1
        for i in order[begin:end]:
            ranks[i] = (begin + end - 1) / 2
        begin = end
    return ranks


def _centred(values: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    means = _means(values, groups)
    return [value - means[group] for value, group in zip(values, groups, strict=True)]


def _means(values: Iterable[float], groups: Iterable[Hashable]) -> dict[Hashable, float]:
    sums: defaultdict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, group in zip(values, groups, strict=True):
        entry = sums[group]
        entry[0] += value
        entry[1] += 1
    return {group: total / count for group, (total, count) in sums.items()}


def _binned(values: Sequence[float], bins: int) -> list[int]:
    """The bin of each value: `bins` of about equal counts; equal values fall into the same."""
    order = sorted(values)
    edges = [order[len(order) * i // bins] for i in range(1, bins)]
    return [bisect_right(edges, value) for value in values]


def _share(values: Sequence[float], groups: Sequence[Hashable], free: int, used: int | None = None) -> float | None:
    """The share of the values' variance between the groups, less the share that chance explains.

    free: the values' degrees of freedom; used: how many of them the groups take, by default one less than there are.
    None if it is undefined: one group only, or no variance.
    """
    if not values:
        return None
    mean = sum(values) / len(values)
    total = sum((value - mean) ** 2 for value in values)
    means = _means(values, groups)
    between = sum((means[group] - mean) ** 2 for group in groups)
    used = len(means) - 1 if used is None else used
    left = free - used
    if used < 1 or left < 1 or total <= 1e-12:
        return None
    within = max(0.0, total - between) / left
    return min(1.0, max(0.0, 1.0 - within / (total / free)))


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    ab = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    aa, bb = sum((x - mean_a) ** 2 for x in a), sum((y - mean_b) ** 2 for y in b)
    return ab / (aa * bb) ** 0.5 if aa > 1e-12 and bb > 1e-12 else None
