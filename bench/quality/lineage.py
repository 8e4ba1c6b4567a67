"""The lineage filter: a member's score is corrected by what its lineage makes likely.

A score y is the true loss x plus noise e, and the task reports the standard error r of e. A child's
true loss is its parent's, plus a gain that its siblings share in part, plus what its own config does. So before a child
is evaluated, we expect the parent's posterior mean plus the family's gain, with the parent's posterior variance plus q.
The score moves this expectation by K = (P + q) / (P + q + r²) of the surprise. This is a Kalman filter along the
lineage; a breeder calls it an index of the own record and the family's. Where r is 0, the loss is the score, exactly.

* Gains are counted from the parent's posterior mean. The expected gain is the last generation's median, plus what the
  finished siblings have gained more than the rest of their generation (by medians). This surplus is shrunk: KAPPA
  siblings more count as having gained what the rest gained.
* q is the variance of the last generation's gains on their better side, less the noise in them. Only the better side
  counts: a bad config can lose any amount, but no config gains much more than the best ones do.
* All members of a generation have the same expected gain and the same q. An earlier version estimated both while the
  generation filled up. Then members that finished sooner were judged differently, which cost more than the filter
  gave. Generations 0 and 1 have no gains before them, so their scores stay as they are.
* r² is the mean of the member's own squared error and the last generation's median. With 8 episodes, an estimated
  standard error is itself off by a quarter, and lucky members report small errors.
* noise="tree" is for scores without a reported error. The slope b of children's medians on their parents' scores says
  which part of the differences between parents lasts. Selection makes a covariance too small, but it leaves a slope on
  the selected quantity as it is. 1 - b of the variance on the better side counts as noise. In this sense noise is all
  that does not last: luck, but also what a low learning rate gains at once and its descendants lose again. The bias: in
  a run where laggards catch up by themselves, b is below 1 without any noise, so the estimate is too high.

The filter computes a member's loss once, when the member finishes. So ranks only get worse, as retention assumes. The
price: a member that finishes early is judged with fewer siblings.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpbt_async.engine.tree import Node, State, Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: siblings that the rest of the generation counts as; gains that q is estimated from, at least; the least q, in r²
KAPPA, LEAST, FLOOR = 2.0, 5, 0.1
#: families, over all generations, that the slope is estimated from, at least
FAMILIES = 8


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of a member's true loss, and what was seen: y, with the variance r2 of its noise."""

    mean: float
    variance: float
    y: float
    r2: float


class Filter:
    """Beliefs of the finished members, by id.

    errors: standard errors of scores by member. prior: "lineage", or its twin without kin, "generation": every child is
    expected to begin with the mean of the last generation's best, and siblings count for nothing. noise: "reported" or
    "tree". logs: filter logarithms, since an interval gains a share of the loss rather than an amount.
    """

    def __init__(
        self,
        tree: Tree,
        errors: Mapping[int, float],
        prior: str = "lineage",
        noise: str = "reported",
        logs: bool = True,
    ) -> None:
        self.beliefs: dict[int, Belief] = {}
        self._tree, self._errors, self._prior, self._noise, self._logs = tree, errors, prior, noise, logs

    def take(self, member: Node) -> float:
        """The member has finished with the loss it has; what its loss is believed to be from now on."""
        y = math.log(member.loss) if self._logs else member.loss
        r2 = self._noise_of(member)
        expected = self._expected(member) if r2 > 0 else None
        if expected is None:
            self.beliefs[member.id] = Belief(y, r2, y, r2)
            return member.loss
        mean, variance = expected
        gain = variance / (variance + r2)
        belief = self.beliefs[member.id] = Belief(mean + gain * (y - mean), (1 - gain) * variance, y, r2)
        return math.exp(belief.mean) if self._logs else belief.mean

    def _expected(self, member: Node) -> tuple[float, float] | None:
        """Mean and variance of the member's loss before its score is looked at; None: anything is possible."""
        generation, parent = member.generation, member.parent
        last = self._typical(generation - 1)
        if parent is None or last is None:
            return None
        mean, variance = self._origin(parent, generation)
        return mean + last[0] + self._family(parent, generation), variance + last[1]

    def _origin(self, parent: Node, generation: int) -> tuple[float, float]:
        """Mean and variance of what a child is believed to begin with: its parent's, or, without kin, the last
        generation's best ones'."""
        if self._prior == "lineage":
            return self.beliefs[parent.id].mean, self.beliefs[parent.id].variance
        above = self._tree.generations[generation - 1].ranking
        best = [self.beliefs[m.id] for m in above[: max(1, math.isqrt(len(above)))]]
        return statistics.fmean(b.mean for b in best), 0.0

    def _family(self, parent: Node, generation: int) -> float:
        """What the children of the parent have gained more than those of others, shrunk."""
        gains = self._gains(generation)
        siblings = [gain for family, gain in gains if family == parent.id]
        if self._prior != "lineage" or not siblings:
            return 0.0
        more = statistics.median(siblings) - statistics.median(gain for _, gain in gains)
        return more * len(siblings) / (len(siblings) + KAPPA)

    def _gains(self, generation: int) -> list[tuple[int, float]]:
        """(parent, score less what it began with) of the generation's finished members."""
        return [
            (m.parent.id, self.beliefs[m.id].y - self._origin(m.parent, generation)[0])
            for m in self._tree.generations[generation].ranking
            if m.parent is not None
        ]

    def _typical(self, generation: int) -> tuple[float, float] | None:
        """The median gain of the generation, and the variance q of gains; None: there were too few."""
        gains = self._gains(generation) if generation > 0 else []
        if len(gains) < LEAST:
            return None
        members = self._tree.generations[generation].ranking
        noise = statistics.median(self.beliefs[m.id].r2 for m in members)
        inherited = statistics.median(self._origin(m.parent, generation)[1] for m in members if m.parent is not None)
        values = [gain for _, gain in gains]
        return statistics.median(values), max(FLOOR * noise, better_variance(values) - noise - inherited)

    def _noise_of(self, member: Node) -> float:
        if self._noise == "tree":
            return self._transitory(member.generation - 1) if member.generation > 1 else 0.0
        own = self._error(member) ** 2
        above = self._tree.generations[member.generation - 1].ranking if member.generation else []
        others = [self._error(m) ** 2 for m in above]
        return (own + statistics.median(others)) / 2 if others else own

    def _error(self, member: Node) -> float:
        """The standard error of y, from that of the loss; the loss of a member is its score until it has a belief."""
        error = self._errors.get(member.id, 0.0)
        if not self._logs:
            return error
        known = self.beliefs.get(member.id)
        return error / (math.exp(known.y) if known is not None else member.loss)

    def _transitory(self, generation: int) -> float:
        """The variance of what does not last in this generation's losses, as far as the tree can tell."""
        losses = [self.beliefs[m.id].y for m in self._tree.generations[generation].ranking]
        slope = inherited_share(self._families())
        if slope is None or len(losses) < LEAST:
            return 0.0
        return max(0.0, 1.0 - slope) * better_variance(losses)

    def _families(self) -> Iterator[tuple[float, list[tuple[float, float]]]]:
        """By generation: the variance of its losses on the better side; (loss, children's median) of its parents."""
        for above, below in itertools.pairwise(self._tree.generations):
            children: dict[int, list[float]] = defaultdict(list)
            for m in below.ranking:
                if m.parent is not None:
                    children[m.parent.id].append(self.beliefs[m.id].y)
            if children:
                spread = better_variance([self.beliefs[m.id].y for m in above.ranking])
                yield spread, [(self.beliefs[id].y, statistics.median(losses)) for id, losses in children.items()]


def better_variance(values: Sequence[float]) -> float:
    """The mean square of what lies below the median, counted from it: the variance, were both sides like that one."""
    middle = statistics.median(values)
    below = [(v - middle) ** 2 for v in values if v <= middle]
    return statistics.fmean(below)


def inherited_share(generations: Iterable[tuple[float, Sequence[tuple[float, float]]]]) -> float | None:
    """The slope of children on parents, within generations; None: there are too few families.

    generations: of each, a variance to scale it by, and (the parent's loss, the children's median) of its families.
    """
    xy = xx = 0.0
    families = 0
    for spread, pairs in generations:
        if len(pairs) < 3 or not spread > 0:
            continue
        families += len(pairs)
        middle, below = statistics.fmean(x for x, _ in pairs), statistics.fmean(y for _, y in pairs)
        xy += sum((x - middle) * (y - below) for x, y in pairs) / spread
        xx += sum((x - middle) ** 2 for x, _ in pairs) / spread
    return xy / xx if families >= FAMILIES and xx > 0 else None


class Filtered(Tree):
    """A tree that ranks by the posterior mean. `score` stays as reported.

    ranks False: it ranks by scores, and the posterior is for the final choice alone.
    """

    filter: Filter
    ranks: bool
    #: the posterior means by member
    means: dict[int, float]

    def settle(self, member: Node, state: State) -> None:
        if state is State.FINISHED:
            self.means[member.id] = mean = self.filter.take(member)
            member.loss = mean if self.ranks else member.loss
        super().settle(member, state)
