"""Networks whose schedule matters: SGD with momentum over many intervals, in float64. What text.py and images.py share.

The one surprise is the velocity: it is part of the state. A member that takes over a checkpoint goes on with the
parent's velocity, like a user of PyTorch who saves the optimizer beside the model. (The networks of networks.py begin
each interval with a velocity of zero.) The velocity is a sum of gradients, and each step multiplies it by the learning
rate, so a new learning rate counts at once.

All weights of a network are one vector, so a step updates them in three calls, and a mean of networks is a mean of
vectors. Everything is float64: sums are still rounded differently by another BLAS or another CPU, but by 1e-16 and not
by 1e-7, so two machines part only where training is chaotic or two scores are nearly equal.

Losses are mean cross-entropies in nats. A state whose validation loss reaches CEILING has diverged: it is None, and it
scores CEILING for ever.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .tasks import Outcome, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpbt_async.space import Config, Space

#: a cross-entropy that only a diverged network has
CEILING = 10.0
#: how much of an interval `polished` trains
TAIL = 0.1


class State(NamedTuple):
    """A checkpoint: all weights, and the optimizer's velocity for each."""

    weights: np.ndarray
    velocity: np.ndarray


class Descent:
    """A task that SGD trains. A subclass makes the data, the initial weights, the gradient and the logits."""

    space: ClassVar[Space]
    generations: ClassVar[int]
    #: training examples that a standard interval goes through
    examples: ClassVar[int]
    #: name and shape of each array of weights, in the order of the vector
    shapes: ClassVar[dict[str, tuple[int, ...]]]

    def __init__(self, seed: int, length: float = 1.0) -> None:
        self._length = length
        ends = list(itertools.accumulate(math.prod(shape) for shape in self.shapes.values()))
        self._places = list(zip(self.shapes, [0, *ends], ends, self.shapes.values(), strict=False))
        self._x, self._y, self._x_val, self._y_val, self._x_test, self._y_test = self.split(seed)

    def split(self, seed: int) -> tuple[np.ndarray, ...]:
        """x and y to train on, to validate on and to test on. The test set is the same for every seed."""
        raise NotImplementedError

    def gradient(
        self, weights: np.ndarray, x: np.ndarray, y: np.ndarray, config: dict[str, Any], rng: np.random.Generator
    ) -> np.ndarray:
        """The gradient of a batch's loss, as the config changes that loss; without the weight decay."""
        raise NotImplementedError

    def logits(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        """A row of logits an example, as the trained network is used."""
        raise NotImplementedError

    def initial(self, seed: int) -> State:
        """Matrices are normal with variance 2 / inputs (He et al. 2015), vectors are zero."""
        rng, parts = generator("initial", seed), []
        for shape in self.shapes.values():
            inputs, wide = math.prod(shape[:-1]), len(shape) > 1
            parts.append((rng.standard_normal(shape) * math.sqrt(2 / inputs) if wide else np.zeros(shape)).ravel())
        weights = np.concatenate(parts)
        return State(weights, np.zeros_like(weights))

    def interval(self, state: State | None, config: Config, seed: int, first: bool = False) -> Outcome:
        if state is None:
            return Outcome(None, CEILING, CEILING if first else None)
        rng = generator("interval", seed)
        batches = self._batches(rng, config, 1.0)
        rates = np.full(len(batches), config["lr"])
        quarter = max(1, len(batches) // 4) if first else 0
        early = None
        with np.errstate(all="ignore"):
            if quarter:
                state = self._descend(state, batches[:quarter], rates[:quarter], config, rng)
                early = self._loss(state.weights, self._x_val, self._y_val)
            state = self._descend(state, batches[quarter:], rates[quarter:], config, rng)
            val = self._loss(state.weights, self._x_val, self._y_val)
        return Outcome(state if val < CEILING else None, val, early)

    def evaluate(self, state: State | None, seed: int) -> tuple[float, float]:
        """The validation loss again; nothing about it is random, so its standard error is 0."""
        return (CEILING if state is None else self._loss(state.weights, self._x_val, self._y_val)), 0.0

    def polished(self, state: State | None, config: Config, seed: int) -> float:
        """The validation loss after a tenth of an interval whose learning rate falls linearly to 0."""
        if state is None:
            return CEILING
        rng = generator("polish", seed)
        batches = self._batches(rng, config, TAIL)
        rates = np.linspace(float(config["lr"]), 0.0, len(batches), endpoint=False)  # type: ignore[arg-type]
        with np.errstate(all="ignore"):
            return self.evaluate(self._descend(state, batches, rates, config, rng), seed)[0]

    def merged(self, states: Sequence[State | None]) -> State | None:
        """The mean of the weights, and of the velocities; None if one of the networks has diverged."""
        live = [state for state in states if state is not None]
        if not live or len(live) < len(states):
            return None
        return State(np.mean([s.weights for s in live], axis=0), np.mean([s.velocity for s in live], axis=0))

    def test(self, state: State | None) -> float:
        return CEILING if state is None else self._loss(state.weights, self._x_test, self._y_test)

    def errors(self, state: State | None) -> float:
        """The share of the test set whose most likely class is wrong."""
        if state is None:
            return 1.0
        return float((self.logits(state.weights, self._x_test).argmax(1) != self._y_test).mean())

    def parts(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The vector's arrays by name; views, so that writing to them writes to the vector."""
        return {name: weights[start:end].reshape(shape) for name, start, end, shape in self._places}

    def _batches(self, rng: np.random.Generator, config: Config, share: float) -> np.ndarray:
        """Indexes into the training set, a row a step: the set shuffled, as many times as it takes."""
        size, n = int(config["batch"]), len(self._y)  # type: ignore[arg-type]
        steps = max(1, round(self.examples * self._length * share / size))
        order = np.concatenate([rng.permutation(n) for _ in range(-(-steps * size // n))])
        return order[: steps * size].reshape(steps, size)

    def _descend(
        self, state: State, batches: np.ndarray, rates: np.ndarray, config: Config, rng: np.random.Generator
    ) -> State:
        """SGD with momentum and weight decay as PyTorch has them: v = momentum v + g + decay w, w = w - lr v."""
        weights, velocity = state.weights.copy(), state.velocity.copy()
        momentum, decay = float(config["momentum"]), float(config["weight_decay"])  # type: ignore[arg-type]
        for batch, rate in zip(batches, rates, strict=True):
            gradient = self.gradient(weights, self._x[batch], self._y[batch], config, rng)
            gradient += decay * weights
            velocity *= momentum
            velocity += gradient
            weights -= rate * velocity
        return State(weights, velocity)

    def _loss(self, weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        z = self.logits(weights, x)
        z -= z.max(axis=1, keepdims=True)
        loss = float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]).mean())
        return max(1e-6, loss) if loss < CEILING else CEILING  # not a number is not less


def residual(z: np.ndarray, y: np.ndarray, smoothing: float) -> np.ndarray:
    """The gradient of the mean cross-entropy by the logits, its targets smoothed; overwrites z."""
    size, classes = z.shape
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    z[np.arange(size), y] -= 1 - smoothing
    z -= smoothing / classes
    z /= size
    return z
