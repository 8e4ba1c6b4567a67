"""The rule: who is issued next, from which parent, and whose checkpoint may still be needed.

Pure functions of the settings and the tree; nothing here changes either. `lineage.py` turns their answers into
commands. Read this file to know how GPBT breeds, and change it here.

The asynchronous rule: generations fill up shallowest first. A child of generation g > 0 may be issued as soon as at
least ceil(evidence · n) members of g-1 have settled; the best max(1, floor(settled · k / n)) of those that may be
parents are the elite, looked up afresh at every decision; the elite member with the fewest children issued in g is
the parent (ties: the better). A parent's first child repeats its config; the others get theirs from the searcher.
The synchronous rule (the paper's): g opens when g-1 is complete, its exact top k are the parents with fixed quotas,
and the children of one parent come one after the other, so that each suggestion has seen its elders' results.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tree import Node, State, Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .. import events
    from ..ask import Path
    from ..space import Config
    from .adoption import Adoption


@dataclass(frozen=True, slots=True)
class Offspring:
    """A member the rule would issue: child number `index` of `parent` (None: a root), in `generation`."""

    generation: int
    parent: Node | None
    index: int

    @property
    def path(self) -> Path:
        above = self.parent
        return (*above.family, above.index, self.index) if above is not None else (self.index,)

    @property
    def repeats(self) -> bool:
        return self.parent is not None and self.index == 0


class Selection:
    """The experiment's breeding rule over one tree."""

    def __init__(self, adoption: Adoption, tree: Tree) -> None:
        self.adoption, self.settings = adoption, adoption.settings
        self.tree = tree
        #: k, how many members of a generation become parents
        self.parents = self.settings.parents
        #: the rules in force (events.RULES), None before the run was opened
        self.rules: int | None = None
        #: the last elite, and what it was derived from: it is asked for several times between two settled members
        self._elite: tuple[tuple[int, int, int], list[Node]] = ((-1, 0, 0), [])

    def opened(self, rules: int) -> None:
        """The run was taken up under these rules. k stays what it was at its beginning: a larger one would want back
        checkpoints that are gone."""
        if self.rules is None and rules < 1:
            self.parents = self.settings.parents_within(0.0)
        self.rules = rules

    def loss(self, score: float | None) -> float:
        """The score as something to minimise; inf when there is none, or it is not finite."""
        if score is None or not math.isfinite(score):
            return math.inf
        return -score if self.settings.mode == "max" else score

    def unusable(self, fact: events.Trained) -> str:
        """Why a member that trained to its end has no loss."""
        if fact.score is not None:
            return f"{self.settings.score} is {fact.score}"
        return f"never reported {self.settings.score!r}{reported(fact.metrics, fact.unread)}"

    def given(self, choice: Offspring) -> Config | None:
        """The config of a child that no searcher is asked about: it repeats its parent's, or a schedule's."""
        if self.settings.replay is not None:
            return self.settings.replay[choice.generation]
        parent = choice.parent if choice.repeats else None
        return self.adoption.fit(parent.config) if parent is not None else None

    def upcoming(self, first: int) -> Iterator[Offspring]:
        """What would be issued next, in order, were there slots; changes nothing."""
        for generation in range(first, self.settings.generations):
            if generation and not self.evident(generation - 1):
                return
            if self.settings.schedule == "sync":
                yield from self._sync_choices(generation)
                return
            if generation == 0:
                roots = self.tree.generations[0]
                yield from (Offspring(0, None, index) for index in range(roots.issued, roots.size))
            else:
                elite = self.elite(generation - 1)
                if not elite:
                    return
                yield from self._async_choices(generation, elite)

    def evident(self, generation: int, more: int = 0) -> bool:
        """Have enough members of the generation settled (were `more` of them to settle) for the next one to open?"""
        return self.tree.generations[generation].settled + more >= self.evidence(generation)

    def evidence(self, generation: int) -> int:
        """How many members of the generation must have settled for the next one to open."""
        evidence = 1.0 if self.settings.schedule == "sync" else self.settings.evidence
        return max(1, math.ceil(evidence * self.tree.generations[generation].size - 1e-9))

    def elite(self, generation: int) -> list[Node]:
        """Who may be a parent now, best first: all of the exact top k once the generation is complete."""
        above = self.tree.generations[generation]
        plus = self.settings.selection == "plus"
        now = (generation, above.settled, above.size)
        if plus or self._elite[0] != now:
            size = min(self.parents, max(1, above.settled * self.parents // above.size))
            elite = self.tree.rivals(generation, plus)[:size]
            # nobody takes a damaged one's place: whoever is worse may have been let go of
            self._elite = (now, [member for member in elite if not member.damaged])
        return self._elite[1]

    def reconsider(self) -> None:
        """Who can be a parent has changed otherwise than by a member that settled."""
        self._elite = ((-1, 0, 0), [])

    def best_of(self, generation: int) -> Node | None:
        """The best of those who compete to be parents after `generation`; with plus selection survivors count."""
        rivals = self.tree.rivals(generation, self.settings.selection == "plus")
        return rivals[0] if rivals else None

    def _async_choices(self, generation: int, elite: list[Node]) -> Iterator[Offspring]:
        counts = self.tree.generations[generation].by_parent
        # (children issued, rank): the fewest first, and among equals the better
        queue = [(counts.get(parent.id, 0), rank) for rank, parent in enumerate(elite)]
        heapq.heapify(queue)
        extra = [0] * len(elite)
        here = self.tree.generations[generation]
        for _ in range(here.size - here.issued):
            issued, rank = queue[0]
            yield Offspring(generation, elite[rank], len(elite[rank].children) + extra[rank])
            extra[rank] += 1
            heapq.heapreplace(queue, (issued + 1, rank))

    def _sync_choices(self, generation: int) -> Iterator[Offspring]:
        """One child at a time of each parent that has quota left. With global history one member at a time at all.

        (Kin of everybody would otherwise depend on which lineage happens to be faster.)
        """
        tree, n = self.tree, self.tree.generations[generation].size
        alone = generation == 0 or self.settings.history == "global"
        if alone and tree.unsettled:
            return
        if generation == 0:
            yield Offspring(0, None, tree.generations[0].issued)
            return
        elite = self.elite(generation - 1)
        issued = tree.generations[generation].by_parent
        n -= sum(count for id, count in issued.items() if tree.members[id].damaged)
        quota = n // len(elite) if elite else 0
        left = {
            parent.id: (quota if rank else n - quota * (len(elite) - 1)) - issued.get(parent.id, 0)
            for rank, parent in enumerate(elite)
        }
        busy = {parent.id for parent in elite if left[parent.id] > 0 or parent.unsettled}
        for parent in elite:
            # with plus selection an ancestor may be having children now, who are kin: they come first
            waits = any(elder.id in busy for elder in parent.ancestry[:-1])
            if left[parent.id] > 0 and not parent.unsettled and not waits:
                yield Offspring(generation, parent, len(parent.children))
                if alone:
                    return

    def needed(self, member: Node) -> bool:
        """May anything still read the member's checkpoint?

        It is being published; or it is the best so far; or a child of it may yet be started (again); or it may yet
        be chosen as a parent: ranks only get worse, so whoever has fallen out of the top k never is. None of the
        next generation having finished, its parents may be wanted for another try, until the one after it is full, too.
        """
        if member.state is State.TRAINED or member is self.tree.best or member.unsettled:
            return True
        if member.state is not State.FINISHED or member.damaged:
            return False
        plus = self.settings.selection == "plus"
        last = self.settings.generations - 1
        for generation in range(member.generation, last if plus else min(member.generation + 1, last)):
            rival = generation == member.generation or member.id in self.tree.generations[generation].by_parent
            below, *deeper = self.tree.generations[generation + 1 : generation + 3]
            # a generation that failed altogether may be tried again, while none after it is full
            again = (self.rules or 0) >= 2 and not below.ranking and not any(g.full for g in deeper)
            if not rival or (below.full and not again):
                continue
            if self.tree.rank(member, generation, plus) < self.parents:
                return True
        return False


def reported(metrics: Iterable[str], unread: int) -> str:
    """What was reported instead of a score, in words."""
    lines = f"{unread} line{'s' * (unread != 1)} of its metrics file could not be read" if unread else ""
    told = "; ".join(words for words in (f"reported: {', '.join(metrics)}" if metrics else "", lines) if words)
    return f" ({told})" if told else ""
