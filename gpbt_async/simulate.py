"""The engine on a virtual clock: the same decisions as a real run, in seconds instead of days.

All decisions are real: facts go to the same Engine, suggestions come from the same searchers, and the facts are kept
and can be replayed. Only the world is simulated: how long an interval takes, what a member scores, what fails, how slow
searcher and disk are. So a policy can be evaluated, a run planned, and the engine tested with a hundred thousand
members. Everything is a function of the settings, the task and the seed; simultaneous events happen in the order in
which they were scheduled, so the same arguments give the same journal.

The one surprise: at one moment, commands are performed in the engine's order, suggestions first; a real run interleaves
them as its processes answer.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from . import events
from .analysis.usage import Usage
from .ask import path_text
from .engine import early_stopping
from .engine.engine import Engine
from .engine.tree import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .ask import Ask
    from .engine.tree import Node
    from .events import Command, Fact
    from .experiment import Settings
    from .space import Config


@dataclass(frozen=True, slots=True)
class VirtualInterval:
    """The result of training one interval. state: children start from it. first: the score of the first report.

    seconds: of virtual time, > 0. reports_at: the moment of the first report, as a share of them. fails_at: the share
    after which the attempt fails, None if it does not. metrics: what is reported beside the score.
    """

    state: Any
    score: float
    seconds: float
    first: float | None = None
    reports_at: float = 0.25
    fails_at: float | None = None
    metrics: Mapping[str, float] = field(default_factory=lambda: NOTHING)


class Task(Protocol):
    """The simulated world: trains a member for an interval from its parent's state (None in generation 0)."""

    def __call__(self, member: Node, parent_state: Any) -> VirtualInterval: ...


class Suggests(Protocol):
    """A searcher, as in gpbt_async.searchers.registry."""

    def suggest(self, ask: Ask) -> Config:
        """A config of the ask's space."""


@dataclass(slots=True)
class Simulation:
    """One simulated run; `run` it once. Times are virtual seconds.

    slots >= 1. ask_seconds: of the searcher for a suggestion (one at a time; a constant, or a function of the Ask).
    publish_seconds: from trained to published. start_seconds: from a free slot to entering `train`. crashes: moments at
    which the scheduler is killed, and the run resumed at once.
    """

    settings: Settings
    task: Task
    searcher: Suggests
    slots: int
    ask_seconds: float | Callable[[Ask], float] = 0.0
    publish_seconds: float = 0.0
    start_seconds: float = 0.0
    crashes: Iterable[float] = ()
    uses_kin: bool = True
    keep_facts: bool = True
    now: float = 0.0
    #: slot-seconds in `train`, including those of attempts that a crash cut off
    busy: float = 0.0
    first_entered: float | None = None
    last_returned: float = 0.0
    #: the most checkpoints kept at a time
    most_stored: int = 0
    #: how the slots' time was used, as in a real run's summary; with many slots it costs as much as the simulation
    usage: Usage | None = field(default_factory=Usage)
    facts: list[Fact] = field(default_factory=list)
    engine: Engine = field(init=False)
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _commands: deque[Command] = field(default_factory=deque)
    _states: dict[int, Any] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    #: (slot, entered) by member
    _inside: dict[int, tuple[int, float]] = field(default_factory=dict)
    _intervals: dict[int, VirtualInterval] = field(default_factory=dict)
    _searcher_free: float = 0.0
    _life: int = 0

    def __post_init__(self) -> None:
        # suggestions that cost nothing need not be requested ahead
        self.engine = Engine(self.settings, ahead=None if self.ask_seconds else 0)

    # ---- results

    @property
    def makespan(self) -> float:
        """From the first `train` entered to the last one returned."""
        return self.last_returned - (self.first_entered or 0.0)

    @property
    def utilisation(self) -> float:
        """The share of slots · makespan that was spent in training, in [0, 1]."""
        return self.busy / (self.slots * self.makespan) if self.makespan else 0.0

    @property
    def idle(self) -> dict[str, float]:
        """Slot-seconds idle by cause; empty with usage=None."""
        return self.usage.so_far().idle if self.usage is not None else {}

    # ---- the run

    def run(self) -> Simulation:
        """To its end; returns itself, finished."""
        # a tree of a hundred thousand members is one large live structure: to search it for garbage costs a fifth of
        # the time and finds nothing
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._run()
        finally:
            if collecting:
                gc.enable()

    def _run(self) -> Simulation:
        for moment in self.crashes:
            self._at(moment, self._crash)
        self._open()
        while self._agenda:
            t, _, happen = heapq.heappop(self._agenda)
            self.now = t
            happen()
            self._perform_all()
            if self.engine.ended is not None and not self._inside and not self._waits():
                break
        return self

    def _waits(self) -> bool:
        """Is anything left but crashes with nothing to kill?"""
        return any(not m.state.settled for m in self.engine.tree.members) and not self.engine.ended

    def _at(self, t: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (t, next(self._order), happen))

    def _later(self, seconds: float, fact: Callable[[], Fact | None]) -> None:
        """Schedule a fact; a crash before that moment cancels it."""
        life = self._life

        def happen() -> None:
            if life == self._life and (happened := fact()) is not None:
                self._feed(happened)

        self._at(self.now + seconds, happen)

    def _feed(self, fact: Fact) -> None:
        if self.keep_facts:
            self.facts.append(fact)
        self._commands.extend(self.engine.handle(fact))
        self.most_stored = max(self.most_stored, len(self.engine.stored))
        if self.usage is not None:
            self.usage.fold(fact, self.engine)

    def _open(self) -> None:
        self._free = list(range(self.slots))
        self._commands.clear()
        self._feed(events.Opened(t=self.now, slots=self.slots, version="simulated", pid=0))
        self._perform_all()

    def _crash(self) -> None:
        if self.engine.ended is None:
            self._life += 1
            for _, entered in self._inside.values():
                self.busy += max(0.0, self.now - entered)
            self._inside.clear()
            self._searcher_free = self.now
            self._open()

    def _perform_all(self) -> None:
        while self._commands:
            self._perform(self._commands.popleft())

    def _perform(self, command: Command) -> None:
        match command:
            case events.Suggest(path):
                self._suggest(path)
            case events.Start(id, attempt):
                self._start(self.engine.tree.members[id], attempt)
            case events.Verdict(id, attempt, stop):
                self._verdict(id, attempt, stop)
            case events.Publish(id, attempt):
                self._later(
                    self.publish_seconds,
                    lambda: events.Published(t=self.now, member=id, attempt=attempt, size=0, digest=""),
                )
            case events.Discard(id):
                self._states.pop(id, None)
                self._feed(events.Discarded(t=self.now, member=id))

    def _suggest(self, path: tuple[int, ...]) -> None:
        if path not in self.engine.asks:
            return  # withdrawn by a fact of this very moment
        ask, asked = self.engine.ask(path, kin=self.uses_kin), self.engine.count
        config = self.searcher.suggest(ask)
        seconds = self.ask_seconds(ask) if callable(self.ask_seconds) else self.ask_seconds
        if not seconds:
            self._feed(self._suggested(ask, config, asked))
            return
        self._searcher_free = max(self._searcher_free, self.now) + seconds
        self._later(self._searcher_free - self.now, lambda: self._suggested(ask, config, asked))

    def _suggested(self, ask: Ask, config: Config, asked: int) -> Fact:
        path = path_text(ask.path)
        return events.Suggested(t=self.now, path=path, generation=ask.generation, config=config, asked=asked)

    def _start(self, member: Node, attempt: int) -> None:
        slot = heapq.heappop(self._free)
        id, parent = member.id, member.parent
        interval = self.task(member, self._states[parent.id] if parent is not None else None)
        self._intervals[member.id] = interval
        self._inside[member.id] = (slot, self.now + self.start_seconds)
        above = parent.id if parent is not None else None
        path, config = path_text(member.path), member.config
        self._feed(
            events.Started(
                t=self.now, member=id, attempt=attempt, slot=slot, pid=0, path=path, parent=above, config=config
            )
        )
        if self.first_entered is None:
            self.first_entered = self.now + self.start_seconds
        self._later(self.start_seconds, lambda: events.Entered(t=self.now, member=id, attempt=attempt))
        fails = interval.fails_at
        if early_stopping.judged(self.settings, member) and (fails is None or interval.reports_at < fails):
            first = interval.score if interval.first is None else interval.first
            self._later(
                self.start_seconds + interval.reports_at * interval.seconds,
                lambda: events.Judged(t=self.now, member=id, attempt=attempt, score=first),
            )
            return
        share, how = (1.0, "trained") if fails is None else (fails, "failed")
        self._later(self.start_seconds + share * interval.seconds, lambda: self._end(member, attempt, how))

    def _verdict(self, id: int, attempt: int, stop: bool) -> None:
        member, interval = self.engine.tree.members[id], self._intervals[id]
        share, how = (1.0, "trained") if interval.fails_at is None else (interval.fails_at, "failed")
        if stop:
            share, how = interval.reports_at, "stopped"
        self._later((share - interval.reports_at) * interval.seconds, lambda: self._end(member, attempt, how))

    def _end(self, member: Node, attempt: int, how: str) -> Fact:
        t, id = self.now, member.id
        slot, entered = self._inside.pop(id)
        heapq.heappush(self._free, slot)
        interval = self._intervals.pop(id)
        seconds = t - entered
        self.busy += seconds
        self.last_returned = t
        if how == "failed":
            return events.Failed(t=t, member=id, attempt=attempt, reason="simulated", seconds=seconds)
        if how == "stopped":
            score = interval.score if interval.first is None else interval.first
            return events.StoppedEarly(t=t, member=id, attempt=attempt, score=score, metrics={}, seconds=seconds)
        self._states[id] = interval.state
        score, metrics = interval.score, interval.metrics
        return events.Trained(t=t, member=id, attempt=attempt, score=score, metrics=metrics, seconds=seconds)


# ---- worlds to simulate


def heavy_tailed(rng: random.Random, mean: float = 1.0) -> float:
    """Seconds of an interval: uniform within ± 50 %, one in ten five times as long, with the given mean."""
    return rng.uniform(0.5, 1.5) * (5.0 if rng.random() < 0.1 else 1.0) * mean / 1.4


@dataclass(frozen=True, slots=True)
class Landscape:
    """A synthetic optimisation: each family has its own best config, which drifts with the generation.

    Every dimension of the space counts: the further a member's config is from the optimum in the unit cube, the less
    progress it makes. Scores are losses with a little noise; minimise them.
    """

    seed: int = 0
    noise: float = 0.02
    seconds: Callable[[random.Random], float] = heavy_tailed

    def __call__(self, member: Node, parent_state: Any) -> VirtualInterval:
        raise TypeError("bind the landscape to a space first: Landscape(...).over(space)")

    def over(self, space: Any) -> Task:
        """The task of this landscape, over a space."""

        def train(member: Node, parent_state: Any) -> VirtualInterval:
            rng = random.Random(f"{self.seed}:{member.seed}:{member.attempt}")
            level = 1.0 if parent_state is None else parent_state
            wanted = random.Random(f"{self.seed}:{member.path[0]}")
            miss = 0.0
            units = space.encode(member.config)
            for u in units:
                target = 0.25 + 0.5 * wanted.random() - 0.02 * member.generation
                miss += (u - target) ** 2
            miss /= max(1, len(units))
            level *= 0.6 + min(1.2, 4.0 * miss)
            noisy = level * (1 + self.noise * rng.gauss(0, 1))
            early = level**0.5 * (1 + 3 * self.noise * rng.gauss(0, 1))
            return VirtualInterval(state=level, score=noisy, first=early, seconds=self.seconds(rng))

        return train
