"""Swing-up: a cart swings a pole up and holds it there; PPO (Schulman et al. 2017) in plain numpy learns to do it.

An interval is four rollouts of 128 carts, 16 steps each, with a PPO update after every rollout. Half of the carts begin
with the pole hanging, the others anywhere and at any speed. The policy is a Gaussian over forces whose mean is a small
network; a second network is the value function. A state holds both networks' weights, Adam's moments and the normaliser
of the observations, so a child goes on exactly where its parent was.

An episode has HORIZON steps, begins with the pole hanging and is disturbed by random pushes. The first FREE steps are
for swinging up; the return r is the sum of the others' rewards, each in [0, 1]. So R = HORIZON - FREE bounds it, and
the loss is (R - r) / R: the share of the possible reward that was missed. The policy acts with its own noise when it is
evaluated, so exploration has a price.

The one surprise: a validation loss is an estimate from EPISODES episodes, drawn by the interval's seed, and its
standard error is part of the outcome. The test loss averages over FRESH episodes, and its error is small. A method that
chooses by validation losses also chooses luck.

Masses, the pole's length and friction are the run's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpbt_async.space import Choice, Float, Int, Space

from .agents import Adam, Agent, Learnable, fresh, loss_of
from .tasks import generator

if TYPE_CHECKING:
    from gpbt_async.space import Config


class Carts:
    """Cart-poles side by side. Rows of a state: place, speed, angle (0 is upright), angular speed."""

    STEP, PARTS, TRACK, GRAVITY, FORCE, FASTEST = 0.08, 2, 3.0, 9.8, 30.0, 12.0

    def __init__(self, physics: np.ndarray) -> None:
        self._cart, self._pole, self._half, self._friction = (float(v) for v in physics)

    def hanging(self, n: int, rng: np.random.Generator) -> np.ndarray:
        state: np.ndarray = rng.uniform(-0.1, 0.1, (4, n)) + np.array([[0.0], [0.0], [math.pi], [0.0]])
        return state

    def anywhere(self, n: int, rng: np.random.Generator) -> np.ndarray:
        state: np.ndarray = rng.uniform(-1, 1, (4, n)) * np.array([[2.0], [2.0], [math.pi], [7.0]])
        return state

    def seen(self, state: np.ndarray) -> np.ndarray:
        """The observations, a row a cart: the angle as cosine and sine."""
        seen = np.empty((state.shape[1], 5))
        seen[:, 0], seen[:, 1], seen[:, 2] = state[0], state[1], state[3]
        seen[:, 3], seen[:, 4] = np.cos(state[2]), np.sin(state[2])
        return seen

    def moved(self, state: np.ndarray, action: np.ndarray, push: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The states after a step, and its rewards: high where the pole stands in the middle of the track.

        A cart that reaches an end of the track stops there; the pole goes on swinging.
        """
        x, v, angle, spin = state
        mass, lever, dt = self._cart + self._pole, self._pole * self._half, self.STEP / self.PARTS
        force = self.FORCE * np.minimum(np.maximum(action, -1), 1) + push
        cos = np.cos(angle)
        for _ in range(self.PARTS):
            sin = np.sin(angle)
            drive = (force - self._friction * v + lever * spin * spin * sin) / mass
            bend = (self.GRAVITY * sin - cos * drive) / (self._half * (4 / 3 - self._pole / mass * cos * cos))
            v = v + dt * (drive - lever / mass * bend * cos)
            spin = np.minimum(np.maximum(spin + dt * bend, -self.FASTEST), self.FASTEST)
            x, angle = x + dt * v, angle + dt * spin
            cos = np.cos(angle)
        v = v * (np.abs(x) < self.TRACK)
        x = np.minimum(np.maximum(x, -self.TRACK), self.TRACK)
        near = (((1 + cos) / 2) ** 2 + np.exp(20 * (cos - 1))) / 2
        return np.stack([x, v, angle, spin]), near * (1 - (x / self.TRACK) ** 4)


@dataclass(frozen=True, slots=True)
class Played:
    """A rollout: normalised observations (one more than steps), actions and rewards. Axes: step, cart."""

    seen: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


class Networks:
    """The policy and the value function, as views of one vector. Their hidden units lie side by side: policy, value."""

    def __init__(self, weights: np.ndarray, hidden: int) -> None:
        h, inputs = hidden, (len(weights) - 4 * hidden - 3) // (2 * hidden)
        a, b = inputs * 2 * h, inputs * 2 * h + 2 * h
        self.into, self.bias = weights[:a].reshape(inputs, 2 * h), weights[a:b]
        self.to_action, self.to_value, self.rest = weights[b : b + h], weights[b + h : b + 2 * h], weights[b + 2 * h :]
        self._hidden = h

    @property
    def log_spread(self) -> np.float32:
        """Of the actions around their means. Bounded below: next to no noise, any update would be a great one."""
        spread: np.float32 = np.maximum(self.rest[2], np.float32(-2.5))
        return spread

    @property
    def spread(self) -> np.float32:
        spread: np.float32 = np.exp(self.log_spread)
        return spread

    def policy(self, z: np.ndarray) -> np.ndarray:
        """The means of the actions."""
        h = self._hidden
        mean: np.ndarray = np.tanh(np.tanh(z @ self.into[:, :h] + self.bias[:h]) @ self.to_action + self.rest[0])
        return mean

    def value(self, z: np.ndarray) -> np.ndarray:
        h = self._hidden
        value: np.ndarray = np.tanh(z @ self.into[:, h:] + self.bias[h:]) @ self.to_value + self.rest[1]
        return value

    def gradient(self, batch: Batch, clip: float, entropy: float) -> np.ndarray:
        """Of PPO's loss: the clipped surrogate, the value's squared error, and minus the entropy."""
        z, h, n, gains = batch.seen, self._hidden, np.float32(len(batch.seen)), batch.gains
        units = np.tanh(z @ self.into + self.bias)
        mean = np.tanh(units[:, :h] @ self.to_action + self.rest[0])
        away = (batch.actions - mean) / self.spread
        ratio = np.exp(np.minimum(density(away, self.log_spread) - batch.old, 20))
        moving = np.where(gains > 0, ratio < 1 + clip, ratio > 1 - clip)
        pull = ratio * gains * moving / -n
        off_value = (units[:, h:] @ self.to_value + self.rest[1] - batch.aims) / n
        off_mean = pull * away / self.spread * (1 - mean * mean)
        back = 1 - units * units
        back[:, :h] *= off_mean[:, None] * self.to_action
        back[:, h:] *= off_value[:, None] * self.to_value
        spread = (pull * (away * away - 1)).sum() - np.float32(entropy)
        ends = np.array([off_mean.sum(), off_value.sum(), spread], np.float32)
        return np.concatenate(
            [(z.T @ back).ravel(), back.sum(axis=0), off_mean @ units[:, :h], off_value @ units[:, h:], ends]
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps to learn from. old: the actions' log densities when they were played. aims: of the value function."""

    seen: np.ndarray
    actions: np.ndarray
    old: np.ndarray
    gains: np.ndarray
    aims: np.ndarray

    def rows(self, chosen: np.ndarray) -> Batch:
        return Batch(
            self.seen[chosen], self.actions[chosen], self.old[chosen], self.gains[chosen], self.aims[chosen]
        )  # fmt: skip


def density(away: np.ndarray, log_spread: np.float32) -> np.ndarray:
    """The log density of normal variates so many deviations from their mean, but for a constant."""
    found: np.ndarray = np.float32(-0.5) * away * away - log_spread
    return found


def advantages(values: np.ndarray, rewards: np.ndarray, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantages (Schulman et al. 2016), and what the values should have been. Axes: step, cart."""
    found, ahead = np.empty(rewards.shape, np.float32), np.zeros(rewards.shape[1])
    surprise = rewards + gamma * values[1:] - values[:-1]
    for step in range(len(rewards) - 1, -1, -1):
        found[step] = ahead = surprise[step] + gamma * lam * ahead
    return found, found + values[:-1]


def improved(
    agent: Agent, played: Played, config: Config, rng: np.random.Generator, rates: tuple[float, float], hidden: int
) -> Agent:
    """The agent after PPO's epochs over a rollout. rates: what lr is multiplied with at the beginning and the end.

    Rewards are scaled by 1 - gamma, so values lie in [0, 1] whatever gamma is.
    """
    lr, clip, entropy, lam, foresight = (
        float(config[name])  # type: ignore[arg-type]
        for name in ("lr", "clip", "entropy", "lambda", "foresight")
    )
    adam = Adam(agent)
    net = Networks(adam.weights, hidden)
    gains, aims = advantages(net.value(played.seen), played.rewards * foresight, 1 - foresight, lam)
    gains = (gains - gains.mean()) / (gains.std() + np.float32(1e-6))
    old = density((played.actions - net.policy(played.seen[:-1])) / net.spread, net.log_spread)
    z = played.seen[:-1].reshape(-1, played.seen.shape[2])
    whole = Batch(z, played.actions.ravel(), old.ravel(), gains.ravel(), aims.astype(np.float32).ravel())
    n, epochs = len(z), int(config["epochs"])  # type: ignore[arg-type]
    size = min(n, int(config["batch"]))  # type: ignore[arg-type]
    batches = np.concatenate([rng.permutation(n)[: n // size * size].reshape(-1, size) for _ in range(epochs)])
    for rows, rate in zip(batches, np.linspace(*rates, len(batches), endpoint=False), strict=True):
        adam.step(net.gradient(whole.rows(rows), clip, entropy), lr * float(rate))
    return adam.agent()


class SwingUp(Learnable):
    """The task. Hyperparameters are PPO's; `foresight` is 1 - gamma."""

    generations: ClassVar[int] = 20
    HIDDEN, GAMES, ROLLOUTS, STEPS = 32, 128, 4, 16
    HORIZON, FREE, EPISODES, FRESH, PUSH = 60, 30, 8, 256, 4.0
    space = Space(
        {
            "lr": Float(1e-4, 1e-1, log=True),
            "clip": Float(0.02, 0.5, log=True),
            "entropy": Float(1e-4, 1.0, log=True),
            "lambda": Float(0.5, 1.0),
            "foresight": Float(0.003, 0.3, log=True),
            "epochs": Int(1, 6, log=True),
            "batch": Choice([256, 512, 1024]),
        }
    )

    def __init__(self, seed: int, length: float = 1.0) -> None:
        super().__init__(seed, length)
        self.physics = np.array([1.0, 0.2, 0.5, 0.1]) * np.exp(generator("physics", seed).uniform(-0.2, 0.2, 4))
        self._carts = Carts(self.physics)

    def initial(self, seed: int) -> Agent:
        rng, h = generator("initial", seed), self.HIDDEN
        into, ends = rng.standard_normal(5 * 2 * h) / math.sqrt(5), rng.standard_normal(2 * h)
        ends[:h] *= 0.01
        ends[h:] /= math.sqrt(h)
        return fresh(np.concatenate([into, np.zeros(2 * h), ends, [0.0, 0.0, -0.5]]), 5)

    def _played(self, agent: Agent, episodes: int, rng: np.random.Generator) -> tuple[float, float]:
        state = self._carts.hanging(episodes, rng)
        shaken, pushes = rng.standard_normal((2, self.HORIZON, episodes))
        total, net = np.zeros(episodes), Networks(agent.weights, self.HIDDEN)
        shaken, pushes = shaken * net.spread, pushes * self.PUSH
        for step, (noise, push) in enumerate(zip(shaken, pushes, strict=True)):
            action = net.policy(agent.normal(self._carts.seen(state))) + noise
            state, reward = self._carts.moved(state, action, push)
            total += reward * (step >= self.FREE)
        return loss_of(total, self.HORIZON - self.FREE)

    def _begun(self, games: int, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([self._carts.hanging(games // 2, rng), self._carts.anywhere(games - games // 2, rng)], 1)

    def _learnt(
        self, agent: Agent, state: np.ndarray, config: Config, rng: np.random.Generator, rates: tuple[float, float]
    ) -> tuple[Agent, np.ndarray]:
        agent, state, played = self._rollout(agent, state, rng)
        return improved(agent, played, config, rng, rates, self.HIDDEN), state

    def _rollout(self, agent: Agent, state: np.ndarray, rng: np.random.Generator) -> tuple[Agent, np.ndarray, Played]:
        """The agent whose normaliser knows the rollout, where the carts are at its end, and the rollout."""
        carts, net = state.shape[1], Networks(agent.weights, self.HIDDEN)
        shaken, pushes = rng.standard_normal((2, self.STEPS, carts))
        seen, z = np.empty((self.STEPS + 1, carts, 5)), np.empty((self.STEPS + 1, carts, 5), np.float32)
        actions, rewards = np.empty((self.STEPS, carts), np.float32), np.empty((self.STEPS, carts))
        for step in range(self.STEPS):
            seen[step] = self._carts.seen(state)
            z[step] = agent.normal(seen[step])
            actions[step] = net.policy(z[step]) + net.spread * shaken[step]
            state, rewards[step] = self._carts.moved(state, actions[step], self.PUSH * pushes[step])
        z[-1] = agent.normal(self._carts.seen(state))
        return agent.watched(seen[:-1].reshape(-1, 5)), state, Played(z, actions, rewards)
