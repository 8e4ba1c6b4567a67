"""What the tasks of reinforcement learning share: an agent as a value, Adam, and how returns become losses.

A return r in [0, R] becomes the loss (R - r) / R: the share of the possible reward that the agent missed. No loss is
below FLOOR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

#: the loss of an agent that earns nothing, and of one whose weights are not finite
CEILING = 1.0
#: no loss is reported smaller
FLOOR = 1e-3
#: Adam's constants (Kingma and Ba 2015)
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-6


@dataclass(frozen=True, slots=True)
class Agent:
    """A state. No array of an agent is ever changed: training makes new ones."""

    weights: np.ndarray
    #: Adam's moments of the gradient, and the number of its steps so far
    moment: np.ndarray
    square: np.ndarray
    updates: int
    #: the normaliser: mean and variance of the observations so far, and their number
    mean: np.ndarray
    variance: np.ndarray
    count: float

    def normal(self, seen: np.ndarray) -> np.ndarray:
        """The observations in units of their own standard deviations, cut off at five."""
        z = (seen - self.mean) / np.sqrt(self.variance + 1e-6)
        cut: np.ndarray = np.minimum(np.maximum(z, -5), 5).astype(np.float32)
        return cut

    def watched(self, seen: np.ndarray) -> Agent:
        """The agent whose normaliser includes these observations."""
        n, total = len(seen), self.count + len(seen)
        shift = seen.mean(axis=0) - self.mean
        variance = (self.variance * self.count + seen.var(axis=0) * n + shift**2 * self.count * n / total) / total
        return replace(self, mean=self.mean + shift * n / total, variance=variance, count=total)

    @property
    def sound(self) -> bool:
        return bool(np.isfinite(self.weights).all())


class Adam:
    """The optimiser while it works on one agent: it changes its own copies of the agent's arrays in place."""

    def __init__(self, agent: Agent) -> None:
        self._agent, self._updates = agent, agent.updates
        self.weights, self._moment, self._square = agent.weights.copy(), agent.moment.copy(), agent.square.copy()

    def step(self, gradient: np.ndarray, lr: float) -> None:
        self._updates += 1
        self._moment *= np.float32(BETA1)
        self._moment += np.float32(1 - BETA1) * gradient
        self._square *= np.float32(BETA2)
        self._square += np.float32(1 - BETA2) * (gradient * gradient)
        t = self._updates
        rate = np.float32(lr * math.sqrt(1 - BETA2**t) / (1 - BETA1**t))
        self.weights -= rate * self._moment / (np.sqrt(self._square) + np.float32(EPSILON))

    def agent(self) -> Agent:
        """The agent as it is now. The optimiser must not be used afterwards."""
        return replace(
            self._agent, weights=self.weights, moment=self._moment, square=self._square, updates=self._updates
        )


def fresh(weights: np.ndarray, inputs: int) -> Agent:
    """An agent that has seen nothing yet."""
    weights = weights.astype(np.float32)
    nothing = np.zeros_like(weights)
    return Agent(weights, nothing, nothing, 0, np.zeros(inputs), np.ones(inputs), 1.0)


def averaged(agents: Sequence[Agent | None]) -> Agent | None:
    """The mean of the agents' weights, moments and normalisers; None if one has diverged."""
    kept = [a for a in agents if a is not None]
    if not kept or len(kept) < len(agents):
        return None

    def mean(name: str) -> np.ndarray:
        stacked: np.ndarray = np.stack([getattr(a, name) for a in kept])
        return stacked.mean(axis=0, dtype=np.float64).astype(stacked.dtype)

    return Agent(
        mean("weights"), mean("moment"), mean("square"), max(a.updates for a in kept),
        mean("mean"), mean("variance"), sum(a.count for a in kept) / len(kept),
    )  # fmt: skip


def loss_of(returns: np.ndarray, most: float) -> tuple[float, float]:
    """The mean loss of episodes with these returns, `most` being the highest possible, and its standard error."""
    losses = (most - returns) / most
    mean, error = float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return (min(CEILING, max(FLOOR, mean)), error) if math.isfinite(mean) else (CEILING, 0.0)
