"""The engine: who trains next, from whom, and what is no longer needed.

GPBT as a state machine (Scardigli et al., arXiv 2109.14925). Facts go in through `handle`, commands come out, and
that is the only way its state changes: no clock (times come in facts), no files, no processes, no asyncio, and no
random numbers but those keyed by (seed, path). So a journal replayed through the same `handle` gives an equal state,
and `outstanding` derives every command whose effect is not in the journal yet: resume = replay + Opened.

The one surprise: `Rule.upcoming` plays the rule forward without changing anything. Its first choice is what a free slot
does now; the next few are what the searcher is asked ahead for, so that a slot that falls free never waits for it.
Choices are issued strictly in that order, or fairness among the elite would depend on how fast the searcher is.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from itertools import islice
from typing import TYPE_CHECKING, Literal

from .. import events
from ..ask import path_of, path_text
from ..errors import JournalError
from . import early_stopping
from .adoption import Adoption
from .early_stopping import GENERATION, closes
from .question import question
from .retention import Retention
from .selection import Selection
from .termination import Termination
from .tree import Node, State, Tree

if TYPE_CHECKING:
    from ..ask import Ask, Path
    from ..events import Command, Fact
    from ..experiment import Settings
    from ..space import Config


#: why a free slot stays free: the searcher has not answered; the generation above is still being published; too few of
#: its members have finished, or it is in doubt whether any will; or there is nothing to create (or as many members
#: train as the population allows)
Cause = Literal["searcher", "checkpoint", "evidence", "no_work"]
#: so many times lost in a row counts as a failed attempt: it was perhaps the member's doing after all
LOSSES = 10


class Engine:
    """The family tree of one run and the rule that grows it; changed by `handle` alone.

    ahead: how many suggestions to keep ready for slots that will fall free; None = one a slot (sync: always 0).
    """

    def __init__(self, settings: Settings, ahead: int | None = None) -> None:
        #: those in force: as the run was begun, and what was adopted since
        self.settings = settings
        self.adoption = Adoption(settings)
        self.tree = Tree(settings.generations, settings.population, settings.replay)
        self.selection = Selection(self.adoption, self.tree)
        self.termination = Termination(settings, self.tree, self.selection)
        #: what the pre-flight has found, in order; decides nothing
        self.findings: list[events.Found] = []
        #: facts handled so far
        self.count = 0
        self.slots = 0
        #: set once nothing is left to do; reason empty = the run has finished
        self.ended: events.Finish | None = None
        self._ahead = ahead
        #: members that hold a slot: state TRAINING, and only those
        self._training: dict[int, Node] = {}
        #: members to start (again), as a heap: state WAITING, and only those
        self._waiting: list[tuple[int, Path, int]] = []
        #: the shallowest generation with members to issue
        self._open = 0
        #: suggestions answered and not used, and asks not answered, with the generation of the child wanted (with plus
        #: selection the same path can be wanted for a later generation); asks also with `count` as it was then
        self._ready: dict[Path, tuple[int, Config]] = {}
        self._asked: dict[Path, tuple[int, int]] = {}
        self._retention = Retention(settings, self.selection, self.termination)
        #: members with something on disk that is still needed
        self.stored = self._retention.stored

    # ---- what others read

    @property
    def width(self) -> int:
        """How many members may train at once: with more slots than members a generation would go to the first."""
        return min(self.slots, self.settings.population)

    @property
    def training(self) -> list[Node]:
        return list(self._training.values())

    @property
    def best(self) -> Node | None:
        """The best published member of any generation."""
        return self.tree.best

    def generation_asked(self, path: Path) -> int | None:
        """The generation of the child a Suggest asks for; None when the question has been withdrawn since."""
        return self._asked[path][0] if path in self._asked else None

    def wants(self, path: Path, generation: int, asked: int) -> bool:
        """Is an answer to the ask read off after `asked` facts used? Not if it was withdrawn since, or asked anew."""
        wanted, since = self._asked.get(path, (-1, 0))
        return wanted == generation and (asked >= since or not self.selection.rules)

    def ask(self, path: Path, kin: bool = True) -> Ask:
        """The Ask for an outstanding Suggest, as the tree stands now; kin=False leaves the family history out."""
        ready = {p: config for p, (_, config) in self._ready.items()}
        return question(self.adoption, self.tree, path, self._asked[path][0], ready, kin)

    @property
    def to_retry(self) -> list[Node]:
        """The failed members that Opened(retry=True) would give their attempts again."""
        return self.termination.to_retry(self.stored, self._open)

    @property
    def reopens(self) -> bool:
        """Could a run that has ended go on, were what made members fail mended?"""
        return bool(self.to_retry) or self.termination.reason(self._open, hopeful=True) is None

    def idle_cause(self) -> Cause:
        """Why a slot that is free now stays free."""
        if self.ended or self._open == self.settings.generations or len(self._training) >= self.width:
            return "no_work"
        if self.termination.doubtful:
            return "evidence"  # of whether the script works: until it does, no new member is created
        if next(self.selection.upcoming(self._open), None) is not None:
            return "searcher"
        above = max(0, self._open - 1)
        trained = [m.generation for m in self.stored.values() if m.state is State.TRAINED]
        if above in trained and self.selection.evident(above, more=trained.count(above)):
            return "checkpoint"
        if trained and not self._training and self.settings.schedule == "sync":
            return "checkpoint"  # of an elder sibling: the younger's ask must know how it ended
        return "evidence"

    # ---- the one way in

    def handle(self, fact: Fact) -> list[Command]:
        """Take a fact in; return the commands that follow from it (all outstanding ones after Opened)."""
        self.count += 1
        match fact:
            case events.Opened():
                self.slots = fact.slots
                self.selection.opened(fact.rules)
                if fact.retry:
                    self._retry()
                self._retention.suspect(*self.termination.opened(fact.rules))
                for member in self.training:
                    member.lost_attempts += 1
                    self._wait(member)
                self._decide()
                return self.outstanding()
            case events.Capacity():
                self.slots = fact.slots
            case events.Suggested():
                path = path_of(fact.path)
                if self.wants(path, fact.generation, fact.asked):
                    self._ready[path] = (self._asked.pop(path)[0], fact.config)
            case events.Started():
                member = self._expect(fact, State.TRAINING)
                if path_text(member.path) != fact.path or member.config != fact.config:
                    raise JournalError(
                        f"member {fact.member} was started at {fact.path} with {fact.config}, but the journal's facts "
                        f"lead to {path_text(member.path)} with {member.config}: written by another version?"
                    )
                member.slot = fact.slot
                return []  # what was decided stands
            case events.Entered():
                if self._expect(fact, State.TRAINING).slot is None:
                    raise JournalError(f"{fact!r}: the attempt was not started")
                return []
            case events.Scored():
                self._expect(fact, State.TRAINING)
                self.termination.scored = True
            case events.Judged():
                member = self._expect(fact, State.TRAINING)
                self._judge(member, fact)
                return [events.Verdict(member.id, member.attempt, bool(member.stop_verdict)), *self._decide()]
            case events.Trained() | events.StoppedEarly():
                member = self._expect(fact, State.TRAINING)
                self._trained(member, fact)
                if member.state is State.TRAINED:
                    return [events.Publish(member.id, member.attempt), *self._decide()]
            case events.Published():
                self._published(self._expect(fact, State.TRAINED))
            case events.Failed():
                self._failed_attempt(self._expect(fact, State.TRAINING, State.TRAINED), fact)
            case events.Lost():
                member = self._expect(fact, State.TRAINING, State.TRAINED)
                member.lost_attempts += 1
                member.lost_in_a_row += 1
                if member.lost_in_a_row >= LOSSES and self.selection.rules:
                    self._failed_attempt(member, fact)
                else:
                    self._wait(member)
            case events.Damaged():
                self._damaged(self._expect(fact, State.FINISHED), fact.reason)
            case events.Discarded():
                self._retention.discarding.pop(fact.member, None)
                return []
            case events.Found():
                self.findings.append(fact)
                return []
            case events.Adopted():
                self.settings = self.selection.settings = self.adoption.take(fact.settings, self.tree.members)
                self._ready.clear()  # what the searcher has answered is asked anew
                return []  # Opened follows
            case events.Closed() | events.Sampled() | events.Paused():
                return []
            case _:
                raise TypeError(f"{fact!r} is not a fact of the journal")
        return self._decide()

    def outstanding(self) -> list[Command]:
        """Every command whose effect has not been told yet, derived from the state alone."""
        commands: list[Command] = [events.Suggest(path) for path in self._asked]
        commands += [events.Start(m.id, m.attempt) for m in self._training.values() if m.slot is None]
        commands += [
            events.Verdict(m.id, m.attempt, m.stop_verdict) for m in self.training if m.stop_verdict is not None
        ]
        commands += [events.Publish(m.id, m.attempt) for m in self.stored.values() if m.state is State.TRAINED]
        commands += [events.Discard(id) for id in self._retention.discarding]
        if self.ended is not None:
            commands.append(self.ended)
        return commands

    # ---- what facts change

    def _expect(self, fact: events.OfMember, *states: State) -> Node:
        if not 0 <= fact.member < len(self.tree.members):
            raise JournalError(f"{fact!r}: there is no such member")
        member = self.tree.members[fact.member]
        if member.state not in states or member.attempt != fact.attempt:
            raise JournalError(f"{fact!r}: member {member.id} is {member.state.value} in attempt {member.attempt}")
        return member

    def _wait(self, member: Node) -> None:
        member.config = self.adoption.fit(member.config)  # it may have failed in another space
        for held in (self._training, self.stored):
            held.pop(member.id, None)
        member.state = State.WAITING
        member.slot, member.score, member.loss = None, None, math.inf
        if member.first_loss is not None:
            self.tree.generations[member.generation].first_losses.remove(member.first_loss)
        member.first_loss = member.stop_verdict = None
        if member.parent is not None and member.parent.damaged:
            member.reason = f"its parent's checkpoint is lost: {member.parent.reason}"
            self._settle(member, State.FAILED)
        else:
            heapq.heappush(self._waiting, (member.generation, member.path, member.id))

    def _judge(self, member: Node, fact: events.Judged) -> None:
        self.termination.scored = True
        first_losses = self.tree.generations[member.generation].first_losses
        member.first_loss = self.selection.loss(fact.score)
        member.stop_verdict = not early_stopping.exempt(self.settings, member) and early_stopping.stops(
            member.first_loss, first_losses
        )
        insort(first_losses, member.first_loss)

    def _trained(self, member: Node, fact: events.Trained | events.StoppedEarly) -> None:
        del self._training[member.id]
        member.slot = None
        member.seconds, member.metrics, member.score = fact.seconds, fact.metrics, fact.score
        member.loss = self.selection.loss(fact.score)
        self.stored[member.id] = member
        if member.stop_verdict or isinstance(fact, events.StoppedEarly):
            # told to stop: what it did with the word, ending at once or training to its end, changes nothing
            self._settle(member, State.STOPPED)
        elif math.isfinite(member.loss):
            self._retention.suspect(*self.termination.worked())
            member.state = State.TRAINED
        else:
            member.reason = self.selection.unusable(fact)
            if fact.score is not None:  # one that is not finite is a config's doing
                self._retention.suspect(*self.termination.worked())
            else:
                self.termination.ended_without(member, fact)
            self._settle(member, State.FAILED)

    def _published(self, member: Node) -> None:
        self._settle(member, State.FINISHED)
        here = self.tree.generations[member.generation]
        if GENERATION in self.settings.early_stop and member.generation >= 2 and not here.full:
            above, above_that = (self.selection.best_of(member.generation - i) for i in (1, 2))
            if above is not None and above_that is not None and closes(member.loss, above.loss, above_that.loss):
                here.size = here.issued
                self._advance()

    def _advance(self) -> None:
        """Find the shallowest generation with members to issue; nobody becomes a parent above one that is full."""
        while self._open < self.settings.generations and self.tree.generations[self._open].full:
            self._open += 1
            if self._open > 1:
                self._retention.suspect(*self.tree.generations[self._open - 2].members)

    def _failed_attempt(self, member: Node, fact: events.Failed | events.Lost) -> None:
        self._training.pop(member.id, None)
        self.stored.pop(member.id, None)
        member.failures += 1
        self.termination.stumbled.add(member.id)
        member.lost_in_a_row = 0
        member.seconds, member.reason = fact.seconds, fact.reason
        if member.stop_verdict:
            self._settle(member, State.STOPPED)
        elif member.failures < self.settings.attempts and not (isinstance(fact, events.Failed) and fact.certain):
            self._wait(member)
        else:
            self._settle(member, State.FAILED)

    def _damaged(self, member: Node, reason: str) -> None:
        """Its checkpoint is lost: what was to begin from it cannot."""
        self.tree.damage(member, reason, self.stored.values())
        self.selection.reconsider()
        to_begin = {m.id: m for m in member.children if m.slot is None and m.state in (State.WAITING, State.TRAINING)}
        self._waiting = [entry for entry in self._waiting if entry[2] not in to_begin]
        heapq.heapify(self._waiting)
        for child in to_begin.values():
            self._wait(child)
        self._retention.suspect(member)

    def _retry(self) -> None:
        """Those who failed last get their attempts again, and with them a run that failed."""
        self.ended = None
        self.selection.reconsider()
        for member in self.to_retry:
            self.tree.unsettle(member)
            self._retention.discarding.pop(member.id, None)  # what it left; not what it will write now
            self._wait(member)
        for member in self.tree.members:
            if not member.state.settled:  # who failed a time or two
                member.failures = member.lost_in_a_row = 0
        if self.settings.replay is not None:
            self._open = 0  # who goes on has descendants again

    def _settle(self, member: Node, state: State) -> None:
        before = self.tree.best
        self.tree.settle(member, state)
        if state is State.FAILED and (member.parent is None or not member.parent.damaged):
            self.termination.failed.append(member)
        member.slot = None
        # whoever this changes the fate of: itself, its parent, the best before, and who falls out of the top k
        ranking, k = self.tree.generations[member.generation].ranking, self.selection.parents
        self._retention.suspect(member, member.parent, before, *ranking[k : k + 1])
        if len(ranking) == 1 and member.generation:  # the first: nobody will have to be tried again from above
            self._retention.suspect(*self.tree.generations[member.generation - 1].members)

    # ---- what follows

    def _decide(self) -> list[Command]:
        self._advance()  # a replay that broke off has left a generation full
        if self.ended is not None:
            return self._retention.discards()
        reason = self.termination.reason(self._open)
        if reason is not None:
            self.ended = events.Finish(reason)
            self._asked.clear()
            self._ready.clear()
            return [*self._retention.discards(), self.ended]
        return [*self._starts(), *self._suggests(), *self._retention.discards()]

    def _starts(self) -> list[Command]:
        starts: list[Command] = []
        while len(self._training) < self.width and (member := self._next()) is not None:
            member.state = State.TRAINING
            member.attempt += 1
            self._training[member.id] = member
            starts.append(events.Start(member.id, member.attempt))
        return starts

    def _next(self) -> Node | None:
        """The member a free slot trains now: one that waits to be started again, else a new one."""
        if self._waiting:
            return self.tree.members[heapq.heappop(self._waiting)[2]]
        choice = next(self.selection.upcoming(self._open), None)
        if choice is None or self.termination.doubtful:
            return None
        config = self.selection.given(choice)
        if config is None:
            generation, config = self._ready.get(choice.path, (-1, {}))
            if generation != choice.generation:
                return None
            del self._ready[choice.path]
        member = self.tree.add(choice.generation, choice.parent, config, self.settings.seed)
        self._advance()
        return member

    def _suggests(self) -> list[Command]:
        """Ask for what free slots wait for, and ahead for those that will fall free; forget what is not wanted now."""
        ahead = 0 if self.settings.schedule == "sync" else self.slots if self._ahead is None else self._ahead
        ahead += max(0, self.width - len(self._training))
        commands: list[Command] = []
        wanted: dict[Path, int] = {}
        # one ask a parent at a time, by parent: a younger sibling's ask must know its elder's config as pending
        busy: dict[Path, Path] = {}
        for choice in islice(self.selection.upcoming(self._open), ahead):
            path = choice.path
            # a survivor's children of two generations cannot be told apart yet
            if self.selection.given(choice) is not None or path in wanted:
                continue
            wanted[path] = choice.generation
            if self._ready.get(path, (-1,))[0] == choice.generation or path[:-1] in busy:
                continue
            busy[path[:-1]] = path
            if self.generation_asked(path) != choice.generation:
                self._asked[path] = (choice.generation, self.count)
                commands.append(events.Suggest(path))
        self._asked = {p: a for p, a in self._asked.items() if wanted.get(p) == a[0] and busy.get(p[:-1]) == p}
        self._ready = {p: (g, config) for p, (g, config) in self._ready.items() if wanted.get(p) == g}
        return commands
