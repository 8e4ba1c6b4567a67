"""A landscape with a greedy trap and noisy scores, on which uses of the family tree are developed. No evidence.

What is seen is a sum, as in SGD at a constant learning rate: a bias, which falls by a factor in every interval, and a
floor, which depends on the last interval's rate alone. A high rate makes the bias fall up to four times as fast, and a
low rate lowers the floor at once. So whoever ranks by what is seen lowers the rate too early. The other dimensions are
those of `Landscape`, drifting optimum included. Validation losses carry 10 % of noise, and say so (`Outcome.error`);
test losses carry none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .tasks import Outcome, generator
from .worlds import Landscape, _cut

if TYPE_CHECKING:
    from gpbt_async.space import Config

State = tuple[float, float, float]


class Trap(Landscape):
    """State: standard intervals trained, log of the bias, and the floor."""

    generations: ClassVar[int] = 20
    RATE, NOISE = 0.3, 0.1
    FLOOR, STEEPNESS = 0.3, 4.0

    def initial(self, seed: int) -> State:  # type: ignore[override]
        return 0.0, 0.0, self.FLOOR

    def interval(self, state: State, config: Config, seed: int, first: bool = False) -> Outcome:  # type: ignore[override]
        rng = generator("interval", seed)
        after = self._after(state, config, self._length)
        early = None
        if first:
            early = _cut(self.test(self._after(state, config, self._length / 4)) * self._shake(rng))
        val = _cut(self.test(after) * self._shake(rng))
        return Outcome(after, val, early, self.NOISE * val)

    def evaluate(self, state: State, seed: int) -> tuple[float, float]:
        val = _cut(self.test(state) * self._shake(generator("evaluate", seed)))
        return val, self.NOISE * val

    def polished(self, state: State, config: Config, seed: int) -> float:
        depth, bias, _ = self._after(state, config, self._length / 10)
        floor = self.FLOOR * math.exp(-self.STEEPNESS)
        return _cut(self.test((depth, bias, floor)) * self._shake(generator("polished", seed)))

    def merged(self, states: list[State]) -> State | None:
        return None

    def test(self, state: State) -> float:  # type: ignore[override]
        return _cut(math.exp(state[1]) + state[2])

    def _after(self, state: State, config: Config, length: float) -> State:
        depth, bias, _ = state
        rate, *u, _ = self.space.encode(config)
        wanted = self._start + self._drift * min(1.0, depth / self.generations)
        off = float(((np.array(u) - wanted[1:]) ** 2).sum())
        off += self.WIDTH**2 / 3 * (config["e"] != "pqr"[self._category])
        gain = self.RATE * length * (0.25 + 0.75 * rate) * (1 - 2 * off / (off + self.WIDTH**2))
        return depth + length, bias - gain, self.FLOOR * math.exp(self.STEEPNESS * (rate - 1))

    def _shake(self, rng: np.random.Generator) -> float:
        return math.exp(self.NOISE * float(rng.standard_normal()))
