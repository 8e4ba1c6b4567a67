"""What might be better than the product's default, tried on the tuning tasks alone. Nothing here is in the product.

Searchers, all around the parent's config as `local` is, generation 0 by TPE:

    Mirrored    children in pairs: the second takes the first one's step in the opposite direction
    Narrow      steps of half the width, [.01, .2]
    Successful  half of the children repeat a kin's step that beat the child which repeated its parent's config (the
                control every family has), scaled and shaken; the others as `local`
    Drifting    half of the step goes where kin's ranks say it pays: the sum of their steps weighted by rank in family

and a rule:

    Cooled      many parents at first, few at last: a config's long-term worth matters while there is time for it
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from gpbt_async.engine.selection import Selection
from gpbt_async.searchers import local, registry
from gpbt_async.space import Choice, reflect

from .tasks import key

if TYPE_CHECKING:
    from gpbt_async.ask import Ask, Observation, Path
    from gpbt_async.engine.adoption import Adoption
    from gpbt_async.engine.tree import Node, Tree
    from gpbt_async.space import Config, Space


def width(rng: random.Random, low: float = local.NARROWEST, high: float = local.WIDEST) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def moved(space: Space, config: Config, step: np.ndarray, rng: random.Random) -> Config:
    """The config a step away in the unit cube, mirrored at its borders; a category drawn anew as `local` does."""
    out: Config = {}
    for (name, d), by in zip(space.items(), step, strict=True):
        if isinstance(d, Choice):
            again, u = rng.random(), rng.random()
            out[name] = d.from_unit(u) if again < local.REDRAW else config[name]
        else:
            out[name] = d.from_unit(reflect(d.to_unit(config[name]) + by))
    return space.clip(out)


def gaussian(space: Space, rng: random.Random) -> np.ndarray:
    return np.array([rng.gauss(0.0, 1.0) for _ in space])


class _Around:
    """Generation 0 by TPE; then `step`, a vector in the unit cube, away from the parent."""

    def suggest(self, ask: Ask) -> Config:
        if ask.parent is None:
            return registry.make("tpe").suggest(ask)
        rng = random.Random(ask.seed)
        step = self.step(ask, rng)
        return moved(ask.space, ask.parent.config, step, rng)

    def step(self, ask: Ask, rng: random.Random) -> np.ndarray:
        raise NotImplementedError


class Narrow(_Around):
    def step(self, ask: Ask, rng: random.Random) -> np.ndarray:
        return width(rng, 0.01, 0.2) * gaussian(ask.space, rng)


class Mirrored(_Around):
    def step(self, ask: Ask, rng: random.Random) -> np.ndarray:
        pair, second = divmod(ask.path[-1] - 1, 2)
        shared = random.Random(key("mirrored", ask.run, ask.path[:-1], pair))
        return (-1 if second else 1) * width(shared) * gaussian(ask.space, shared)


class Successful(_Around):
    def step(self, ask: Ask, rng: random.Random) -> np.ndarray:
        own = width(rng) * gaussian(ask.space, rng)
        won = [step for step, gain in controlled(ask) if gain > 0]
        if not won or rng.random() < 0.5:
            return own
        return rng.choice(won) * rng.uniform(0.5, 1.5) + 0.02 * gaussian(ask.space, rng)


class Drifting(_Around):
    def step(self, ask: Ask, rng: random.Random) -> np.ndarray:
        own = gaussian(ask.space, rng)
        told = np.zeros(len(ask.space))
        for step, worth in ranked(ask):
            length = float(np.linalg.norm(step))
            if length > 1e-9:
                told += worth * step / length
        length = float(np.linalg.norm(told))
        if length > 1e-9:
            own = math.sqrt(0.5) * own + math.sqrt(0.5 * len(own)) * told / length
        return width(rng) * own


def families(ask: Ask) -> dict[Path, list[Observation]]:
    """The finished kin by their parent's path, generation 0 left out."""
    found: dict[Path, list[Observation]] = defaultdict(list)
    for observed in ask.kin:
        if observed.generation and observed.final is not None:
            found[observed.path[:-1]].append(observed)
    return found


def controlled(ask: Ask) -> list[tuple[np.ndarray, float]]:
    """Of kin: the step from the parent's config, and what it gained over the child that repeated that config."""
    found = []
    for family in families(ask).values():
        control = next((o for o in family if o.path[-1] == 0), None)
        if control is not None:
            for o in family:
                if o is not control:
                    found.append((_between(ask, control, o), math.log(control.final / o.final)))  # type: ignore[operator]
    return found


def ranked(ask: Ask) -> list[tuple[np.ndarray, float]]:
    """Of kin: the step from the parent's config, and a worth from its rank in the family: 1 the best, -1 the worst."""
    found = []
    for family in families(ask).values():
        control = next((o for o in family if o.path[-1] == 0), None)
        if control is None or len(family) < 2:
            continue
        order = sorted(family, key=lambda o: o.final)  # type: ignore[arg-type, return-value]
        age = ask.generation - family[0].generation
        for rank, o in enumerate(order):
            found.append((_between(ask, control, o), 0.7**age * (1 - 2 * rank / (len(order) - 1))))
    return found


def _between(ask: Ask, control: Observation, o: Observation) -> np.ndarray:
    step = np.array(ask.space.encode(o.config)) - np.array(ask.space.encode(control.config))
    return np.where([isinstance(d, Choice) for d in ask.space.values()], 0.0, step)


class Cooled(Selection):
    """The ratio goes geometrically from `first` for the parents of generation 1 to `last` for those of the last."""

    def __init__(self, adoption: Adoption, tree: Tree, first: float, last: float) -> None:
        super().__init__(adoption, tree)
        settings = adoption.settings
        n, steps = settings.population, max(1, settings.generations - 2)
        ratios = [first * (last / first) ** min(1.0, g / steps) for g in range(settings.generations)]
        self._counts = [min(n, max(1, math.isqrt(int(n / c * (1 + 1e-12))))) for c in ratios]
        self.parents = max(self._counts)

    def elite(self, generation: int) -> list[Node]:
        most, self.parents = self.parents, self._counts[generation]
        try:
            return super().elite(generation)
        finally:
            self.parents = most

    def check(self) -> None:
        """The elites that are kept were made with other numbers of parents."""
