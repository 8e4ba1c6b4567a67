"""The quality benchmark's other baselines: what the papers of FIRE PBT and MF-PBT claim is seen in the small.

The toy is ours, made after what these papers say of greed: a quadratic with a steep, noisy direction and a flat one. A
low learning rate takes the noise away at once and then crawls along the flat direction, so what is best soonest
is not best last.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import random
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.append(str(BENCH))

from quality import fire_pbt, full_runs, methods, mf_pbt, pbt, schedules, worlds  # noqa: E402
from quality.tasks import Outcome  # noqa: E402

from gpbt_async.space import Choice, Float, Space  # noqa: E402

if TYPE_CHECKING:
    from quality.record import Record

    from gpbt_async.space import Config

EVERY = {m.name: m for m in (*methods.BASELINES2, *methods.TUNED_PBT)}


class Ravine:
    """Expected squares under ten SGD steps an interval; no noise in the losses. `seen`: depth and lr of each interval.

    The steep direction's square tends to its noise, in proportion to the learning rate; the flat one shrinks by less
    than 1 % a step at the largest.
    """

    space = Space({"lr": Float(1e-3, 1.0)})
    generations: ClassVar[int] = 60
    FLAT, STEPS = 0.005, 10

    def __init__(self, seed: int = 0, length: float = 1.0) -> None:
        self.seen: list[tuple[int, float]] = []

    def initial(self, seed: int) -> tuple[int, float, float]:
        return 0, 1.0, 1.0

    def interval(self, state: Any, config: Config, seed: int, first: bool = False) -> Outcome:
        depth, steep, flat = state
        lr = float(config["lr"])  # type: ignore[arg-type]
        assert config == self.space.clip(config)
        self.seen.append((depth, lr))
        for _ in range(self.STEPS):
            steep = (1 - lr) ** 2 * steep + lr**2
        flat *= (1 - lr * self.FLAT) ** (2 * self.STEPS)
        after = depth + 1, steep, flat
        return Outcome(after, self.test(after))

    def test(self, state: Any) -> float:
        return float(state[1] + state[2])

    def early_lr(self) -> float:
        """The mean learning rate in the second quarter of the training."""
        low, high = self.generations // 4, self.generations // 2
        return math.exp(statistics.mean(math.log(lr) for depth, lr in self.seen if low <= depth < high))


def runs(room: Any, seeds: int = 4, **options: Any) -> list[Record]:
    return [room.run(Ravine(), seed, 8, 1.0, 25, Ravine.generations, **options) for seed in range(seeds)]


def typical(records: list[Record]) -> float:
    return math.exp(statistics.mean(math.log(record.val) for record in records))


# ---- every one of them


@pytest.mark.parametrize("name", EVERY)
def test_every_baseline_takes_the_budget_to_the_interval_whatever_t_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Config] = []

    class Watched(worlds.Landscape):
        generations: ClassVar[int] = 5

        def interval(self, state: Any, config: Config, seed: int, first: bool = False) -> Outcome:
            assert config == self.space.clip(config)
            trained.append(config)
            return super().interval(state, config, seed, first)

    if EVERY[name].room == "ray_tune" and importlib.util.find_spec("ray") is None:
        pytest.skip("needs ray")
    monkeypatch.setattr(worlds, "Landscape", Watched)
    small = dataclasses.replace(EVERY[name], population=9)
    one, again = (small.run("landscape", 4, seed=0).row() for _ in range(2))
    assert one == again
    assert one["spent"] == 45 == len(trained) / 2
    assert small.run("landscape", 4, seed=1).row() != one


def test_no_two_baselines_are_one() -> None:
    for some in (methods.BASELINES2, methods.TUNED_PBT):
        assert len({m.name for m in some}) == len({m.digest for m in some}) == len(some)


# ---- schedules


def test_a_schedule_takes_the_learning_rate_down_and_leaves_the_rest() -> None:
    class Made:
        space = Space({"lr": Float(1e-4, 1.0, log=True), "heat": Float(0.1, 9), "kind": Choice(["a", "b"])})

    task: Any = Made()
    config: Config = {"lr": 0.5, "heat": 4.0, "kind": "b"}

    def at(progress: float, shape: str = "cosine") -> Config:
        return schedules.scheduled(task, config, progress, shape)

    assert at(0.0) == config
    assert at(0.5) == {**config, "lr": pytest.approx(0.5 * 0.505)}
    assert at(1.0) == {**config, "lr": pytest.approx(0.005)}
    assert [at(u, "step")["lr"] for u in (0.4, 0.6, 0.9)] == pytest.approx([0.5, 0.05, 0.005])
    assert at(0.25, "linear")["lr"] == pytest.approx(0.5 * 0.7525)
    task.decayed, task.ending = ("heat", "absent"), 0.001
    assert at(1.0) == {**config, "heat": 0.1}, "put back on its range's border"


def test_with_greed_punished_a_cosine_is_better_than_any_fixed_config() -> None:
    cosine, fixed = runs(schedules), runs(full_runs)
    assert all(c.val < 0.5 * f.val for c, f in zip(cosine, fixed, strict=True))
    assert all(len(r.task.seen) == 25 * Ravine.generations for r in cosine)  # type: ignore[attr-defined]


# ---- PBT, less often


def test_pbt_explores_in_every_kth_interval_only() -> None:
    task = Ravine()
    pbt.run(task, 0, 4, 1.0, 12, 12, barrier=True, every=3)
    new: dict[float, int] = {}
    for depth, lr in task.seen:
        new.setdefault(lr, depth)
    assert set(new.values()) == {0, 3, 6, 9}
    still = Ravine()
    pbt.run(still, 0, 4, 1.0, 12, 12, every=12)
    assert len({lr for _, lr in still.seen}) == 12, "every member keeps its config to the end"


# ---- MF-PBT


def test_mf_pbt_is_ahead_where_pbt_falls_behind_random_search() -> None:
    """The paper's claim: selecting often is short-sighted; parts that select less often look further, and all gain."""
    greedy, many, fixed = runs(mf_pbt, periods=(1,)), runs(mf_pbt), runs(full_runs)
    assert typical(greedy) > 1.5 * typical(fixed)
    assert typical(many) < 0.85 * typical(fixed)
    assert all(m.val < 0.7 * g.val for m, g in zip(many, greedy, strict=True))
    assert all(m.task.early_lr() > g.task.early_lr() for m, g in zip(many, greedy, strict=True))  # type: ignore[attr-defined]


def test_a_part_selects_when_its_time_has_come() -> None:
    parts = mf_pbt.divided(25, 3)
    assert [len(part) for part in parts] == [9, 8, 8]
    assert sorted(i for part in parts for i in part) == list(range(25))
    vals = [random.Random(1).random() for _ in range(25)]
    for rounds, selecting in ((1, {0}), (2, {0, 1}), (5, {0, 2}), (7, {0}), (10, {0, 1, 2})):
        heirs = mf_pbt.inheritance(vals, parts, (1, 2, 5), rounds)
        assert {p for p, part in enumerate(parts) for i in heirs if i in part} == selecting


def test_a_steadier_part_takes_weights_and_no_config() -> None:
    parts = [range(4), range(4, 8)]

    def heirs(vals: list[float]) -> dict[int, mf_pbt.Inherited]:
        return mf_pbt.inheritance(vals, parts, (1, 2), 2)

    ahead = heirs([1, 2, 3, 4, 5, 6, 7, 8])  # the quick part's are all better
    assert ahead[3] == mf_pbt.Inherited(0, 0, True), "its last copies its first and explores"
    assert ahead[7] == mf_pbt.Inherited(4, 4, True)
    assert ahead[6] == mf_pbt.Inherited(0, 4, False), "the weights of the quick part's best, the config of its own best"
    assert set(ahead) == {3, 6, 7}, "no worse migrant is let in"
    behind = heirs([5, 6, 7, 8, 1, 2, 3, 4])  # the steady part's are all better
    assert behind[2] == mf_pbt.Inherited(4, 4, False), "weights and config"
    assert set(behind) == {2, 3, 7}


# ---- FIRE PBT


def test_fire_pbt_does_not_lower_the_learning_rate_too_early() -> None:
    """The paper's claim: PBT gives up its learning rate for what it gains at once, FIRE PBT keeps it until it pays."""
    options: dict[str, Any] = {"factors": (0.5, 2.0), "resample": 0.0}  # FIRE's own
    greedy, fire, cosine = runs(pbt, **options), runs(fire_pbt), runs(schedules)
    assert all(f.val < 0.2 * g.val for f, g in zip(fire, greedy, strict=True))
    assert all(f.task.early_lr() > 2 * g.task.early_lr() for f, g in zip(fire, greedy, strict=True))  # type: ignore[attr-defined]
    assert typical(fire) < typical(cosine) < typical(greedy) / 5


def test_an_evaluator_that_improves_faster_replaces_its_child() -> None:
    parent, child = fire_pbt.Parent(1, {}, "steep"), fire_pbt.Worker(0, {"lr": 1}, "flat", 0.5)
    child.curve = [0.0, 0.1, 0.2, 0.3]

    def after(*curve: float) -> fire_pbt.Evaluator:
        evaluator = fire_pbt.Evaluator(2, {}, "steep, trained", 0.4, parent=parent, child=child)
        evaluator.met, evaluator.curve = (parent.curve, child.curve), list(curve)
        fire = fire_pbt.Fire(Ravine(), random.Random(0), [child], [parent], [evaluator], 0.25, (0.5, 2.0), 4, 0.25)
        fire.judge(evaluator)
        return evaluator

    assert after(-1.0, -0.5).parent is parent, "not met yet"
    assert after(-1.0, -0.5, 0.2).parent is parent, "met, and better once: too little to tell"
    assert child.state == "flat"
    assert after(0.0, 0.0, 0.05).parent is None, "slower twice of two"
    assert after(-9.0, -8.0, -7.0, -6.0, -5.0).parent is None, "not met in all its patience"
    assert child.state == "flat"
    assert after(-0.5, 0.5, 1.0, 1.2).parent is None
    assert (child.state, child.config, child.curve) == ("steep, trained", {"lr": 1}, [-0.5, 0.5, 1.0, 1.2])
    child.curve = [0.0]
    parent.curve = [0.0]
    stale = fire_pbt.Evaluator(2, {}, "", 0.4, parent=parent, child=child, met=([], child.curve))
    fire_pbt.Fire(Ravine(), random.Random(0), [child], [parent], [stale], 0.25, (0.5, 2.0), 4, 0.25).judge(stale)
    assert stale.parent is None, "its parent has copied since"


def test_curves_are_compared_from_where_they_meet() -> None:
    a, b = [0.0, 2.0, 4.0, 5.0], [3.0, 3.5, 3.8]
    assert fire_pbt.reached(a, 3.0) == 1.5
    assert fire_pbt.reached(b, 0.0) == 0.0
    assert fire_pbt.reached(b, 4.0) is None
    assert list(fire_pbt.meeting(a, b)) == [(4.5, 3.5), (5.0, pytest.approx(3.65))]
    assert fire_pbt.faster(a, b) == pytest.approx(1.35)
    assert fire_pbt.faster(b, a) == -fire_pbt.faster(a, b)
    above = [9.0, 9.5, 11.0]
    assert list(fire_pbt.meeting(a, above)) == []
    assert fire_pbt.faster(above, a) == 0, "slower than the other from the same start"
    assert fire_pbt.faster([9.0, 14.0], a) == 3
    assert fire_pbt.faster(a, above) == 0


def test_the_binomial_test_is_scipys() -> None:
    from scipy.stats import binomtest

    for wins in range(6):
        points = [(1.0, 0.0)] * wins + [(0.0, 1.0)] * (5 - wins)
        assert fire_pbt.binomial(points) == pytest.approx(binomtest(wins, 5, alternative="greater").pvalue)
