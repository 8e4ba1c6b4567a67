"""What waits, and for what: read off driven lineages in all states they pass through, beside what the driver knows."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from engine_driver import Driver, settings

from gpbt_async import events
from gpbt_async.analysis import waiting
from gpbt_async.ask import path_text


def read(driver: Driver, **more: Any) -> Any:
    """What the two functions read of a RunReader."""
    known: dict[str, Any] = {"times": [fact.t for fact in driver.facts], "opened": driver.facts[0].t, "ended": {}}
    known |= {"fresh": set(), "usage": SimpleNamespace(paused="", by_hand=""), "engine": driver.engine, **more}
    return SimpleNamespace(settings=driver.engine.settings, **known)


@pytest.mark.parametrize(
    ("schedule", "slots", "seen"),
    [("async", 3, {"searcher", "checkpoint", "evidence", "no_work"}), ("sync", 4, {"searcher", "elder", "evidence"})],
)
def test_a_free_slot_waits_for_what_the_driver_has_not_done_yet(schedule: str, slots: int, seen: set[str]) -> None:
    causes: Counter[str] = Counter()
    for seed in range(12):
        driver = Driver(
            settings(population=5, generations=3, schedule=schedule), slots, random.Random(seed), timed=True
        )
        driver.open()
        while driver.turn():
            engine = driver.engine
            if len(engine.training) >= slots:
                continue
            text, since = waiting.slot_waits_for(read(driver))
            assert (since is None) == ("asked for member" not in text)
            cause = engine.idle_cause()
            if cause == "searcher":
                path = next(c.path for c in engine.outstanding() if isinstance(c, events.Suggest))
                count = [count for count, ask in driver.asks if ask.path == path][-1]
                assert text == f"the searcher, asked for member {path_text(path)}"
                assert since == driver.facts[count - 1].t
            elif "elder" in text:
                assert schedule == "sync"
                cause = "elder"  # type: ignore[assignment]
            elif cause == "evidence":
                above = next(i for i, g in enumerate(engine.tree.generations) if not g.full) - 1
                settled = engine.tree.generations[above].settled
                needed = 5 if schedule == "sync" else 4
                assert settled < needed
                assert text == f"{needed} of 5 in generation {above} to end ({settled} have)"
            else:
                assert text in (
                    "checkpoints to be published", "nothing: all members have been issued",
                    "nothing: no more than the population of 5 train at a time",
                )  # fmt: skip
            causes[cause] += 1
    assert seen <= set(causes)


def test_a_member_waits_for_the_first_that_holds() -> None:
    driver = Driver(settings(population=2, generations=2), 2, random.Random(1))
    driver.open()
    while not (child := next((m for m in driver.engine.training if m.parent and m.slot is None), None)):
        assert driver.turn()
    reading = read(driver, fresh={child.parent.id})
    assert waiting.member_waits_for(reading, child, False, 100.0) == "its process to start"
    assert waiting.member_waits_for(reading, child, True, 100.0) == "a GPU, or its process to start"
    reading.fresh.clear()
    again = "its parent's checkpoint, of an earlier session, to be read again, or its process to start"
    assert waiting.member_waits_for(reading, child, False, 100.0) == again
    reading.usage.paused = "the disk is full"
    assert waiting.member_waits_for(reading, child, True, 100.0) == "room on the disk"
    reading.usage.by_hand = "a person has paused the run"
    assert waiting.member_waits_for(reading, child, True, 100.0) == "the end of the pause"
    child.failures, child.attempt, reading.ended = 1, 2, {child.id: 99.9}
    assert waiting.member_waits_for(reading, child, True, 100.0) == "the end of its pause before attempt 2"
