"""When a run is over, and why: nothing is left to do, nobody can be a parent, or nothing works.

Part of the engine, which asks after every fact that changes something; like all of it a function of the facts alone.
A script that fails at once everywhere must not burn the budget, in a run's first session as little as in one that is
taken up after days, when the data are elsewhere or the script was edited: so what works is counted a session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .tree import Member, State, Tree

if TYPE_CHECKING:
    from .experiment import Settings
    from .rule import Rule

#: so many members failed for good, all others too, and none trained: the script fails, burn no budget on it
HOPELESS = 4


class Ending:
    """Watches members settle, and tells when that was the end."""

    def __init__(self, settings: Settings, tree: Tree, rule: Rule) -> None:
        self._hopeless = min(settings.population, HOPELESS)
        self._generations = settings.generations
        self._tree, self._rule = tree, rule
        #: since the run was taken up (under rules 0 and 1: since it began): who failed for good, whether any trained
        self.failed: list[Member] = []
        self.works = False
        #: the same of single attempts, by member
        self.stumbled: set[int] = set()
        #: whether parents of those are kept
        self._holds = False
        #: whose failure the reason names
        self.first: Member | None = None

    def opened(self, rules: int) -> list[Member]:
        """A session begins. Returns whose checkpoint was held for those who failed, and is no more."""
        released = self.held
        self._holds = rules >= 2
        if self._holds:
            self.failed = []
            self.stumbled.clear()
            self.works = False
        return released

    def worked(self) -> list[Member]:
        """A member has trained. Returns as `opened`."""
        released = self.held
        self.works = True
        return released

    @property
    def held(self) -> list[Member]:
        """Parents of those who failed while nothing works: what makes them fail may be mended, and they tried again."""
        return [m.parent for m in self.failed if m.parent is not None] if self._holds and not self.works else []

    def reason(self, issued: int, hopeful: bool = False) -> str | None:
        """None while there is something to do; "" when the run has finished; else why it failed.

        issued: the shallowest generation with members to issue, or how many there are. hopeful: were what fails mended.
        """
        tree = self._tree
        if issued == self._generations and not tree.unsettled and tree.best is not None and tree.came_to_the_end:
            return ""
        failing = len(self.failed) >= self._hopeless and not self.works and not hopeful
        if failing and all(m.state.settled or m.id in self.stumbled for m in tree.members):
            if len(self.failed) == len(tree.members):
                return self._why(f"all of {len(tree.members)} members failed", 0)
            return self._why("all members that ended since the run was taken up failed", None)
        if issued == self._generations:
            if tree.unsettled:
                return None
            return self._why("no member finished" if tree.replay is None else "no replay came to its end", 0)
        above = issued - 1
        if above >= 0 and tree.generations[above].complete and not self._rule.elite(above):
            if all(m.state is State.FAILED and m.score is not None for m in tree.generations[above].members):
                return self._why(f"every member of generation {above} ended with a score that is not finite", above)
            return self._why(f"no member of generation {above} can be a parent", above)
        return None

    def _why(self, what: str, generation: int | None) -> str:
        if generation is None:
            self.first = self.failed[0]
        else:
            self.first = self._tree.first_failed(generation)
        if self.first is None:
            return what
        return f"{what}; the first: member {self.first.id}: {self.first.reason or 'stopped early'}"

    # ---- another chance

    def to_retry(self, stored: dict[int, Member], issued: int) -> list[Member]:
        """Who has failed for good and may be tried again: what they would begin from is there, and a child is wanted.

        Not one whose score was not finite: that was its config's doing.
        """
        late = (m for g in self._tree.generations[max(0, issued - 1) :] for m in g.members)
        return [
            m
            for m in late
            if m.state is State.FAILED
            and (m.score is None or m.loss < float("inf"))
            and (m.parent is None or (m.parent.id in stored and not m.parent.damaged))
        ]
