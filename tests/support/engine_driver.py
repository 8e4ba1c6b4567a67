"""A scheduler without processes, for tests of the engine: performs commands in whatever order chance says.

Its record of what happened (facts, and what each ask was shown) is kept apart from the engine's tree, so that tests
can recompute what should have been from the facts alone.
"""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpbt_async import events
from gpbt_async.ask import Ask, path_text
from gpbt_async.engine.engine import Engine
from gpbt_async.engine.tree import State
from gpbt_async.experiment import Settings
from gpbt_async.space import Choice, Float, Int, Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpbt_async.events import Command, Fact
    from gpbt_async.space import Config

SPACE = Space({"lr": Float(1e-4, 1.0, log=True), "layers": Int(1, 8), "act": Choice(["relu", "tanh", None, 2])})


def settings(**changes: Any) -> Settings:
    return Settings(**{"space": SPACE, "score": "loss", "mode": "min", "population": 6, "generations": 3, **changes})


def echo(ask: Ask) -> Config:
    """A searcher whose answer depends on every detail of the ask: equal answers mean equal asks."""
    return ask.space.sample(random.Random(json.dumps(ask.to_json(), sort_keys=True)))


def landscape(path: tuple[int, ...], config: Config) -> float:
    """A member's score: a function of its place and config, so that it does not depend on when it trains."""
    return random.Random(repr((path, sorted(config.items(), key=str)))).random()


@dataclass
class Driver:
    """Performs a lineage's commands one at a time, in random order, and keeps the journal."""

    settings: Settings
    slots: int
    rng: random.Random
    fail: float = 0.0  #: probability that an attempt fails
    nan: float = 0.0  #: probability that a training ends without a finite score
    lose: float = 0.0  #: probability that an attempt is lost
    certain: float = 0.0  #: probability that an attempt that fails would fail again
    mute: float = 0.0  #: probability that a training ends without the score
    early: float = 0.0  #: probability that the first score is reported before its member's end
    instead: tuple[str, ...] = ("other",)  #: what is reported by a member that ends without it
    damage: float = 0.0  #: probability, a turn, that a checkpoint is found damaged
    searcher: Callable[[Ask], Config] = echo
    score: Callable[[tuple[int, ...], Config], float] = landscape
    #: what a member reports beside its score
    others: Callable[[tuple[int, ...]], dict[str, float]] = lambda path: {}
    ahead: int | None = None
    facts: list[Fact] = field(default_factory=list)
    #: (facts handled before it, Ask)
    asks: list[tuple[int, Ask]] = field(default_factory=list)
    pending: list[Command] = field(default_factory=list)
    running: dict[int, events.Start] = field(default_factory=dict)
    #: what a member reports first, when early stopping asks
    first: Callable[[Any], float] = lambda member: landscape(member.path, {"first": 1})
    silent: set[int] = field(default_factory=set)
    doomed: set[int] = field(default_factory=set)
    peak: int = 0
    timed: bool = False  #: whether time passes, and members enter `train`
    now: float = 0.0
    entered: dict[int, float] = field(default_factory=dict)
    on_turn: Callable[[Driver, list[Command]], None] | None = None

    def __post_init__(self) -> None:
        self.engine = Engine(self.settings, self.ahead)

    def open(self, retry: bool = False) -> None:
        """Take the run up, as a scheduler does at its start and after a crash."""
        self.pending.clear()
        self.running.clear()
        self.silent.clear()
        self.doomed.clear()
        self.feed(events.Opened(t=0.0, slots=self.slots, version="test", pid=1, retry=retry))

    def feed(self, fact: Fact) -> None:
        if self.timed:
            self.now += self.rng.random()
            fact = dataclasses.replace(fact, t=self.now)
            if isinstance(fact, events.Entered):
                self.entered[fact.member] = self.now
            elif (
                isinstance(fact, events.Trained | events.StoppedEarly | events.Failed | events.Lost)
                and fact.member in self.entered
            ):
                seconds = (self.now - self.entered.pop(fact.member)) * self.rng.random()
                fact = dataclasses.replace(fact, seconds=seconds)
        self.facts.append(fact)
        commands = self.engine.handle(fact)
        for command in commands:
            match command:
                case events.Suggest(path):
                    ask = self.engine.ask(path)
                    self.asks.append((self.engine.count, ask))
                    self.pending.append(command)
                case _:
                    self.pending.append(command)
        self.engine.check()
        self.peak = max(self.peak, len(self.engine.training))
        if self.on_turn:
            self.on_turn(self, commands)

    def turn(self) -> bool:
        """Perform one thing chosen at random. False when nothing is left."""
        if self.damage and self.rng.random() < self.damage:
            self._damage()
        todo = [*self.pending, *self.running.values()]
        todo = [c for c in todo if not isinstance(c, events.Finish)]
        if not todo:
            return False
        command = self.rng.choice(todo)
        if isinstance(command, events.Start) and self.running.get(command.member) is command:
            self._end(command)
        else:
            self.pending.remove(command)
            self._perform(command)
        return True

    def _damage(self) -> None:
        """A checkpoint that nobody is reading just now turns out not to be what was published."""
        whole = [
            m
            for m in self.engine.stored.values()
            if m.state is State.FINISHED and not m.damaged and all(c.slot is None for c in m.children)
        ]
        if whole:
            member = self.rng.choice(whole)
            self.feed(events.Damaged(t=0.0, member=member.id, attempt=member.attempt, reason="a flipped bit"))

    def _perform(self, command: Command) -> None:
        match command:
            case events.Suggest(path):
                asked, ask = next(a for a in reversed(self.asks) if a[1].path == path)
                self.feed(
                    events.Suggested(
                        t=0.0, path=path_text(path), generation=ask.generation, config=self.searcher(ask), asked=asked
                    )
                )
            case events.Start(id, attempt):
                member = self.engine.tree.members[id]
                if member.state is not State.TRAINING:
                    return  # its parent was found damaged meanwhile
                taken = {m.slot for m in self.engine.training}
                slot = next(i for i in range(self.slots) if i not in taken)
                self.running[id] = command
                parent = member.parent.id if member.parent else None
                self.feed(
                    events.Started(
                        t=0.0,
                        member=id,
                        attempt=attempt,
                        slot=slot,
                        pid=1,
                        path=path_text(member.path),
                        parent=parent,
                        config=member.config,
                    )
                )
                if "median" in self.engine.settings.early_stop and member.generation > 0:
                    self.silent.add(id)
                if self.timed:
                    self.feed(events.Entered(t=0.0, member=id, attempt=attempt))
            case events.Verdict(id, attempt, stop):
                assert self.engine.tree.members[id].stop_verdict is stop
                if stop and id in self.running:
                    self.doomed.add(id)
                self.silent.discard(id)
            case events.Publish(id, attempt):
                dice = self.rng.random()
                if dice < self.fail / 3:
                    self.feed(events.Failed(t=0.0, member=id, attempt=attempt, reason="disk full"))
                elif dice < (self.fail + self.lose) / 3:
                    self.feed(events.Lost(t=0.0, member=id, attempt=attempt, reason="power"))
                else:
                    self.feed(events.Published(t=0.0, member=id, attempt=attempt, size=1, digest="d"))
            case events.Discard(id):
                self.feed(events.Discarded(t=0.0, member=id))

    def _end(self, command: events.Start) -> None:
        if command.member in self.silent:
            # it has not reported yet; or it waits for the verdict, which is among the pending commands
            asked = any(isinstance(c, events.Verdict) and c.member == command.member for c in self.pending)
            if not asked:
                score = self.first(self.engine.tree.members[command.member])
                self.feed(events.Judged(t=0.0, member=command.member, attempt=command.attempt, score=score))
            return
        del self.running[command.member]
        member = self.engine.tree.members[command.member]
        names = {"t": 0.0, "member": command.member, "attempt": command.attempt}
        dice = self.rng.random()
        if dice < self.fail:
            self.feed(events.Failed(**names, reason="boom", certain=self._happens(self.certain)))
        elif dice < self.fail + self.lose:
            self.feed(events.Lost(**names, reason="gpu"))
        elif command.member in self.doomed:
            self.doomed.discard(command.member)
            score = self.first(member)
            self.feed(events.StoppedEarly(**names, score=score, metrics={"loss": score}, seconds=0.25))
        elif self._happens(self.mute):
            self.feed(events.Trained(**names, score=None, metrics=dict.fromkeys(self.instead, 1.0), seconds=1.0))
        else:
            if self.engine.termination.unsure and self._happens(self.early):  # before its end, or only with it
                self.feed(events.Scored(**names))
            score = float("nan") if dice < self.fail + self.lose + self.nan else self.score(member.path, member.config)
            metrics = {"loss": score, **self.others(member.path)}
            self.feed(events.Trained(**names, score=score, metrics=metrics, seconds=1.0))

    def _happens(self, chance: float) -> bool:
        """Draws nothing for what never happens: the same seeds are to give the same runs."""
        return chance > 0 and self.rng.random() < chance

    def run(self) -> Engine:
        if not self.facts:
            self.open()
        while self.turn():
            pass
        return self.engine


def generation_asked(engine: Engine, path: tuple[int, ...]) -> int | None:
    """The generation of the child that the searcher is asked for; None when it is not asked for one at this path."""
    return engine.asks[path].generation if path in engine.asks else None


def snapshot(engine: Engine) -> Any:
    """Everything a lineage's future depends on, comparable."""
    members = [
        (
            *(m.path, m.generation, m.parent and m.parent.id, m.config, m.seed, m.state, m.attempt, m.failures),
            *(
                m.first_loss,
                m.stop_verdict,
                m.lost_attempts,
                m.lost_in_a_row,
                repr(m.score),
                m.loss,
                m.reason,
                m.slot,
                m.unsettled,
                m.damaged,
            ),
        )
        for m in engine.tree.members
    ]
    rest = {k: v for k, v in vars(engine).items() if k in ("count", "slots", "ended", "_open", "_ready", "asks")}
    ending = engine.termination
    rest["working"] = ([m.id for m in ending.failed], ending.works, ending.scored, [m.id for m in ending.scoreless])
    rest["instead"] = (list(ending._instead), ending._unread)
    held = (
        sorted(engine.stored),
        sorted(engine._retention.discarding),
        sorted(engine._waiting),
        sorted(engine._training),
    )
    return members, rest, held


def tree_of(engine: Engine) -> dict[tuple[int, ...], Any]:
    """The tree by path, without ids (which tell the order of issue)."""
    return {m.path: (m.generation, tuple(m.config.items()), m.seed, m.state, m.score) for m in engine.tree.members}
