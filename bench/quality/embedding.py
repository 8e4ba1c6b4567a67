"""A map of images by t-SNE (van der Maaten & Hinton 2008): an iterative optimiser, no network, that wants a schedule.

200 handwritten digits are laid out in the plane so that neighbours stay neighbours. The loss is the Kullback-Leibler
divergence of the map's neighbourhoods from those of the images, for a perplexity of 10. Descent on it ends in a poor
local minimum, because groups of points repel each other and cannot pass. What practitioners do against that makes the
loss worse while they do it: they exaggerate the attraction first, they begin with larger neighbourhoods (Kobak & Berens
2019), they shake the points. So the best schedule is not constant, and a method that selects by today's loss drops what
pays later. A whole training has 1000 steps, which is scikit-learn's default.

The first map is random and as wide as three neighbourhoods, so that groups have to pass each other. Nothing is held
out, as in practice: the test loss is the loss. The arithmetic is elementwise and summed in numpy's own order; no BLAS
takes part, so its choice of kernels cannot change a run.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpbt_async.space import Float, Space

from .tasks import Outcome, generator

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
            "lr": Float(3.0, 300.0, log=True),
            "inertia": Float(0.01, 1.0, log=True),  # 1 - momentum
            "exaggeration": Float(0.01, 10.0, log=True),  # of the attraction: how much is added to 1
            "reach": Float(0.01, 7.0, log=True),  # of the neighbourhoods: how much is added to 1, times TARGET
            "shake": Float(1e-4, 1.0, log=True),
        }
    )
    #: what a schedule made by hand lets fall
    decayed: ClassVar[tuple[str, ...]] = ("exaggeration", "reach", "shake")
    points, steps, spread = 200, 50, 3.0

    def __init__(self, seed: int, length: float = 1.0) -> None:
        x = self.data()[generator("split", seed).permutation(len(self.data()))[: self.points]]
        self._near = np.array([neighbourhoods(x, perplexity) for perplexity in PERPLEXITIES])
        self._wanted = self._near[PERPLEXITIES.index(TARGET)]
        some = self._wanted[self._wanted > 0]
        self._least = float((some * np.log(some)).sum())
        self._steps = max(1, round(self.steps * length))

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
        rates, quarter = np.ones(self._steps, np.float32), max(1, self._steps // 4) if first else 0
        rng, velocity, early = generator("interval", seed), np.zeros_like(state), None
        if quarter:
            state, velocity = self._descend(state, velocity, config, rates[:quarter], rng)
            early = self.test(state)
        state, _ = self._descend(state, velocity, config, rates[quarter:], rng)
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
        """Learning rate and shaking go to 0 together."""
        if state is None:
            return CEILING
        steps = max(1, round(self._steps / 10))
        rates = np.linspace(1, 0, steps, endpoint=False, dtype=np.float32)
        return self.test(self._descend(state, np.zeros_like(state), config, rates, generator("polish", seed))[0])

    def merged(self, states: Sequence[np.ndarray | None]) -> None:
        """A mean of maps is no map: each has its groups in other places."""

    def _descend(
        self, state: np.ndarray, velocity: np.ndarray, config: Config, rates: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step for each rate, by which the learning rate and the shaking are multiplied."""
        lr, inertia, exaggeration, reach, shake = (np.float32(config[name]) for name in self.space)
        near = (1 + exaggeration) * self._neighbourhoods(TARGET * (1 + float(reach)))
        points, velocity, pull = state.copy(), velocity.copy(), np.empty_like(state)
        dx, dy, w, m = np.empty((4, self.points, self.points), np.float32)
        with np.errstate(all="ignore"):
            for rate in rates:
                np.subtract.outer(points[0], points[0], out=dx)
                np.subtract.outer(points[1], points[1], out=dy)
                np.multiply(dx, dx, out=w)
                np.multiply(dy, dy, out=m)
                w += m
                w += 1
                np.reciprocal(w, out=w)
                np.multiply(w, np.float32(-1 / (w.sum(dtype=np.float64) - self.points)), out=m)
                m += near
                m *= w
                dx *= m
                dy *= m
                np.sum(dx, axis=1, out=pull[0])
                np.sum(dy, axis=1, out=pull[1])
                velocity *= 1 - inertia
                velocity -= 4 * lr * rate * pull
                points += velocity
                points += shake * rate * rng.standard_normal(points.shape, dtype=np.float32)
        return points, velocity

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
