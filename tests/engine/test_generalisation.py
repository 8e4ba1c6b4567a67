"""Do scores generalise: the rows by generation, and the verdict in worlds where the run overfits, and where not."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from engine_driver import Driver, settings
from hypothesis import given
from hypothesis import strategies as st
from strategies import drivers

from gpbt_async.engine.engine import Engine
from gpbt_async.engine.generalisation import alike, mode_of
from gpbt_async.engine.tree import Node, State
from gpbt_async.preflight.checks import Preflight
from gpbt_async.searchers import registry
from gpbt_async.simulate import Simulation, VirtualInterval

if TYPE_CHECKING:
    from gpbt_async.findings import Finding


def simulated(
    seed: int,
    *,
    flat: int = 99,
    inherited: float = 0.0,
    holdout: float = 0.0,
    noise: float = 0.005,
    generations: int = 10,
) -> Simulation:
    """A run of losses that fall by a tenth an interval up to generation `flat`.

    inherited: by how much, in shares of the loss, an interval changes what the validation rows alone favour, which
    children inherit; holdout: the same of the other rows. noise: of each measurement, which nobody inherits.
    """

    def train(member: Node, parent: tuple[float, float, float] | None) -> VirtualInterval:
        rng = random.Random(f"{seed}:{member.seed}")
        loss, val, test = parent or (1.0, 0.0, 0.0)
        loss *= 0.9 if member.generation <= flat else 1.0
        val, test = val + inherited * rng.gauss(0, 1), test + holdout * rng.gauss(0, 1)
        score, metric = (loss * (1 + bias + noise * rng.gauss(0, 1)) for bias in (val, test))
        return VirtualInterval(
            (loss, val, test), score, rng.uniform(0.5, 1.5), metrics={"test_loss": metric, "lr": 1.0}
        )

    s = settings(score="val_loss", population=25, generations=generations, seed=seed, searcher="random")
    return Simulation(s, train, registry.make("random"), slots=8, usage=None).run()


def found(simulation: Simulation) -> list[Finding]:
    """What the pre-flight finds of the run's journal."""
    engine, preflight = Engine(simulation.settings, 0), Preflight(simulation.settings)
    findings = []
    for fact in simulation.facts:
        engine.handle(fact)
        findings += [f for f in preflight.fold(fact, engine) if f.code == "GPBT023"]
    return findings


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_overfits_the_data_of_its_score_is_found_once(seed: int) -> None:
    """The model gets no better after generation 3, and selection by the score goes on finding what the rows favour."""
    simulation = simulated(seed, flat=3, inherited=0.02)
    (finding,) = found(simulation)
    rows = {row.generation: row for row in simulation.engine.generalisation.rows("test_loss")}
    assert rows[9].score < rows[4].score
    assert rows[9].metric - rows[9].score > rows[4].metric - rows[4].score
    assert finding.subject == "test_loss"
    assert "the run overfits the data of its score" in finding.text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "world",
    [
        {"noise": 0.02},
        {"noise": 0.1},
        {"holdout": 0.03},  # a lineage's luck on the other rows
        {"inherited": 0.02, "holdout": 0.02},  # it overfits, and learns much more than that
        {"flat": 3, "noise": 0.02, "holdout": 0.01},
    ],
    ids=str,
)
def test_noise_and_progress_are_no_overfitting(seed: int, world: dict[str, float]) -> None:
    assert not found(simulated(seed, **world))  # type: ignore[arg-type]


@pytest.mark.parametrize("huge", [1e160, -1e308, float("inf")])
def test_a_metric_of_a_diverged_model_is_left_out(huge: float) -> None:
    def train(member: Node, parent: None) -> VirtualInterval:
        diverged = member.path[-1] % 2 == 0
        metrics = {"test_loss": huge if diverged else 1.0, "test_perplexity": huge}
        return VirtualInterval(None, 1.0 + 0.1 * member.path[-1], 1.0, metrics=metrics)

    s = settings(score="val_loss", population=8, generations=8, searcher="random")
    run = Simulation(s, train, registry.make("random"), slots=4, usage=None).run()
    found(run)
    known = run.engine.generalisation
    assert known.metrics == ["test_loss"]
    assert {row.metric for row in known.rows("test_loss")} == {1.0}


def test_too_few_generations_or_members_decide_nothing() -> None:
    assert not found(simulated(0, flat=1, inherited=0.05, generations=5))
    engine = simulated(0, flat=3, inherited=0.02).engine
    known = engine.generalisation
    assert known.overfits(engine.settings, "test_loss", 10)
    for best in known._best:
        del best[2:]
    assert known.overfits(engine.settings, "test_loss", 10) is None


@given(drivers(score="val_loss"), st.integers(1, 300))
def test_rows_are_means_of_the_best_that_report_the_metric(driver: Driver, crash: int) -> None:
    """Also after a crash, and although most metrics have been dropped with their checkpoints."""

    def others(path: tuple[int, ...]) -> dict[str, float]:
        dice = random.Random(f"other {path}").random()
        return {"test_loss": dice} if dice < 0.7 else {"unrelated": 1.0}

    driver.others = others
    driver.open()
    while driver.turn():
        if len(driver.facts) == crash:
            driver.open()
    engine = driver.engine
    expected = []
    for generation, each in enumerate(engine.tree.generations):
        able = [m for m in each.members if m.state is State.FINISHED and "test_loss" in others(m.path)]
        best = sorted(able, key=lambda m: (m.loss, m.path))[: driver.settings.parents]
        if best:
            scores = [m.score for m in best if m.score is not None]
            means = statistics.fmean(scores), statistics.fmean(others(m.path)["test_loss"] for m in best)
            expected.append((generation, len(best), *means))
    rows = engine.generalisation.rows("test_loss")
    assert [(row.generation, row.members, row.score, row.metric) for row in rows] == expected
    assert engine.generalisation.metrics == (["test_loss"] if rows else [])


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("test_loss", "min"), ("holdout/acc", "max"), ("heldOutLoss", "min"), ("test", "min"), ("hold-out_acc", "max"),
        ("val_loss", None), ("latest_loss", None), ("test_seconds", None), ("contest_loss", None), ("accuracy", None),
    ],
)  # fmt: skip
def test_names_that_say_that_a_metric_is_on_data_of_its_own(metric: str, mode: str | None) -> None:
    s = settings(score="val")
    assert mode_of(s, metric) == mode
    assert mode_of(replace(s, choose_by=(metric, "max")), metric) == "max"


def test_which_metrics_measure_the_same_as_the_score() -> None:
    assert alike("val_loss", "test_loss")
    assert alike("loss", "holdout/loss")
    assert not alike("loss", "test_accuracy")
    assert mode_of(settings(score="test_loss"), "test_loss") is None
