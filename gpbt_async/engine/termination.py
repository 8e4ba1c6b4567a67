"""When a run is over, and why: nothing is left to do, nobody can be a parent, or nothing works.

Part of the engine, which asks after every fact that changes something; like all of it a function of the facts alone.
A script that fails at once everywhere must not burn the budget, in a run's first session as little as in one that is
taken up after days, when the data are elsewhere or the script was edited: so what works is counted a session.

Until a session has shown that the script works, each member that ends without success puts it in doubt. While the
members that are on their way are enough to settle the doubt, no new member begins: a misspelt score costs one interval
a slot. The doubt is over with the first report of the score, and else the run is: there is no third way, or the run
would stand still.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from ..formatting import report_call
from .tree import Node, State, Tree

if TYPE_CHECKING:
    from ..events import Trained
    from ..experiment import Settings
    from .selection import Selection


#: so many members failed for good, all others too, and none trained: the script fails, burn no budget on it
HOPELESS = 4
#: so many ended and had reported nothing at all: one alone may have given up on its config. One that has reported
#: other names than the score is enough
MUTE = 2
#: names that are told at most
NAMES = 8


class Termination:
    """Watches members settle, and tells when that was the end."""

    def __init__(self, settings: Settings, tree: Tree, rule: Selection) -> None:
        self._hopeless = min(settings.population, HOPELESS)
        self._mute = min(settings.population, MUTE)
        self._settings = settings
        self._tree, self._rule = tree, rule
        #: since the run was taken up (under rules 0 and 1: since it began): who failed for good, whether any trained
        self.failed: list[Node] = []
        self.works = False
        #: since the run was taken up: whether a member has reported the score; and those that trained to their end and
        #: never did: each is in `failed` too. While `works` or `scored` holds, nothing is in doubt
        self.scored = False
        self.scoreless: list[Node] = []
        #: what those reported instead, in order, and how many lines of theirs could not be read
        self._instead: dict[str, None] = {}
        self._unread = 0
        #: the same of single attempts, by member
        self.stumbled: set[int] = set()
        #: whether parents of those are kept; whether the rules in force know of doubts
        self._holds = self._doubts = False
        #: whose failure the reason names
        self.first: Node | None = None

    def opened(self, rules: int) -> list[Node]:
        """A session begins. Returns whose checkpoint was held for those who failed, and is no more."""
        released = self.held
        self._holds = rules >= 2
        self._doubts = rules >= 3
        if self._holds:
            self.failed = []
            self.stumbled.clear()
            self.works = False
        self.scored = False
        self.scoreless = []
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
        """Parents of those who failed while nothing works: what makes them fail may be mended, and they tried again."""
        return [m.parent for m in self.failed if m.parent is not None] if self._holds and not self.works else []

    # ---- doubt

    @property
    def unsure(self) -> bool:
        """Has no member shown yet, since the run was taken up, that the script works?"""
        return self._doubts and not self.works and not self.scored

    @property
    def missing(self) -> int:
        """How many more members must end without success to know that none will: 0 or less = it is known."""
        if self.scoreless:
            # one that reported nothing may have given up on its config; and so may one in a run that has had the score
            if self._tree.best is not None:
                return self._hopeless - len(self.scoreless)
            return (1 if self._instead else self._mute) - len(self.scoreless)
        return self._hopeless - len(self.failed)

    @property
    def doubtful(self) -> bool:
        """Will those that are on their way settle the doubt? Then no new member begins."""
        return self.unsure and bool(self.failed) and self._tree.unsettled >= self.missing

    def reason(self, issued: int, hopeful: bool = False) -> str | None:
        """None while there is something to do; "" when the run has finished; else why it failed.

        issued: the shallowest generation with members to issue, or how many there are. hopeful: were what fails mended.
        """
        tree, generations = self._tree, self._settings.generations
        if issued == generations and not tree.unsettled and tree.best is not None and tree.came_to_the_end:
            return ""
        if self.unsure and self.scoreless and self.missing <= 0 and not tree.unsettled and not hopeful:
            return self._without_score()
        failing = len(self.failed) >= self._hopeless and not self.works and not hopeful
        if failing and all(m.state.settled or m.id in self.stumbled for m in tree.members):
            if len(self.failed) == len(tree.members):
                return self._why(f"all of {len(tree.members)} members failed", 0)
            return self._why("all members that ended since the run was taken up failed", None)
        if issued == generations:
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

    def _without_score(self) -> str:
        """Why a run fails in which the score is never reported: what was, and what to do."""
        self.first = self.scoreless[0]
        score, names = self._settings.score, list(self._instead)
        many = len(self.scoreless) > 1
        who = f"the {len(self.scoreless)} members that trained" if many else f"member {self.first.id}"
        what = "reported " + (", ".join(map(repr, names[:NAMES])) + " …" * (len(names) > NAMES) or "nothing")
        if self._unread:
            what += f", and {self._unread} line{'s' * (self._unread != 1)} of its metrics file could not be read"
        return f"the score {score!r} is never reported: {who} {what}; {remedy(self._settings, names)}"

    # ---- another chance

    def to_retry(self, stored: dict[int, Node], issued: int) -> list[Node]:
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


def remedy(settings: Settings, reported: list[str]) -> str:
    """What to do about a score that is not among the names that were reported."""
    score = settings.score
    if close := difflib.get_close_matches(score, reported, 1, 0.4):
        return f"did you mean score={close[0]!r}? (launch anew with it; or report {score!r}, and resume)"
    if settings.command:
        return f'append a line like {{"{score}": 0.5}} to the metrics file ({{metrics}}) for each report'
    gave_up = "" if reported else ", float('nan') where a config diverged"
    return f"call {report_call(score, '...')} in the training function{gave_up}"
