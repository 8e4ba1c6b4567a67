"""The final choice by a metric that selected no parent: who may be chosen, and whose checkpoints are kept for it."""

from __future__ import annotations

import math
import random

import pytest
from engine_driver import Driver, settings, snapshot
from hypothesis import given
from hypothesis import strategies as st
from strategies import drivers

from gpbt_async import events
from gpbt_async.engine.engine import Engine
from gpbt_async.engine.tree import Node, State

BY = ("holdout", "min")


def holdout(path: tuple[int, ...]) -> dict[str, float]:
    """One member in four reports none, and one in eight NaN."""
    dice = random.Random(f"holdout {path}").random()
    return {} if dice < 0.25 else {"holdout": math.nan if dice < 0.375 else dice}


def finalists(driver: Driver) -> list[Node]:
    """The best k of the last generation in which a member has finished, and the best, best first."""
    tree, k = driver.engine.tree, driver.settings.parents
    finished = [m for m in tree.members if m.state is State.FINISHED]
    last = max(m.generation for m in finished)
    rivals = {m for m in finished if m.generation == last}
    if driver.settings.selection == "plus":
        rivals |= {m.parent for m in tree.members if m.generation == last and m.parent is not None}
    best = sorted(rivals, key=lambda m: (m.loss, m.generation, m.path))[:k]
    assert tree.best is not None
    return sorted({*(m for m in best if not m.damaged), tree.best}, key=lambda m: (m.loss, m.generation, m.path))


def check_choice(driver: Driver) -> None:
    engine = driver.engine
    if engine.ended != events.Finish(""):
        assert engine.final_choice is None
        assert engine.best is engine.tree.best
        return
    wanted = finalists(driver)
    values = {m.id: holdout(m.path).get("holdout", math.nan) for m in wanted}
    able = [m for m in wanted if values[m.id] == values[m.id]]
    choice = engine.final_choice
    assert choice is not None
    assert (choice.among, choice.eligible, choice.fallback) == (wanted, able, not able)
    assert engine.best is choice.chosen is (min(able, key=lambda m: values[m.id]) if able else wanted[0])
    # all of them are on the disk, and nothing else is but the parents of members that may be tried again
    kept: set[int] = set()
    for fact in driver.facts:
        if isinstance(fact, events.Published):
            kept.add(fact.member)
        elif isinstance(fact, events.Discarded):
            kept.discard(fact.member)
    assert {m.id for m in wanted} <= kept
    if engine.tree.generations[-1].ranking and engine.settings.validate is None:  # else more are kept, to be combined
        assert kept - {m.id for m in engine.termination.held} <= {m.id for m in wanted}
    again = Engine(driver.settings, driver.ahead)
    for fact in driver.facts:
        again.handle(fact)
    assert snapshot(again) == snapshot(engine)
    assert again.best is not None
    assert again.best.id == choice.chosen.id


@given(drivers(choose_by=BY), st.lists(st.integers(1, 200), max_size=3))
def test_the_choice_is_among_kept_checkpoints_whatever_happens(driver: Driver, crashes: list[int]) -> None:
    """Faults, crashes, early stopping, both selections and schedules."""
    driver.others = holdout
    driver.on_turn = lambda d, _: check_choice(d) if d.engine.ended is None else None
    driver.open()
    while driver.turn():
        if len(driver.facts) in crashes:
            driver.open()
    check_choice(driver)


@given(drivers(choose_by=BY))
def test_a_damaged_finalist_is_not_chosen(driver: Driver) -> None:
    driver.others, driver.damage = holdout, 0.05
    engine = driver.run()
    choice = engine.final_choice
    if choice is not None:
        assert all(not m.damaged and m.state is State.FINISHED for m in choice.among)
        assert {m.id for m in choice.among} <= engine.stored.keys()


@given(drivers(choose_by=BY))
def test_a_finished_run_that_is_reopened_chooses_among_all(driver: Driver) -> None:
    """Members that had failed for good are tried again, and then compete with the finalists of before."""
    driver.others = holdout
    driver.run()
    check_choice(driver)
    driver.fail = driver.lose = driver.nan = driver.mute = 0.0
    if driver.engine.reopens:
        driver.open(retry=True)
        driver.run()
        check_choice(driver)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_metric_selects_no_parent(mode: str) -> None:
    """The tree is the same with it and without."""
    runs = [
        Driver(settings(population=9, generations=4, choose_by=by), 3, random.Random(5), others=holdout)
        for by in (None, ("holdout", mode))
    ]
    trees = [[(m.path, m.parent and m.parent.id, m.config, m.score) for m in d.run().tree.members] for d in runs]
    assert trees[0] == trees[1]
    plain, chosen = (d.engine for d in runs)
    assert plain.best is plain.tree.best
    assert chosen.best is not None
    assert chosen.final_choice is not None
    sign = 1 if mode == "min" else -1
    assert chosen.best is min(chosen.final_choice.eligible, key=lambda m: sign * m.metrics["holdout"])
    assert len(chosen.final_choice.among) in (3, 4)


def test_the_score_chooses_where_no_finalist_reports_the_metric() -> None:
    engine = Driver(settings(population=4, generations=2, choose_by=BY), 2, random.Random(0)).run()
    choice = engine.final_choice
    assert choice is not None
    assert choice.fallback
    assert engine.best is engine.tree.best
