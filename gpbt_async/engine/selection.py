"""The breeding rule: which member is created next, from which parent, and whose checkpoint may still be needed.

Pure functions of the settings and the tree; nothing here changes either. The engine turns their answers into commands.
Read this file to know how GPBT breeds, and change it here.

n is the number of members of a generation, and k how many of them become parents.

The asynchronous rule: the earliest generation with room gets the next member. A child of generation g > 0 can be
created once ceil(evidence · n) members of g-1 have settled, that is, will not train again. The elite are the best
max(1, floor(settled · k / n)) of the members that may be parents; they are determined anew at each decision. The parent
is the elite member with the fewest children in g, and among equals the better one. A parent's first child repeats its
config; the searcher suggests those of the others.

The synchronous rule (the paper's): g opens when g-1 is complete. Its exact top k are the parents, with fixed quotas.
The children of one parent train one after the other, so that each suggestion can use the results of the earlier ones.
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


#: elites that are remembered: of the generations above the open one and the next, and one for a reader of the run
ELITES_KEPT = 3


@dataclass(frozen=True, slots=True)
class Offspring:
    """A member that the rule would create: child number `index` of `parent` (None: a root), in `generation`."""

    generation: int
    parent: Node | None
    index: int

    @property
    def path(self) -> Path:
        parent = self.parent
        return (*parent.family, parent.index, self.index) if parent is not None else (self.index,)

    @property
    def repeats(self) -> bool:
        return self.parent is not None and self.index == 0


class Selection:
    """The experiment's breeding rule over one tree."""

    def __init__(self, adoption: Adoption, tree: Tree) -> None:
        self.adoption, self.settings = adoption, adoption.settings
        self.tree = tree
        self._plus = self.settings.selection == "plus"
        #: k, how many members of a generation become parents
        self.parents = self.settings.parents
        #: `evidence` by a generation's size: it is asked for several times a fact
        self._evidence: dict[int, int] = {}
        #: the elites by generation, each with how many rivals it was cut off after, and the last one of these
        self._elites: dict[int, tuple[int, Node | None, list[Node]]] = {}

    def loss(self, score: float | None) -> float:
        """The score as something to minimise; inf when there is none, or it is not finite."""
        return loss(score, self.settings.mode)

    def unusable(self, fact: events.Trained) -> str:
        """Why a member that trained to its end has no loss."""
        if fact.score is not None:
            return f"{self.settings.score} is {fact.score}"
        return f"never reported {self.settings.score!r}{reported(fact.metrics, fact.unread)}"

    def given(self, choice: Offspring) -> Config | None:
        """The config of a child that needs no suggestion: it repeats its parent's, or a replayed schedule's."""
        if self.settings.replay is not None:
            return self.settings.replay[choice.generation]
        parent = choice.parent if choice.repeats else None
        return self.adoption.fit(parent.config) if parent is not None else None

    def upcoming(self, shallowest: int) -> Iterator[Offspring]:
        """The members that would be created next, in order, if there were slots; changes nothing.

        shallowest: the first generation with members to create.
        """
        for generation in range(shallowest, self.settings.generations):
            if generation and not self.evident(generation - 1):
                return
            if self.settings.synchronous:
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
        """Would enough members of the generation have settled, if `more` of them did, for the next one to open?"""
        return self.tree.generations[generation].settled + more >= self.evidence(generation)

    def evidence(self, generation: int) -> int:
        """How many members of the generation must have settled for the next one to open."""
        size = self.tree.generations[generation].size
        if size not in self._evidence:
            evidence = 1.0 if self.settings.synchronous else self.settings.evidence
            self._evidence[size] = max(1, math.ceil(evidence * size - 1e-9))
        return self._evidence[size]

    def basis(self, shallowest: int) -> tuple[object, ...]:
        """What `upcoming` depends on. As long as it stays equal, what `upcoming` yielded remains right, and the members
        that are created were the first ones of it.

        It looks at the open generation and the next: no deeper one has a parent.
        """
        settings, tree = self.settings, self.tree
        if shallowest == settings.generations or (shallowest and not self.evident(shallowest - 1)):
            return (shallowest,)
        elite = self.elite(shallowest - 1) if shallowest else None
        here = (shallowest, tree.generations[shallowest].size, elite)
        if settings.synchronous:  # whoever is created or settles may let another one have a child
            return (*here, len(tree.members), tree.unsettled)
        if shallowest + 1 == settings.generations or not self.evident(shallowest):
            return here
        # with plus selection a parent in both generations gives its next child to whichever comes first
        created = len(tree.members) if self._plus else 0
        return (*here, self.elite(shallowest), tree.generations[shallowest + 1].size, created)

    def elite(self, generation: int) -> list[Node]:
        """The members that may be parents now, best first: the exact top k once the generation is complete.

        Rivals are only ever added. So the best few are the same ones as long as they are as many and end with the same.
        """
        here = self.tree.generations[generation]
        rivals = self.tree.rivals(generation, self._plus)
        count = min(len(rivals), self.parents, max(1, here.settled * self.parents // here.size))
        last = rivals[count - 1] if count else None
        known = self._elites.get(generation)
        if known is None or known[0] != count or known[1] is not last:
            if len(self._elites) == ELITES_KEPT:
                del self._elites[min(self._elites)]
            self._elites[generation] = known = (count, last, self._undamaged(generation, count))
        return known[2]

    def _undamaged(self, generation: int, count: int) -> list[Node]:
        """A damaged member is not replaced: the checkpoint of the next in rank may have been discarded."""
        return [member for member in self.tree.rivals(generation, self._plus)[:count] if not member.damaged]

    def finalists(self) -> list[Node]:
        """Whom the final choice is among, best first: the elite of the deepest generation that has one, and the best.

        Empty while there is no best.
        """
        generations = range(len(self.tree.generations))
        deepest = max((i for i in generations if self.tree.rivals(i, self._plus)), default=None)
        elite = self._undamaged(deepest, self.parents) if deepest is not None else []
        best = self.tree.best
        return sorted({*elite, best}) if best is not None else []

    def reconsider(self) -> None:
        """Forget the elites: they have changed in another way than by a member that settled."""
        self._elites.clear()

    def best_of(self, generation: int) -> Node | None:
        """The best of those that compete to be parents after `generation`; with plus selection survivors count."""
        rivals = self.tree.rivals(generation, self._plus)
        return rivals[0] if rivals else None

    def _async_choices(self, generation: int, elite: list[Node]) -> Iterator[Offspring]:
        here = self.tree.generations[generation]
        # (children in this generation, rank): the fewest first, and among equals the better
        queue = [(here.by_parent.get(parent.id, 0), rank) for rank, parent in enumerate(elite)]
        heapq.heapify(queue)
        born = [len(parent.children) for parent in elite]
        for _ in range(here.size - here.issued):
            children, rank = queue[0]
            yield Offspring(generation, elite[rank], born[rank])
            born[rank] += 1
            heapq.heapreplace(queue, (children + 1, rank))

    def _sync_choices(self, generation: int) -> Iterator[Offspring]:
        """One child at a time of each parent that has quota left.

        In generation 0, and with global history, one member at a time: kin would otherwise depend on which family
        happens to be faster.
        """
        tree, here = self.tree, self.tree.generations[generation]
        alone = generation == 0 or self.settings.history == "global"
        if alone and tree.unsettled:
            return
        if generation == 0:
            yield Offspring(0, None, here.issued)
            return
        elite, by_parent = self.elite(generation - 1), here.by_parent
        if not elite:
            return
        count = here.size
        if tree.damaged:
            count -= sum(children for id, children in by_parent.items() if tree.members[id].damaged)
        quota = count // len(elite)
        first = count - quota * (len(elite) - 1)  # the best has the remainder too

        def has_quota_left(rank: int, parent: Node) -> bool:
            return by_parent.get(parent.id, 0) < (quota if rank else first)

        # with plus selection an ancestor may be having children now, which are kin: they come first
        ranked = list(enumerate(elite)) if self._plus else ()
        busy = {parent.id for rank, parent in ranked if parent.unsettled or has_quota_left(rank, parent)}
        for rank, parent in enumerate(elite):
            if parent.unsettled or not has_quota_left(rank, parent):
                continue
            if busy and any(elder.id in busy for elder in parent.ancestry[:-1]):
                continue
            yield Offspring(generation, parent, len(parent.children))
            if alone:
                return

    def needed(self, member: Node) -> bool:
        """May anything still read the member's checkpoint?

        It is being published; or it is the best so far; or a child of it may yet be started (again); or it may yet
        become a parent: ranks only get worse, so a member that has fallen out of the top k never will. As long as no
        member of the next generation has finished, its parents may be needed for another try, until the generation
        after it is full. With `choose_by`, the best of the last generation are kept for the final choice. If the
        experiment can validate checkpoints, the best of the last two generations stay.
        """
        if member.state is State.TRAINED or member is self.tree.best or member.unsettled:
            return True
        if member.state is not State.FINISHED or member.damaged:
            return False
        if self._to_combine(member):
            return True
        last = self.settings.generations - 1
        if self.settings.choose_by is not None and self._competes(member, last) and self._among_best(member, last):
            return True
        for generation in range(member.generation, last if self._plus else min(member.generation + 1, last)):
            below, *deeper = self.tree.generations[generation + 1 : generation + 3]
            another_try = not below.ranking and not any(g.full for g in deeper)
            open_below = another_try or not below.full
            if self._competes(member, generation) and open_below and self._among_best(member, generation):
                return True
        return False

    def _to_combine(self, member: Node) -> bool:
        """Is it among the best k of one of the last two generations, which `best --merge` and `--ensemble` combine?"""
        settings = self.settings
        if settings.validate is None or settings.replay is not None:
            return False
        last = settings.generations - 1
        latest = last if self._plus else member.generation
        generations = range(max(member.generation, last - 1), latest + 1)
        return any(self._competes(member, each) and self._among_best(member, each) for each in generations)

    def _competes(self, member: Node, generation: int) -> bool:
        """Is it a rival of the generation, by its own or, with plus selection, by a child in it?"""
        if generation == member.generation:
            return True
        return self._plus and member.id in self.tree.generations[generation].by_parent

    def _among_best(self, member: Node, generation: int) -> bool:
        """Is its rank among the rivals of the generation below k?"""
        rivals = self.tree.rivals(generation, self._plus)
        return len(rivals) < self.parents or not rivals[self.parents - 1] < member

    def check(self) -> None:
        """Assert that what is kept is what would be derived again."""
        assert self.parents == self.settings.parents
        assert len(self._elites) <= ELITES_KEPT
        for generation in tuple(self._elites):
            here, elite = self.tree.generations[generation], self.elite(generation)
            most = min(self.parents, max(1, here.settled * self.parents // here.size))
            assert elite == self._undamaged(generation, most)


def loss(score: float | None, mode: str) -> float:
    """The score as something to minimise; inf when there is none, or it is not finite."""
    if score is None or not math.isfinite(score):
        return math.inf
    return -score if mode == "max" else score


def reported(metrics: Iterable[str], unread: int) -> str:
    """What was reported instead of a score, as " (reported: accuracy; 2 lines could not be read)"; "" if nothing."""
    lines = f"{unread} line{'s' * (unread != 1)} of its metrics file could not be read" if unread else ""
    names = f"reported: {', '.join(metrics)}" if metrics else ""
    text = "; ".join(part for part in (names, lines) if part)
    return f" ({text})" if text else ""
