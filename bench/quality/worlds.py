"""What is iterative optimisation and no neural network, and what is made up and understood.

    boosting    gradient boosting of regression trees, four trees an interval
    annealing   a spin glass cooled by simulated annealing: what lowers the energy soonest does not lower it most
    landscape   made up: the optimum drifts through the unit cube; the best schedule is known in closed form
    still       the same, and the optimum stays where it is: what of a lead on `landscape` is due to the drift
    quadratic   the noisy quadratic model of SGD: expected losses in closed form, no sampling in the dynamics

None of them knows of lineages: the optimum is the same for all members, so nothing here favours methods that look at
kin.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpbt_async.space import Choice, Float, Int, Space

from .tasks import Outcome, generator

if TYPE_CHECKING:
    from gpbt_async.space import Config

#: no loss here is reported larger
CEILING = 10.0


def _cut(loss: float) -> float:
    return max(1e-9, loss) if loss < CEILING else CEILING


class Boosting:
    """Friedman's first regression function with unit noise, squared loss: 300 rows to train, 400 to validate.

    State: the ensemble's predictions on the training, validation and test rows; the trees themselves are not needed.
    Test losses are against the labels without noise.
    """

    generations: ClassVar[int] = 10
    space = Space(
        {
            "lr": Float(0.01, 1.0, log=True),
            "depth": Int(1, 8),
            "leaf": Int(1, 50, log=True),
            "rows": Float(0.2, 1.0),
            "columns": Float(0.2, 1.0),
        }
    )
    train, validation, trees = 300, 400, 4

    def __init__(self, seed: int, length: float = 1.0) -> None:
        x, y, self._true = self.data()
        order = generator("split", seed).permutation(1000)
        rows = order[: self.train], order[self.train : self.train + self.validation], np.arange(1000, len(y))
        self._x = [x[part] for part in rows]
        self._y = [y[part] for part in rows]
        self._true = self._true[rows[2]]
        self._trees = max(1, round(self.trees * length))

    @staticmethod
    @functools.cache
    def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y scaled to unit variance, and y without noise."""
        rng = generator("friedman")
        x = rng.random((3000, 10))
        y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
        noisy = y + rng.standard_normal(len(y))
        mean, sd = noisy.mean(), noisy.std()
        return x.astype(np.float32), (noisy - mean) / sd, (y - mean) / sd

    def initial(self, seed: int) -> tuple[np.ndarray, ...]:
        return tuple(np.full(len(y), self._y[0].mean()) for y in self._y)

    def interval(self, state: tuple[np.ndarray, ...], config: Config, seed: int, first: bool = False) -> Outcome:
        from sklearn.tree import DecisionTreeRegressor

        rng = generator("interval", seed)
        predicted, early = tuple(state), None
        n = len(self._y[0])
        for grown in range(self._trees):
            rows = rng.permutation(n)[: max(2, round(float(config["rows"]) * n))]  # type: ignore[arg-type]
            tree = DecisionTreeRegressor(
                max_depth=config["depth"],
                min_samples_leaf=config["leaf"],
                max_features=config["columns"],
                random_state=int(rng.integers(2**31)),
            )
            tree.fit(self._x[0][rows], self._y[0][rows] - predicted[0][rows])
            predicted = tuple(p + config["lr"] * tree.predict(x) for p, x in zip(predicted, self._x, strict=True))
            if first and early is None and 4 * (grown + 1) >= self._trees:
                early = self._val(predicted)
        return Outcome(predicted, self._val(predicted), early)

    def _val(self, predicted: tuple[np.ndarray, ...]) -> float:
        return _cut(float(((predicted[1] - self._y[1]) ** 2).mean()))

    def test(self, state: tuple[np.ndarray, ...]) -> float:
        return _cut(float(((state[2] - self._true) ** 2).mean()))


class Annealing:
    """A two-dimensional Edwards-Anderson spin glass, 20 x 20 on a torus, normal couplings: the run's own instance.

    An interval is 40 Metropolis sweeps from one temperature to a lower one, after a share of the spins has been thrown
    anew. The loss is 1.5 plus the energy a spin at its end (ground states lie near -1.3). Nothing is held out: the test
    loss is the loss.
    """

    generations: ClassVar[int] = 10
    space = Space(
        {
            "temperature": Float(0.02, 4.0, log=True),
            "cooling": Float(0.05, 1.0, log=True),
            "thrown": Float(0.0, 0.3),
        }
    )
    side, sweeps = 20, 40

    def __init__(self, seed: int, length: float = 1.0) -> None:
        rng = generator("couplings", seed)
        self._right, self._down = rng.standard_normal((2, self.side, self.side))
        self._left, self._up = np.roll(self._right, 1, 1), np.roll(self._down, 1, 0)
        board = np.indices((self.side, self.side)).sum(axis=0) % 2
        self._colours = (board == 0, board == 1)
        self._sweeps = max(1, round(self.sweeps * length))

    def initial(self, seed: int) -> np.ndarray:
        return generator("initial", seed).choice([-1.0, 1.0], size=(self.side, self.side))

    def interval(self, state: np.ndarray, config: Config, seed: int, first: bool = False) -> Outcome:
        rng = generator("interval", seed)
        thrown = rng.random(state.shape) < config["thrown"]
        spins = np.where(thrown, rng.choice([-1.0, 1.0], size=state.shape), state)
        hot, cold = config["temperature"], config["temperature"] * config["cooling"]  # type: ignore[operator]
        early, quarter = None, max(1, self._sweeps // 4)
        for sweep, t in enumerate(np.geomspace(hot, cold, self._sweeps), start=1):
            limits = -np.log(rng.random((2, *state.shape))) * (t / 2)
            for colour, limit in zip(self._colours, limits, strict=True):
                flip = colour & (spins * self._field(spins) < limit)
                spins = np.where(flip, -spins, spins)
            if first and sweep == quarter:
                early = self._loss(spins)
        return Outcome(spins, self._loss(spins), early)

    def _field(self, spins: np.ndarray) -> np.ndarray:
        return (
            self._right * np.roll(spins, -1, 1)
            + self._left * np.roll(spins, 1, 1)
            + self._down * np.roll(spins, -1, 0)
            + self._up * np.roll(spins, 1, 0)
        )

    def _loss(self, spins: np.ndarray) -> float:
        return _cut(1.5 - float((spins * self._field(spins)).mean()) / 2)

    test = _loss


class Landscape:
    """The best config drifts through the cube with an interval's depth; how much is gained depends on the distance.

    log loss falls by RATE in an interval trained with the best config, and by less the further off it is, down to a
    rise by RATE: -RATE (1 - 2 d² / (d² + WIDTH²)), d being the distance in the unit cube, and a wrong category costing
    a third of WIDTH² more. Validation losses carry 5 % of noise, test losses none. The best schedule is `best`, and its
    final loss exp(-RATE · the number of standard intervals).
    """

    generations: ClassVar[int] = 10
    space = Space(
        {
            "a": Float(1e-4, 1.0, log=True),
            "b": Float(0.0, 1.0),
            "c": Float(1e-3, 1e3, log=True),
            "d": Float(-1.0, 1.0),
            "e": Choice(["p", "q", "r"]),
        }
    )
    RATE, WIDTH, NOISE = 0.6, 0.5, 0.05
    DRIFT = 1.0

    def __init__(self, seed: int, length: float = 1.0) -> None:
        rng = generator("optimum", seed)
        self._start = rng.uniform(0.2, 0.8, 4)
        self._drift = self.DRIFT * np.where(self._start < 0.5, 1, -1) * rng.uniform(0.0, 0.4, 4)
        self._category = int(rng.integers(3))
        self._length = length

    def best(self, depth: float) -> Config:
        """The config to train with after `depth` standard intervals."""
        u = self._start + self._drift * min(1.0, depth / 10)
        return self.space.decode([*u, (self._category + 0.5) / 3])

    def initial(self, seed: int) -> tuple[float, float]:
        return 0.0, 0.0  # standard intervals trained, log loss

    def interval(self, state: tuple[float, float], config: Config, seed: int, first: bool = False) -> Outcome:
        depth, log_loss = state
        rng = generator("interval", seed)
        *u, _ = self.space.encode(config)
        wanted = self._start + self._drift * min(1.0, depth / 10)
        off = float(((np.array(u) - wanted) ** 2).sum())
        off += self.WIDTH**2 / 3 * (config["e"] != self.best(depth)["e"])
        gain = self.RATE * self._length * (1 - 2 * off / (off + self.WIDTH**2))
        after = log_loss - gain
        shake, early = self.NOISE * rng.standard_normal(2)
        begun = _cut(math.exp(log_loss - gain / 4 + early)) if first else None
        return Outcome((depth + self._length, after), _cut(math.exp(after + shake)), begun)

    def test(self, state: tuple[float, float]) -> float:
        return _cut(math.exp(state[1]))


class Still(Landscape):
    """The landscape without its drift: one config is the best from the first interval to the last."""

    DRIFT = 0.0


class Quadratic:
    """SGD with momentum on a noisy quadratic, in expectation: 16 curvatures, gradient noise in proportion to them.

    State: each coordinate's expected square. In an interval 512 examples are seen, in batches: small ones give many
    noisy steps, large ones few quiet ones. A high learning rate is right first and a low one last. The spectrum and the
    noise are the run's own. Validation losses carry 3 % of noise, test losses none.
    """

    generations: ClassVar[int] = 10
    space = Space(
        {
            "lr": Float(1e-3, 2.0, log=True),
            "inertia": Float(0.01, 1.0, log=True),  # 1 - momentum
            "batch": Int(4, 128, log=True),
        }
    )
    NOISE, EXAMPLES = 0.03, 512

    def __init__(self, seed: int, length: float = 1.0) -> None:
        rng = generator("spectrum", seed)
        self._curvature = np.arange(1, 17) ** -rng.uniform(0.7, 1.5)
        self._variance = math.exp(rng.uniform(-1.0, 1.0))
        self._examples = self.EXAMPLES * length

    def initial(self, seed: int) -> np.ndarray:
        return np.ones(16)

    def interval(self, state: np.ndarray, config: Config, seed: int, first: bool = False) -> Outcome:
        rng = generator("interval", seed)
        steps = max(1, round(self._examples / config["batch"]))  # type: ignore[operator]
        early = None
        xx, xv, vv = state, np.zeros(16), np.zeros(16)
        lr, beta, h = config["lr"], 1 - config["inertia"], self._curvature  # type: ignore[operator]
        noise: Any = lr**2 * h * self._variance / config["batch"]  # type: ignore[operator]
        with np.errstate(all="ignore"):
            for step in range(steps):
                # v' = beta v - lr h x - lr xi, x' = x + v'
                nn = beta**2 * vv - 2 * beta * lr * h * xv + (lr * h) ** 2 * xx + noise
                xn = beta * xv - lr * h * xx
                xx, xv, vv = xx + 2 * xn + nn, xn + nn, nn
                if first and 4 * (step + 1) >= steps and early is None:
                    early = self._noisy(xx, rng)
            xx = np.minimum(np.nan_to_num(xx, nan=1e6), 1e6)
        return Outcome(xx, self._noisy(xx, rng), early)

    def _noisy(self, xx: np.ndarray, rng: np.random.Generator) -> float:
        return _cut(self.test(xx) * math.exp(self.NOISE * rng.standard_normal()))

    def test(self, state: np.ndarray) -> float:
        return _cut(float((self._curvature * state).sum() / 2))
