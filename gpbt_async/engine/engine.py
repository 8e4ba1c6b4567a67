"""The engine: which member trains next, from which parent, and which checkpoint is no longer needed.

It is GPBT as a state machine (Scardigli et al., arXiv 2109.14925). Only `handle` changes its state: a fact goes in, and
commands come out. It uses no clock (facts have times), no files, no processes, no asyncio, and only random numbers that
depend on the run's seed and the member's path in the tree. So replaying the journal through `handle` gives an equal
state, and `outstanding` derives every command whose effect is not in the journal yet. A resume is this replay and one
more fact, Opened.

The one surprise: `Selection.upcoming` computes the next members by the breeding rule, without creating them. A free
slot trains the first of them. For the following few, the engine asks the searcher in advance, so that no slot waits.
The engine creates members strictly in this order. Otherwise a parent whose children's configs the searcher delivers
sooner would have more children.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from typing import TYPE_CHECKING, Literal

from .. import events
from ..ask import path_of, path_text
from ..errors import JournalError
from . import early_stopping
from .adoption import Adoption
from .final_choice import FinalChoice, final_choice
from .generalisation import Generalisation
from .retention import Retention
from .searcher_view import ask_for
from .selection import Selection
from .termination import Termination
from .tree import Node, State, Tree
from .upcoming import Upcoming

if TYPE_CHECKING:
    from ..ask import Ask, Path
    from ..events import Command, Fact
    from ..experiment import Settings


#: why a free slot stays free: the searcher has not answered; the generation above is still being published; too few of
#: its members have finished, or it is in doubt whether any will; or there is nothing to create (or as many members
#: train as the population allows)
Cause = Literal["searcher", "checkpoint", "evidence", "no_work"]
#: an attempt that is lost this many times in a row counts as one that failed: perhaps the member was the reason
LOST_MOST = 10


class Engine:
    """The family tree of one run and the rule that grows it; changed by `handle` alone.

    ahead: how many suggestions to keep ready for slots that will become free; None = one a slot (sync: always 0).
    """

    def __init__(self, settings: Settings, ahead: int | None = None) -> None:
        #: the settings in force: as the run began, and what was adopted since
        self.settings = settings
        self.adoption = Adoption(settings)
        self.tree = Tree(settings.generations, settings.population, settings.replay)
        self.selection = Selection(self.adoption, self.tree)
        self.termination = Termination(settings, self.tree, self.selection)
        #: what the pre-flight has found, in order; decides nothing
        self.findings: list[events.Found] = []
        self.generalisation = Generalisation(settings, settings.parents)
        #: facts handled so far
        self.count = 0
        self.slots = 0
        #: set once nothing is left to do; an empty reason means that the run has finished
        self.ended: events.Finish | None = None
        self._upcoming = Upcoming(self.selection)
        #: unanswered asks, by the path of the child: at most one a parent
        self.asks = self._upcoming.asks
        self._ahead = ahead
        #: members that hold a slot, all in state TRAINING; and a heap of those to start (again), all in state WAITING
        self._training: dict[int, Node] = {}
        self._waiting: list[tuple[int, Path, int]] = []
        #: the shallowest generation with members to create; all above it are full
        self._open = 0
        #: suggestions that are not used yet
        self._ready = self._upcoming.ready
        self._retention = Retention(settings, self.selection, self.termination)
        #: members with something on the disk that is still needed
        self.stored = self._retention.stored

    # ---- what others read

    @property
    def width(self) -> int:
        """How many members may train at once: with more slots than members a generation would go to the first ones."""
        return min(self.slots, self.settings.population)

    @property
    def training(self) -> list[Node]:
        return list(self._training.values())

    @property
    def at_work(self) -> int:
        """How many members are training or are to be started."""
        return len(self._training)

    @property
    def asked(self) -> list[events.Suggest]:
        """The unanswered asks, in the order in which the children would be created."""
        return self._upcoming.asked

    @property
    def best(self) -> Node | None:
        """The best published member of any generation by the score; once the run has finished, the final choice."""
        choice = self.final_choice
        return choice.chosen if choice is not None else self.tree.best

    @property
    def final_choice(self) -> FinalChoice | None:
        """How a run with `choose_by` that has finished chose its best; None for any other, and before its end."""
        finished = self.ended is not None and not self.ended.reason
        return final_choice(self.settings, self.selection) if finished else None

    def wants(self, path: Path, generation: int, asked: int) -> bool:
        """Would the engine use an answer to the ask that was read off the tree after `asked` facts?

        Not if the ask has been withdrawn since, even if the same child has been asked for again.
        """
        ask = self.asks.get(path)
        return ask is not None and ask.generation == generation and ask.since <= asked

    def ask(self, path: Path, kin: bool = True) -> Ask:
        """The Ask for an outstanding Suggest, as the tree is now; kin=False leaves the family history out."""
        ready = {p: config for p, (_, config) in self._ready.items() if p[:-1] == path[:-1]}
        return ask_for(self.adoption, self.tree, path, self.asks[path].generation, ready, kin)

    @property
    def to_retry(self) -> list[Node]:
        """The failed members that Opened(retry=True) would give their attempts again."""
        return self.termination.to_retry(self.stored, self._open)

    @property
    def reopens(self) -> bool:
        """Could a run that has ended go on, if the reason for the failures were removed?"""
        return bool(self.to_retry) or self.termination.reason(self._open, hopeful=True) is None

    def idle_cause(self) -> Cause:
        """Why a slot that is free now stays free."""
        if self.ended or self._open == self.settings.generations or len(self._training) >= self.width:
            return "no_work"
        if self.termination.doubtful:
            return "evidence"  # of whether the script works: until it does, no new member is created
        if self._upcoming.first(self._open) is not None:
            return "searcher"
        above = max(0, self._open - 1)
        publishing = self.tree.generations[above].publishing
        if publishing and self.selection.evident(above, more=publishing):
            return "checkpoint"
        if self.settings.synchronous and not self._training and any(g.publishing for g in self.tree.generations):
            return "checkpoint"  # of an elder sibling: the younger's ask must know how it ended
        return "evidence"

    def outstanding(self) -> list[Command]:
        """Every command whose effect is not in the journal yet, derived from the state alone."""
        commands: list[Command] = list(self.asked)
        training = self._training.values()
        commands += [events.Start(m.id, m.attempt) for m in training if m.slot is None]
        commands += [events.Verdict(m.id, m.attempt, v) for m in training if (v := m.stop_verdict) is not None]
        commands += [events.Publish(m.id, m.attempt) for m in self.stored.values() if m.state is State.TRAINED]
        commands += [events.Discard(id) for id in self._retention.discarding]
        if self.ended is not None:
            commands.append(self.ended)
        return commands

    # ---- the one way in

    def handle(self, fact: Fact) -> list[Command]:
        """Take a fact in; return the commands that follow from it (all outstanding ones after Opened)."""
        self.count += 1
        match fact:
            case events.OfMember():
                return self._handle_of_member(fact)
            case events.Opened():
                self._opened(fact)
                self._decide()
                return self.outstanding()
            case events.Capacity():
                self.slots = fact.slots
                return self._decide()
            case events.Suggested():
                path = path_of(fact.path)
                if self.wants(path, fact.generation, fact.asked):
                    self._upcoming.answer(path, fact.config)
                return self._decide()
            case events.Adopted():
                self.settings = self.selection.settings = self.adoption.take(fact.settings, self.tree.members)
                self._ready.clear()  # the searcher is asked again, in the new space
                self._upcoming.forget()
                self._retention.suspect(*self.stored.values())  # it may have other finalists
                return self._retention.discards()
            case events.Discarded():
                self._retention.discarding.pop(fact.member, None)
            case events.Found():
                self.findings.append(fact)
            case _ if not isinstance(fact, events.Closed | events.Sampled | events.Paused):
                raise TypeError(f"{fact!r} is not a fact of the journal")
        return []

    def _handle_of_member(self, fact: events.OfMember) -> list[Command]:
        match fact:
            case events.Started():
                self._started(self._expect(fact, State.TRAINING), fact)
                return []
            case events.Entered():
                if self._expect(fact, State.TRAINING).slot is None:
                    raise JournalError(f"{fact!r}: the attempt was not started")
                return []
            case events.Scored():
                self._expect(fact, State.TRAINING)
                self.termination.scored = True
            case events.Judged():
                member = self._expect(fact, State.TRAINING)
                return [events.Verdict(member.id, member.attempt, self._judge(member, fact)), *self._decide()]
            case events.Trained() | events.StoppedEarly():
                member = self._expect(fact, State.TRAINING)
                self._trained(member, fact)
                if member.state is State.TRAINED:
                    return [events.Publish(member.id, member.attempt), *self._decide()]
            case events.Published():
                self._published(self._expect(fact, State.TRAINED))
            case events.Failed():
                self._failed(self._expect(fact, State.TRAINING, State.TRAINED), fact, fact.certain)
            case events.Lost():
                self._lost(self._expect(fact, State.TRAINING, State.TRAINED), fact)
            case events.Damaged():
                self._damaged(self._expect(fact, State.FINISHED), fact.reason)
            case _:
                raise TypeError(f"{fact!r} is not a fact of the journal")
        return self._decide()

    def _expect(self, fact: events.OfMember, *states: State) -> Node:
        if not 0 <= fact.member < len(self.tree.members):
            raise JournalError(f"{fact!r}: there is no such member")
        member = self.tree.members[fact.member]
        if member.state not in states or member.attempt != fact.attempt:
            raise JournalError(f"{fact!r}: member {member.id} is {member.state.value} in attempt {member.attempt}")
        return member

    # ---- what facts change

    def _opened(self, fact: events.Opened) -> None:
        self.slots = fact.slots
        self._upcoming.forget()
        if fact.retry:
            self._retry()
        self._retention.suspect(*self.termination.opened())
        for member in self.training:
            member.lost_attempts += member.slot is not None  # else no process had begun it
            self._wait(member)

    def _retry(self) -> None:
        """Give the members that failed last all their attempts again, and go on with a run that failed."""
        self.ended = None
        self.selection.reconsider()
        for member in self.to_retry:
            self.tree.unsettle(member)
            self._retention.discarding.pop(member.id, None)  # the old attempt's files, not those of the next
            self._wait(member)
        for member in self.tree.members:
            if not member.state.settled:
                member.failures = member.lost_in_a_row = 0
        if self.settings.replay is not None:
            self._open = 0  # a member that goes on has descendants again

    def _wait(self, member: Node) -> None:
        member.config = self.adoption.fit(member.config)  # it may have failed in another space
        for members in (self._training, self.stored):
            members.pop(member.id, None)
        self.tree.enter(member, State.WAITING)
        member.slot, member.score, member.loss = None, None, math.inf
        if member.first_loss is not None:
            self.tree.generations[member.generation].first_losses.remove(member.first_loss)
        member.first_loss = member.stop_verdict = None
        if member.parent is not None and member.parent.damaged:
            member.reason = f"its parent's checkpoint is lost: {member.parent.reason}"
            self._settle(member, State.FAILED)
        else:
            heapq.heappush(self._waiting, (member.generation, member.path, member.id))

    def _started(self, member: Node, fact: events.Started) -> None:
        if path_text(member.path) != fact.path or member.config != fact.config:
            raise JournalError(
                f"member {fact.member} was started at {fact.path} with {fact.config}, but the journal's facts "
                f"lead to {path_text(member.path)} with {member.config}: written by another version?"
            )
        member.slot = fact.slot

    def _judge(self, member: Node, fact: events.Judged) -> bool:
        """Whether the member's first report says to stop."""
        self.termination.scored = True
        others = self.tree.generations[member.generation].first_losses
        member.first_loss = self.selection.loss(fact.score)
        exempt = early_stopping.exempt(self.settings, member)
        member.stop_verdict = not exempt and early_stopping.stops(member.first_loss, others)
        insort(others, member.first_loss)
        return member.stop_verdict

    def _trained(self, member: Node, fact: events.Trained | events.StoppedEarly) -> None:
        del self._training[member.id]
        member.slot = None
        member.seconds, member.metrics, member.score = fact.seconds, fact.metrics, fact.score
        member.loss = self.selection.loss(fact.score)
        self.stored[member.id] = member
        if member.stop_verdict or isinstance(fact, events.StoppedEarly):
            self._settle(member, State.STOPPED)  # even if it ignored the verdict and trained to its end
        elif math.isfinite(member.loss):
            self._retention.suspect(*self.termination.worked())
            self.tree.enter(member, State.TRAINED)
        else:
            member.reason = self.selection.unusable(fact)
            if fact.score is not None:  # the script works: a score that is not finite is the config's fault
                self._retention.suspect(*self.termination.worked())
            else:
                self.termination.ended_without(member, fact)
            self._settle(member, State.FAILED)

    def _published(self, member: Node) -> None:
        self.generalisation.published(member, self.settings)
        self._settle(member, State.FINISHED)
        here = self.tree.generations[member.generation]
        if early_stopping.GENERATION in self.settings.early_stop and member.generation >= 2 and not here.full:
            above, above_that = (self.selection.best_of(member.generation - i) for i in (1, 2))
            if above and above_that and early_stopping.closes(member.loss, above.loss, above_that.loss):
                here.size = here.issued

    def _lost(self, member: Node, fact: events.Lost) -> None:
        member.lost_attempts += 1
        member.lost_in_a_row += 1
        if member.lost_in_a_row >= LOST_MOST:
            self._failed(member, fact)
        else:
            self._wait(member)

    def _failed(self, member: Node, fact: events.Failed | events.Lost, certain: bool = False) -> None:
        self._training.pop(member.id, None)
        self.stored.pop(member.id, None)
        member.failures += 1
        member.lost_in_a_row = 0
        member.seconds, member.reason = fact.seconds, fact.reason
        self.termination.stumbled.add(member.id)
        if member.stop_verdict:
            self._settle(member, State.STOPPED)
        elif member.failures < self.settings.attempts and not certain:
            self._wait(member)
        else:
            self._settle(member, State.FAILED)

    def _damaged(self, member: Node, reason: str) -> None:
        """The member's checkpoint is lost: children that were to begin from it cannot."""
        self.tree.damage(member, reason, self.stored.values())
        self.selection.reconsider()
        self._upcoming.forget()
        to_begin = {m.id: m for m in member.children if m.slot is None and m.state in (State.WAITING, State.TRAINING)}
        self._waiting = [entry for entry in self._waiting if entry[2] not in to_begin]
        heapq.heapify(self._waiting)
        for child in to_begin.values():
            self._wait(child)
        self._retention.suspect(member)

    def _settle(self, member: Node, state: State) -> None:
        best_before = self.tree.best
        self.tree.settle(member, state)
        if state is State.FAILED and (member.parent is None or not member.parent.damaged):
            self.termination.failed.append(member)
        member.slot = None
        # checkpoints that this may make needless: its own, its parent's, the former best's, that of number k + 1
        ranking, k = self.tree.generations[member.generation].ranking, self.selection.parents
        self._retention.suspect(member, member.parent, best_before, *ranking[k : k + 1])
        if len(ranking) == 1 and member.generation:  # its first finished member: the generation needs no other try
            self._retention.suspect(*self.tree.generations[member.generation - 1].members)

    # ---- what follows

    def _decide(self) -> list[Command]:
        self._advance()
        if self.ended is not None:
            return self._retention.discards()
        reason = self.termination.reason(self._open)
        if reason is not None:
            self.ended = events.Finish(reason)
            self._upcoming.clear()
            return [*self._retention.discards(), self.ended]
        starts, asks = self._starts(), self._upcoming.suggests(self._open, self._line, self.count)
        return [*starts, *asks, *self._retention.discards()]

    def _advance(self) -> None:
        """Find the shallowest generation with members to create; the one above it gets no more parents then."""
        while self._open < self.settings.generations and self.tree.generations[self._open].full:
            self._open += 1
            if self._open > 1:
                self._retention.suspect(*self.tree.generations[self._open - 2].members)

    def _starts(self) -> list[Command]:
        starts: list[Command] = []
        while len(self._training) < self.width and (member := self._next()) is not None:
            member.state = State.TRAINING
            member.attempt += 1
            self._training[member.id] = member
            starts.append(events.Start(member.id, member.attempt))
        return starts

    def _next(self) -> Node | None:
        """The member that a free slot trains now: one that waits to be started (again), else a new one."""
        if self._waiting:
            return self.tree.members[heapq.heappop(self._waiting)[2]]
        choice = self._upcoming.first(self._open)
        if choice is None or self.termination.doubtful or (config := self._upcoming.take(choice)) is None:
            return None
        member = self.tree.add(choice.generation, choice.parent, config, self.settings.seed)
        self._advance()
        return member

    @property
    def _line(self) -> int:
        """How many members to look ahead: those that free slots would train, and those to ask for in advance."""
        ahead = 0 if self.settings.synchronous else self.slots if self._ahead is None else self._ahead
        return ahead + max(0, self.width - len(self._training))

    def check(self) -> None:
        """Assert every invariant of the state that holds between two facts; for tests, far too slow for a run."""
        self.tree.check(*self.adoption.spaces)
        for part in (self.selection, self.termination, self._retention):
            part.check()
        settings, generations, members = self.settings, self.tree.generations, self.tree.members
        assert settings is self.adoption.settings is self.selection.settings
        assert self._training == {m.id: m for m in members if m.state is State.TRAINING}
        waiting = sorted((m.generation, m.path, m.id) for m in members if m.state is State.WAITING)
        assert sorted(self._waiting) == waiting
        assert all(self._waiting[(i - 1) // 2] <= entry for i, entry in enumerate(self._waiting) if i), "a heap"
        slots = [m.slot for m in self.training if m.slot is not None]
        assert len(slots) == len(set(slots)), "one member a slot"
        assert all(g.full for g in generations[: self._open]), "generations fill up shallowest first"
        assert self._open == len(generations) or not generations[self._open].full
        assert not any(g.issued for g in generations[self._open + 1 :])
        assert not (self.ended and (self.asks or self._ready)), "nothing is asked for once the run has ended"
        assert self.ended or self.termination.reason(self._open) is None
        assert self.ended or not self.termination.doubtful or self.tree.unsettled, "nothing would settle the doubt"
        assert all(0 <= ask.since <= self.count for ask in self.asks.values())
        assert (self.asks, self._ready) == (self._upcoming.asks, self._upcoming.ready)
        self._upcoming.check(self._open, self._line, self.ended is not None)
        assert self.stored is self._retention.stored
