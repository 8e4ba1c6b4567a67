"""Engine.check(): it holds of every engine between two facts (conftest.py), and it sees each piece of state that is
wrong."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from engine_driver import SPACE, Driver, settings

from gpbt_async import events
from gpbt_async.engine.engine import Engine
from gpbt_async.engine.tree import Node, State

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable


def midway() -> Engine:
    """A run of two generations under way: members finished, failed, in training, publishing and waiting."""
    driver = Driver(settings(population=6, generations=3, early_stop=("median",)), 3, random.Random(1), lose=0.1)
    driver.fail = 0.1
    seen: Callable[[State], list[Node]] = lambda state: [m for m in driver.engine.tree.members if m.state is state]  # noqa: E731
    driver.open()
    while driver.turn():
        engine = driver.engine
        enough = all(map(seen, (State.FINISHED, State.TRAINED, State.TRAINING)))
        if enough and engine.asks and engine._ready and engine._open and len(seen(State.FINISHED)) > 3:
            break
    slots = [m for m in driver.engine.training if m.slot is not None]
    assert slots, "the seed gives no run with all of it"
    return driver.engine


def finished(engine: Engine) -> Node:
    return next(m for m in engine.tree.members if m.state is State.FINISHED and m is not engine.best)


def child(engine: Engine) -> Node:
    return next(m for m in engine.tree.members if m.parent is not None)


def ask(engine: Engine) -> events.Suggest:
    return next(iter(engine.asks.values()))


def lose(engine: Engine, member: Node) -> None:
    engine.handle(events.Lost(t=0.0, member=member.id, attempt=member.attempt, reason="gpu"))


CORRUPTIONS: dict[str, Callable[[Engine], object]] = {
    # the tree
    "a count of the members that are not settled": lambda e: setattr(e.tree, "unsettled", e.tree.unsettled + 1),
    "a root that is not settled is missing": lambda e: e.tree.pending_roots.update({0: e.tree.members[0]}),
    "a generation's count": lambda e: setattr(e.tree.generations[0], "settled", 0),
    "a generation's size": lambda e: setattr(e.tree.generations[0], "size", 1),
    "a generation lacks a member": lambda e: e.tree.generations[0].members.pop(),
    "a ranking out of order": lambda e: e.tree.generations[0].ranking.reverse(),
    "a ranking with parents": lambda e: e.tree.generations[1].with_parents.clear(),
    "first losses": lambda e: e.tree.generations[0].first_losses.append(0.5),
    "children by parent": lambda e: e.tree.generations[1].by_parent.update({0: 99}),
    "the best is not whole": lambda e: setattr(e.best, "damaged", True),
    "the best has no checkpoint": lambda e: setattr(e.tree, "best", e.training[0]),
    # a member
    "an id": lambda e: setattr(e.tree.members[0], "id", 7),
    "an index": lambda e: setattr(e.tree.members[0], "index", 1),
    "a generation": lambda e: setattr(e.tree.members[0], "generation", 1),
    "a config outside the space": lambda e: e.tree.members[0].config.update(lr=7.0),
    "a first child that does not repeat": lambda e: setattr(
        next(m for m in e.tree.members if m.parent and not m.index), "config", SPACE.sample(random.Random(9))
    ),
    "a parent that has not finished": lambda e: setattr(child(e), "parent", e.training[0]),
    "a state": lambda e: setattr(finished(e), "state", State.FAILED),
    "a loss": lambda e: setattr(finished(e), "loss", math.inf),
    "a score before the end": lambda e: setattr(e.training[0], "score", 1.0),
    "an attempt": lambda e: setattr(finished(e), "attempt", 0),
    "a slot that is not held": lambda e: setattr(finished(e), "slot", 0),
    "losses in a row": lambda e: setattr(finished(e), "lost_in_a_row", 5),
    "a verdict without a report": lambda e: setattr(finished(e), "stop_verdict", True),
    "damage before publishing": lambda e: setattr(e.training[0], "damaged", True),
    "children that are not settled": lambda e: setattr(finished(e), "unsettled", 9),
    # selection, termination, retention
    "k": lambda e: setattr(e.selection, "parents", 1),
    "the elite": lambda e: (e.selection.elite(0), e.selection.elite(0).clear()),
    "a failed member that has not": lambda e: e.termination.failed.append(finished(e)),
    "a scoreless member that has not failed": lambda e: e.termination.scoreless.append(finished(e)),
    "a name reported instead of a score": lambda e: e.termination._instead.update(other=None),
    "a failed attempt of a member without one": lambda e: e.termination.stumbled.add(
        next(m.id for m in e.tree.members if not m.failures)
    ),
    "a needed checkpoint": lambda e: e.stored.pop(next(m.id for m in e.stored.values() if m.state is State.TRAINED)),
    "a needless checkpoint": lambda e: e.stored.update({m.id: m for m in e.tree.members}),
    "a checkpoint that is stored and discarded": lambda e: e._retention.discarding.update(e.stored),
    "a suspect": lambda e: e._retention.suspect(e.tree.members[0]),
    "another dictionary of checkpoints": lambda e: setattr(e, "stored", dict(e.stored)),
    # the engine
    "settings": lambda e: setattr(e, "settings", settings()),
    "a member in training": lambda e: e._training.popitem(),
    "a member that waits": lambda e: e._waiting.append((0, (0,), 0)),
    "no member that waits": lambda e: (lose(e, e.training[0]), e._waiting.clear()) and e._training.popitem(),
    "a slot held twice": lambda e: [setattr(m, "slot", 0) for m in (*e.training, e.training[0])],
    "the open generation": lambda e: setattr(e, "_open", e._open + 1),
    "an open generation above": lambda e: setattr(e, "_open", e._open - 1),
    "an end with asks": lambda e: setattr(e, "ended", events.Finish("")),
    "an ask for a child that is not wanted": lambda e: e.asks.update({(9, 9): events.Suggest((9, 9), 1, 0)}),
    "an ask for another generation": lambda e: e.asks.update(
        {ask(e).path: events.Suggest(ask(e).path, ask(e).generation + 1, 0)}
    ),
    "an ask under another path": lambda e: e.asks.update({ask(e).path: events.Suggest((9, 9), ask(e).generation, 0)}),
    "an ask of the future": lambda e: e.asks.update(
        {ask(e).path: events.Suggest(ask(e).path, ask(e).generation, e.count + 1)}
    ),
    "an answer to an ask that is open": lambda e: e._ready.update({ask(e).path: (ask(e).generation, {})}),
    "an answer that is not wanted": lambda e: e._ready.update({(9, 9): (1, {})}),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_piece_of_state_that_is_wrong_is_seen(name: str, engines: deque[Engine]) -> None:
    engine = midway()
    engine.check()
    CORRUPTIONS[name](engine)
    with pytest.raises(AssertionError):
        engine.check()
    engines.clear()


def test_a_heap_that_is_none_is_seen(engines: deque[Engine]) -> None:
    engine = Engine(settings(population=6, generations=1), ahead=0)
    engine.handle(events.Opened(t=0.0, slots=6, version="v", pid=1))
    for root in range(6):
        config = SPACE.sample(random.Random(root))
        engine.handle(events.Suggested(t=0.0, path=str(root), generation=0, config=config, asked=engine.count))
    engine.handle(events.Capacity(t=0.0, slots=1))
    for member in engine.training[1:]:
        lose(engine, member)
    engine.check()
    engine._waiting.reverse()
    with pytest.raises(AssertionError, match="a heap"):
        engine.check()
    engines.clear()


def test_two_asks_of_one_parent_are_seen(engines: deque[Engine]) -> None:
    engine = Engine(settings(population=6, generations=1), ahead=4)
    engine.handle(events.Opened(t=0.0, slots=1, version="v", pid=1))
    engine.check()
    engine.asks[(1,)] = events.Suggest((1,), 0, 1)
    with pytest.raises(AssertionError, match="one ask a parent"):
        engine.check()
    engines.clear()


def test_it_holds_where_a_parent_has_an_option_that_is_younger_than_the_first_spaces() -> None:
    """The run goes on in a second space without the option, and in a third with it."""
    driver = Driver(settings(population=3, generations=3), 1, random.Random(0))
    driver.open()
    first = SPACE.to_json()
    options = [*first["act"]["options"], "gelu"]
    for space in (
        {**first, "lr": {**first["lr"], "low": 1e-3}},
        {**first, "act": {"kind": "choice", "options": options}},
    ):
        driver.feed(events.Adopted(t=0.0, settings={"space": space}))
        driver.open()
    driver.searcher = lambda ask: {**ask.space.sample(random.Random(ask.seed)), "act": "gelu"}
    engine = driver.run()
    assert any(m.parent and m.parent.config["act"] == m.config["act"] == "gelu" for m in engine.tree.members)
    engine.check()
