"""Plans from given durations and from an earlier run; and the simulator against a real run."""

from __future__ import annotations

import json
import random
import statistics
from typing import TYPE_CHECKING, Any

import pytest
from harness import SCRIPTS, cli, cli_here, facts

from gpbt_async.analysis.reader import RunReader
from gpbt_async.analysis.usage import Usage
from gpbt_async.cli import forecast
from gpbt_async.cli.forecast import log_normal
from gpbt_async.declaration.address import find
from gpbt_async.simulate import Simulation, VirtualInterval
from gpbt_async.storage.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from gpbt_async.ask import Ask
    from gpbt_async.engine.tree import Node
    from gpbt_async.space import Config

LINEAGE = SCRIPTS / "lineage.py"


@pytest.mark.parametrize(("slots", "schedule"), [(2, "async"), (4, "async"), (4, "sync")])
def test_the_simulator_agrees_with_a_real_run_when_fed_its_durations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int, schedule: str
) -> None:
    """Same settings, scores and seconds, member by member: the makespan is the real one within 10 %.

    Intervals differ by a factor of up to four, and slots wait for evidence: only the same decisions at the same
    moments end at the same time. The time to start a process is the run's own median turnover.
    """
    monkeypatch.setenv("TRAIN_SECONDS", "0.5")
    sizes = ("--slots", slots, "--population", 6, "--generations", 4, "--schedule", schedule)
    done = cli("launch", LINEAGE, *sizes, "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "lineage-1"
    reading = RunReader(RunFolder.open(folder))
    real = {m.path: m for m in reading.engine.tree.members}
    configs = {f["path"]: f["config"] for f in facts(folder, "Started")}
    typical = statistics.median(m.seconds for m in real.values())

    def task(member: Node, parent_state: Any) -> VirtualInterval:
        twin = real.get(member.path)  # None if a tiny difference in time made another parent
        if twin is None or twin.score is None:
            return VirtualInterval(state=None, score=1.0, seconds=typical)
        return VirtualInterval(state=None, score=twin.score, seconds=twin.seconds)

    class RecordedConfigs:
        def suggest(self, ask: Ask) -> Config:
            known = configs.get("/".join(map(str, ask.path)))
            return known if known is not None else ask.space.sample(random.Random(ask.seed))

    start = (done.json["overhead_ms"] or 0.0) / 1e3
    simulation = Simulation(reading.settings, task, RecordedConfigs(), slots, start_seconds=start).run()
    assert simulation.makespan == pytest.approx(done.json["wall_s"], rel=0.1)
    even = Simulation(
        reading.settings,
        lambda member, state: VirtualInterval(None, 1.0, max(m.seconds for m in real.values())),
        RecordedConfigs(), slots, start_seconds=start,
    ).run()  # fmt: skip
    assert even.makespan > 1.1 * done.json["wall_s"], "with equal durations, the makespan would differ"
    planned = cli_here("plan", LINEAGE, *sizes, "--from", "lineage-1", "--json", cwd=tmp_path).json
    assert planned["wall_s"] == pytest.approx(done.json["wall_s"], rel=0.35)


def test_a_plan_with_early_stopping_is_an_upper_bound(tmp_path: Path) -> None:
    script = tmp_path / "stops.py"
    script.write_text(LINEAGE.read_text().replace('searcher="random"', 'searcher="random", early_stop="median"'))
    sizes = ("--gpus", 2, "--seconds", 60, "--spread", 0)
    planned = cli_here("plan", script, *sizes, "--json", cwd=tmp_path).json
    assert planned["at_most"] is True
    assert planned["wall_s"] == cli_here("plan", LINEAGE, *sizes, "--json", cwd=tmp_path).json["wall_s"]
    assert "at most" in cli_here("plan", script, *sizes, cwd=tmp_path).out


def test_a_plan_from_given_seconds(tmp_path: Path) -> None:
    done = cli_here(
        "plan", LINEAGE, "--gpus", 4, "--seconds", 60, "--spread", 0, "--population", 16, "--generations", 5,
        "--json", cwd=tmp_path,
    )  # fmt: skip
    planned = json.loads(done.out)
    assert planned["wall_s"] == pytest.approx(16 * 5 * 60 / 4)
    assert planned["utilisation"] == pytest.approx(1.0)
    text = cli_here("plan", LINEAGE, "--gpus", 4, "--seconds", 60, "--schedule", "sync", cwd=tmp_path).out
    assert "wall time" in text
    assert "evidence" in text
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"


@pytest.mark.parametrize(
    ("options", "quote"),
    [
        ([], "--from RUN"),
        (["--seconds", "1", "--from", "x"], "--from RUN"),
        (["--seconds", "0"], "--seconds 0"),
        (["--seconds", "1", "--slots", "0"], "--slots 0"),
        (["--seconds", "1", "--spread", "1e200"], "--spread 1e+200"),
        (["--seconds", "inf"], "--seconds inf"),
        (["--from", "nope"], "nope"),
        (["--seconds", "1", "--population", "0"], "--population: "),
        (["--seconds", "1e308"], "--seconds 1e+308"),
        (["--seconds", "1", "--spread", "-1"], "--spread -1"),
        (["--seconds", "1", "--slots", "1000000000"], "--slots 1000000000"),
        (["--seconds", "1", "--population", "1000000"], "4000000 members"),
    ],
)
def test_an_impossible_plan_is_refused(tmp_path: Path, options: list[str], quote: str) -> None:
    done = cli_here("plan", LINEAGE, *options, cwd=tmp_path)
    assert done.status == 2
    assert quote in done.err
    assert "Traceback" not in done.err


def test_a_plan_adds_up_each_simulation_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the use of the time folds all spans, so a look per cause and simulation would be slow."""
    folded = 0

    def counted(usage: Usage) -> Usage:
        nonlocal folded
        folded += 1
        return so_far(usage)

    so_far = Usage.so_far
    monkeypatch.setattr(Usage, "so_far", counted)
    changes: dict[str, Any] = {"population": 4, "generations": 2}
    planned = forecast.plan(find(LINEAGE), 2, run=None, runs=tmp_path, seconds=1.0, spread=0.5, changes=changes)
    assert folded == planned.simulated_runs == forecast.SEEDS


def test_log_normal_draws_have_the_mean_and_the_spread_they_are_given() -> None:
    draw, rng = log_normal(10.0, 0.5), random.Random(0)
    drawn = [draw(rng) for _ in range(20000)]
    mean = sum(drawn) / len(drawn)
    assert mean == pytest.approx(10.0, rel=0.03)
    assert (sum((x - mean) ** 2 for x in drawn) / len(drawn)) ** 0.5 == pytest.approx(5.0, rel=0.05)
