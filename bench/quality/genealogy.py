"""Uses of the family tree, tried in place of the product's plain rule. Nothing here is in the product.

The lineage filter (lineage.py) replaces a member's loss by what its lineage makes likely. The other uses are breeding
rules:

    Capped      at most so many children of one parent become parents
    Returning   when the best member is some generations old, it has children again
    Allocated   a parent whose children do well gets more children than one whose children do badly
    Classes     some lineages are selected every generation, some rarely (classes.py)

`Reevaluated` uses no kin: it evaluates a member once more when the member is about to be a parent. `Genealogy` puts all
of these into a simulated run before the run begins.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from gpbt_async.engine.selection import Offspring, Selection
from gpbt_async.engine.tree import Node, State, Tree

from .classes import Classes, Kept
from .lineage import Filter, Filtered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gpbt_async.engine.adoption import Adoption
    from gpbt_async.simulate import Simulation

#: added to the scores of those that are no finalists
LAST = 1e6


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
        below = self.tree.generations[shallowest : shallowest + 2]
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

    Options: `filter` = "lineage" or "generation", with `noise` = "reported" or "tree", `logs`, and `ranks` = False: for
    the final choice alone; `reevaluate` = what an evaluation costs, in intervals; `rule` = (name, options of the rule).
    The final choice is by the posterior mean, or by the mean of two evaluations, where there is one. `choose` =
    "score": by the scores. `choose` = (m, cost): the m best by score are evaluated once more, and the best mean wins.
    """

    def __init__(
        self,
        simulation: Simulation,
        errors: Mapping[int, float],
        again: Callable[[Node], float],
        filter: str | None = None,
        noise: str = "reported",
        logs: bool = True,
        ranks: bool = True,
        reevaluate: float | None = None,
        rule: tuple[str, dict[str, Any]] | None = None,
        choose: str | tuple[int, float] = "rank",
    ) -> None:
        self._engine, self._cost, self._choose, self._again = simulation.engine, reevaluate, choose, again
        #: of finalists: the mean of two evaluations
        self._finalists: dict[int, float] = {}
        tree = self._engine.tree
        assert not tree.members, "the run has begun"
        if filter is not None:
            tree.__class__ = filtered = Filtered
            assert isinstance(tree, filtered)
            tree.filter, tree.ranks, tree.means = Filter(tree, errors, filter, noise, logs), ranks, {}
        elif reevaluate is not None:
            tree.__class__ = reevaluated = Reevaluated
            assert isinstance(tree, reevaluated)
            tree.again, tree.parents, tree.twice = again, self._engine.selection.parents, set()
        if rule is not None:
            name, options = rule
            replace(simulation, RULES[name](self._engine.adoption, tree, **options))

    def finish(self) -> None:
        """The run is over: evaluate the finalists."""
        if not isinstance(self._choose, str):
            finished = sorted(m for m in self._engine.tree.members if m.state is State.FINISHED)
            self._finalists = {m.id: (m.loss + self._again(m)) / 2 for m in finished[: self._choose[0]]}

    def worth(self, member: Node, score: float) -> float:
        """What the final choice is by; less is better. score: as reported."""
        tree = self._engine.tree
        if not isinstance(self._choose, str):
            return self._finalists.get(member.id, LAST + score)
        if self._choose == "score" or member.state is not State.FINISHED:
            return score
        return tree.means[member.id] if isinstance(tree, Filtered) else member.loss

    def extra(self, member: Node) -> float:
        """Intervals that were spent on the member beside its own."""
        tree = self._engine.tree
        twice = isinstance(tree, Reevaluated) and member.id in tree.twice
        cost = (self._cost or 0.0) if twice else 0.0
        return cost if isinstance(self._choose, str) or member.id not in self._finalists else cost + self._choose[1]
