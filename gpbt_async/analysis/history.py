"""What happened when, and why: a fold of the journal's facts beside the engine, for whoever tells a run afterwards.

The engine keeps the present: a member's last attempt, the ranks as they are now. To say why a member exists, or what a
slot did at noon, the past is needed: every attempt with its slot and its times, the ranks in the moment a parent was
chosen, each best so far. Pure, as the engine is; nothing here decides anything, and only readers pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import events

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..engine.engine import Engine
    from ..engine.tree import Node
    from ..events import Fact


@dataclass(slots=True)
class Attempt:
    """One try at training a member. Times in seconds since the epoch, None where it did not come to that.

    how: "training", "trained", "stopped", "failed", "lost", or "published" once its checkpoint is; seconds: in `train`.
    """

    member: int
    number: int
    slot: int
    started: float
    entered: float | None = None
    left: float | None = None
    published: float | None = None
    seconds: float = 0.0
    how: str = "training"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Issue:
    """Why a member came to be, as it was at time `t`.

    rank: the parent's, from 0, among the `rivals` of its generation then; elite: how many of them could be a parent;
    settled: how many of the generation above had ended; children: how many the parent had in this generation before.
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
    """From one Opened to the last fact before the next: how is empty for one that was killed, or goes on."""

    begin: float
    end: float
    slots: int
    how: str = ""


@dataclass(slots=True)
class History:
    """All attempts in the order in which they began, and each member's issue by its id."""

    attempts: list[Attempt] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    #: each best so far: when it became that, after how many settled members, and who
    best: list[tuple[float, int, int]] = field(default_factory=list)
    #: when each settled member ended for good, in that order
    ended: dict[int, float] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    #: what the searcher answered
    suggested: list[events.Suggested] = field(default_factory=list)
    #: what each member reported last, by its id (the tree forgets it with the checkpoint)
    metrics: dict[int, Mapping[str, float]] = field(default_factory=dict)
    #: each member's last attempt
    _last: dict[int, Attempt] = field(default_factory=dict)

    def fold(self, fact: Fact, engine: Engine) -> None:
        """Remember a fact the engine has just handled."""
        if not self.sessions and not isinstance(fact, events.Opened):
            return  # not a journal of ours; the engine has nothing to say to it either
        if isinstance(fact, events.Adopted):
            return  # between two sessions, and part of neither
        last = self._last.get(fact.member) if isinstance(fact, events.OfMember) else None
        match fact:
            case events.Opened():
                self.sessions.append(Session(fact.t, fact.t, fact.slots))
                for attempt in self._last.values():
                    if attempt.how == "training":
                        attempt.how, attempt.reason = "lost", "the scheduler died, or was stopped"
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
                last.published, last.how = fact.t, "published"
        self.sessions[-1].end = max(self.sessions[-1].end, fact.t)
        self._look(fact, engine)

    def _leave(
        self, attempt: Attempt, fact: events.Trained | events.StoppedEarly | events.Failed | events.Lost
    ) -> None:
        attempt.how = "stopped" if isinstance(fact, events.StoppedEarly) else type(fact).__name__.lower()
        if isinstance(fact, events.Trained | events.StoppedEarly):
            self.metrics[fact.member] = fact.metrics
        if attempt.left is None:  # else it has been trained, and could not be published
            attempt.left = fact.t
            attempt.seconds = fact.seconds
        if isinstance(fact, events.Failed | events.Lost):
            attempt.reason = fact.reason

    def _look(self, fact: Fact, engine: Engine) -> None:
        """See what the engine made of it: who was issued, who has settled, who is the best."""
        tree = engine.tree
        for member in tree.members[len(self.issues) :]:
            self.issues.append(_issue(fact.t, member.id, engine))
        touched: Sequence[Node] = ()
        if isinstance(fact, events.OfMember):
            touched = (tree.members[fact.member], *tree.members[fact.member].children)
        elif isinstance(fact, events.Opened):
            touched = tree.members
        for member in touched:
            if not member.state.settled:
                self.ended.pop(member.id, None)  # it was given another chance
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
