"""Where the slots' time went: by hand on a small case, and as a balance that always holds."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

import pytest
from engine_driver import SPACE, Driver, settings
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async import events
from gpbt_async.analysis import run_summary
from gpbt_async.analysis.usage import Usage
from gpbt_async.engine.engine import Engine

if TYPE_CHECKING:
    from collections import deque


def fold(facts: list[events.Fact], engine: Engine) -> Usage:
    usage = Usage()
    for fact in facts:
        engine.handle(fact)
        usage.fold(fact, engine)
    return usage


def test_one_slot_two_members_by_hand() -> None:
    config = SPACE.sample(random.Random(0))
    one = {"path": "0", "parent": None, "config": config, "slot": 0, "pid": 1}
    facts: list[events.Fact] = [
        events.Opened(t=0.0, slots=1, version="v", pid=1),
        events.Suggested(t=1.0, path="0", generation=0, config=config, asked=1),
        events.Started(t=2.0, member=0, attempt=1, **one),
        events.Entered(t=3.0, member=0, attempt=1),
        # returned at 13, in the journal at 14: the process took a second to end
        events.Trained(t=14.0, member=0, attempt=1, score=1.0, metrics={}, seconds=10.0),
        events.Suggested(t=16.0, path="1", generation=0, config=config, asked=5),
        events.Published(t=16.5, member=0, attempt=1, size=1, digest=""),
        events.Started(t=17.0, member=1, attempt=1, **{**one, "path": "1"}),
        events.Entered(t=18.0, member=1, attempt=1),
        events.Failed(t=21.0, member=1, attempt=1, reason="x", seconds=2.0),
        events.Closed(t=99.0, how="interrupted"),
    ]
    usage = fold(facts, Engine(settings(population=2, generations=1, attempts=1), ahead=0))
    usage.close()
    assert usage.wall == pytest.approx(17.0)  # 3 to 20
    assert usage.busy == pytest.approx(12.0)
    assert usage.idle["searcher"] == pytest.approx(2.0)  # 14 to 16
    assert usage.idle["start"] == pytest.approx(3.0)  # 13 to 14, 16 to 18
    assert usage.turnovers == pytest.approx([5.0])
    assert usage.utilisation == pytest.approx(12 / 17)


def test_a_wait_for_evidence_is_not_a_turnover() -> None:
    """Two slots, two members a generation, evidence 1: slot 0 waits from 11 to 20 for the member in slot 1."""
    config = SPACE.sample(random.Random(0))
    rest = {"pid": 1, "config": config, "attempt": 1}
    ended = {"attempt": 1, "metrics": {}, "score": 1.0}
    facts: list[events.Fact] = [
        events.Opened(t=0.0, slots=2, version="v", pid=1),
        events.Suggested(t=0.0, path="0", generation=0, config=config, asked=1),
        events.Suggested(t=0.0, path="1", generation=0, config=config, asked=2),
        events.Started(t=0.0, member=0, slot=0, path="0", parent=None, **rest),
        events.Started(t=0.0, member=1, slot=1, path="1", parent=None, **rest),
        events.Entered(t=1.0, member=0, attempt=1),
        events.Entered(t=1.0, member=1, attempt=1),
        events.Trained(t=11.0, member=0, seconds=10.0, **ended),
        events.Published(t=11.0, member=0, attempt=1, size=1, digest=""),
        events.Trained(t=20.0, member=1, seconds=19.0, **ended),
        events.Published(t=21.0, member=1, attempt=1, size=1, digest=""),
        events.Started(t=22.0, member=2, slot=0, path="0/0", parent=0, **rest),
        events.Started(t=22.0, member=3, slot=1, path="1/0", parent=1, **rest),
        events.Entered(t=23.0, member=2, attempt=1),
        events.Entered(t=24.0, member=3, attempt=1),
    ]
    usage = fold(facts, Engine(settings(population=2, generations=2, ratio=0.5, evidence=1.0), ahead=0))
    # slot 0's twelve seconds are not the program's doing; slot 1 had its next member as soon as one could be had
    assert usage.turnovers == pytest.approx([4.0])


@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from(["async", "sync"]),
    st.lists(st.integers(1, 40), max_size=3),
)
def test_busy_and_idle_sum_to_all_time(
    seed: int, slots: int, population: int, schedule: str, crashes: list[int]
) -> None:
    driver = Driver(
        settings(population=population, schedule=schedule), slots, random.Random(seed), fail=0.1, lose=0.1, timed=True
    )
    driver.open()
    for turns in crashes:
        for _ in range(turns):
            driver.turn()
        driver.open()
    driver.run()
    engine = Engine(driver.settings)
    usage = fold(driver.facts, engine)
    halfway = usage.so_far()
    usage.close()
    assert sum(usage.idle.values()) + usage.busy == pytest.approx(usage.offered)
    assert usage.offered == pytest.approx(slots * usage.wall)
    assert 0 <= usage.utilisation <= 1 + 1e-9
    assert all(seconds >= 0 for seconds in (*usage.idle.values(), *usage.turnovers))
    # the totals so far are the totals, once nothing is open any more; and asking for them changes nothing
    assert halfway.busy == pytest.approx(usage.busy)
    assert halfway.idle == pytest.approx(usage.idle)


def test_the_summary_counts_members_by_how_they_ended() -> None:
    driver = Driver(settings(), 2, random.Random(3), fail=0.3, nan=0.1, lose=0.1, timed=True)
    engine = driver.run()
    usage = fold(driver.facts, Engine(driver.settings))
    summary = run_summary.summary(engine, usage.so_far(), run="r")
    members = summary["members"]
    assert members["finished"] + members["failed"] + members["unfinished"] == len(engine.tree.members)
    assert members["lost"] == sum(isinstance(f, events.Lost) for f in driver.facts)
    assert summary["score"] == min(
        f.score for f in driver.facts if isinstance(f, events.Trained) and f.score is not None
    )
    schedule = run_summary.schedule(engine)["schedule"]
    assert [entry["generation"] for entry in schedule] == list(range(len(schedule)))
    assert schedule[-1]["member"] == summary["best_member"]


def test_the_measures_by_hand(engines: deque[Engine]) -> None:
    """n = 4, k = 2; generation 2 was closed after three; the scores are losses.

    | generation | member | parent | loss | seconds | state |
    |---|---|---|---|---|---|
    | 0 | 0 1 2 3 | - | 4 1 2 3 | 4 2 6 8 | finished |
    | 1 | 4 5 6 7 | 1 2 3 3 | 2 5 3 - | 2 4 6 1 | finished, the last stopped |
    | 2 | 8 9 10 | 4 6 6 | 1 1.5 0 | 5 5 2 | finished, stopped, finished |
    """
    from gpbt_async.engine.tree import State

    engine = Engine(settings(population=4, generations=3, ratio=1.0), ahead=0)
    assert engine.selection.parents == 2
    tree, config = engine.tree, SPACE.sample(random.Random(0))
    rows = [
        *((0, None, loss, seconds, "finished") for loss, seconds in ((4.0, 4.0), (1.0, 2.0), (2.0, 6.0), (3.0, 8.0))),
        (1, 1, 2.0, 2.0, "finished"),
        (1, 2, 5.0, 4.0, "finished"),
        (1, 3, 3.0, 6.0, "finished"),
        (1, 3, 9.0, 1.0, "stopped"),
        (2, 4, 1.0, 5.0, "finished"),
        (2, 6, 1.5, 5.0, "stopped"),
        (2, 6, 0.0, 2.0, "finished"),
    ]
    for generation, parent, loss, seconds, state in rows:
        member = tree.add(generation, None if parent is None else tree.members[parent], config, seed=0)
        member.score, member.seconds, member.loss = loss, seconds, loss
        tree.settle(member, State(state))
    tree.generations[2].size = 3
    engines.clear()  # this tree is built by hand, without the facts that the other invariants need
    measured = run_summary.measures(engine)
    # generation 1: a mean of 4 s, 1 - 1/4 saved; generation 2: one never issued, and 5 s of a mean of 3.5 s
    assert measured["saved_intervals"] == pytest.approx((1 - 1 / 4) + 1 + (1 - 5 / 3.5))
    # parents, once a child, over their generation: (2 + 6 + 8 + 8) / 4 over 5, (2 + 6 + 6) / 3 over 4
    assert measured["parents_duration_ratio"] == pytest.approx((6 / 5 + (14 / 3) / 4) / 2)
    # of generation 0 the best two are 1 and 2: member 3's two children are outside; of generation 1 they are 4 and 6
    assert measured["parents_outside_top_k"] == pytest.approx(2 / 7)


def test_a_long_session_is_not_kept_span_by_span() -> None:
    """Thousands of members in one session are totals and turnovers, or the scheduler would grow with them."""
    driver = Driver(settings(population=20, generations=12), 3, random.Random(1), timed=True)
    usage, engine, most = Usage(), Engine(driver.settings), 0
    driver.run()
    for fact in driver.facts:
        engine.handle(fact)
        usage.fold(fact, engine)
        most = max(most, len(usage._spans))
    assert most < 60
    usage.close()
    assert sum(usage.idle.values()) + usage.busy == pytest.approx(usage.offered)


def test_two_members_in_one_slot_of_a_damaged_journal_do_no_harm() -> None:
    driver = Driver(settings(), 2, random.Random(3), timed=True)
    usage, engine = Usage(), Engine(driver.settings)
    driver.run()
    for fact in driver.facts:
        moved = dataclasses.replace(fact, slot=0) if isinstance(fact, events.Started) else fact
        engine.handle(moved)
        usage.fold(moved, engine)
    usage.close()
    assert sum(usage.idle.values()) + usage.busy == pytest.approx(usage.offered)
