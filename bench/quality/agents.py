"""What the tasks of reinforcement learning share: agents as values, Adam, evaluation, and how returns become losses.

A return r in [0, R] becomes the loss (R - r) / R: the share of the possible reward that the agent missed. No loss is
below FLOOR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .tasks import Outcome, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpbt_async.space import Config, Space

#: the loss of an agent that earns nothing, and of one whose weights are not finite
CEILING = 1.0
#: no loss is reported smaller
FLOOR = 1e-3
#: Adam's constants (Kingma and Ba 2015)
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-6
#: the greatest norm of a gradient: without such a bound one unlucky batch undoes what many have taught
LONGEST = 0.3


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
        """A step against the gradient, which is shortened to LONGEST if it is longer."""
        self._updates += 1
        gradient = gradient * np.float32(min(1.0, LONGEST / (float(np.sqrt(gradient @ gradient)) + 1e-12)))
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
        mean: np.ndarray = stacked[0] + (stacked - stacked[0]).mean(axis=0)  # of equal ones exactly that one
        return mean

    return Agent(
        mean("weights"), mean("moment"), mean("square"), max(a.updates for a in kept),
        mean("mean"), mean("variance"), sum(a.count for a in kept) / len(kept),
    )  # fmt: skip


def loss_of(returns: np.ndarray, most: float) -> tuple[float, float]:
    """The mean loss of episodes with these returns, `most` being the highest possible, and its standard error."""
    losses = (most - returns) / most
    mean, error = float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return (min(CEILING, max(FLOOR, mean)), error) if math.isfinite(mean) else (CEILING, 0.0)


class Learnable:
    """A task whose states are agents; None stands for an agent that has diverged. Subclasses say which game it is."""

    space: Space
    generations: ClassVar[int]
    #: games side by side in training, and rollouts of a standard interval
    GAMES: ClassVar[int]
    ROLLOUTS: ClassVar[int]
    #: episodes of an evaluation, and of the test
    EPISODES: ClassVar[int]
    FRESH: ClassVar[int]

    def __init__(self, seed: int, length: float = 1.0) -> None:
        self._length = length

    def initial(self, seed: int) -> Agent:
        raise NotImplementedError

    def _begun(self, games: int, rng: np.random.Generator) -> np.ndarray:
        """So many games side by side, at their beginnings."""
        raise NotImplementedError

    def _learnt(
        self, agent: Agent, state: np.ndarray, config: Config, rng: np.random.Generator, rates: tuple[float, float]
    ) -> tuple[Agent, np.ndarray]:
        """The agent that has played a rollout and learnt from it, and where the games are at its end.

        rates: what the learning rate is multiplied with at the beginning and at the end.
        """
        raise NotImplementedError

    def _played(self, agent: Agent, episodes: int, rng: np.random.Generator) -> tuple[float, float]:
        """The mean loss of so many episodes, and its standard error."""
        raise NotImplementedError

    def interval(self, state: Agent | None, config: Config, seed: int, first: bool = False) -> Outcome:
        if state is None:
            return Outcome(None, CEILING, CEILING if first else None)
        with np.errstate(all="ignore"):
            agent, begun = self._trained(state, config, generator("interval", seed))
        kept = agent if agent.sound else None
        early = self.evaluate(begun, seed)[0] if first else None
        val, error = self.evaluate(kept, seed)
        return Outcome(kept, val, early, error)

    def evaluate(self, state: Agent | None, seed: int) -> tuple[float, float]:
        return self._measured(state, self.EPISODES, generator("episodes", seed))

    def polished(self, state: Agent | None, config: Config, seed: int) -> float:
        if state is None:
            return CEILING
        with np.errstate(all="ignore"):
            agent, _ = self._trained(state, config, generator("polish", seed), share=0.1, decay=1.0)
        return self.evaluate(agent, seed)[0]

    def merged(self, states: Sequence[Agent | None]) -> Agent | None:
        return averaged(states)

    def test(self, state: Agent | None) -> float:
        return self._measured(state, self.FRESH, generator("test episodes"))[0]

    def _trained(
        self, agent: Agent, config: Config, rng: np.random.Generator, share: float = 1.0, decay: float = 0.0
    ) -> tuple[Agent, Agent]:
        """The agent after a share of an interval, and after the first of its rollouts.

        The learning rate ends at 1 - decay of what it was at the beginning.
        """
        work = self.ROLLOUTS * self._length * share
        rollouts = max(1, round(work))
        state, early = self._begun(max(2, round(self.GAMES * work / rollouts)), rng), agent
        for rollout in range(rollouts):
            rates = 1 - decay * rollout / rollouts, 1 - decay * (rollout + 1) / rollouts
            agent, state = self._learnt(agent, state, config, rng, rates)
            early = early if rollout else agent
        return agent, early

    def _measured(self, state: Agent | None, episodes: int, rng: np.random.Generator) -> tuple[float, float]:
        return (CEILING, 0.0) if state is None or not state.sound else self._played(state, episodes, rng)
