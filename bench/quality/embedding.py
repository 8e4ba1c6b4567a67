"""A map of images by t-SNE (van der Maaten & Hinton 2008): an iterative optimiser, no network, that wants a schedule.

300 handwritten digits are laid out in the plane so that neighbours stay neighbours. The loss is the Kullback-Leibler
divergence of the map's neighbourhoods from those of the images, for a perplexity of 10. Two things make its best
schedule not constant. A step estimates the gradient from a sample of the points, as in maps of millions, so the
learning rate has to be high first and low last. And descent ends in a poor local minimum, because groups of points
repel each other and cannot pass; against that practitioners exaggerate the attraction first, and begin with larger
neighbourhoods (Kobak & Berens 2019). Both make the loss worse while they last, so a method that selects by today's loss
drops what pays later.

The first map is random and as wide as a few neighbourhoods, so that groups have to pass each other. Nothing is held
out, as in practice: the test loss is the loss. The arithmetic is elementwise and summed in numpy's own order; no BLAS
takes part, so its choice of kernels cannot change a run.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpbt_async.space import Float, Int, Space

from .tasks import Outcome, generator, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpbt_async.space import Config

#: no loss is reported larger; a random map has 3 to 4
CEILING = 10.0
#: of the loss; and for which neighbourhoods are computed, to be interpolated between
TARGET, PERPLEXITIES = 10.0, (10.0, 20.0, 40.0, 80.0)
#: a map that is wider has come apart
FAR = 1e4


class Embedding:
    """State: the points' coordinates, a row an axis; None once the map has come apart."""

    generations: ClassVar[int] = 20
    space = Space(
        {
            "lr": Float(1.0, 300.0, log=True),
            "inertia": Float(0.01, 1.0, log=True),  # 1 - momentum
            "exaggeration": Float(0.01, 10.0, log=True),  # of the attraction: how much is added to 1
            "reach": Float(0.01, 7.0, log=True),  # of the neighbourhoods: how much is added to 1, times TARGET
            "sample": Int(10, 100, log=True),  # points that a step's gradient is estimated from
        }
    )
    #: what a schedule made by hand lets fall
    decayed: ClassVar[tuple[str, ...]] = ("lr", "exaggeration", "reach")
    #: seen: points that gradients are estimated from in a standard interval, whatever the sample
    points, seen, spread = 300, 4000, 3.0

    def __init__(self, seed: int, length: float = 1.0) -> None:
        x = self.data()[generator("split", seed).permutation(len(self.data()))[: self.points]]
        self._near = np.array([neighbourhoods(x, perplexity) for perplexity in PERPLEXITIES])
        self._wanted = self._near[PERPLEXITIES.index(TARGET)]
        some = self._wanted[self._wanted > 0]
        self._least = float((some * np.log(some)).sum())
        self._seen = self.seen * length

    @staticmethod
    @functools.cache
    def data() -> np.ndarray:
        from sklearn.datasets import load_digits

        x: np.ndarray = load_digits(return_X_y=True)[0] / 16.0
        return x

    def initial(self, seed: int) -> np.ndarray:
        return generator("initial", seed).standard_normal((2, self.points), dtype=np.float32) * np.float32(self.spread)

    def interval(self, state: np.ndarray | None, config: Config, seed: int, first: bool = False) -> Outcome:
        if state is None:
            return Outcome(None, CEILING, CEILING if first else None)
        steps = self._steps(config)
        samples, rates = self._samples(config, steps, seed), np.ones(steps, np.float32)
        velocity, early, quarter = np.zeros_like(state), None, max(1, steps // 4) if first else 0
        if quarter:
            state, velocity = self._descend(state, velocity, config, rates[:quarter], samples)
            early = self.test(state)
        state, _ = self._descend(state, velocity, config, rates[quarter:], samples[quarter:])
        val = self.test(state)
        return Outcome(None if val >= CEILING else state, val, early)

    def test(self, state: np.ndarray | None) -> float:
        if state is None or not np.abs(state).max() < FAR:  # not a number is not less
            return CEILING
        x, y = state.astype(np.float64)
        w = 1 / (1 + np.subtract.outer(x, x) ** 2 + np.subtract.outer(y, y) ** 2)
        loss = self._least - float((self._wanted * np.log(w / (w.sum() - self.points))).sum())
        return max(1e-6, loss) if loss < CEILING else CEILING

    def evaluate(self, state: np.ndarray | None, seed: int) -> tuple[float, float]:
        return self.test(state), 0.0

    def polished(self, state: np.ndarray | None, config: Config, seed: int) -> float:
        if state is None:
            return CEILING
        rates = np.linspace(1, 0, max(1, round(self._steps(config) / 10)), endpoint=False, dtype=np.float32)
        samples = self._samples(config, len(rates), seed)
        return self.test(self._descend(state, np.zeros_like(state), config, rates, samples)[0])

    def merged(self, states: Sequence[np.ndarray | None]) -> None:
        """A mean of maps is no map: each has its groups in other places."""

    def _steps(self, config: Config) -> int:
        return max(1, round(self._seen / number(config, "sample")))

    def _descend(
        self, state: np.ndarray, velocity: np.ndarray, config: Config, rates: np.ndarray, samples: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step for each rate, by which the learning rate is multiplied."""
        n, size = self.points, int(number(config, "sample"))
        lr, keep = np.float32(4 * number(config, "lr") * n / size), np.float32(1 - number(config, "inertia"))
        near = np.float32(1 + number(config, "exaggeration")) * self._neighbourhoods(
            TARGET * (1 + number(config, "reach"))
        )
        points, velocity, pull = state.copy(), velocity.copy(), np.empty_like(state)
        dx, dy, w, m = np.empty((4, size, n), np.float32)
        with np.errstate(all="ignore"):
            for rate, some in zip(rates, samples, strict=False):
                np.subtract.outer(points[0][some], points[0], out=dx)
                np.subtract.outer(points[1][some], points[1], out=dy)
                np.multiply(dx, dx, out=w)
                np.multiply(dy, dy, out=m)
                w += m
                w += 1
                np.reciprocal(w, out=w)
                total = (w.sum(dtype=np.float64) - size) * n / size
                np.multiply(w, np.float32(-1 / total), out=m)
                m += near[some]
                m *= w
                dx *= m
                dy *= m
                np.sum(dx, axis=0, out=pull[0])
                np.sum(dy, axis=0, out=pull[1])
                velocity *= keep
                pull *= lr * rate
                velocity += pull
                points += velocity
        return points, velocity

    def _samples(self, config: Config, steps: int, seed: int) -> np.ndarray:
        """Points, a row a step: as many shuffled passes over all of them as it takes."""
        rng, size = generator("interval", seed), int(number(config, "sample"))
        passes = -(-steps * size // self.points)
        order = np.concatenate([rng.permutation(self.points) for _ in range(passes)])
        return order[: steps * size].reshape(steps, size)

    def _neighbourhoods(self, perplexity: float) -> np.ndarray:
        """Interpolated by the perplexity's logarithm."""
        at = np.interp(math.log(perplexity), np.log(PERPLEXITIES), range(len(PERPLEXITIES)))
        below = min(int(at), len(PERPLEXITIES) - 2)
        share = at - below
        found: np.ndarray = (1 - share) * self._near[below] + share * self._near[below + 1]
        return found.astype(np.float32)


def neighbourhoods(x: np.ndarray, perplexity: float) -> np.ndarray:
    """Symmetric probabilities, 1 in all, that two points are neighbours; bisection finds every point's own width."""
    apart = np.zeros((len(x), len(x)))
    for column in x.T:
        apart += np.subtract.outer(column, column) ** 2
    np.fill_diagonal(apart, np.inf)
    apart -= apart.min(axis=1, keepdims=True)
    low, high = np.full(len(x), -20.0), np.full(len(x), 20.0)
    for _ in range(50):
        middle = (low + high) / 2
        p = np.exp(-np.exp(middle)[:, None] * apart)
        p /= p.sum(axis=1, keepdims=True)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        wide = entropy > math.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    near: np.ndarray = (p + p.T) / (2 * len(x))
    return near
