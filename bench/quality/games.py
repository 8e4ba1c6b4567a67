"""Harvest: a basket is moved under falling fruit; Q-learning without a replay memory learns to do it.

Two pieces of fruit are in the air, one PERIOD steps above the other, and a breeze of its own blows in every row. The
basket moves by one column or stays. Reward comes only when a piece lands: 1 if the basket is exactly there. Every piece
can be caught by whoever knows the breeze and goes its way in time, so rewards are delayed, and rare at first.

The ground is slippery: SLIP of all moves are random ones, in training and in evaluation, so not all can be caught.

Learning is Peng's Q(lambda) on many games side by side, epsilon-greedy, several epochs over every rollout (as in PQN,
Gallici et al. 2024, without its layer norm): no replay memory, no target network. A state holds the network's weights
and Adam's moments. Epsilon makes the agent see what it would not try, and makes what it sees unlike what it will do.

The return r of an episode is the number of pieces caught of the R that land, and the loss is (R - r) / R: the share
that was missed. The agent is greedy when it is evaluated. A validation loss is an estimate from EPISODES episodes, and
the test loss from FRESH ones. The breeze is the run's own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpbt_async.space import Choice, Float, Int, Space

from .agents import Adam, Agent, Learnable, fresh, loss_of
from .tasks import generator

if TYPE_CHECKING:
    from gpbt_async.space import Config

#: columns; steps between two landings, which is half the rows; what the basket can do, as columns to go
WIDTH, PERIOD, MOVES = 9, 5, np.array([-1, 0, 1])
INPUTS = 3 * WIDTH + PERIOD


class Orchards:
    """Games side by side. Rows of a state: the basket's column, the lower and the upper piece's, and the phase.

    At phase p the upper piece is in row p and the lower one in row PERIOD + p. Columns go round at the edge for fruit,
    and not for the basket.
    """

    SLIP = 0.05

    def __init__(self, breeze: np.ndarray) -> None:
        self._breeze = breeze
        self._above, self._below = int(breeze[:PERIOD].sum()), int(breeze[PERIOD:].sum())

    def begun(self, n: int, rng: np.random.Generator) -> np.ndarray:
        state = np.empty((4, n), np.int64)
        state[:3] = rng.integers(WIDTH, size=(3, n))
        state[3] = 0
        return state

    def seen(self, state: np.ndarray) -> np.ndarray:
        """The observations, a row a game: every number as a one among zeros."""
        seen = np.zeros((state.shape[1], INPUTS), np.float32)
        rows = np.arange(state.shape[1])
        for k, number in enumerate(state):
            seen[rows, number + k * WIDTH] = 1
        return seen

    def moved(self, state: np.ndarray, action: np.ndarray, luck: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The states after a step, and what was caught. luck: two rows of uniform numbers, for new fruit and slips."""
        basket, lower, upper, phase = state
        fruit, slip = luck
        after = np.empty_like(state)
        stumbled = (slip * (len(MOVES) / self.SLIP)).astype(np.int64)
        action = np.where(slip < self.SLIP, stumbled, action)
        after[0] = basket = np.minimum(np.maximum(basket + MOVES[action], 0), WIDTH - 1)
        lower, upper = (lower + self._breeze[PERIOD + phase]) % WIDTH, (upper + self._breeze[phase]) % WIDTH
        landed = phase == PERIOD - 1
        caught = landed & (lower == basket)
        # the next to land is in reach of whoever stands where this one lands; so is the one that begins now
        target = (upper + self._below) % WIDTH
        low, high = np.maximum(target - PERIOD, 0), np.minimum(target + PERIOD, WIDTH - 1)
        new = (low + (fruit * (high - low + 1)).astype(np.int64) - self._above - self._below) % WIDTH
        after[1], after[2] = np.where(landed, upper, lower), np.where(landed, new, upper)
        after[3] = np.where(landed, 0, phase + 1)
        return after, caught


class Values:
    """The network of action values, as views of one vector: one hidden layer of rectified units."""

    def __init__(self, weights: np.ndarray, hidden: int) -> None:
        h, m = hidden, len(MOVES)
        a, b, c = INPUTS * h, INPUTS * h + h, INPUTS * h + h + h * m
        self._into, self._bias = weights[:a].reshape(INPUTS, h), weights[a:b]
        self._out, self._ends = weights[b:c].reshape(h, m), weights[c:]

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        """Axes: whatever the observations have, action."""
        values: np.ndarray = np.maximum(seen @ self._into + self._bias, 0) @ self._out + self._ends
        return values

    def gradient(self, seen: np.ndarray, actions: np.ndarray, aims: np.ndarray) -> np.ndarray:
        """Of half the mean squared difference between the actions' values and their aims."""
        n, rows = len(seen), np.arange(len(seen))
        units = np.maximum(seen @ self._into + self._bias, 0)
        values = units @ self._out + self._ends
        off = np.zeros_like(values)
        off[rows, actions] = (values[rows, actions] - aims) / np.float32(n)
        back = (off @ self._out.T) * (units > 0)
        return np.concatenate(
            [(seen.T @ back).ravel(), back.sum(axis=0), (units.T @ off).ravel(), off.sum(axis=0)]
        )  # fmt: skip


def aimed(best: np.ndarray, rewards: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """Peng's Q(lambda): what the values should have been. best: the highest values, one step more than rewards."""
    aims, ahead = np.empty(rewards.shape, np.float32), best[-1]
    for step in range(len(rewards) - 1, -1, -1):
        aims[step] = ahead = rewards[step] + gamma * (lam * ahead + (1 - lam) * best[step + 1])
    return aims


class Harvest(Learnable):
    """The task. `foresight` is 1 - gamma; rewards are scaled by it in training, so values stay in [0, 1]."""

    generations: ClassVar[int] = 20
    HIDDEN, GAMES, ROLLOUTS, STEPS = 64, 128, 4, 10
    LANDINGS, EPISODES, FRESH = 12, 32, 256
    space = Space(
        {
            "lr": Float(1e-5, 1e-1, log=True),
            "epsilon": Float(1e-3, 1.0, log=True),
            "lambda": Float(0.0, 1.0),
            "foresight": Float(0.01, 0.5, log=True),
            "epochs": Int(1, 6, log=True),
            "batch": Choice([64, 128, 256, 512]),
        }
    )

    def __init__(self, seed: int, length: float = 1.0) -> None:
        super().__init__(seed, length)
        self.breeze = generator("breeze", seed).integers(-1, 2, 2 * PERIOD)
        self._orchards = Orchards(self.breeze)

    def initial(self, seed: int) -> Agent:
        rng, h, m = generator("initial", seed), self.HIDDEN, len(MOVES)
        into, out = rng.standard_normal(INPUTS * h) / 2, rng.standard_normal(h * m) * 0.1 / math.sqrt(h)
        return fresh(np.concatenate([into, np.zeros(h), out, np.zeros(m)]), 0)

    def _played(self, agent: Agent, episodes: int, rng: np.random.Generator) -> tuple[float, float]:
        """The two pieces that are in the air first do not count."""
        state, values = self._orchards.begun(episodes, rng), Values(agent.weights, self.HIDDEN)
        total = np.zeros(episodes)
        for step, luck in enumerate(rng.random(((self.LANDINGS + 2) * PERIOD, 2, episodes))):
            action = values(self._orchards.seen(state)).argmax(axis=1)
            state, caught = self._orchards.moved(state, action, luck)
            total += caught & (step >= 2 * PERIOD)
        return loss_of(total, self.LANDINGS)

    def _begun(self, games: int, rng: np.random.Generator) -> np.ndarray:
        return self._orchards.begun(games, rng)

    def _learnt(
        self, agent: Agent, state: np.ndarray, config: Config, rng: np.random.Generator, rates: tuple[float, float]
    ) -> tuple[Agent, np.ndarray]:
        lr, epsilon, lam, foresight = (
            float(config[name])  # type: ignore[arg-type]
            for name in ("lr", "epsilon", "lambda", "foresight")
        )
        games, adam = state.shape[1], Adam(agent)
        values = Values(adam.weights, self.HIDDEN)
        seen, best = np.empty((self.STEPS + 1, games, INPUTS), np.float32), np.empty((self.STEPS + 1, games))
        actions, rewards = np.empty((self.STEPS, games), np.int64), np.empty((self.STEPS, games))
        explores, luck = rng.random((self.STEPS, games)), rng.random((self.STEPS, 2, games))
        tries = rng.integers(len(MOVES), size=(self.STEPS, games))
        for step in range(self.STEPS):
            seen[step] = self._orchards.seen(state)
            known = values(seen[step])
            actions[step] = np.where(explores[step] < epsilon, tries[step], known.argmax(axis=1))
            best[step] = known.max(axis=1)
            state, rewards[step] = self._orchards.moved(state, actions[step], luck[step])
        best[-1] = values(self._orchards.seen(state)).max(axis=1)
        aims = aimed(best, rewards * foresight, 1 - foresight, lam).ravel()
        flat, done, n = seen[:-1].reshape(-1, INPUTS), actions.ravel(), len(aims)
        size, epochs = min(n, int(config["batch"])), int(config["epochs"])  # type: ignore[arg-type]
        batches = np.concatenate([rng.permutation(n)[: n // size * size].reshape(-1, size) for _ in range(epochs)])
        for rows, rate in zip(batches, np.linspace(*rates, len(batches), endpoint=False), strict=True):
            adam.step(values.gradient(flat[rows], done[rows], aims[rows]), lr * float(rate))
        return adam.agent(), state
