"""Uses of the family tree, tried in place of the product's plain rule. Nothing here is in the product.

`Filtered` replaces a member's loss by what its lineage makes likely; it is a tree, because the tree ranks. The others
are breeding rules:

    Capped      of one parent's children at most so many become parents
    Returning   where no member has beaten the best for so many generations, the best has children again
    Allocated   a parent whose children do well has more of them than one whose children do badly
    (Classes    classes.py: some lineages are selected every generation, some rarely)

and `Reevaluated` knows of no kin: who is about to be a parent is evaluated once more. `install` puts them into a
simulated run before it begins.

**The filter.** Scores are noisy: y = x + e, and e has a standard error r, which the task reports. A child's true loss x
is its parent's, plus a gain that its siblings share in part, plus what its own config does. So before a child is
evaluated we expect the parent's posterior mean plus the family's mean gain, with the parent's posterior variance plus q;
its score moves that expectation by K = (P + q) / (P + q + r²) of the surprise. It is a Kalman filter along the lineage,
and a breeder calls it an index of own and family record. Where r is 0, K is 1 and the loss is the score itself, to the
last bit.

* The family's gain is the median over the siblings that have finished, shrunk towards the generation's median as if
  there were KAPPA siblings more that had gained that much. Children's gains are counted from the parent's posterior.
* q is the variance of gains in the generation on their better side, less the noise in them. Only the better side counts:
  a bad config can lose any amount, and nothing can gain much more than the best do. With fewer than LEAST gains known in
  the generation, it is the last generation's; with none, the score stands as it is.
* r is the mean of the member's own squared error and the generation's median: from 8 episodes a standard error is itself
  only known to within a quarter.
* noise="tree" is for scores without a reported error. It looks at how much of the parents' differences their children
  still show: the slope b of family medians on the parents' scores. Among parents that were chosen by these very scores a
  covariance would be too small, but a slope is not: choosing by the regressor leaves it as it is. 1 - b of the variance
  on the better side is then called noise. Whatever does not last is noise in that sense: luck, but also what a low
  learning rate gains at once and its heirs lose again. Where laggards catch up by themselves, b is below 1 without any
  noise; the estimate is then too high.

A member's loss is computed once, when it finishes, so ranks only get worse, as retention assumes. The price: who
finishes early is judged with fewer siblings.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpbt_async.engine.selection import Offspring, Selection
from gpbt_async.engine.tree import Node, State, Tree

from .classes import Classes, Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from gpbt_async.engine.adoption import Adoption
    from gpbt_async.simulate import Simulation

#: siblings that the generation's gain counts as; gains that q is estimated from, at least; the least q, in r²
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

    errors: standard errors of scores by member. prior: "lineage", or "generation", which looks at no kin: the
    generation's median and its spread on the better side. noise: "reported" or "tree".
    """

    def __init__(self, tree: Tree, errors: Mapping[int, float], prior: str = "lineage", noise: str = "reported") -> None:
        self.beliefs: dict[int, Belief] = {}
        self._tree, self._errors, self._prior, self._noise = tree, errors, prior, noise
        #: the variance of gains by generation, as last estimated
        self._q: dict[int, float] = {}

    def take(self, member: Node) -> Belief:
        """The member has finished with the loss it has; what is believed of it from now on."""
        r2 = self._noise_of(member)
        expected = self._expected(member) if r2 > 0 else None
        if expected is None:
            belief = Belief(member.loss, r2, member.loss, r2)
        else:
            mean, variance = expected
            gain = variance / (variance + r2)
            belief = Belief(mean + gain * (member.loss - mean), (1 - gain) * variance, member.loss, r2)
        self.beliefs[member.id] = belief
        return belief

    def _expected(self, member: Node) -> tuple[float, float] | None:
        """Mean and variance of the member's loss before its score is looked at; None: anything is possible."""
        peers = [self.beliefs[m.id] for m in self._tree.generations[member.generation].ranking]
        if self._prior == "generation":
            if len(peers) < LEAST:
                return None
            noise = statistics.median(b.r2 for b in peers)
            losses = [b.y for b in peers]
            return statistics.median(losses), max(FLOOR * noise, better_variance(losses) - noise)
        parent = member.parent
        if parent is None:
            return None
        gains = self._gains(self._tree.generations[member.generation].ranking)
        q = self._variance_of_gains(member.generation, gains)
        if q is None or not gains:
            return None
        siblings = [gain for family, gain in gains if family == parent.id]
        general = statistics.median(gain for _, gain in gains)
        share = len(siblings) / (len(siblings) + KAPPA)
        gain = share * (statistics.median(siblings) if siblings else general) + (1 - share) * general
        return self.beliefs[parent.id].mean + gain, self.beliefs[parent.id].variance + q

    def _gains(self, members: Iterable[Node]) -> list[tuple[int, float]]:
        """(parent, score less the parent's posterior mean) of the members."""
        return [
            (m.parent.id, self.beliefs[m.id].y - self.beliefs[m.parent.id].mean)
            for m in members
            if m.parent is not None
        ]

    def _variance_of_gains(self, generation: int, gains: Sequence[tuple[int, float]]) -> float | None:
        if len(gains) >= LEAST:
            members = self._tree.generations[generation].ranking
            noise = statistics.median(self.beliefs[m.id].r2 for m in members)
            inherited = statistics.median(self.beliefs[family].variance for family, _ in gains)
            spread = better_variance([gain for _, gain in gains])
            self._q[generation] = max(FLOOR * noise, spread - noise - inherited)
        return self._q.get(generation, self._q.get(generation - 1))

    def _noise_of(self, member: Node) -> float:
        if self._noise == "tree":
            return self._transitory(member.generation)
        own = self._errors.get(member.id, 0.0) ** 2
        others = [self._errors.get(m.id, 0.0) ** 2 for m in self._tree.generations[member.generation].ranking]
        return (own + statistics.median(others)) / 2 if others else own

    def _transitory(self, generation: int) -> float:
        """The variance of what does not last in this generation's losses, as far as the tree can tell."""
        losses = [self.beliefs[m.id].y for m in self._tree.generations[generation].ranking]
        slope = inherited_share(self._families())
        if slope is None or len(losses) < LEAST:
            return 0.0
        return max(0.0, 1.0 - slope) * better_variance(losses)

    def _families(self) -> Iterator[tuple[float, list[tuple[float, float]]]]:
        """By generation: the variance of its losses on the better side; (loss, the children's median) of its parents."""
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
    """A tree that ranks by the posterior mean. `score` stays as reported."""

    filter: Filter

    def settle(self, member: Node, state: State) -> None:
        if state is State.FINISHED:
            member.loss = self.filter.take(member).mean
        super().settle(member, state)


class Reevaluated(Tree):
    """A tree that evaluates a member once more where its score is among the best k so far, and ranks by the mean."""

    #: validation loss by member and a fresh seed
    again: Callable[[Node], float]
    parents: int
    #: members that were evaluated twice
    twice: set[int]

    def settle(self, member: Node, state: State) -> None:
        if state is State.FINISHED:
            ranking = self.generations[member.generation].ranking
            if len(ranking) < self.parents or member < ranking[self.parents - 1]:
                self.twice.add(member.id)
                member.loss = (member.loss + self.again(member)) / 2
        super().settle(member, state)


class Capped(Kept):
    """At most `cap` of a parent's children become parents; if too few are left, the best of the others fill up."""

    def __init__(self, adoption: Adoption, tree: Tree, cap: int) -> None:
        super().__init__(adoption, tree)
        self._cap = cap

    def elite(self, generation: int) -> list[Node]:
        count = len(super().elite(generation))
        chosen: list[Node] = []
        spare: list[Node] = []
        taken: dict[int | None, int] = defaultdict(int)
        for member in self.tree.rivals(generation, self._plus):
            if member.damaged:
                continue
            family = member.parent.id if member.parent is not None else None
            free = family is None or taken[family] < self._cap
            taken[family] += free
            (chosen if free else spare).append(member)
        return sorted([*chosen[:count], *spare[: max(0, count - len(chosen))]])

class Returning(Selection):
    """Once the best of all is more than `patience` generations old, it has children again, in the last parent's place.

    Its checkpoint is kept anyway. Its first child has repeated its config long ago, so the new ones all take steps.
    """

    def __init__(self, adoption: Adoption, tree: Tree, patience: int) -> None:
        super().__init__(adoption, tree)
        self._patience = patience

    def elite(self, generation: int) -> list[Node]:
        elite, best = super().elite(generation), self.tree.best
        if best is None or not elite or generation - best.generation < self._patience:
            return elite
        return [best, *elite[:-1]]

    def check(self) -> None:
        self.reconsider()


class Allocated(Selection):
    """The next child goes to the parent with the fewest children for its weight.

    The weight is 1 while none of the parent's children in this generation have finished. Then families are ordered by
    the median of their finished children: the better half weigh 1.5, the others 2/3.
    """

    HEAVY, LIGHT = 1.5, 2 / 3

    def basis(self, shallowest: int) -> tuple[object, ...]:
        below = self.tree.generations[shallowest:shallowest + 2]
        return (*super().basis(shallowest), *(g.settled for g in below), len(self.tree.members))

    def _async_choices(self, generation: int, elite: list[Node]) -> Iterator[Offspring]:
        here = self.tree.generations[generation]
        weights = self._weights(generation, elite)
        counts = [here.by_parent.get(parent.id, 0) for parent in elite]
        born = [len(parent.children) for parent in elite]
        for _ in range(here.size - here.issued):
            rank = min(range(len(elite)), key=lambda i: (counts[i] / weights[i], i))
            yield Offspring(generation, elite[rank], born[rank])
            counts[rank] += 1
            born[rank] += 1

    def _weights(self, generation: int, elite: list[Node]) -> list[float]:
        known: dict[int, float] = {}
        for parent in elite:
            losses = [c.loss for c in parent.children if c.generation == generation and c.state is State.FINISHED]
            if losses:
                known[parent.id] = statistics.median(losses)
        if len(known) < 2:
            return [1.0] * len(elite)
        middle = statistics.median(known.values())
        heavy = {id for id, loss in known.items() if loss <= middle}
        return [1.0 if p.id not in known else self.HEAVY if p.id in heavy else self.LIGHT for p in elite]


#: rules by name
RULES = {"capped": Capped, "returning": Returning, "allocated": Allocated, "classes": Classes}


def replace(simulation: Simulation, rule: Selection) -> None:
    """Have everything in the engine that asks the breeding rule ask this one."""
    engine = simulation.engine
    engine.selection = engine.termination._selection = engine._retention._selection = rule
    engine._upcoming._selection = rule


class Genealogy:
    """What stands in place of the product's tree and rule in one simulated run, which has not begun.

    Options: `filter` = "lineage" or "generation", with `noise` = "reported" or "tree"; `reevaluate` = what an
    evaluation costs, in intervals; `rule` = (name, options of the rule); `choose` = "score": the final choice is by
    the scores, and not by what the tree ranks by.
    """

    def __init__(
        self,
        simulation: Simulation,
        errors: Mapping[int, float],
        again: Callable[[Node], float],
        filter: str | None = None,
        noise: str = "reported",
        reevaluate: float | None = None,
        rule: tuple[str, dict[str, Any]] | None = None,
        choose: str = "rank",
    ) -> None:
        self._engine, self._cost, self._choose = simulation.engine, reevaluate, choose
        tree = self._engine.tree
        assert not tree.members, "the run has begun"
        if filter is not None:
            tree.__class__ = Filtered
            tree.filter = Filter(tree, errors, filter, noise)  # type: ignore[attr-defined]
        elif reevaluate is not None:
            tree.__class__ = Reevaluated
            tree.again, tree.parents, tree.twice = again, self._engine.selection.parents, set()  # type: ignore[attr-defined]
        if rule is not None:
            name, options = rule
            replace(simulation, RULES[name](self._engine.adoption, tree, **options))

    def worth(self, member: Node, score: float) -> float:
        """What the final choice is by; less is better. score: as reported."""
        return score if self._choose == "score" or member.state is not State.FINISHED else member.loss

    def extra(self, member: Node) -> float:
        """Intervals that were spent on the member beside its own."""
        tree = self._engine.tree
        return self._cost or 0.0 if isinstance(tree, Reevaluated) and member.id in tree.twice else 0.0
