"""Trackers get everything once, whatever dies in between, and nothing they do changes a run."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import struct
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from engine_driver import Driver, settings
from harness import SCRIPTS, alive, check_folder, cli, facts, kill_hard, run_id, start, until

import gpbt_async as gpbt
from gpbt_async import events
from gpbt_async.engine.tree import State
from gpbt_async.storage.folder import RunFolder
from gpbt_async.storage.journal import Journal
from gpbt_async.storage.run_config import RunConfig
from gpbt_async.tracked import Ending, TrackedMember, TrackedRun, Tracker
from gpbt_async.trackers import client as client_module
from gpbt_async.trackers import follower as follower_module
from gpbt_async.trackers import registry, tracker_main

SCRIPT = SCRIPTS / "tracking.py"
MEMBERS, STEPS = 12, 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was tracked by what needs nothing installed."""
    place = tmp_path_factory.mktemp("tracked")
    done = cli("launch", SCRIPT, "--slots", 2, "--seed", 3, "--track", "jsonl", "--track", "csv:out", cwd=place)
    assert done.status == 0, done.err
    assert "warning" not in done.err
    folder = place / "runs" / "tracking-1"
    check_folder(folder, 4, 3)
    assert alive(run_id(folder)) == []
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree(folder: Path) -> dict[str, Any]:
    """The result of a synchronous run, without its times, its processes and the order members were numbered in."""
    result: dict[str, Any] = {}
    paths = {fact["member"]: fact["path"] for fact in facts(folder, "Started")}
    for fact in facts(folder):
        if fact["fact"] in ("Started", "Trained", "Published"):
            kept = {k: fact[k] for k in ("config", "score", "metrics", "size", "digest") if k in fact}
            result.setdefault(f"{paths[fact['member']]} {fact['fact']}", kept)
    summary = json.loads((folder / "summary.json").read_text())
    result["summary"] = {k: summary[k] for k in ("score", "generations", "best_metrics", "seed")}
    result["best"] = (folder / "best" / "checkpoint" / "x").read_bytes()
    result["schedule"] = [each["config"] for each in json.loads((folder / "schedule.json").read_text())["schedule"]]
    return result


def check_lines(rows: list[dict[str, Any]], folder: Path) -> None:
    """Everything of every member, once, and each lineage's steps without a gap."""
    each = [(line["event"], line["member"], line["attempt"], line.get("step")) for line in rows]
    assert len(each) == len(set(each))
    started = {f["member"]: f for f in facts(folder, "Started")}
    reported: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in rows:
        if line["event"] == "reported" and line["attempt"] == started[line["member"]]["attempt"]:
            reported[line["member"]].append(line)
    ended = [line for line in rows if line["event"] == "ended"]
    assert sorted(line["member"] for line in ended) == sorted(started)
    assert {line["member"]: line["score"] for line in ended} == {
        f["member"]: f["score"] for f in facts(folder, "Trained")
    }
    for member, begun in started.items():
        assert [line["step"] for line in reported[member]] == list(range(STEPS))
        written = lines(folder / "members" / f"{member:04}" / "metrics.jsonl")
        assert [{"t": line["t"], **line["metrics"]} for line in reported[member]] == written
        parent = begun["parent"]
        first = 0 if parent is None else reported[parent][-1]["lineage_step"] + 1
        assert [line["lineage_step"] for line in reported[member]] == list(range(first, first + STEPS))


def test_json_lines_hold_all_of_a_run_once(finished: Path) -> None:
    rows = lines(finished / "tracking" / "reports.jsonl")
    check_lines(rows, finished)
    of = {line["member"]: line for line in rows if line["event"] == "started"}
    for fact in facts(finished, "Started"):
        assert of[fact["member"]]["config"] == fact["config"]
        assert of[fact["member"]]["path"] == fact["path"]
        assert of[fact["member"]]["lineage"][-1] == fact["member"]
        if fact["parent"] is not None:
            assert of[fact["member"]]["lineage"][:-1] == of[fact["parent"]]["lineage"]


def test_csv_has_a_row_a_member_and_a_row_a_number(finished: Path) -> None:
    place = finished.parent.parent / "out" / finished.name
    with open(place / "members.csv", newline="") as file:
        members = list(csv.DictReader(file))
    with open(place / "reports.csv", newline="") as file:
        reports = list(csv.DictReader(file))
    assert len(members) == MEMBERS
    assert len((place / "members.csv").read_text().splitlines()) == MEMBERS + 1  # an option's line break is none here
    configs = {str(f["member"]): f["config"] for f in facts(finished, "Started")}
    for row in members:
        assert float(row["config.lr"]) == configs[row["member"]]["lr"]
        assert row["state"] == "finished"
    counted = [row for row in reports if row["attempt"] == ("2" if row["member"] == "2" else "1")]
    assert len(counted) == MEMBERS * STEPS * 2
    assert {row["metric"] for row in reports} == {"score", "loss"}
    assert sum(row["value"] == "nan" for row in counted) == MEMBERS


async def test_a_tracker_that_fails_in_any_way_leaves_the_result_as_it_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once: one warning each, the same tree, no process left, and the good one gets everything."""
    close = client_module._TrackerProcess.close

    async def less_patient(process: Any, _: float) -> None:
        """With the one that hangs; the others may take what they need on a loaded machine."""
        await close(process, 0.1 if str(process._spec) == "tracking:Hangs" else 60.0)

    monkeypatch.setattr(client_module._TrackerProcess, "close", less_patient)
    bad = [f"tracking:{name}" for name in ("Raises", "Hangs", "Dies", "Leaves", "NotThere")]
    track = [*bad, "jsonl:/dev/full", "tracking:Lingers", "jsonl"]
    monkeypatch.syspath_prepend(SCRIPTS)
    changes = {"seed": 3}
    async with gpbt.Run(SCRIPT, tmp_path / "run", slots=2, track=track, changes=changes) as run:
        await run.wait()
        assert run.how == "finished"
    assert tree(tmp_path / "run") == tree(finished)
    assert alive(run_id(tmp_path / "run")) == []
    assert len(run.warnings) == len(bad) + 1, run.warnings
    for spec, words in (
        ("tracking:Raises", "ValueError: no (in reported, 3 times)"),
        ("tracking:Hangs", "still at work"),
        ("tracking:Dies", "its process died"),
        ("tracking:Leaves", "SystemExit: enough"),
        ("tracking:NotThere", "NotThere"),
        ("jsonl:/dev/full", "No space left on device"),
    ):
        (warning,) = [text for text in run.warnings if text.startswith(f"tracker {spec}: ")]
        assert words in warning
        assert f"gpbt-async track {tmp_path / 'run'} --to {spec}" in warning
    check_lines(lines(tmp_path / "run" / "tracking" / "reports.jsonl"), tmp_path / "run")
    assert len((tmp_path / "run" / "tracking" / "lingers").read_text().splitlines()) == MEMBERS


def followers(folder: Path) -> list[int]:
    """The processes that report this run to a tracker."""
    found = []
    for pid in alive(run_id(folder)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"tracker_main" in words:
            found.append(pid)
    return found


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_reported_twice_or_lost_when_run_and_trackers_are_killed(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    env, kinds = {"HOLD": str(hold), "WANDB_MODE": "offline"}, ("jsonl", "tensorboard", "wandb")
    options = ("--slots", 2, "--schedule", "async", "--quiet", *(f"--track={kind}" for kind in kinds))
    run = start("launch", SCRIPT, *options, cwd=tmp_path, env=env)
    folder = tmp_path / "runs" / "tracking-1"
    reports, drawn = folder / "tracking" / "reports.jsonl", folder / "tracking" / "tensorboard" / "members"
    position = folder / "tracking" / "wandb.json"

    def reported(attempt: int) -> bool:
        """Has each tracker got the reports of the two members that wait now?"""
        text = reports.read_text() if reports.exists() else ""
        drawings = [path for path in drawn.glob("*/events*") if b"score" in path.read_bytes()]
        going = json.loads(position.read_text())["open"].values() if position.exists() else []
        heard = [each[2] for each in going if each[0] == attempt]
        return text.count(f'"attempt":{attempt},"t"') >= 4 and len(drawings) >= 2 * attempt and heard == [1, 1]

    until(lambda: reported(1))
    kill_hard(run)
    until(lambda: alive(run_id(folder)) == [])
    # again, and now the trackers' processes are killed, after they have reported and perhaps before that is kept
    run = start("resume", "tracking-1", cwd=tmp_path, env=env)
    until(lambda: reported(2))
    for follower in followers(folder):
        os.kill(follower, signal.SIGKILL)
    hold.unlink()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert err.count("warning") == err.count("its process died") == len(kinds)
    assert alive(run_id(folder)) == []
    for _ in range(2):  # the second time there is nothing left to report
        for kind in ("jsonl", "tensorboard"):
            tracker_main.TrackerFeed(RunFolder(folder), registry.parse(kind), lambda: False, lambda _: None).run()
        check_lines(lines(reports), folder)
        check_tensorboard(folder)
    done = cli("track", "tracking-1", "--to", "wandb", cwd=tmp_path, env=env)
    assert done.status == 0, done.err
    check_wandb(folder)


class Cut(Exception):
    pass


def fed_in_pieces(folder: RunFolder, spec: registry.Spec, patch: pytest.MonkeyPatch) -> int:
    """Report all of a run, cut off at random, before or after the position is kept; how often it was cut off."""
    patch.setattr(follower_module, "FACTS", 5)
    patch.setattr(follower_module, "PIECE", 100)
    chance = random.Random(5)
    for cuts in range(1000):
        left = chance.randrange(1, 12)
        patch.setattr(tracker_main, "KEEP", chance.choice([0.0, 1e9]))

        def tick() -> bool:
            nonlocal left
            left -= 1
            if not left:
                raise Cut
            return False

        with contextlib.suppress(Cut):
            tracker_main.TrackerFeed(folder, spec, tick, lambda _: None).run()
            return cuts
    raise AssertionError("it never comes to the end")


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> RunFolder:
    """The same run, which no tracker has got yet."""
    (tmp_path / finished.name).mkdir()
    for entry in finished.iterdir():
        if entry.name != "tracking":
            (tmp_path / finished.name / entry.name).symlink_to(entry)
    return RunFolder(tmp_path / finished.name)


def snapshot(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_feed_that_is_cut_off_anywhere_continues_where_it_was(
    finished: Path, again: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    spec = registry.parse(f"{kind}:{tmp_path / 'out'}")
    assert fed_in_pieces(again, spec, monkeypatch) > 2

    def check() -> None:
        if kind == "jsonl":
            check_lines(lines(tmp_path / "out"), finished)
            return
        for name in ("members.csv", "reports.csv"):
            here = (tmp_path / "out" / finished.name / name).read_text().splitlines()
            theirs = (finished.parent.parent / "out" / finished.name / name).read_text().splitlines()
            # reports of an attempt that does not count are passed on only if they were read in time
            assert set(here) <= set(theirs)
            assert len(here) == len(set(here))
            assert len(set(theirs) - set(here)) <= 2

    check()
    # a power failure took facts that were reported, and others stand there instead; and a position that is no JSON
    (position,) = again.tracking.glob("*.json")
    for text in (json.dumps(json.loads(position.read_text()) | {"last": "Started 1.5"}), "{", "[]"):
        position.write_text(text)
        tracker_main.TrackerFeed(again, spec, lambda: False, lambda _: None).run()
        check()


class Recorder(Tracker):
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.runs: list[Any] = []
        self.endings: dict[int, Any] = {}

    def opened(self, run: Any) -> None:
        self.runs.append(run)

    def started(self, member: Any) -> None:
        self.calls.append(("started", member.id, member.attempt, member.at))

    def reported(self, member: Any, step: int, metrics: Any, t: float) -> None:
        self.calls.append(("reported", member.id, member.attempt, step, metrics.get("score")))

    def ended(self, member: Any, ending: Any) -> None:
        self.calls.append(("ended", member.id, member.attempt, ending.state))
        self.endings[member.id] = ending


def test_a_second_attempt_is_not_taken_for_the_first(finished: Path, tmp_path: Path) -> None:
    """A follower that lags meets the second attempt's file under the first one's name."""
    copy = RunFolder(tmp_path / "run")
    copy.path.mkdir()
    (copy.path / "experiment.json").write_bytes((finished / "experiment.json").read_bytes())
    (copy.path / "members").symlink_to(finished / "members")
    written = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    recorder = Recorder()
    follower = follower_module.Follower(copy, recorder, tmp_path)
    follower.begin()
    with open(copy.journal, "ab") as journal:
        for line in written:  # the journal grows a fact at a time, while the files are those of the end
            journal.write(line)
            journal.flush()
            while follower.turn():
                pass
    of_two = [call for call in recorder.calls if call[1] == 2]
    scores = [line["score"] for line in lines(finished / "members" / "0002" / "metrics.jsonl")]
    second = of_two.index(("started", 2, 2, 0))
    assert of_two[second + 1 :] == [
        *(("reported", 2, 2, step, score) for step, score in enumerate(scores)),
        ("ended", 2, 2, "finished"),
    ]
    late = Recorder()
    follower = follower_module.Follower(RunFolder(finished), late, tmp_path)
    follower.begin()
    while follower.turn():
        pass
    assert [call for call in late.calls if call[1] == 2] == of_two[second:]


def test_reports_that_were_deleted_are_replaced_by_the_journals_last_ones(finished: Path, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "run")
    copy.members.mkdir(parents=True)
    for name in ("experiment.json", "journal.jsonl"):
        (copy.path / name).write_bytes((finished / name).read_bytes())
    recorder = Recorder()
    follower = follower_module.Follower(copy, recorder, tmp_path)
    follower.begin()
    while follower.turn():
        pass
    scores = {f["member"]: f["score"] for f in facts(finished, "Trained")}
    assert {call[1]: call[4] for call in recorder.calls if call[0] == "reported"} == scores


def test_two_processes_do_not_feed_one_tracker_at_once(finished: Path) -> None:
    spec = registry.parse("jsonl")
    again = tracker_main.TrackerFeed(RunFolder(finished), spec, lambda: False, lambda _: None)
    first = tracker_main.TrackerFeed(RunFolder(finished), spec, lambda: again.run() is None, lambda _: None)
    with pytest.raises(gpbt.FolderError, match="another process reports tracking-1 to jsonl already"):
        first.run()


def test_what_cannot_work_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("launch", SCRIPT, "--track", "nonsense", cwd=tmp_path)
    assert done.status == 2
    assert "must be one of jsonl, csv, tensorboard, mlflow, wandb" in done.err
    assert len(done.err.strip().splitlines()) == 1
    for track, words in (("nothere:Name", "there is no module nothere"), ("csv:/proc/x", "/proc/x cannot be made")):
        with pytest.raises(gpbt.ExperimentError, match=words):
            asyncio.run(gpbt.launch(SCRIPT, tmp_path / "x", track=[track]))
    monkeypatch.setattr(registry, "_installed", lambda package: False)
    with pytest.raises(
        gpbt.MissingExtra, match=r"needs mlflow, which is not installed: pip install 'gpbt-async\[mlflow\]'"
    ):
        asyncio.run(gpbt.launch(SCRIPT, tmp_path / "x", track=["mlflow"]))
    assert [path.name for path in tmp_path.iterdir()] == []


OWN = """
import json, os, random
class Mine:
    def suggest(self, ask):
        return {"x": random.Random(ask.seed).random()}
class Told:
    def opened(self, run):
        self.place = run.place
    def ended(self, member, ending):
        with open(self.place / "told", "a") as file:
            file.write(f"{member.id} ")
"""
AFAR = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent / "lib"))
import gpbt_async as gpbt
def train(member):
    member.report(score=member.config["x"])
experiment = gpbt.Experiment(train, space={"x": gpbt.Float(0, 1)}, score="score", mode="max", population=2,
    generations=1, resources=gpbt.Resources(gpus=0), searcher="mine:Mine")
"""


def test_a_script_may_say_where_its_searcher_and_tracker_are(tmp_path: Path) -> None:
    for place in ("there/lib", "here"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "there" / "lib" / "mine.py").write_text(OWN)
    (tmp_path / "there" / "afar.py").write_text(AFAR)
    names = ("launch", tmp_path / "there" / "afar.py", "--slots", 1, "--quiet", "--track")
    done = cli(*names, "mine:Told", cwd=tmp_path / "here")
    assert (done.status, done.err) == (0, "")
    told = tmp_path / "here" / "runs" / "afar-1" / "tracking" / "told"
    assert sorted(told.read_text().split()) == ["0", "1"]
    shutil.rmtree(told.parent)
    done = cli("track", tmp_path / "here" / "runs" / "afar-1", "--to", "mine:Told", cwd=tmp_path)
    assert done.status == 0, done.err
    assert sorted(told.read_text().split()) == ["0", "1"]
    done = cli(*names, "mein:Told", cwd=tmp_path / "here")
    assert done.status == 2
    assert "--track mein:Told: there is no module mein; the trackers of our own are" in done.err
    assert os.listdir(tmp_path / "here" / "runs") == ["afar-1"], "a refusal leaves nothing"
    before = sorted(os.listdir(told.parent))
    for to, words in (("mein:Told", "there is no module mein"), ("math:Nope", "there is no Nope in the module math")):
        done = cli("track", "afar-1", "--to", to, cwd=tmp_path / "here")
        assert done.status == 2
        assert f"--to {to}: {words}" in done.err
    assert sorted(os.listdir(told.parent)) == before
    again = cli("replay", "afar-1", cwd=tmp_path / "here")
    assert "the replay reports to mine:Told, as afar-1 does; --track none prevents that" in again.err


def test_a_call_that_does_not_return_is_reported_once() -> None:
    class Hung:
        during = ("reported", -1e9)

    class Now(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return False

    said: list[dict[str, Any]] = []
    tracker_main._watch(Hung(), said.append, Now())  # type: ignore[arg-type]
    assert said == [{"trouble": "it has not returned from reported for 60 s"}]


def test_a_damaged_position_is_replaced(finished: Path, tmp_path: Path) -> None:
    whole = {"format": 1, "run": run_id(finished), "facts": 1, "last": "", "open": {}, "kept": 3}
    for position in ({}, {**whole, "run": "x"}, {**whole, "facts": "many"}, whole, {**whole, "facts": 10**6}):
        recorder = Recorder()
        follower_module.Follower(RunFolder(finished), recorder, tmp_path, position).begin()
        assert [(run.again, run.kept) for run in recorder.runs] == [(True, None)]


@pytest.mark.parametrize("seed", range(12))
def test_every_started_member_ends_as_in_the_engine(tmp_path: Path, seed: int) -> None:
    """Attempts fail, are lost, lose their parent's checkpoint; schedulers die. Told a few facts at a time."""
    faults = {"fail": 0.15, "nan": 0.1, "lose": 0.1, "damage": 0.06} if seed else {}
    chance = random.Random(seed)
    early = ("median",) if seed % 2 else ()
    declared = settings(
        population=6, generations=3, attempts=2, early_stop=early, selection=chance.choice(["comma", "plus"])
    )
    driver = Driver(declared, slots=3, rng=chance, timed=True, **faults)
    driver.open()
    while driver.turn():
        if seed and chance.random() < 0.03:
            driver.open()
    folder = RunFolder(tmp_path)
    asyncio.run(RunConfig("id", str(tmp_path), declared).write(folder.experiment))
    recorder = Recorder()
    follower = follower_module.Follower(folder, recorder, tmp_path)
    follower.begin()
    with Journal.open(folder.journal) as journal:
        for fact in driver.facts:
            journal.append(fact)
            while chance.random() < 0.3 and follower.turn():
                pass
    while follower.turn():
        pass
    last = {call[1]: call for call in recorder.calls}
    began = {f.member for f in driver.facts if isinstance(f, events.Started)}
    assert last.keys() == began
    for id in began:
        member = driver.engine.tree.members[id]
        assert last[id] == ("ended", id, last[id][2], member.state.value)
        assert last[id][2] <= member.attempt
        of = [call[0] for call in recorder.calls if call[1] == id]
        assert of.count("ended") == 1
        if member.state is State.FINISHED:  # there is no file: what it reported last stands in the journal
            assert of[-2:] == ["reported", "ended"]
    ends = {f.member: f.metrics for f in driver.facts if isinstance(f, events.Trained | events.StoppedEarly)}
    for id, ending in recorder.endings.items():
        assert ending.metrics == ends.get(id, {}) or ending.state == "failed"


def test_specs() -> None:
    here = os.getcwd()
    for text, meant in (
        ("jsonl", "jsonl"),
        ("csv:out", f"csv:{here}/out"),
        ("mlflow:sqlite:///x.db", "mlflow:sqlite:///x.db"),
        ("mlflow:runs", f"mlflow:{here}/runs"),
        ("package.module:Name", "package.module:Name"),
    ):
        spec = registry.parse(text)
        assert str(spec) == meant
        assert registry.parse(str(spec)) == spec
    assert registry.parse_all(["none"]) == []
    with pytest.raises(gpbt.ExperimentError, match="--track none --track csv: none stands alone"):
        registry.parse_all(["none", "csv"])
    for text in ("csv:", "a b", "tensorboard-x", "none", ":", "module:", "mod-ule:Name"):
        with pytest.raises(gpbt.ExperimentError, match="--track"):
            registry.parse(text)


# ---- those that need a package: fed in this process, in pieces, so that each continues where it was


@pytest.mark.filterwarnings("ignore")
def test_tensorboard(again: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fed_in_pieces(again, registry.parse("tensorboard"), monkeypatch) > 2
    check_tensorboard(again.path)


def check_tensorboard(folder: Path) -> None:
    """Every member is there once, by itself and in its lineage."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = folder / "tracking" / "tensorboard"
    ends = {f["member"]: f["score"] for f in facts(folder, "Trained")}
    for fact in facts(folder, "Started"):
        name = f"{fact['member']:04}"
        own, engine = (EventAccumulator(str(place / view / name)).Reload() for view in ("members", "lineages"))
        offset = fact["path"].count("/") * STEPS
        assert [point.step for point in own.Scalars("score")] == [0, 1, 2]
        assert [point.step for point in engine.Scalars("score")] == [offset, offset + 1, offset + 2]
        assert own.Scalars("gpbt/score")[-1].value == pytest.approx(ends[fact["member"]])
        assert [p.value for p in engine.Scalars("config/lr")] == pytest.approx([fact["config"]["lr"]] * STEPS)
        assert set(own.PluginTagToContent("hparams")) == {
            "_hparams_/session_start_info",
            "_hparams_/session_end_info",
        }


@pytest.mark.filterwarnings("ignore")
def test_mlflow(again: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    spec, store = registry.parse("mlflow"), again.tracking / "mlflow"
    assert fed_in_pieces(again, spec, monkeypatch) > 2
    client = MlflowClient(store.as_uri())
    started = {str(f["member"]): f for f in facts(again.path, "Started")}

    def check() -> None:
        runs = client.search_runs([client.get_experiment_by_name(again.name).experiment_id])
        assert sorted(run.data.tags["gpbt.member"] for run in runs) == sorted(started)
        for run in runs:
            fact = started[run.data.tags["gpbt.member"]]
            offset = fact["path"].count("/") * STEPS
            assert run.info.status == "FINISHED"
            assert run.data.tags["gpbt.parent"] == ("" if fact["parent"] is None else str(fact["parent"]))
            assert run.data.params == {name: str(value) for name, value in fact["config"].items()}
            for name, steps in (
                ("score", [0, 1, 2]), ("lineage/score", [offset, offset + 1, offset + 2]), ("gpbt.score", [0]),
            ):  # fmt: skip
                history = client.get_metric_history(run.info.run_id, name)
                assert [point.step for point in history] == steps

    check()
    # a store that was killed while it created a run, and a file; and the position is lost
    (half,) = (path.parent.parent for path in store.glob("*/*/tags/gpbt.member") if path.read_text() == "5")
    (half / "tags" / "gpbt.whole").unlink()
    (half / "meta.yaml").write_text("")
    (other,) = (path.parent.parent for path in store.glob("*/*/tags/gpbt.member") if path.read_text() == "6")
    (other / "metrics" / "score").write_text("")
    (again.tracking / "mlflow.json").write_text("{")
    tracker_main.TrackerFeed(again, spec, lambda: False, lambda _: None).run()
    check()


@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_run_of_an_attempt_that_does_not_count_is_put_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is lost with the scheduler and the tracker, the second fails, and the third after a --retry-failed."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # as the tracker does: this client comes before it
    from mlflow.tracking import MlflowClient

    from gpbt_async.trackers.mlflow import MLflow

    run = TrackedRun("0a", "r-1", tmp_path, tmp_path, "score", "max", {"command": None})
    client = MlflowClient((tmp_path / "store").as_uri())

    def kept() -> tuple[str, str, list[int]]:
        (there,) = client.search_runs([client.get_experiment_by_name("r-1").experiment_id])
        points = client.get_metric_history(there.info.run_id, "score")
        return there.data.tags["gpbt.attempt"], there.info.status, [point.step for point in points]

    for attempt, state in ((1, ""), (2, "failed"), (3, "finished")):
        one = MLflow(str(tmp_path / "store"))
        one.opened(dataclasses.replace(run, kept={} if attempt > 1 else None))
        member = TrackedMember("r-1", 4, "4", 0, None, (4,), {"lr": 0.5}, 1, attempt, 10.0 * attempt)
        if attempt == 2:
            one.started(dataclasses.replace(member, attempt=1, t=10.0, known=True, at=2))
        one.started(member)
        for step in range(2):
            one.reported(member, step, {"score": 1.0}, 10.0 * attempt + 1)
        if state:
            one.ended(member, Ending(state, None if state == "failed" else 1.0, 10.0 * attempt + 2))
            one.closed({})
        else:
            one.keep()
        assert kept() == (str(attempt), {"failed": "FAILED", "finished": "FINISHED"}.get(state, "RUNNING"), [0, 1])


def check_wandb(folder: Path) -> None:
    """Every attempt that counts is there once and whole, though what W&B's service had in its memory was killed."""
    histories: dict[str, list[Any]] = {}
    for log in (folder / "tracking" / "wandb" / "wandb").glob("offline-run-*/run-*.wandb"):
        name = log.stem.partition(f"run-{run_id(folder)}-")[2]
        assert name not in histories
        histories[name] = wandb_history(log)
    for fact in {f["member"]: f for f in facts(folder, "Started")}.values():
        name = f"{fact['member']:04}-{fact['attempt']}".removesuffix("-1")
        first = fact["path"].count("/") * STEPS
        steps = [(row["_step"], row["lineage_step"], row["config/lr"]) for row in histories[name]]
        assert steps == [(step, first + step, fact["config"]["lr"]) for step in range(STEPS)]


def wandb_history(log: Path) -> list[dict[str, Any]]:
    """The reports in one of W&B's files, which is a log as LevelDB writes them, of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record as WandBRecord

    data, at, whole, rows = log.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the last part of a record
            record = WandBRecord()
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows
