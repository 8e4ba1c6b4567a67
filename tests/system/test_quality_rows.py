"""The quality benchmark's rows: which may be paired, which come out again; admission; the map of digits."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.append(str(BENCH))

from quality import (  # noqa: E402
    admission,
    again,
    driver,
    embedding,
    environment,
    methods,
    plans,
    protocol,
    report,
    rows,
    statistics,
    tasks,
    worlds,
)

if TYPE_CHECKING:
    from quality.rows import Row

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs optuna")
HERE = environment.digest(environment.here())


@pytest.fixture(autouse=True)
def engines() -> None:
    """No engine of these tests is looked into."""


def python(code: str, **variables: str) -> str:
    """What the code prints in a process of its own, in which neither threads nor kernels are set yet."""
    kept = {
        name: value for name, value in os.environ.items() if name not in (*environment.THREADS, "OPENBLAS_CORETYPE")
    }
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(BENCH)!r})\n{code}"],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


# ---- environment

ASK = "from quality import environment; e = environment.here(); print(e['threads'], e['BLAS of numpy'])"


@pytest.mark.skipif("avx2" not in environment.flags(), reason="needs a processor with AVX2")
@pytest.mark.skipif("openblas" not in environment.here().get("BLAS of numpy", ""), reason="needs OpenBLAS")
def test_threads_and_kernels_are_fixed_when_the_benchmark_is_imported_first() -> None:
    assert python(f"import quality\n{ASK}").startswith("1 openblas")
    assert python(f"import quality\n{ASK}").endswith(" Haswell")
    assert not python(f"import quality\n{ASK}", OPENBLAS_CORETYPE="Prescott").endswith(" Haswell"), "what is set stays"
    late = python(f"import numpy, os\nimport quality\n{ASK}\nprint('OPENBLAS_CORETYPE' in os.environ)")
    assert late.endswith("False"), "numpy had chosen its kernels, so a variable would only mislead"


def test_a_digest_is_of_what_can_change_a_number() -> None:
    here = environment.here()
    assert here["numpy"] == np.__version__
    assert environment.digest({**here, "processor": "another"}) == HERE
    for name in set(here) - {"processor"}:
        assert environment.digest({**here, name: "another"}) != HERE
    assert environment.differences(here, {**here, "numpy": "1.0", "as": "x"}) == [f"numpy {np.__version__}, not 1.0"]


def test_environments_that_gave_the_same_rows_stand_together(tmp_path: Path) -> None:
    known = environment.Known(tmp_path)
    assert known.group("a") == "a"
    known.same("b", "a", "20 rows")
    known.same("c", "b", "30 rows")
    assert environment.Known(tmp_path).group("c") == environment.Known(tmp_path).group("b") == "a"
    known.same("a", "c", "again")
    assert known.group("a") == "a", "no circle"
    assert known.note() == HERE
    assert environment.Known(tmp_path).entries[HERE] == environment.here()


def case(seed: int = 0, name: str = "pbt", task: str = "landscape") -> protocol.Case:
    method = next(m for m in methods.MAIN if m.name == name)
    return protocol.Case(task, method, 8, seed)


def test_rows_carry_their_environment_and_those_of_another_are_made_anew(tmp_path: Path) -> None:
    file, told = tmp_path / "rows.jsonl", list[str]()
    rows.append(file, {**driver.row_of(case()), "environment": "other"})
    assert driver.run([case()], tmp_path, file, tell=told.append) == 1
    assert "1 of 1 runs have rows of other environments" in told[0]
    assert [rows.environment(row) for row in rows.read(file)] == ["other", HERE]
    assert driver.run([case()], tmp_path, file, tell=told.append) == 0

    rows.append(file, {**driver.row_of(case(1)), "environment": "third"})
    environment.Known(tmp_path).same(HERE, "third", "they came out")
    assert driver.run([case(1)], tmp_path, file, tell=told.append) == 0, "as good as made here"


@needs_optuna
def test_a_row_names_the_version_of_what_only_its_method_uses() -> None:
    assert driver.row_of(case(name="random"))["with"].startswith("optuna ")
    assert "with" not in driver.row_of(case())


def test_a_row_names_the_code_that_made_it() -> None:
    row = driver.row_of(case())
    assert row.get("code", "") == environment.code()
    assert len(environment.code()) in (0, *range(7, 14))


def test_rows_of_two_environments_are_not_paired_and_the_table_says_so(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for seed in range(6):
        for name, where in (("gpbt", "one"), ("pbt", "one" if seed < 4 else "two")):
            made = {"task": "digits", "method": name, "slots": 8, "seed": seed, "digest": case(name=name).method.digest}
            row = {**made, "val": 1.0, "test": 1.0 + seed / 10, "spent": 250, "span": 30, "cpu": 1}
            rows.append(file, {**row, "environment": where})
    block = protocol.BLOCKS["main"]
    found = report.collect(tmp_path)
    table = report.table(found, block, "digits", 8)
    assert table[-1].startswith("Rows of several environments (10 of one, 2 of two)")
    a, b = (
        report.column(report.seen(found, block, case(name=name).method, "digits", 8), "test")
        for name in ("gpbt", "pbt")
    )
    paired = statistics.paired(a, b)
    assert paired is not None
    assert paired.n == 4
    assert report.mean_ranks(found, block, 8)[0].startswith("4 pairs")

    environment.Known(tmp_path).same("two", "one", "they came out")
    table = report.table(report.collect(tmp_path), block, "digits", 8)
    assert not any("several environments" in line for line in table)


def test_a_seed_that_two_environments_share_counts_once() -> None:
    a = {(seed, where): 2.0 + seed for seed in range(3) for where in ("one", "two")}
    assert len(statistics.log_ratios(a, a)) == 3


# ---- again


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    for seed in range(3):
        rows.append(tmp_path / "main.jsonl", driver.row_of(case(seed)))
    return tmp_path


def test_rows_that_come_out_again_join_their_environment_with_this_one(stored: Path) -> None:
    tallies = again.again(stored, share=1.0, least=3)
    assert (tallies["before"].equal, tallies["before"].others) == (3, [])
    assert environment.Known(stored).group(HERE) == "before"
    assert "3 of 3 rows are equal" in again.told(tallies)


def test_too_few_rows_say_nothing_about_an_environment(stored: Path) -> None:
    assert again.again(stored, share=1.0)["before"].equal == 3
    assert environment.Known(stored).group(HERE) == HERE


def test_a_row_that_does_not_come_out_is_named_with_what_differs(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "KERNELS", {})
    other = {**environment.here(), "numpy": "1.99"}
    (stored / environment.FILE).write_text(json.dumps({"old": other}))
    row = next(rows.read(stored / "main.jsonl"))
    rows.append(stored / "main.jsonl", {**row, "test": row["test"] * 1.0001, "environment": "old"})
    tallies = again.again(stored, share=1.0, tell=lambda text: None, least=1)
    assert tallies["old"].others[0].endswith(f"numpy {np.__version__}, not 1.99")
    assert "not equal: landscape 'pbt' 8 slots, seed 0: test " in again.told(tallies)
    known = environment.Known(stored)
    assert known.group("old") == "old" != known.group(HERE) == "before"


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in environment.flags(), reason="needs a processor with AVX2")
@pytest.mark.skipif("openblas" not in environment.here().get("BLAS of numpy", ""), reason="needs OpenBLAS")
def test_kernels_that_give_the_stored_row_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "KERNELS", {"Haswell": "avx2", "Prescott": "pni"})
    sensitive = case(1006, task="tabular")
    made = driver.row_of(sensitive)
    stored = {kernels: again.elsewhere(sensitive, kernels) for kernels in again.KERNELS}
    other = next((kernels for kernels, row in stored.items() if not again.equal(row, made)), None)
    if other is None:
        pytest.skip("here all kernels add alike")
    found = again.cause(sensitive, stored[other], made, environment.Known(tmp_path))
    assert found.endswith(f"the stored row comes out with OpenBLAS's kernels {other}")


def test_a_share_is_the_same_rows_everywhere() -> None:
    some: list[Row] = [{"task": "digits", "digest": f"{i}", "slots": 8, "seed": i} for i in range(2000)]
    few, more = again.picked(some, 0.05), again.picked(some, 0.5)
    assert 60 < len(few) < 140
    assert all(row in more for row in few)
    assert again.picked(some, 1.0) == some


# ---- protocol of the long tasks


def test_the_second_confirmation_is_kept_apart_as_the_first_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = (protocol.TUNING_SEEDS, protocol.SECOND_SEEDS, protocol.CONFIRMATION_SEEDS, protocol.CONFIRMATION2_SEEDS)
    assert sum(map(len, seeds)) == len({seed for some in seeds for seed in some})
    held, spent = {*protocol.HELD, *protocol.LONG_HELD}, {*seeds[2], *seeds[3]}
    for name, block in protocol.BLOCKS.items():
        if name not in protocol.ONCE:
            assert not held & set(block.tasks)
            assert not spent & set(block.seeds)
            with pytest.raises(ValueError, match="seed 2000 is not one"):
                list(protocol.cases(name, [2000]))
    assert not set(protocol.LONG_TUNING) & held


def test_a_block_without_finalists_is_refused() -> None:
    for name, block in protocol.BLOCKS.items():
        if not block.methods:
            assert name in protocol.ONCE
            with pytest.raises(ValueError, match="name its finalists first"):
                list(protocol.cases(name, block.seeds))


# ---- plans and admission


def test_a_plan_goes_from_its_start_to_its_end_and_stays() -> None:
    space = worlds.Landscape.space
    start, end = space.decode([0.9, 0.2, 0.8, 0.5, 0.1]), space.decode([0.1, 0.8, 0.2, 0.5, 0.9])
    for shape in plans.SHAPES:
        plan = plans.Plan(start, end, shape, until=0.5)
        assert plan.at(space, 0.0) == pytest.approx(start)
        assert plan.at(space, 0.5) == plan.at(space, 1.0) == pytest.approx(end)
        way = [plan.at(space, u / 20)["a"] for u in range(11)]
        assert way == sorted(way, reverse=True)
        assert plan.at(space, 0.2)["e"] == start["e"] != plan.at(space, 0.3)["e"]
        assert plans.Plan(**json.loads(json.dumps(plan.told()))) == plan
    middle = plans.Plan(start, end, "proportion").at(space, 0.5)
    assert middle["a"] == pytest.approx(math.sqrt(start["a"] * end["a"]))  # type: ignore[operator, arg-type]
    assert plans.Plan(start).at(space, 0.7) == start
    assert plans.Plan(start).told() == {"start": start}


def test_a_plan_is_followed_by_all_lineages_at_the_methods_budget() -> None:
    task = tasks.make("landscape", 3)
    best = {"start": task.best(0), "end": task.best(10), "shape": "proportion"}  # type: ignore[attr-defined]
    record = methods.Method("best", "plans", {"plan": best}).run("landscape", 8, 3)
    assert (record.spent, record.budget, record.depth) == (250, 250, 10)
    assert record.row()["test"] == pytest.approx(math.exp(-6), rel=0.1), "the best schedule of this task is known"
    constant = methods.Method("still", "plans", {"plan": {"start": task.best(5)}}).run("landscape", 8, 3)  # type: ignore[attr-defined]
    assert constant.row()["test"] > 1.1 * record.row()["test"]


def found(seeds: int, worth: float, spread: float) -> dict[str, dict[tuple[int, str], float]]:
    rng = random.Random(0)
    shared = [rng.gauss(0, 1) for _ in range(seeds)]
    means = {"fixed": 0.0, "schedule": math.log1p(-worth), "random": 0.2}
    return {
        name: {(i, "e"): math.exp(mean + shared[i] + rng.gauss(0, spread)) for i in range(seeds)}
        for name, mean in means.items()
    }


def test_a_task_is_admitted_for_clear_differences_and_a_schedule_that_pays() -> None:
    assert admission.verdict("t", found(12, 0.2, 0.05)).text().endswith("\n  admitted")
    assert admission.verdict("t", found(12, 0.05, 0.02)).text().endswith("NOT admitted"), (
        "the schedule is worth too little"
    )
    assert admission.verdict("t", found(12, 0.2, 1.0)).text().endswith("NOT admitted"), "too noisy"
    assert admission.verdict("t", found(12, -0.2, 0.05)).text().endswith("NOT admitted"), "the schedule is worse"
    first = admission.verdict("t", found(12, 0.2, 0.05)).text().splitlines()[1]
    assert first.startswith("  schedule against fixed: -2")
    assert " over 12 seeds" in first


def test_power_is_that_of_a_t_test() -> None:
    n = statistics.seeds_to_see(math.log1p(0.03), 0.05)
    rng = np.random.default_rng(0)
    seen = [ttest_rel(rng.normal(math.log1p(0.03), 0.05, n), np.zeros(n)).pvalue < 0.05 for _ in range(2000)]
    assert 0.74 < np.mean(seen) < 0.84
    assert statistics.seeds_to_see(0.03, 0.0) == 3


def test_no_confirmation_seed_admits_a_task(tmp_path: Path) -> None:
    for seed in (1000, 2000, admission.CHOOSING[0]):
        with pytest.raises(ValueError, match="admit nothing"):
            admission.admit("quadratic", [0, seed], tmp_path)


@pytest.mark.slow
@needs_optuna
def test_admission_chooses_once_on_other_seeds_and_runs_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "DRAWN", 24)
    monkeypatch.setattr(admission, "AROUND", 8)
    used: list[int] = []
    true = admission.lineage

    def lineage(task: Any, plan: plans.Plan, seed: int) -> float:
        used.append(seed)
        return true(task, plan, seed)

    monkeypatch.setattr(admission, "lineage", lineage)
    told: list[str] = []
    verdict = admission.admit("quadratic", range(3), tmp_path, tell=told.append)
    assert set(used) == set(admission.CHOOSING)
    assert verdict.startswith("quadratic: fixed ")
    assert len(list(rows.read(tmp_path / "admission.jsonl"))) == 9
    choice = json.loads((tmp_path / "admission.json").read_text())["quadratic"]
    assert choice["schedule"]["end"]["lr"] <= choice["schedule"]["start"]["lr"] * 1.5, "it falls, or hardly moves"

    table = admission.published(tmp_path)
    assert len(table) == 3
    assert table[2].startswith("| quadratic | 3 | ")
    assert len({line.count("|") for line in table}) == 1

    before = len(used)
    assert admission.admit("quadratic", range(3), tmp_path, tell=told.append) == verdict
    assert len(used) == before
    assert len(list(rows.read(tmp_path / "admission.jsonl"))) == 9
    rows.append(tmp_path / "admission.jsonl", {"task": "digits", "digest": "x", "slots": 8, "seed": 0})
    admission.forget("quadratic", tmp_path)
    assert [row["task"] for row in rows.read(tmp_path / "admission.jsonl")] == ["digits"]
    assert json.loads((tmp_path / "admission.json").read_text()) == {}


# ---- the map of digits

STEP = {"lr": 1.0, "inertia": 1.0, "exaggeration": 0.0, "reach": 0.0, "sample": 300}


def small() -> embedding.Embedding:
    """One step, whose gradient is estimated from all points: the gradient."""
    return embedding.Embedding(0, length=embedding.Embedding.points / embedding.Embedding.seen)


def test_a_step_of_the_map_goes_down_the_gradient_of_its_loss() -> None:
    task = small()
    state = task.initial(1).astype(np.float64)
    moved = task.interval(state, STEP, 0).state - state  # type: ignore[arg-type]
    for point in ((0, 3), (1, 3), (1, 150)):
        aside = np.zeros_like(state)
        aside[point] = 1e-4
        slope = (task.test(state + aside) - task.test(state - aside)) / 2e-4
        assert -moved[point] == pytest.approx(slope, rel=2e-2, abs=1e-6)


def test_neighbourhoods_have_their_perplexity() -> None:
    x = embedding.Embedding.data()[:80]
    near = embedding.neighbourhoods(x, 10.0)
    assert near.sum() == pytest.approx(1.0)
    assert np.array_equal(near, near.T)
    assert not near.diagonal().any()
    apart = ((x[:, None] - x[None]) ** 2).sum(axis=2) + np.diag(np.full(80, np.inf))
    assert (near.argmax(axis=1) == apart.argmin(axis=1)).mean() > 0.5
    wide = embedding.neighbourhoods(x, 40.0)
    assert (wide * np.log(np.maximum(wide, 1e-300))).sum() < (near * np.log(np.maximum(near, 1e-300))).sum()


def test_what_a_family_tree_needs_of_the_map() -> None:
    task = tasks.make("embedding", 0)
    assert isinstance(task, tasks.FamilyTask)
    config = {**STEP, "lr": 30.0, "inertia": 0.1}
    state = task.interval(task.initial(0), config, 0).state
    before = state.copy()
    assert task.evaluate(state, 5) == (task.test(state), 0.0)
    polished = task.polished(state, config, 5)  # type: ignore[arg-type]
    assert polished == task.polished(state, config, 5) != task.polished(state, config, 6)  # type: ignore[arg-type]
    assert polished < task.test(state)
    assert np.array_equal(state, before)
    assert task.merged([state, state]) is None
    gone = task.interval(state, {**config, "lr": 1e9}, 0)  # type: ignore[dict-item]
    assert gone.state is None
    assert gone.val == task.test(None) == task.evaluate(None, 0)[0] == task.polished(None, config, 0) == 10.0  # type: ignore[arg-type]
    asked = task.interval(state, config, 3, first=True)  # type: ignore[arg-type]
    assert asked.first is not None
    assert np.array_equal(asked.state, task.interval(state, config, 3).state), "a report changes nothing"  # type: ignore[arg-type]
    assert task.interval(None, config, 0).val == 10.0  # type: ignore[arg-type]


def test_what_pays_on_the_map_costs_at_first() -> None:
    """So greed is punished, and the best schedule is not constant."""
    task = tasks.make("embedding", 0)
    fixed = {**STEP, "lr": 30.0, "inertia": 0.2, "sample": 40}
    falling = [{**fixed, "lr": 1 + 50 * (1 + math.cos(math.pi * i / 20))} for i in range(20)]
    early = [{**config, "exaggeration": 3.0, "reach": 3.0} for config in falling[:6]]
    lineages = {}
    for name, plan in (("constant", [fixed] * 20), ("schedule", early + falling[6:])):
        state, vals = task.initial(0), []
        for i, config in enumerate(plan):
            outcome = task.interval(state, config, i)  # type: ignore[arg-type]
            state = outcome.state
            vals.append(outcome.val)
        lineages[name] = vals
    assert all(lineages["schedule"][i] > 1.1 * lineages["constant"][i] for i in range(6))
    assert lineages["schedule"][-1] < 0.9 * lineages["constant"][-1]


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in environment.flags(), reason="needs a processor with AVX2")
def test_no_kernel_of_a_library_changes_a_map() -> None:
    code = (
        "import quality\nfrom quality import tasks\nt = tasks.make('embedding', 0)\n"
        "c = dict(lr=100., inertia=.05, exaggeration=1., reach=2., sample=30)\n"
        "s = t.initial(0)\nfor i in range(4): s = t.interval(s, c, i).state\nprint(s.tobytes().hex())"
    )
    maps = {python(code, OPENBLAS_CORETYPE=kernels) for kernels in ("Haswell", "Prescott")}
    assert len(maps) == 1
