"""The quality benchmark (bench/quality) in small: the same work for all, nothing looked at too early, rows kept."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import itertools
import json
import math
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.stats


@pytest.fixture(autouse=True)
def engines() -> None:
    """Ablations break an engine's invariants on purpose (a first child that does not repeat its parent's config)."""


BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.append(str(BENCH))

from quality import clock, driver, methods, protocol, report, rows, statistics, tasks, worlds  # noqa: E402

if TYPE_CHECKING:
    from quality.methods import Method

EVERY = {m.name: m for block in protocol.BLOCKS.values() for m in block.methods}
LOCAL = [name for name in tasks.WHERE if name != "mnist1d"]  # which needs a package


def small(method: Method) -> Method:
    if method.room == "ray_tune" and importlib.util.find_spec("ray") is None:
        pytest.skip("needs ray")
    return dataclasses.replace(method, population=6, generations=3, length=1.0)


class Watched(worlds.Landscape):
    """Counts what it trains, and refuses what is outside the space."""

    made: list[Watched]

    def __init__(self, seed: int, length: float = 1.0) -> None:
        super().__init__(seed, length)
        self.trained = 0
        self.made.append(self)

    def interval(self, state: Any, config: Any, seed: int, first: bool = False) -> Any:
        assert config == self.space.clip(config)
        self.trained += 1
        return super().interval(state, config, seed, first)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    Watched.made = []
    monkeypatch.setattr(worlds, "Landscape", Watched)
    return Watched.made


# ---- tasks


@pytest.mark.parametrize("name", LOCAL)
def test_a_seed_gives_the_same_instance_and_another_seed_another(name: str) -> None:
    def told(seed: int) -> list[np.ndarray]:
        held = vars(tasks.make(name, seed)).values()
        return [a for v in held for a in (v if isinstance(v, list | tuple) else [v]) if isinstance(a, np.ndarray)]

    one, again, other = told(5), told(5), told(6)
    assert one
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["digits", "tabular"])
def test_validation_comes_from_train_and_the_test_set_is_fixed(name: str) -> None:
    one, other = tasks.make(name, 0), tasks.make(name, 1)
    assert np.array_equal(one._x_test, other._x_test)  # type: ignore[attr-defined]
    parts = [{row.tobytes() for row in x} for x in (one._x, one._x_val, one._x_test)]  # type: ignore[attr-defined]
    assert all(not a & b for a, b in itertools.combinations(parts, 2))


@pytest.mark.parametrize("name", LOCAL)
def test_an_interval_is_a_function_that_leaves_the_state_as_it_was(name: str) -> None:
    task = tasks.make(name, 0)
    config = task.space.sample(random.Random(1))
    state = task.initial(3)
    before = task.test(state)
    one, again = task.interval(state, config, 7, first=True), task.interval(state, config, 7, first=True)
    assert (one.val, one.first) == (again.val, again.first)
    assert task.test(state) == before
    assert task.test(one.state) == task.test(again.state) > 0
    assert one.first is not None
    assert task.interval(state, config, 8).first is None


@pytest.mark.parametrize("name", ["digits", "quadratic", "boosting"])
def test_sensible_training_lowers_the_test_loss(name: str) -> None:
    good = {
        "digits": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "dropout": 0.1, "noise": 0.1, "batch": 32},
        "quadratic": {"lr": 0.1, "inertia": 0.5, "batch": 32},
        "boosting": {"lr": 0.2, "depth": 3, "leaf": 5, "rows": 0.8, "columns": 0.8},
    }[name]
    task = tasks.make(name, 0)
    state = task.initial(0)
    before = task.test(state)
    for i in range(5):
        state = task.interval(state, good, i).state  # type: ignore[arg-type]
    assert task.test(state) < before / 2


def test_what_diverges_scores_the_ceiling_for_ever() -> None:
    task = tasks.make("digits", 0)
    config = task.space.sample(random.Random(0))
    outcome = task.interval(tuple(np.full_like(a, np.inf) for a in task.initial(0)), config, 0)
    assert outcome.val == task.test(outcome.state) == task.interval(outcome.state, config, 1).val == 10.0


def test_no_schedule_of_the_landscape_is_better_than_the_known_best() -> None:
    task = worlds.Landscape(4)
    best = state = task.initial(0)
    rng = random.Random(0)
    for depth in range(10):
        best = task.interval(best, task.best(depth), depth).state
        state = task.interval(state, task.space.sample(rng), depth).state
    assert math.log(task.test(best)) == pytest.approx(-10 * task.RATE)
    assert task.test(state) > task.test(best)


# ---- methods


@pytest.mark.parametrize("name", EVERY)
def test_every_method_takes_the_budget_to_the_interval_and_stays_in_the_space(
    name: str, watched: list[Watched]
) -> None:
    record = small(EVERY[name]).run("landscape", 2, seed=0)
    stops = bool(EVERY[name].options.get("early_stop"))
    assert record.spent <= 18 if stops else record.spent == 18 == watched[0].trained
    assert len(record.trace) == 10 or stops
    assert math.isfinite(record.val)
    assert record.row()["test"] > 0


def test_the_fewer_may_go_on_the_less_is_trained() -> None:
    method = EVERY["gpbt, early stop"]
    spent = [
        dataclasses.replace(method, options={**method.options, **more}).run("landscape", 2, 0).spent
        for more in ({}, {"keep": 0.25}, {"keep": 0.25, "everyone": True})
    ]
    assert spent == sorted(set(spent), reverse=True)


@pytest.mark.parametrize("name", ["gpbt", "paper, sync", "pbt", "pbt, barrier", "bohb", "random"])
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    one, other = (small(EVERY[name]).run("landscape", 2, seed).row() for seed in (0, 0))
    assert one == other
    assert small(EVERY[name]).run("landscape", 2, 1).row() != one


def test_all_methods_are_given_the_same_work() -> None:
    work = sum(clock.seconds(0, serial) for serial in range(18))
    for name in ("gpbt", "paper, sync", "pbt", "asha", "random", "ray pbt"):
        if name != "ray pbt" or importlib.util.find_spec("ray"):
            assert small(EVERY[name]).run("landscape", 1, 0).row()["span"] == pytest.approx(work, rel=1e-4), name


def test_the_papers_order_does_not_depend_on_the_slots() -> None:
    one, many = (small(EVERY["paper, sync"]).run("landscape", slots, 0) for slots in (1, 4))
    assert one.val == many.val
    assert one.now > many.now


def test_pbt_with_everybody_alike_still_explores_inside_its_bounds() -> None:
    space = worlds.Landscape.space
    from quality.pbt import explored

    corner = space.decode([1.0] * len(space))
    rng = random.Random(0)
    for how in ("factors", "step"):
        moved = [explored(space, corner, rng, (0.5, 2.0), 0.1, how) for _ in range(200)]
        assert all(config == space.clip(config) for config in moved)
        assert len({json.dumps(config) for config in moved}) > 50


def test_ablations_change_what_they_say(watched: list[Watched]) -> None:
    vals = {
        name: dataclasses.replace(methods.ours(name, **options), population=12, generations=4)
        .run("landscape", 6, 0)
        .val
        for name, options in {
            "default": {},
            "again": {},
            "repeat": {"repeat": False},
            "pending": {"pending": False},
            "searcher": {"searcher": "random"},
        }.items()
    }
    assert vals["default"] == vals.pop("again")
    assert len(set(vals.values())) == len(vals)


def test_a_digest_tells_what_is_run_and_not_what_it_is_called() -> None:
    default = methods.ours("gpbt")
    assert default.digest == methods.ours("another name", searcher="local", evidence=0.75).digest
    assert default.digest != methods.ours("gpbt", repeat=False).digest
    assert default.digest != dataclasses.replace(default, length=0.5).digest
    assert methods.ours("a", preset="paper").digest == methods.ours("b", searcher="tpe", schedule="sync").digest
    assert len({m.digest for m in methods.MAIN}) == len(methods.MAIN)


def test_a_method_without_a_length_of_its_own_takes_the_tasks(watched: list[Watched]) -> None:
    watching, own = dataclasses.replace(small(EVERY["pbt"]), generations=None), small(EVERY["pbt"])
    Watched.generations = 4
    try:
        assert watching.run("landscape", 2, 0).budget == 6 * 4 == watched[-1].trained
        assert own.run("landscape", 2, 0).budget == 6 * 3 == watched[-1].trained
        stopped = dataclasses.replace(EVERY["early stop, n 35"], options={"early_stop": ("median",), "budget": 20})
        assert stopped.run("landscape", 2, 0).budget == 8, "20 of ten generations are 8 of four"
        longer = watching.on("landscape")
        assert (longer.generations, own.on("landscape").generations) == (4, 3)
        assert longer.digest != watching.digest == dataclasses.replace(watching, generations=10).digest
    finally:
        del Watched.generations


def test_the_stored_rows_are_those_of_todays_cases() -> None:
    """What would change a digest by mistake would leave thousands of rows without a case, and run them anew."""
    wanted = {case.key for name, block in protocol.BLOCKS.items() for case in protocol.cases(name, block.seeds)}
    for name in protocol.BLOCKS:
        file = BENCH / "results" / f"{name}.jsonl"
        for row in rows.read(file) if file.exists() else ():
            assert rows.key(row) in wanted, (name, row["method"])
    stored = {rows.key(row) for row in rows.read(BENCH / "results" / "main.jsonl")}
    assert all(case.key in stored for case in protocol.cases("main", protocol.TUNING_SEEDS))


# ---- protocol, driver, rows


def test_what_is_held_back_is_held_back() -> None:
    assert not set(protocol.TUNING) & set(protocol.HELD)
    roles = (protocol.TUNING, protocol.HELD, protocol.AFTER, protocol.LONG_TUNING, protocol.LONG_HELD)
    assert sorted(name for role in roles for name in role) == sorted(tasks.WHERE)
    seeds = (protocol.TUNING_SEEDS, protocol.SECOND_SEEDS, protocol.CONFIRMATION_SEEDS)
    assert sum(map(len, seeds)) == len({seed for some in seeds for seed in some})
    for name, block in protocol.BLOCKS.items():
        if name != "confirm":
            assert set(block.tasks) <= {*protocol.TUNING, *protocol.AFTER, *protocol.LONG_TUNING}
            with pytest.raises(ValueError, match="1000"):
                list(protocol.cases(name, [1000]))
    with pytest.raises(ValueError, match="seed 0"):
        list(protocol.cases("confirm", [0]))


def few(seeds: int) -> list[protocol.Case]:
    chosen = [small(EVERY[name]) for name in ("pbt", "random")]
    return [protocol.Case("landscape", m, 2, seed) for seed in range(seeds) for m in chosen]


def test_resuming_runs_what_is_missing_and_nothing_twice(tmp_path: Path, watched: list[Watched]) -> None:
    file, told = tmp_path / "some.jsonl", list[str]()
    assert driver.run(few(2), tmp_path, file, tell=told.append) == 4
    assert driver.run(few(2), tmp_path, file, tell=told.append) == 0
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])  # killed while it wrote
    assert driver.run(few(3), tmp_path, file, tell=told.append) == 3
    assert driver.run(few(3), tmp_path, tmp_path / "other.jsonl", tell=told.append) == 0
    assert len(told) == len(watched) == 7
    read = rows.read_all(tmp_path)
    assert {rows.key(row) for row in read} == {case.key for case in few(3)}
    assert len(read) == 6


def test_no_run_begins_after_the_time(tmp_path: Path) -> None:
    assert driver.run(few(1), tmp_path, tmp_path / "rows.jsonl", seconds=0, tell=lambda text: None) == 0


def test_tables_compare_with_the_reference(tmp_path: Path, watched: list[Watched]) -> None:
    chosen = [m for m in methods.MAIN if m.name in ("pbt", "random", "gpbt")]
    cases = [protocol.Case("landscape", m, 8, seed) for seed in range(4) for m in chosen]
    driver.run(cases, tmp_path, tmp_path / "main.jsonl", tell=lambda text: None)
    found: report.Found = {}
    for row in rows.read_all(tmp_path):
        found.setdefault((row["digest"], row["task"], row["slots"]), {})[row["seed"]] = row
    lines = report.table(found, protocol.BLOCKS["main"], "landscape", 8)
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    ranks = report.mean_ranks(found, protocol.BLOCKS["main"], 8)
    assert ranks[0].startswith("4 pairs")
    assert sum(float(line.split("|")[2]) for line in ranks[4:]) == pytest.approx(6, abs=0.02)


def test_what_is_claimed_is_corrected_for_how_much_is_claimed() -> None:
    block = protocol.BLOCKS["confirm"]
    rng = random.Random(0)
    found: report.Found = {}
    for task in block.tasks:
        for m, shift in ((protocol.default(), -0.1), (protocol.reference(), 0.0)):
            found[m.digest, task, 8] = {
                seed: dict.fromkeys(("test", "val"), math.exp(shift + 0.1 * rng.gauss(0, 1)))
                for seed in range(1000, 1020)
            }
    family = protocol.Family("?", ((protocol.default(), protocol.reference()),))
    lines = report.confirmation(found, block, family)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2 : 2 + len(block.tasks)]]
    assert [task for _, _, task, *_ in cells] == list(block.tasks)
    smallest = min(cells, key=lambda row: float(row[5]))
    assert float(smallest[6]) == pytest.approx(len(block.tasks) * float(smallest[5]), rel=0.1)
    assert all(float(row[6]) >= float(row[5]) for row in cells)
    (_, _, tasks, mean, p, by_task, held, p_held) = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    assert int(tasks) == len(block.tasks)
    assert -1.4 < float(mean) < -0.4, "a shift of one, seen in every task"
    assert float(p) < 1e-6
    assert float(p) < float(p_held) < float(by_task) < 0.05, "140 values, 80, and 7"
    assert -1.4 < float(held) < -0.4


def test_what_is_asked_of_the_confirmation_can_be_answered_by_it() -> None:
    methods = {m.digest for m in protocol.BLOCKS["confirm"].methods}
    families = protocol.families()
    assert all(m.digest in methods for family in families for pair in family.pairs for m in pair)
    assert families[0].pairs[0] == (protocol.default(), protocol.reference())
    assert all(one.digest != other.digest for family in families for one, other in family.pairs)


# ---- statistics


def test_pooled_tasks_count_by_how_clear_they_are() -> None:
    rng = random.Random(0)
    tasks = [[rng.gauss(-0.5, 1) for _ in range(30)] for _ in range(3)]
    here = statistics.pooled(tasks)
    scaled = statistics.pooled([[1000 * d for d in tasks[0]], tasks[1], [d / 1000 for d in tasks[2]]])
    assert (here.n, here.mean, here.p) == pytest.approx((90, scaled.mean, scaled.p))
    assert here.low < here.mean < here.high < 0
    assert here.wins == pytest.approx(sum(d < 0 for task in tasks for d in task) / 90)


def test_paired_comparisons_agree_with_scipy() -> None:
    rng = random.Random(0)
    a = {seed: math.exp(rng.gauss(0, 1)) for seed in range(25)}
    b = {seed: math.exp(rng.gauss(0.3, 1)) for seed in range(3, 30)}
    shared = range(3, 25)
    logs = [[math.log(x[seed]) for seed in shared] for x in (a, b)]
    found = statistics.paired(a, b)
    assert found is not None
    low, high = scipy.stats.ttest_rel(*logs).confidence_interval(0.95)
    assert (found.n, found.low, found.high) == (22, pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(scipy.stats.wilcoxon(*logs).pvalue)
    assert found.mean == pytest.approx(np.mean(logs[0]) - np.mean(logs[1]))
    assert found.wins == np.mean([x < y for x, y in zip(*logs, strict=True)])


def test_a_comparison_with_itself_finds_nothing() -> None:
    same = {seed: 1.0 + seed for seed in range(5)}
    found = statistics.paired(same, same)
    assert found is not None
    assert (found.mean, found.low, found.high, found.p, found.wins) == (0, 0, 0, 1, 0.5)
    assert statistics.paired(same, {0: 1.0, 1: 2.0}) is None


def test_holm_steps_down() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]) == []


@pytest.mark.parametrize("file", sorted((BENCH / "quality").glob("*.py")), ids=lambda file: file.stem)
def test_a_module_stays_on_a_few_screens_and_says_what_it_is(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
    assert ast.get_docstring(ast.parse(file.read_text()))
