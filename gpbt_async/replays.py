"""What a replay came to: does a schedule, trained along once more, reproduce the score it was chosen for?

Pure: reads the engine of a run whose settings hold a schedule to replay. Each of its n roots is the first interval of
one replay, each replay a stem of only children; their seeds are fresh, but for the first's if the schedule came with
its own.

The question is put as a prediction: were the original one more replay with a fresh seed, where would it lie, given
those there are? In 95 of 100 cases within mean ± t·sd·sqrt(1 + 1/n), t being Student's with n - 1 degrees of freedom.
That is the noise it is held against; five replays are a fair judge (t = 2.8), three a weak one (4.3), and two none
(12.7: nearly everything lies within). Nor is there a verdict where all replays came to the very same value: then the
seeds changed nothing, or a coarse metric hides what they changed. And the comparison is not fair to replays: the
original is the best of many by this very score, and so is expected to lie on the better side of them. (A metric nobody
selected by, such as one on test data, has no such advantage.)
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from .tree import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lineage import Lineage
    from .tree import Member

#: Student's t, .975, for 1 to 9 degrees of freedom; beyond, an expansion around the normal's is right to 0.2 %
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_Z = 1.959964
#: fewer replays than this are no judge
FEWEST = 3


def student(freedom: int) -> float:
    """The .975 quantile of Student's t with `freedom` >= 1 degrees of freedom."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z, v = _Z, freedom
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample standard deviation, and the bounds one more value lies within in 95 of 100 cases.

    None where the values tell nothing: mean of none, sd of one, bounds of fewer than FEWEST or of values all the same.
    """
    n = len(values)
    mean = statistics.fmean(values) if n else None
    sd = statistics.stdev(values) if n > 1 else None
    told: dict[str, float | None] = {"mean": mean, "sd": sd, "low": None, "high": None}
    if mean is not None and sd and n >= FEWEST:
        reach = student(n - 1) * sd * math.sqrt(1 + 1 / n)
        told |= {"low": mean - reach, "high": mean + reach}
    return told


def within(value: float | None, noise: dict[str, float | None]) -> bool | None:
    """Does the value lie within these bounds? None if nobody can say."""
    low, high = noise["low"], noise["high"]
    if value is None or low is None or high is None:
        return None
    return low <= value <= high


def compared(lineage: Lineage) -> dict[str, Any]:
    """The original beside its replays, as plain data, at any time of the run; those not at their end count for nothing.

    score: the original's, `fresh` the spread of the replays with fresh seeds, n of them; within: does the original lie
    in their noise (None: fewer than FEWEST came to the end, or all with the same score). deviations: how many of their
    standard deviations it lies above their mean. same_seeds: of the replay with the original's own seeds, if there is
    one. metrics: the same of everything else they reported.
    """
    tree, replay = lineage.tree, lineage.settings.replay
    assert replay is not None
    origin, own = replay.origin, replay.intervals[0].seed is not None
    stems = [_stem(root) for root in tree.generations[0].members]
    ends = [stem[-1] for stem in stems if len(stem) == len(replay) and stem[-1].state is State.FINISHED]
    fresh = [member for member in ends if not own or member.path[0]]
    scores = [member.score for member in fresh if member.score is not None]
    noise = spread(scores)
    mean, sd = noise["mean"], noise["sd"]
    known = origin.score is not None and mean is not None and sd
    same = next((member for member in ends if own and not member.path[0]), None)
    names = [name for name in origin.metrics if name != lineage.settings.score]
    return {
        "run": origin.run,
        "member": origin.member,
        "of": origin.of,
        "metric": lineage.settings.score,
        "mode": lineage.settings.mode,
        "score": origin.score,
        "n": len(scores),
        "fresh": noise,
        "within": within(origin.score, noise),
        "deviations": (origin.score - mean) / sd if known else None,  # type: ignore[operator]
        "same_seeds": {"score": same.score, "exact": same.score == origin.score} if same is not None else None,
        "metrics": {name: _metric(name, origin.metrics[name], fresh) for name in names},
        "replays": [
            {
                "seeds": "original" if own and i == 0 else "fresh",
                "members": [member.id for member in stem],
                "scores": [member.score for member in stem],
                "state": "finished" if stem[-1] in ends else stem[-1].state.value,
                "reason": stem[-1].reason,
            }
            for i, stem in enumerate(stems)
        ],
    }


def _stem(root: Member) -> list[Member]:
    stem = [root]
    while stem[-1].children:
        stem.append(stem[-1].children[0])
    return stem


def _metric(name: str, original: float, replays: Sequence[Member]) -> dict[str, Any]:
    values = [float(m.metrics[name]) for m in replays if name in m.metrics and math.isfinite(m.metrics[name])]
    noise = spread(values)
    return {"original": original, "n": len(values), **noise, "within": within(original, noise)}
