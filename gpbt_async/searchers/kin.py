"""kin: the searcher that draws candidates near the parent, and chooses one by a Gaussian process over the kin's ranks.

The closer a relative is in the family tree, the more its result shows about this parent's children. So each observation
has a weight: 1 for a child of the parent, .7 for a sibling of the parent, .35 for a child of such a sibling. The
process assumes a noise inverse to the weight.

    weight    .7 ^ up · .5 ^ down, where the way from the parent to the observed member's parent climbs `up` members to
              their last common ancestor and descends `down`. Paths are all it takes. Weights of .02 or less are
              forgotten, and of the rest the 80 heaviest are kept, the oldest first among equals
    value     the normal quantile of the loss's rank among the children of one parent, so that neither scale nor trend
              of a loss matters; ties share their mean rank. Standardised with the weights and cut at ±2.5. A stopped
              member ranks behind every finished one, a failed one last
    kernel    unit variance, length-scale .3 in the unit cube; a category is a one-hot vector of length .4
    noise     .5 / weight
    pending   siblings in training have no value yet, but will have one: they only reduce the uncertainty where they
              are (noise .5)

One function is drawn from the posterior (Thompson's rule), at the candidates only, and the candidate where it is lowest
is the answer. A pure function of the ask; chance comes from the generator given. numpy is imported when first needed.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections import defaultdict
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from ..space import Choice
from .local import step
from .searcher import learns
from .tpe import Tpe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..ask import Ask, Observation, Path
    from ..space import Config, Scalar, Space


#: how many steps it chooses from
CANDIDATES = 16
#: factors of an observation's weight for each step up to a common ancestor, and for each step down from it
UP, DOWN = 0.7, 0.5
#: weights up to this are forgotten, and at most MOST observations are kept
FORGOTTEN, MOST = 0.02, 80
#: values are cut here; the kernel's length-scale; the length of a category; the noise of an observation of weight 1
CUT, SCALE, HOT, NOISE = 2.5, 0.3, 0.4, 0.5
#: keeps a covariance of almost equal candidates positive
JITTER = 1e-8


class Kin(Tpe):
    """Generation 0 as tpe. With too few kin, a step like local's."""

    name = "kin"

    def suggest(self, ask: Ask) -> Config:
        if ask.parent is None:
            return super().suggest(ask)
        rng = random.Random(ask.seed)
        candidates = [step(ask, rng) for _ in range(CANDIDATES)]
        return choose(ask, candidates, rng) if learns(ask) else candidates[0]


def weight(parent: Path, other: Path) -> float:
    """How much a child of `other` tells about children of `parent`: 1 for a sibling. () is the parent of the roots."""
    common = 0
    for ours, theirs in zip(parent, other, strict=False):
        if ours != theirs:
            break
        common += 1
    return float(UP ** (len(parent) - common) * DOWN ** (len(other) - common))


def choose(ask: Ask, candidates: Sequence[Config], rng: random.Random) -> Config:
    """The candidate with the lowest value of one function drawn from the posterior; the first if kin say too little."""
    kept = _weighed(ask)
    if len(kept) < 2:
        return candidates[0]
    import numpy as np

    weights = np.array([w for _, w, _ in kept])
    values = np.array([value for _, _, value in kept])
    values = values - np.average(values, weights=weights)
    spread = math.sqrt(np.average(values**2, weights=weights))
    values = np.clip(values / spread, -CUT, CUT) if spread > 1e-12 else np.zeros_like(values)

    at = np.array([_point(ask.space, config) for config in candidates])
    known = np.array([_point(ask.space, o.config) for o, _, _ in kept])
    seen = np.array([_point(ask.space, o.config) for o, _, _ in kept] + [_point(ask.space, c) for c in ask.pending])
    noises = np.concatenate([NOISE / weights, np.full(len(ask.pending), NOISE)])

    mean = _kernel(at, known) @ np.linalg.solve(_kernel(known, known) + np.diag(NOISE / weights), values)
    across = _kernel(at, seen)
    explained = across @ np.linalg.solve(_kernel(seen, seen) + np.diag(noises), across.T)
    covariance = _kernel(at, at) - (explained + explained.T) / 2 + JITTER * np.eye(len(at))
    drawn = mean + np.linalg.cholesky(covariance) @ np.array([rng.gauss(0.0, 1.0) for _ in candidates])
    return candidates[int(np.argmin(drawn))]


def _weighed(ask: Ask) -> list[tuple[Observation, float, float]]:
    """The kin that count, with weight and value, heaviest first."""
    parent = ask.path[:-1]
    groups: dict[Path, list[Observation]] = defaultdict(list)
    for observed in ask.kin:
        if weight(parent, observed.path[:-1]) > FORGOTTEN:
            groups[observed.path[:-1]].append(observed)
    values = {path: dict(zip(map(id, group), _quantiles(group), strict=True)) for path, group in groups.items()}
    weighed = [
        (observed, weight(parent, mother), values[mother][id(observed)])
        for observed in ask.kin
        if (mother := observed.path[:-1]) in groups
    ]
    return sorted(weighed, key=lambda entry: -entry[1])[:MOST]  # a stable sort: the oldest first among equals


def _quantiles(group: Sequence[Observation]) -> list[float]:
    """For each of one parent's children the normal quantile of its rank, low for a low loss."""
    keys = [_order(observed) for observed in group]
    ranked, normal = sorted(keys), NormalDist()
    # the mean rank of ties, counted from 1, less a half
    return [normal.inv_cdf((bisect_left(ranked, k) + bisect_right(ranked, k)) / 2 / len(keys)) for k in keys]


def _order(observed: Observation) -> tuple[int, float]:
    if observed.final is not None:
        return 0, observed.final
    return (1, 0.0) if observed.outcome == "stopped" else (2, 0.0)


def _point(space: Space, config: Mapping[str, Scalar]) -> list[float]:
    """A config as a point for the kernel. Sorted by name, so that the declaration's order changes no rounding."""
    point: list[float] = []
    for name in sorted(space):
        dimension = space[name]
        if isinstance(dimension, Choice):
            at = dimension.index(config[name])
            point += [HOT if i == at else 0.0 for i in range(len(dimension.options))]
        else:
            point.append(dimension.to_unit(config[name]))
    return point


def _kernel(a: Any, b: Any) -> Any:
    import numpy as np

    return np.exp(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2) / (-2.0 * SCALE**2))
