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

from hypothesis import strategies as st

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
                isinstance(fact, events.Trained | events.Stopped | events.Failed | events.Lost)
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
        check(self.engine)
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
                assert self.engine.tree.members[id].condemned is stop
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
            self.feed(events.Stopped(**names, score=score, metrics={"loss": score}, seconds=0.25))
        elif self._happens(self.mute):
            self.feed(events.Trained(**names, score=None, metrics=dict.fromkeys(self.instead, 1.0), seconds=1.0))
        else:
            if self.engine.ending.unsure and self._happens(self.early):  # before its end, or only with it
                self.feed(events.Scored(**names))
            score = float("nan") if dice < self.fail + self.lose + self.nan else self.score(member.path, member.config)
            self.feed(events.Trained(**names, score=score, metrics={"loss": score}, seconds=1.0))

    def _happens(self, chance: float) -> bool:
        """Draws nothing for what never happens: the same seeds are to give the same runs."""
        return chance > 0 and self.rng.random() < chance

    def run(self) -> Engine:
        if not self.facts:
            self.open()
        while self.turn():
            pass
        return self.engine


def check(engine: Engine) -> None:
    """Assert every invariant of the engine that holds between facts."""
    engine.tree.check(*engine.adoption.spaces)
    ending = engine.ending
    assert {m.id for m in ending.scoreless} <= {m.id for m in ending.failed}
    assert not (ending.doubtful and (ending.works or ending.scored))
    assert engine.ended or not ending.doubtful or engine.tree.unsettled, "nothing is left that would settle the doubt"
    members = engine.tree.members
    assert {m.id for m in members if m.state is State.TRAINING} == set(engine._training)
    assert sorted(i for _, _, i in engine._waiting) == [m.id for m in members if m.state is State.WAITING]
    assert all(engine.tree.at(path) is None for path in (*engine._ready, *engine._asked))
    for index, generation in enumerate(engine.tree.generations):
        assert generation.issued <= generation.size <= engine.settings.population
        assert index <= engine._open or not generation.issued
    for member in members:
        kept = member.parent is None or member.parent.id in engine.stored or member.state.settled
        assert kept, "a parent's checkpoint was let go"
        to_begin = member.state is State.WAITING or (member.state is State.TRAINING and member.slot is None)
        assert not to_begin or member.parent is None or not member.parent.damaged
    assert engine.tree.best is None or (engine.tree.best.id in engine.stored and not engine.tree.best.damaged)
    held = {member.id for member in engine.ending.held}
    needless = [id for id, member in engine.stored.items() if id not in held and not engine.rule.needed(member)]
    assert needless == [], "a checkpoint is kept for nobody"


def snapshot(engine: Engine) -> Any:
    """Everything a lineage's future depends on, comparable."""
    members = [
        (
            *(m.path, m.generation, m.parent and m.parent.id, m.config, m.seed, m.state, m.attempt, m.failures),
            *(
                m.first,
                m.condemned,
                m.losses,
                m.losses_in_a_row,
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
    rest = {k: v for k, v in vars(engine).items() if k in ("count", "slots", "ended", "_open", "_ready", "_asked")}
    ending = engine.ending
    rest["working"] = ([m.id for m in ending.failed], ending.works, ending.scored, [m.id for m in ending.scoreless])
    rest["instead"] = (list(ending._instead), ending._unread)
    held = (
        sorted(engine.stored),
        sorted(engine._keeping.discarding),
        sorted(engine._waiting),
        sorted(engine._training),
    )
    return members, rest, held


def tree_of(engine: Engine) -> dict[tuple[int, ...], Any]:
    """The tree by path, without ids (which tell the order of issue)."""
    return {m.path: (m.generation, tuple(m.config.items()), m.seed, m.state, m.score) for m in engine.tree.members}


RATIOS = (0.25, 72 / 256, 0.5, 1.0, 2.0, 4.0)


@st.composite
def drivers(draw: st.DrawFn, faults: bool = True, **fixed: object) -> Driver:
    """A driver over a random experiment, slots, order and (perhaps) faults."""
    names = {
        "population": draw(st.integers(1, 12)),
        "generations": draw(st.integers(1, 4)),
        "ratio": draw(st.sampled_from(RATIOS)),
        "history": draw(st.sampled_from(["inherit", "reset", "global"])),
        "selection": draw(st.sampled_from(["comma", "plus"])),
        "evidence": draw(st.sampled_from([0.0, 0.3, 0.75, 1.0])),
        "schedule": draw(st.sampled_from(["async", "sync"])),
        "attempts": draw(st.integers(1, 3)),
        "early_stop": draw(st.sampled_from([(), (), ("median",), ("generation",), ("median", "generation")])),
        "seed": draw(st.integers(0, 3)),
        **fixed,
    }
    faulty = faults and draw(st.booleans())
    return Driver(
        settings(**names),
        slots=draw(st.integers(1, 14)),
        rng=random.Random(draw(st.integers(0, 10**6))),
        fail=0.15 if faulty else 0.0,
        nan=0.1 if faulty else 0.0,
        lose=0.1 if faulty else 0.0,
        certain=0.3 if faulty else 0.0,
        mute=0.15 if faulty and draw(st.booleans()) else 0.0,
        early=0.5 if draw(st.booleans()) else 0.0,
        instead=draw(st.sampled_from([(), ("other",)])),
        ahead=draw(st.sampled_from([None, 0, 1, 5])),
    )
