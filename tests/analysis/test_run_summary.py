"""Replays: the engine along a schedule, the comparison with the original, and the command."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import statistics
from typing import TYPE_CHECKING

import pytest
from engine_driver import SPACE, Driver, settings, snapshot, tree_of
from harness import SCRIPTS, cli, cli_here, facts, kill_hard, start, until
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from run_checker import check_run

from gpbt_async import events
from gpbt_async.analysis.run_summary import SameSeeds, Spread, compared, spread, student
from gpbt_async.engine.engine import Engine
from gpbt_async.engine.tree import State
from gpbt_async.schedule import Interval, Origin, Schedule
from gpbt_async.ui.summaries import replay_text

if TYPE_CHECKING:
    from pathlib import Path

    from gpbt_async.experiment import Settings

LINEAGE = SCRIPTS / "lineage.py"


def along(length: int, count: int, own: bool = False, **origin: object) -> Settings:
    """Settings of `count` replays of a schedule; own: the first with the seeds 100, 101, …"""
    rng = random.Random(length)
    intervals = [Interval(SPACE.sample(rng), 100 + i if own else None) for i in range(length)]
    return settings(
        population=count,
        generations=length,
        ratio=1 / count,
        evidence=1.0,
        searcher="random",
        attempts=2,
        replay=Schedule.of(intervals, Origin(**origin)),  # type: ignore[arg-type]
    )


@st.composite
def replaying(draw: st.DrawFn) -> Driver:
    faulty = draw(st.booleans())
    return Driver(
        along(draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.booleans())),
        slots=draw(st.integers(1, 9)),
        rng=random.Random(draw(st.integers(0, 10**6))),
        fail=0.2 if faulty else 0.0,
        nan=0.1 if faulty else 0.0,
        lose=0.1 if faulty else 0.0,
        damage=0.02 if faulty else 0.0,
    )


def assert_stems(engine: Engine) -> None:
    """As many roots as replays, only children, the schedule's configs, and a replay that broke off has no child."""
    s, tree = engine.settings, engine.tree
    assert s.replay is not None
    assert len(tree.generations[0].members) == s.population
    for member in tree.members:
        assert not any(member.path[1:])
        assert member.config == s.replay[member.generation]
        own = s.replay.intervals[member.generation].seed
        assert own is None or (member.seed == own) == (member.path[0] == 0)
    assert len({m.seed for m in tree.members}) == len(tree.members)
    for generation in tree.generations[:-1]:
        for member in generation.members:
            if member.state is State.FINISHED and not member.damaged:
                assert len(member.children) == 1


@given(replaying())
def test_every_replay_follows_the_schedule_to_its_end_or_fails_alone(driver: Driver) -> None:
    engine = driver.run()
    assert engine.ended is not None
    assert driver.asks == []
    assert_stems(engine)
    ends = engine.tree.generations[-1].ranking
    assert ends or engine.ended.reason
    comparison = compared(engine)
    assert [row.state == "finished" for row in comparison.replays].count(True) >= len(ends)
    if not engine.ended.reason and not any(m.damaged for m in engine.tree.members):
        assert engine.best is not None
        assert engine.best.generation == engine.settings.generations - 1
    assert replay_text(comparison)
    again = Engine(driver.settings)
    for fact in driver.facts:
        again.handle(fact)
    assert snapshot(again) == snapshot(engine)


@given(replaying(), st.integers(0, 30))
@hypothesis_settings(max_examples=50)
def test_a_failed_replay_is_tried_again(driver: Driver, works: int) -> None:
    driver.open()
    for _ in range(works):
        driver.turn()
    driver.damage, driver.fail = 0.0, 1.0
    driver.run()
    driver.fail = driver.lose = driver.nan = 0.0
    if driver.engine.ended and driver.engine.reopens:
        driver.open(retry=True)
        driver.run()
        assert driver.engine.ended is not None
        if not any(m.damaged or m.state is State.FAILED for m in driver.engine.tree.members):
            assert_stems(driver.engine)
            assert len(driver.engine.tree.generations[-1].ranking) == driver.settings.population


def test_slots_and_order_change_nothing() -> None:
    trees = [tree_of(Driver(along(4, 3), slots=slots, rng=random.Random(slots)).run()) for slots in (1, 2, 3, 8)]
    assert trees[0] == trees[1] == trees[2] == trees[3]


def test_the_noise_is_that_of_one_more_replay() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 5, 9, 10, 17, 30, 100, 1000):
        assert student(freedom) == pytest.approx(scipy.t.ppf(0.975, freedom), rel=2e-3)
    values = [3.0, 5.0, 4.0, 6.0]
    noise = spread(values)
    assert noise.mean == 4.5
    assert noise.sd == pytest.approx(statistics.stdev(values))
    reach = 3.182 * statistics.stdev(values) * 1.25**0.5
    assert (noise.low, noise.high) == (pytest.approx(4.5 - reach), pytest.approx(4.5 + reach))
    assert noise.holds(4.5 - reach + 1e-9)
    assert not noise.holds(4.5 - reach - 1e-6)
    assert spread([]) == Spread(None, None, None, None)
    assert spread([2.0]) == Spread(2.0, None, None, None)
    assert spread([2.0]).holds(2.0) is None
    for nothing in ([1.0, 2.0], [2.0, 2.0, 2.0]):  # too few, and seeds that change nothing: no verdict
        assert spread(nothing).low is None
        assert spread(nothing).holds(2.0) is None


def test_95_of_100_values_fall_within_the_bounds() -> None:
    """The interval holds its promise: 95 of 100 fresh draws lie inside, whatever the number of replays."""
    rng = random.Random(0)
    for n in (3, 5, 20):
        hits = sum(bool(spread([rng.gauss(0, 1) for _ in range(n)]).holds(rng.gauss(0, 1))) for _ in range(4000))
        assert 0.935 < hits / 4000 < 0.965


@pytest.mark.parametrize(
    ("score", "mode", "lies"),
    [
        (4.4, "min", "lies within the seed noise, 0.1 sd better than their mean"),
        (-1.0, "min", "lies outside the seed noise, 4.3 sd better than their mean"),
        (-1.0, "max", "lies outside the seed noise, 4.3 sd worse than their mean"),
        (10.0, "max", "lies outside the seed noise, 4.3 sd better than their mean"),
    ],
)
def test_the_verdict_in_text(score: float, mode: str, lies: str) -> None:
    scores = {(0, 0): 3.0, (1, 0): 5.0, (2, 0): 4.0, (3, 0): 6.0}
    s = along(2, 4, run="r", member=7, score=score, metrics={"loss": score, "test": 1.0}, of=12).replaced(mode=mode)
    driver = Driver(s, slots=2, rng=random.Random(0), score=lambda path, config: scores.get(path, 9.0))
    comparison = compared(driver.run())
    assert (comparison.n, comparison.fresh.mean, comparison.score) == (4, 4.5, score)
    assert comparison.metrics["test"].n == 0
    text = replay_text(comparison)
    assert lies in text
    assert "; 4 are few for this verdict: --seeds 5 is better" in text
    assert "r's member 7: loss" in text
    assert "the best of 12 by this score" in text


@pytest.mark.parametrize(
    ("scores", "original", "lies"),
    [
        ((3.0, 3.0, 3.0), 3.0, "this does not show the noise among seeds. It is the same"),
        ((3.0, 3.0), 3.5, "their seeds changed nothing: this does not show the noise among seeds. It is not the"),
        ((3.0, 4.0), 3.5, "two replays are too few to say whether the original lies within the noise"),
    ],
)
def test_no_verdict_where_there_is_no_noise(scores: tuple[float, ...], original: float, lies: str) -> None:
    s = along(2, len(scores), score=original, metrics={"loss": original})
    driver = Driver(s, slots=1, rng=random.Random(0), score=lambda path, _: scores[path[0]])
    comparison = compared(driver.run())
    assert comparison.within is None
    assert lies in (text := replay_text(comparison))
    assert "lies within" not in text.replace("whether the original lies within", "")
    assert "lies outside" not in text


def test_the_replay_with_the_originals_seeds_is_kept_apart() -> None:
    s = along(2, 3, own=True, score=3.0)
    for first, how in ((3.0, "exactly the same"), (3.5, "not the same: more than its seed decides")):
        driver = Driver(s, slots=1, rng=random.Random(0), score=lambda path, _, first=first: 5.0 if path[0] else first)
        comparison = compared(driver.run())
        assert comparison.same_seeds == SameSeeds(first, first == 3.0)
        assert comparison.n == 2
        assert comparison.fresh.mean == 5.0
        assert how in replay_text(comparison)


def test_one_replay_gives_no_noise_and_without_a_replay_the_run_fails() -> None:
    one = compared(Driver(along(2, 1, score=1.0), slots=1, rng=random.Random(0)).run())
    assert one.within is None
    assert "one replay does not show the noise among seeds: --seeds 5" in replay_text(one)
    failing = Driver(along(2, 3), slots=1, rng=random.Random(0), nan=1.0).run()
    assert failing.ended is not None
    assert failing.ended.reason.startswith("every member of generation 0 ended with a score that is not")
    late = Driver(along(2, 2), slots=1, rng=random.Random(0))
    late.open()
    while late.turn():
        late.nan = float(late.engine.tree.generations[0].complete)
    assert isinstance(late.engine.ended, events.Finish)
    assert late.engine.ended.reason.startswith("no replay came to its end")
    assert "replay 1 reached interval 1 and is failed there" in replay_text(compared(late.engine))


# ---- the command


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, runs/lineage-1, of a script beside it."""
    where = tmp_path_factory.mktemp("original")
    shutil.copy(LINEAGE, where)
    done = cli("launch", "lineage.py", "--slots", 2, "-q", cwd=where)
    assert done.status == 0, done.err
    return where


def copied(original: Path, tmp_path: Path) -> Path:
    no_fifo = shutil.ignore_patterns("control")
    shutil.copytree(original / "runs" / "lineage-1", tmp_path / "runs" / "lineage-1", symlinks=True, ignore=no_fifo)
    shutil.copy(original / "lineage.py", tmp_path)
    return tmp_path


def test_replay_trains_along_the_winning_schedule_in_a_run_of_its_own(original: Path) -> None:
    winner = json.loads((original / "runs" / "lineage-1" / "schedule.json").read_text())
    done = cli("replay", "lineage-1", "--seeds", 2, "--same-seeds", "--json", cwd=original)
    assert done.status == 0, done.err
    report, folder = done.json["replay"], original / "runs" / "lineage-1-replay-1"
    assert done.json["run"] == folder.name
    assert (report["run"], report["member"], report["score"]) == ("lineage-1", winner["member"], winner["score"])
    # the script is a function of its configs alone
    assert report["same_seeds"] == {"score": winner["score"], "exact": True}
    assert (report["n"], report["fresh"]["sd"], report["within"]) == (2, 0.0, None)
    assert json.loads((folder / "summary.json").read_text())["replay"] == report
    past = json.loads((folder / "best" / "checkpoint" / "past.json").read_text())
    assert past == [interval["config"] for interval in winner["schedule"]]
    own = [m["seed"] for m in json.loads((folder / "schedule.json").read_text())["schedule"]]
    assert own == [interval["seed"] for interval in winner["schedule"]]
    assert check_run(folder) == []
    again = cli("resume", folder.name, cwd=original)
    assert again.status == 0
    assert "with the original's own seeds: loss" in again.out
    assert "2 replays with fresh seeds" in again.out
    assert cli("replay", "lineage-1", "-q", "--seed", 5, "--name", "mine", cwd=original).status == 0
    seeds = [experiment(original, run)["settings"]["seed"] for run in ("mine", "lineage-1-replay-1")]
    assert seeds[0] == 5
    assert seeds[1] not in (0, 5)


def experiment(where: Path, run: str) -> dict:
    return json.loads((where / "runs" / run / "experiment.json").read_text())


def test_the_replay_of_a_running_run_warns_that_a_better_member_may_follow(original: Path, tmp_path: Path) -> None:
    where = copied(original, tmp_path)
    folder = where / "runs" / "lineage-1"
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"Closed"' in lines[-1]
    journal.write_bytes(b"".join(lines[:-1]))
    best = cli_here("best", "lineage-1", "--json", cwd=where).json["member"]
    with (folder / "lock").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = cli("replay", "lineage-1", cwd=where)
    assert done.status == 0, done.err
    best_so_far = f"the replay follows its best member so far, {best}; a better one may follow"
    assert f"lineage-1 is still running: {best_so_far}" in done.err
    done = cli("replay", "lineage-1", cwd=where)
    assert done.status == 0, done.err
    assert "is still running" not in done.err, "then it was interrupted"


def test_a_killed_replay_is_resumed(original: Path, tmp_path: Path) -> None:
    where = copied(original, tmp_path)
    folder = where / "runs" / "lineage-1-replay-1"
    process = start("replay", "lineage-1", "--seeds", "2", cwd=where, env={"TRAIN_SECONDS": "0.3"})
    until(lambda: facts(folder, "Published"))
    kill_hard(process)
    done = cli("resume", folder.name, "--json", cwd=where, env={**os.environ, "TRAIN_SECONDS": "0"})
    assert done.status == 0, done.err
    assert done.json["replay"]["n"] == 2
    assert check_run(folder) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lineage-1", "--seeds", "two"], "--seeds: got 'two'; must be a whole number from 1 to 1000"),
        (["lineage-1", "--seeds", "0"], "--seeds: got 0; must be from 1 to 1000"),
        (["lineage-1", "--seed", "-1"], "--seed: got -1; must be a whole number of at least 0"),
        (["lineage-1", "--name", "lineage-1"], "holds a run"),
        (["lineage-1", "--xid", "109=us", "--no-affinity"], "--xid 109=us: must be a number"),
        (["lineage-1", "--script", "nothing.py"], "does not exist"),
    ],
)
def test_a_run_without_a_schedule_to_replay_is_refused(original: Path, words: list[str], said: str) -> None:
    before = sorted(p.name for p in (original / "runs").iterdir())
    done = cli_here("replay", *words, cwd=original)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert sorted(p.name for p in (original / "runs").iterdir()) == before


def test_an_edited_script_is_replayed_only_with_changed_script(original: Path, tmp_path: Path) -> None:
    where = copied(original, tmp_path)
    (where / "lineage.py").write_text((where / "lineage.py").read_text() + "\n")
    refused = cli("replay", "lineage-1", "--script", "lineage.py", cwd=where)
    assert refused.status == 2
    assert "has changed since the run began" in refused.err
    done = cli("replay", "lineage-1", "--script", "lineage.py", "--changed-script", "-q", cwd=where)
    assert done.status == 0, done.err
    assert experiment(where, "lineage-1-replay-1")["script"] == str(where / "lineage.py")


def test_export_copies_the_model_and_its_origin(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    best = cli_here("best", "lineage-1", "--json", "--export", out, cwd=original).json
    names = {"README.txt", "checkpoint", "config.json", "lineage.json", "schedule.json"}
    assert {p.name for p in out.iterdir()} == names
    origin = json.loads((out / "lineage.json").read_text())
    manifest = json.loads((out / "checkpoint" / "manifest.json").read_text())
    assert origin["digest"] == manifest["digest"]
    assert (origin["run"], origin["best"], origin["score"]) == ("lineage-1", best["member"], best["score"])
    assert origin["id"] == experiment(original, "lineage-1")["run"]
    assert origin["settings"]["seed"] == 0
    assert [m["config"] for m in origin["ancestry"]] == best["schedule"] == list(Schedule.load(out))
    assert json.loads((out / "config.json").read_text()) == best["config"]
    text = (out / "README.txt").read_text()
    seeds = [str(m["seed"]) for m in origin["ancestry"]]
    for word in (origin["id"], origin["digest"], f"member {best['member']}", *seeds):
        assert word in text
    every = text + (out / "lineage.json").read_text() + (out / "schedule.json").read_text()
    assert str(original) not in every, "a place on this machine has left it"
