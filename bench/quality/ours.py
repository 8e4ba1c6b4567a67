"""The product itself: its engine, its rule and its searchers, on the virtual clock of gpbt_async.simulate.

Nothing that decides is written anew here. `settings` are those of an Experiment; beside them there are ablations that
the product has no switch for:

    pending=False   the searcher is not told of siblings in training
    repeat=False    a parent's first child gets a config of its own
    cooled=(a, b)   the ratio goes from a to b over the generations (candidates.py)
    keep=.25        early_stop="median" has the best quarter of first reports go on, and not the better half
    everyone=True   generation 0, and children that repeat their parent's config, may be stopped early, too
    genealogy={…}   another use of the family tree (genealogy.py, which lists the options)
    budget=250      what is trained after so many intervals (at T = 10; in proportion at another T) does not count: for
                    more members, some of them stopped early

and a searcher called `try:Name` is one of candidates.py.

Suggestions cost no virtual time, like everything that is not training, for any method.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
from typing import TYPE_CHECKING, Any
from unittest import mock

from gpbt_async import events
from gpbt_async.engine import early_stopping, selection
from gpbt_async.engine.early_stopping import MEDIAN
from gpbt_async.experiment import PRESETS, Settings
from gpbt_async.searchers import registry
from gpbt_async.simulate import Simulation, VirtualInterval

from .candidates import Cooled
from .clock import seconds
from .genealogy import Genealogy, replace
from .record import Record
from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpbt_async.ask import Ask
    from gpbt_async.engine.tree import Node
    from gpbt_async.searchers.searcher import Searcher
    from gpbt_async.space import Config

    from .tasks import Task

#: when a first report comes, as a share of the interval
FIRST = 0.25


class _Alone:
    """A searcher that is not told of siblings in training."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    def suggest(self, ask: Ask) -> Config:
        return self._searcher.suggest(dataclasses.replace(ask, pending=()))


def _stops(keep: float, first: float, others: Sequence[float]) -> bool:
    """The median rule with another share."""
    return (
        len(others) >= early_stopping.MEDIAN_LEAST
        and first > statistics.quantiles(others, n=100)[round(100 * keep) - 1]
    )


def _yes(settings: Settings, member: Node) -> bool:
    return True


def _no(settings: Settings, member: Node) -> bool:
    return False


def again(task: Any, state: Any, seed: int, member: Node) -> float:
    """The validation loss of the member's state, evaluated afresh."""
    val: float = task.evaluate(state, key("again", seed, member.id))[0]
    return val


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    pending: bool = True,
    repeat: bool = True,
    cooled: tuple[float, float] | None = None,
    genealogy: dict[str, Any] | None = None,
    budget: int | None = None,
    keep: float = 0.5,
    everyone: bool = False,
    preset: str | None = None,
    **settings: Any,
) -> Record:
    chosen = {**PRESETS.get(preset or "", {}), **settings}
    if chosen.get("searcher", "").startswith("try:"):
        chosen["searcher"] = chosen["searcher"].replace("try", f"{__package__}.candidates")
    s = Settings(
        space=task.space, score="loss", mode="min", population=population, generations=generations,
        seed=key("run", seed) >> 1, preset=preset, **chosen,
    )  # fmt: skip
    states: dict[int, Any] = {}
    errors: dict[int, float] = {}
    judged = MEDIAN in s.early_stop

    def train(member: Node, parent_state: Any) -> VirtualInterval:
        state = task.initial(key(seed, member.path[0])) if member.parent is None else parent_state
        first = judged and (member.generation > 0 or everyone)
        outcome = task.interval(state, member.config, key(seed, member.id), first=first)
        states[member.id], errors[member.id] = outcome.state, outcome.error
        return VirtualInterval(outcome.state, outcome.val, seconds(seed, member.id, length), outcome.first, FIRST)

    searcher = registry.make(s.searcher)
    simulation = Simulation(s, train, searcher if pending else _Alone(searcher), slots, usage=None)
    if cooled is not None:
        replace(simulation, Cooled(simulation.engine.adoption, simulation.engine.tree, *cooled))
    kin = Genealogy(simulation, errors, lambda member: again(task, states[member.id], seed, member), **genealogy or {})
    with contextlib.ExitStack() as stack:
        if not repeat:
            stack.enter_context(mock.patch.object(selection.Offspring, "repeats", False))
        if keep != 0.5:
            stack.enter_context(mock.patch.object(early_stopping, "stops", functools.partial(_stops, keep)))
        if everyone:
            stack.enter_context(mock.patch.multiple(early_stopping, judged=_yes, exempt=_no))
        simulation.run()
    kin.finish()
    record = Record(task, budget * generations // 10 if budget else population * generations)
    members = simulation.engine.tree.members
    for fact in simulation.facts:
        if record.spent > record.budget - 1:
            break
        if isinstance(fact, events.Trained):
            assert fact.score is not None
            member = members[fact.member]
            worth = kin.worth(member, fact.score)
            record.add(fact.t, fact.score, states[member.id], len(member.path), worth)
            if extra := kin.extra(member):
                record.spend(fact.t, extra)
        elif isinstance(fact, events.StoppedEarly):
            record.spend(fact.t, FIRST)
    return record
