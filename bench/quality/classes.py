"""Steadier classes: some lineages are selected every generation, some rarely (MF-PBT, Doulazmi et al. 2025, on a tree).

Frequent selection is greedy: what pays within an interval wins, even if it costs more later. In MF-PBT,
populations select at different frequencies. Weights migrate between them, but hyperparameters do not migrate from a
greedy population to a steady one. Here a population is a *class* of members:

* A root's class is its index modulo the number of classes. A child's class is that of the place it fills: in every
  generation a class has the same number of members, its share. Mostly this is the parent's class, too.
* A class with period d selects for the generations d, 2d, 3d, … In the generations between, each finished member of the
  class has one child in it, which repeats its config. A member that never finishes leaves a place. Once the class has
  settled in the generation above, its best members fill these places with further children that repeat their configs.
* When a class selects, its best k_c members become parents by the product's rule: k_c follows from the share and the
  ratio, the parent with the fewest children comes first, the first child repeats the config, and the searcher suggests
  the other configs. `evidence` counts within the class.
* The last quarter of a selecting class's places goes to children of a foreigner, if there is one: the best member of
  the other classes above, where it is better than the best of the class. From a class that is as steady or steadier,
  the child inherits weights and config, and takes a step. From a greedier class it inherits only the weights, and takes
  over the config of the best member of its own class. The foreigner must have a child already, because a first child
  repeats its parent's config.
* There is no barrier. A child begins when its own parent has finished (between selections), or when enough members of
  its class have settled (at a selection). But generations fill up one after the other, so no class is more than one
  generation ahead.

The one surprise: a member's class does not follow from its path. The rule notes the class when it is asked for the
config of a child. The engine asks this right before it creates the child.

A generation's checkpoints stay until the next generation is full. The rule refuses plus and synchronous selection,
replays and the generation stop, because a generation must have its whole width.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpbt_async.engine.selection import Offspring, Selection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpbt_async.ask import Path
    from gpbt_async.engine.adoption import Adoption
    from gpbt_async.engine.tree import Node, Tree
    from gpbt_async.space import Config


class Kept(Selection):
    """A rule whose parents need not be the best k: a generation's checkpoints stay until the next one is full."""

    def _among_best(self, member: Node, generation: int) -> bool:
        return True

    def check(self) -> None:
        self.reconsider()
        super().check()


@dataclass(frozen=True, slots=True)
class Placed(Offspring):
    """A child that fills a place of this class. own: the config it gets, where that is not the searcher's."""

    kind: int
    own: Config | None = None


class Classes(Kept):
    """periods: of the classes. migrate: may a selecting class's last places go to foreigners' children?"""

    def __init__(self, adoption: Adoption, tree: Tree, periods: Sequence[int], migrate: bool = True) -> None:
        super().__init__(adoption, tree)
        settings = adoption.settings
        if self._plus or settings.synchronous or settings.replay is not None or "generation" in settings.early_stop:
            raise ValueError("classes need comma selection, no barrier, no replay and no generation stop")
        self._periods, self._migrate = tuple(periods), migrate
        n = settings.population
        self.shares = [len(range(kind, n, len(periods))) for kind in range(len(periods))]
        #: of children, by path
        self._kinds: dict[Path, int] = {}

    def kind(self, member: Node) -> int:
        return member.index % len(self._periods) if member.parent is None else self._kinds[member.path]

    def given(self, choice: Offspring) -> Config | None:
        if not isinstance(choice, Placed):
            return super().given(choice)
        self._kinds[choice.path] = choice.kind
        return self.adoption.fit(choice.own) if choice.own is not None else super().given(choice)

    def basis(self, shallowest: int) -> tuple[object, ...]:
        above = self.tree.generations[shallowest - 1].settled if shallowest else 0
        return shallowest, len(self.tree.members), above

    def upcoming(self, shallowest: int) -> Iterator[Offspring]:
        if shallowest == 0:
            roots = self.tree.generations[0]
            yield from (Offspring(0, None, index) for index in range(roots.issued, roots.size))
        elif shallowest < self.settings.generations:
            yield from _Filling(self, shallowest).choices()

    def selects(self, kind: int, generation: int) -> bool:
        return generation % self._periods[kind] == 0

    def parents_of(self, kind: int) -> int:
        """k of the class."""
        share = self.shares[kind]
        return min(share, max(1, math.isqrt(int(share / self.settings.ratio * (1 + 1e-12)))))

    def greedier(self, one: int, other: int) -> bool:
        return self._periods[one] < self._periods[other]

    @property
    def migrates(self) -> bool:
        return self._migrate


class _Filling:
    """One generation being filled: what is there, and what the choices made so far would add to it."""

    def __init__(self, rule: Classes, generation: int) -> None:
        tree = rule.tree
        self._rule, self._generation = rule, generation
        self._above, here = tree.generations[generation - 1], tree.generations[generation]
        self._ranking = [m for m in self._above.ranking if not m.damaged]
        self._born = {m.id: len(m.children) for m in self._ranking}
        #: children in this generation by parent and class, and by class alone; those of foreigners by class
        self._children: Counter[tuple[int, int]] = Counter()
        self._filled: Counter[int] = Counter()
        self._foreign: Counter[int] = Counter()
        for m in here.members:
            assert m.parent is not None
            self._count(m.parent, rule.kind(m))

    def _count(self, parent: Node, kind: int) -> None:
        self._children[parent.id, kind] += 1
        self._filled[kind] += 1
        self._foreign[kind] += self._rule.kind(parent) != kind

    def choices(self) -> Iterator[Placed]:
        """The class with the largest part of its share to fill comes first, among those that can fill a place now."""
        shares = self._rule.shares
        while True:
            kinds = [kind for kind, share in enumerate(shares) if self._filled[kind] < share]
            kinds.sort(key=lambda kind: (self._filled[kind] / shares[kind], kind))
            choice = next((made for kind in kinds if (made := self._place(kind)) is not None), None)
            if choice is None:
                return
            yield choice
            assert choice.parent is not None
            self._count(choice.parent, choice.kind)
            self._born[choice.parent.id] += 1

    def _place(self, kind: int) -> Placed | None:
        rule = self._rule
        members = [m for m in self._above.members if rule.kind(m) == kind]
        settled = sum(m.state.settled for m in members)
        own = [m for m in self._ranking if rule.kind(m) == kind]
        if not own:  # no member of the class can be a parent: the best of all take its places
            best = self._ranking[: rule.parents] if self._above.complete else []
            return self._child(self._fewest(best, kind), kind) if best else None
        if not rule.selects(kind, self._generation):
            free = [m for m in own if not self._children[m.id, kind]]
            if free:
                parent = min(free, key=lambda m: m.id)
            elif settled == len(members):
                parent = self._fewest(own, kind)
            else:
                return None
            return self._child(parent, kind, parent.config)
        if settled < math.ceil(rule.settings.evidence * len(members) - 1e-9):
            return None
        k = rule.parents_of(kind)
        elite = own[: min(k, max(1, settled * k // len(members)))]
        foreigner = self._foreigner(kind, elite[0])
        if foreigner is not None:
            weights_alone = rule.greedier(rule.kind(foreigner), kind)
            return self._child(foreigner, kind, elite[0].config if weights_alone else None)
        return self._child(self._fewest(elite, kind), kind)

    def _fewest(self, parents: Sequence[Node], kind: int) -> Node:
        """The best of those with the fewest children in the class."""
        return min(parents, key=lambda m: (self._children[m.id, kind], self._ranking.index(m)))

    def _foreigner(self, kind: int, best: Node) -> Node | None:
        share = self._rule.shares[kind]
        if not self._rule.migrates or share - self._filled[kind] > share // 4:
            return None
        other = next((m for m in self._ranking if self._rule.kind(m) != kind and self._born[m.id]), None)
        return other if other is not None and other < best else None

    def _child(self, parent: Node, kind: int, config: Config | None = None) -> Placed:
        return Placed(self._generation, parent, self._born[parent.id], kind, config)
