"""Paired comparisons over seeds: t intervals, Wilcoxon's signed ranks, Holm's correction.

Losses are compared as logarithms: the mean of log(a) - log(b) over the seeds both have, told as a percentage of b.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Paired:
    """a against b over n shared seeds; below 0: a is lower. low, high: of the 95 % interval. wins: where a is lower."""

    n: int
    mean: float
    low: float
    high: float
    p: float
    wins: float


Key = TypeVar("Key", int, tuple[int, str])


def paired(a: Mapping[Key, float], b: Mapping[Key, float]) -> Paired | None:
    """The comparison of log losses by seed, or by seed and environment; None with fewer than three that both have."""
    differences = log_ratios(a, b)
    return _told(differences) if len(differences) >= 3 else None


def log_ratios(a: Mapping[Key, float], b: Mapping[Key, float]) -> list[float]:
    """log(a) - log(b) by seed, of what both have; a seed that they share in two environments counts once."""
    shared = {unit if isinstance(unit, int) else unit[0]: unit for unit in sorted(a.keys() & b.keys())}
    return [math.log(a[unit]) - math.log(b[unit]) for unit in shared.values()]


def seeds_to_see(effect: float, sd: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many paired seeds a two-sided test needs to see an effect of this size with this power; 3 at least."""
    from scipy.stats import norm

    wanted = float(norm.ppf(1 - level / 2) + norm.ppf(power))
    return max(3, math.ceil((wanted * sd / effect) ** 2))


def _told(differences: Sequence[float]) -> Paired:
    low, high = interval(differences)
    wins, n = sum(d < 0 for d in differences) + sum(d == 0 for d in differences) / 2, len(differences)
    return Paired(n, statistics.mean(differences), low, high, wilcoxon(differences), wins / n)


def pooled(tasks: Sequence[Sequence[float]]) -> Paired:
    """Differences of several tasks, each in standard deviations of its own task's, taken together.

    So a task counts by how clear it is, not by how far its losses happen to spread. mean, low and high are in those
    standard deviations. A task whose differences are all the same counts as they stand.
    """
    return _told([d for differences in tasks for d in _scaled(differences)])


def _scaled(differences: Sequence[float]) -> list[float]:
    sd = statistics.stdev(differences)
    return [d / (sd or 1.0) for d in differences]


def by_task(tasks: Sequence[Sequence[float]]) -> float:
    """The two-sided p of a t test over the tasks' means, each in standard deviations of its own task's differences.

    What `pooled` says of these tasks, this says of such tasks, were they drawn at random: one value a task.
    """
    from scipy.stats import ttest_1samp

    means = [statistics.mean(_scaled(differences)) for differences in tasks]
    return float(ttest_1samp(means, 0.0).pvalue)


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean."""
    from scipy.stats import t

    mean, n = statistics.mean(values), len(values)
    half = float(t.ppf((1 + level) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def wilcoxon(differences: Sequence[float]) -> float:
    """The two-sided p of Wilcoxon's signed-rank test; 1 where nothing differs."""
    from scipy.stats import wilcoxon

    if all(d == 0 for d in differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """The p values corrected for their number (Holm 1979), in the same order."""
    corrected, worst = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, ps[i] * (len(ps) - rank)))
        corrected[i] = worst
    return corrected


def percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)
