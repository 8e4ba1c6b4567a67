"""Termination: when a run is over, and why: nothing is left to do, no member can be a parent, or the script fails.

The engine asks after every fact that changes something; the answer is a function of the facts alone. A script that
fails everywhere must not use up the budget: not in a run's first session, and not in one that is resumed after days,
when the data have moved or the script was edited. So what works is counted per session.

In each session, the script is in doubt when a member fails before any member has reported the score. Then no new member
begins while the members in training can still decide the question. So a misspelt score costs only one interval on each
slot. A report of the score ends the doubt; if none comes, the run ends.
"""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

from ..formatting import report_call
from .tree import Node, State, Tree

if TYPE_CHECKING:
    from ..events import Trained
    from ..experiment import Settings
    from .selection import Selection


#: so many members failed for good and none trained: the script fails
HOPELESS = 4
#: so many members trained and reported nothing at all: one alone may have given up on its config. One member that
#: reported other names than the score is enough
MUTE = 2
#: names that a reason lists at most
NAMES_LISTED = 8


class Termination:
    """Counts how members end, and knows when that ends the run."""

    def __init__(self, settings: Settings, tree: Tree, selection: Selection) -> None:
        self._hopeless = min(settings.population, HOPELESS)
        self._mute = min(settings.population, MUTE)
        self._settings = settings
        self._tree, self._selection = tree, selection
        #: of this session: the members that failed for good, whether any has trained, whether any has reported the
        #: score, and those of `failed` that trained to their end without a score
        self.failed: list[Node] = []
        self.works = False
        self.scored = False
        self.scoreless: list[Node] = []
        #: the names that those reported instead, in order, and how many lines of theirs could not be read
        self._instead: dict[str, None] = {}
        self._unread = 0
        #: members with a failed attempt in this session
        self.stumbled: set[int] = set()
        #: the member whose failure the reason names
        self.first: Node | None = None

    def opened(self) -> list[Node]:
        """A session begins. Returns the parents whose checkpoints were held until now."""
        released = self.held
        self.failed, self.scoreless = [], []
        self.works = self.scored = False
        self.stumbled.clear()
        self._instead.clear()
        self._unread = 0
        return released

    def worked(self) -> list[Node]:
        """A member has trained. Returns as `opened`."""
        released = self.held
        self.works = True
        return released

    def ended_without(self, member: Node, fact: Trained) -> None:
        """A member has trained to its end and never reported the score."""
        self.scoreless.append(member)
        self._instead.update(dict.fromkeys(fact.metrics))
        self._unread += fact.unread

    @property
    def held(self) -> list[Node]:
        """Parents of failed members while nothing works: once the script is mended, the members are tried again."""
        return [] if self.works else [m.parent for m in self.failed if m.parent is not None]

    # ---- doubt

    @property
    def unsure(self) -> bool:
        """Has no member of this session shown yet that the script works?"""
        return not self.works and not self.scored

    @property
    def missing(self) -> int:
        """How many more members must end without success to know that none will succeed; 0 or less: it is known."""
        if not self.scoreless:
            return self._hopeless - len(self.failed)
        # a member that reported nothing may have given up on its config, and so may any in a run that has had the score
        if self._tree.best is not None:
            return self._hopeless - len(self.scoreless)
        return (1 if self._instead else self._mute) - len(self.scoreless)

    @property
    def doubtful(self) -> bool:
        """Will the members that are under way settle the doubt? Then no new member begins."""
        return self.unsure and bool(self.failed) and self._tree.unsettled >= self.missing

    # ---- the end

    def reason(self, shallowest: int, hopeful: bool = False) -> str | None:
        """None while there is something to do; "" when the run has finished; else why it failed.

        shallowest: the first generation with members to create, or the number of generations. hopeful: suppose that
        the cause of the failures has been removed.
        """
        tree = self._tree
        all_created = shallowest == self._settings.generations
        if all_created and not tree.unsettled and tree.best is not None and tree.replay_complete:
            return ""
        if not hopeful and (why := self._script_fails()) is not None:
            return why
        if all_created:
            if tree.unsettled:
                return None
            return self._why("no member finished" if tree.replay is None else "no replay came to its end", 0)
        above = shallowest - 1
        if above >= 0 and tree.generations[above].complete and not self._selection.elite(above):
            if all(m.state is State.FAILED and m.score is not None for m in tree.generations[above].members):
                return self._why(f"every member of generation {above} ended with a score that is not finite", above)
            return self._why(f"no member of generation {above} can be a parent", above)
        return None

    def _script_fails(self) -> str | None:
        """Why going on would be useless although there are members to create; None if it would not."""
        tree = self._tree
        if self.unsure and self.scoreless and self.missing <= 0 and not tree.unsettled:
            return self._without_score()
        if len(self.failed) < self._hopeless or self.works:
            return None
        if not all(m.state.settled or m.id in self.stumbled for m in tree.members):
            return None
        if len(self.failed) == len(tree.members):
            return self._why(f"all of {len(tree.members)} members failed", 0)
        return self._why("all members that ended since the run was resumed failed", None)

    def _why(self, what: str, generation: int | None) -> str:
        self.first = self.failed[0] if generation is None else self._tree.first_failed(generation)
        if self.first is None:
            return what
        return f"{what}; the first: member {self.first.id}: {self.first.reason or 'stopped early'}"

    def _without_score(self) -> str:
        """Why a run fails in which the score is never reported: what was reported instead, and what to do."""
        self.first = self.scoreless[0]
        score, names = self._settings.score, list(self._instead)
        many = len(self.scoreless) > 1
        members = f"the {len(self.scoreless)} members that trained" if many else f"member {self.first.id}"
        listed = ", ".join(map(repr, names[:NAMES_LISTED])) + " …" * (len(names) > NAMES_LISTED) or "nothing"
        if self._unread:
            listed += f", and {self._unread} line{'s' * (self._unread != 1)} of its metrics file could not be read"
        return f"the score {score!r} is never reported: {members} reported {listed}; {remedy(self._settings, names)}"

    # ---- another chance

    def to_retry(self, stored: dict[int, Node], shallowest: int) -> list[Node]:
        """The members that failed for good and may be tried again.

        Those of the last two generations whose parent's checkpoint is there; not one whose score was not finite, which
        was its config's fault.
        """
        late = (m for g in self._tree.generations[max(0, shallowest - 1) :] for m in g.members)
        return [
            m
            for m in late
            if m.state is State.FAILED
            and (m.score is None or m.loss < math.inf)
            and (m.parent is None or (m.parent.id in stored and not m.parent.damaged))
        ]

    def check(self) -> None:
        """Assert that the counts agree with the members."""
        assert {m.id for m in self.scoreless} <= {m.id for m in self.failed}
        assert all(m.state is State.FAILED for m in self.failed)
        assert len({m.id for m in self.failed}) == len(self.failed)
        assert all(self._tree.members[id].failures for id in self.stumbled)
        assert bool(self._instead or self._unread) <= bool(self.scoreless)
        assert not (self.doubtful and (self.works or self.scored))


def remedy(settings: Settings, reported: list[str]) -> str:
    """What to do about a score that is not among the names that were reported."""
    score = settings.score
    if close := difflib.get_close_matches(score, reported, 1, 0.4):
        return f"did you mean score={close[0]!r}? (launch a new run with it; or report {score!r}, and resume)"
    if settings.command:
        return f'append a line like {{"{score}": 0.5}} to the metrics file ({{metrics}}) for each report'
    gave_up = "" if reported else ", float('nan') where a config diverged"
    return f"call {report_call(score, '...')} in the training function{gave_up}"
