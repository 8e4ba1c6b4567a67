"""What is optimised: the waist between a method and a task, and the list of tasks.

A task is one seeded instance: splits, instance, initial states, everything but the method. A method sees a space, makes
`initial` states, trains them for an `interval` under a config, and is given a validation loss. States are values: an
interval returns a new one and leaves the old as it was, so that a state is its own checkpoint. `test` is looked at
once, for the state with the lowest validation loss, and by nobody before.

Everything is a function of (task, seed, interval seed, config); nothing depends on the machine or the method. Losses
are positive and finite: a state that has diverged scores the task's CEILING for ever, so that no method's way with
infinity is what is measured. An interval's length is in units of the standard one; `generations` standard ones are a
whole training: ten on the first seven tasks, more where a long training is the point.

Tasks added later are a `FamilyTask`, too: they measure a state afresh, polish it, and average several.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpbt_async.space import Config, Space

#: where a task's class is
WHERE = {
    "digits": "networks:Digits",
    "mnist1d": "networks:Mnist1d",
    "tabular": "networks:Tabular",
    "boosting": "worlds:Boosting",
    "annealing": "worlds:Annealing",
    "landscape": "worlds:Landscape",
    "quadratic": "worlds:Quadratic",
    "still": "worlds:Still",
    "swingup": "rl:SwingUp",
    "harvest": "games:Harvest",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an interval gives.

    first: the validation loss after its first quarter, if that was asked for. error: the standard error of `val` where
    it is measured with noise (reinforcement learning: over the episodes of the evaluation), else 0.
    """

    state: Any
    val: float
    first: float | None = None
    error: float = 0.0


class Task(Protocol):
    """One instance. `length`: of its intervals, in standard intervals. `generations`: intervals of a whole training."""

    space: Space
    generations: ClassVar[int]

    def __init__(self, seed: int, length: float = 1.0) -> None: ...

    def initial(self, seed: int) -> Any: ...

    def interval(self, state: Any, config: Config, seed: int, first: bool = False) -> Outcome: ...

    def test(self, state: Any) -> float: ...


@runtime_checkable
class FamilyTask(Task, Protocol):
    """What methods that use a family tree need beside it: a fresh measurement, a polish, a mean of states.

    All three leave the states they are given as they were, and take a diverged state, too.
    """

    def evaluate(self, state: Any, seed: int) -> tuple[float, float]:
        """The validation loss and its standard error, measured afresh with this seed; without noise: the loss, 0.0."""

    def polished(self, state: Any, config: Config, seed: int) -> float:
        """The validation loss after a tenth of an interval more, the learning rate going linearly to 0 in it."""

    def merged(self, states: Sequence[Any]) -> Any | None:
        """The mean of the states' weights; None where that has no meaning."""


def kind(name: str) -> type[Task]:
    """The task's class. Raises ValueError where there is none."""
    if name not in WHERE:
        raise ValueError(f"no task is called {name!r}: there are {', '.join(WHERE)}")
    module, _, within = WHERE[name].partition(":")
    found: type[Task] = getattr(importlib.import_module(f"{__package__}.{module}"), within)
    return found


def make(name: str, seed: int, length: float = 1.0) -> Task:
    """The task's instance of this seed. The same for every method."""
    return kind(name)(seed, length)


def key(*parts: object) -> int:
    """A seed in [0, 2**63) that is a function of the parts alone."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: object) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(key(*parts)))
