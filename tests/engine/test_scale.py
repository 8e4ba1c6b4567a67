"""What a decision costs does not grow with the slots, nor with the tree: counted in calls, which no machine disturbs.

(bench/scale.py measures the same in seconds, up to 100,000 members.)
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gpbt_async.analysis.usage import Usage
from gpbt_async.engine.engine import Engine
from gpbt_async.experiment import Settings
from gpbt_async.simulate import Landscape, Simulation
from gpbt_async.space import Float, Space

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = Space({"a": Float(0, 1), "b": Float(1e-4, 1, log=True)})


class Anywhere:
    def suggest(self, ask: Any) -> Any:
        return SPACE.sample(random.Random(ask.seed))


def run(slots: int, **changes: Any) -> Simulation:
    """A run whose searcher takes time, so that it is asked in advance for as many members as there are slots."""
    names = {"space": SPACE, "score": "loss", "mode": "min", "population": 1000, "generations": 2, **changes}
    world = Landscape(0).over(SPACE)
    return Simulation(Settings(**names), world, Anywhere(), slots, ask_seconds=1e-6, uses_kin=False, usage=None).run()


class Calls:
    """Counts all calls of functions, of Python and of C, and the steps of generators."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, function: Callable[[Any], object], *arguments: Any) -> None:
        sys.setprofile(self._event)
        try:
            function(*arguments)
        finally:
            sys.setprofile(None)

    def _event(self, _frame: object, event: str, _argument: object) -> None:
        self.count += event in ("call", "c_call")


def per_decision(simulation: Simulation) -> float:
    engine, calls = Engine(simulation.settings), Calls()
    for fact in simulation.facts:
        calls.of(engine.handle, fact)
    return calls.count / len(simulation.facts)


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_a_decision_takes_as_many_calls_with_a_thousand_slots_as_with_ten(schedule: str) -> None:
    few, many = (per_decision(run(slots, schedule=schedule)) for slots in (10, 1000))
    assert many < 1.5 * few
    assert many < 150


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_a_decision_takes_as_many_calls_in_a_deep_tree_as_in_a_shallow_one(schedule: str) -> None:
    shallow, deep = (
        per_decision(run(1000, population=100, generations=generations, schedule=schedule)) for generations in (5, 40)
    )
    assert deep < 1.2 * shallow


def test_a_generation_may_be_wide() -> None:
    narrow, wide = (per_decision(run(100, population=population)) for population in (250, 2000))
    assert wide < 1.3 * narrow


def test_the_account_of_time_looks_only_at_slots_whose_cause_changes() -> None:
    """With a thousand slots in a population of a thousand all of them wait together, several times: no thousand calls
    a fact follow from it."""
    counts = []
    for slots in (10, 1000):
        simulation = run(slots)
        usage, engine, calls = Usage(), Engine(simulation.settings), Calls()
        for fact in simulation.facts:
            engine.handle(fact)
            calls.of(usage.fold, fact, engine)
        counts.append(calls.count / len(simulation.facts))
    assert counts[1] < 5 * counts[0], counts
