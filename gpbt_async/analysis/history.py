"""What happened when, and why: a fold of the journal's facts beside the engine, for reports and exports.

The engine keeps the present only: a member's last attempt, the ranks as they are now. Why a member exists, or what a
slot did at noon, needs the past: every attempt with its slot and its times, the ranks when a parent was chosen, each
best so far. Pure, as the engine is. Nothing here decides anything, and only readers pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from .. import events

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..engine.engine import Engine
    from ..engine.tree import Node
    from ..events import Fact


class AttemptState(StrEnum):
    """PUBLISHED: it was trained, and its checkpoint is published. LOST: it ended through no fault of the member."""

    TRAINING = "training"
    TRAINED = "trained"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"
    PUBLISHED = "published"


_ENDS = {
    events.Trained: AttemptState.TRAINED,
    events.StoppedEarly: AttemptState.STOPPED,
    events.Failed: AttemptState.FAILED,
    events.Lost: AttemptState.LOST,
}


@dataclass(slots=True)
class Attempt:
    """One attempt at a member. Times in seconds since the epoch, None if that did not happen; seconds: in `train`."""

    member: int
    number: int
    slot: int
    started: float
    entered: float | None = None
    left: float | None = None
    published: float | None = None
    seconds: float = 0.0
    how: AttemptState = AttemptState.TRAINING
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Issue:
    """The member's parent as it stood when the member was created, at time `t`.

    rank: the parent's, from 0, among the `rivals` of its generation then; elite: how many of them could be a parent;
    settled: how many of the generation above were terminal; children: how many of this generation the parent had.
    All 0 in generation 0, where there is no parent.
    """

    t: float
    rank: int = 0
    rivals: int = 0
    elite: int = 0
    settled: int = 0
    children: int = 0


@dataclass(slots=True)
class Session:
    """From one Opened to the last fact before the next. how: empty if it was killed, or still runs."""

    begin: float
    end: float
    slots: int
    how: str = ""


@dataclass(slots=True)
class History:
    """All attempts in the order in which they began, and each member's Issue by its id."""

    attempts: list[Attempt] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    #: each best so far: since when, after how many terminal members, and its id
    best: list[tuple[float, int, int]] = field(default_factory=list)
    #: when each terminal member became so, in that order
    ended: dict[int, float] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    #: the searcher's answers
    suggested: list[events.Suggested] = field(default_factory=list)
    #: the last values that each member reported, by its id (the tree forgets them with the checkpoint)
    metrics: dict[int, Mapping[str, float]] = field(default_factory=dict)
    #: each member's last attempt
    _last: dict[int, Attempt] = field(default_factory=dict)

    def fold(self, fact: Fact, engine: Engine) -> None:
        """Remember a fact the engine has just handled."""
        if not self.sessions and not isinstance(fact, events.Opened):
            return  # not a journal of ours; the engine ignores it, too
        if isinstance(fact, events.Adopted):
            return  # between two sessions, and part of neither
        last = self._last.get(fact.member) if isinstance(fact, events.OfMember) else None
        match fact:
            case events.Opened():
                self.sessions.append(Session(fact.t, fact.t, fact.slots))
                for attempt in self._last.values():
                    if attempt.how is AttemptState.TRAINING:
                        attempt.how, attempt.reason = AttemptState.LOST, "the scheduler died, or was stopped"
            case events.Suggested():
                self.suggested.append(fact)
            case events.Closed():
                self.sessions[-1].how = fact.how
            case events.Started():
                attempt = Attempt(fact.member, fact.attempt, fact.slot, fact.t)
                self.attempts.append(attempt)
                self._last[fact.member] = attempt
            case events.Entered() if last is not None:
                last.entered = fact.t
            case events.Trained() | events.StoppedEarly() | events.Failed() | events.Lost() if last is not None:
                self._leave(last, fact)
            case events.Published() if last is not None:
                last.published, last.how = fact.t, AttemptState.PUBLISHED
        self.sessions[-1].end = max(self.sessions[-1].end, fact.t)
        self._compare(fact, engine)

    def _leave(
        self, attempt: Attempt, fact: events.Trained | events.StoppedEarly | events.Failed | events.Lost
    ) -> None:
        attempt.how = _ENDS[type(fact)]
        if isinstance(fact, events.Trained | events.StoppedEarly):
            self.metrics[fact.member] = fact.metrics
        if attempt.left is None:  # else it was trained, and could not be published
            attempt.left = fact.t
            attempt.seconds = fact.seconds
        if isinstance(fact, events.Failed | events.Lost):
            attempt.reason = fact.reason

    def _compare(self, fact: Fact, engine: Engine) -> None:
        """Read off the engine: new members, newly terminal ones, and the best."""
        tree = engine.tree
        for member in tree.members[len(self.issues) :]:
            self.issues.append(_issue(fact.t, member.id, engine))
        changed: Sequence[Node] = ()
        if isinstance(fact, events.OfMember):
            changed = (tree.members[fact.member], *tree.members[fact.member].children)
        elif isinstance(fact, events.Opened):
            changed = tree.members
        for member in changed:
            if not member.state.settled:
                self.ended.pop(member.id, None)  # it gets another attempt
            elif member.id not in self.ended:
                self.ended[member.id] = fact.t
        if isinstance(fact, events.Published | events.Damaged):
            best = tree.best
            if best is not None and (not self.best or self.best[-1][2] != best.id):
                self.best.append((fact.t, len(self.ended), best.id))


def _issue(t: float, id: int, engine: Engine) -> Issue:
    tree, settings = engine.tree, engine.settings
    member = tree.members[id]
    if member.parent is None:
        return Issue(t)
    above, plus = member.generation - 1, settings.selection == "plus"
    elders = sum(c.generation == member.generation for c in member.parent.children[: member.path[-1]])
    generation = tree.generations[above]
    return Issue(
        t=t,
        rank=tree.rank(member.parent, above, plus),
        rivals=len(tree.rivals(above, plus)),
        elite=len(engine.selection.elite(above)),
        settled=generation.settled,
        children=elders,
    )
