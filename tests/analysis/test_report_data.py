"""A run's report: its data against the summary and the journal, the page, the table, the ancestry."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from harness import SCRIPTS, cli, facts
from hostile import EVIL, hostile
from run_factory import EPOCH, embellished, settings, simulated, write

from gpbt_async import events
from gpbt_async.analysis import logs
from gpbt_async.analysis.importance import importances
from gpbt_async.analysis.reader import RunReader
from gpbt_async.analysis.report_data import report_data
from gpbt_async.analysis.run_summary import schedule
from gpbt_async.analysis.table import table
from gpbt_async.cli.app import main
from gpbt_async.declaration import run_options
from gpbt_async.engine.tree import Node, State
from gpbt_async.space import Choice, Float, Space
from gpbt_async.storage.folder import RunFolder
from gpbt_async.ui import html_report

if TYPE_CHECKING:
    from pathlib import Path

    from gpbt_async.events import Fact


def read(folder: RunFolder) -> RunReader:
    return RunReader(folder, history=True)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of real processes: 6 members, 4 generations."""
    place = tmp_path_factory.mktemp("real")
    done = cli("launch", SCRIPTS / "lineage.py", "--slots", 2, "--name", "it", "--quiet", cwd=place)
    assert done.status == 0, done.err
    return RunFolder.open(place / "runs" / "it")


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[Fact]]:
    """A simulated run that was killed twice and lay still, with failures: 20 members, 5 generations."""
    s = settings(population=20, generations=5)
    run_facts = embellished(simulated(s, 4, fail=0.15, crashes=[300.0, 900.0]).facts, pause=40_000.0)
    return write(tmp_path_factory.mktemp("rich") / "rich", s, run_facts, members=30), run_facts


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """`gpbt-async ARGS` in this process: status, stdout, stderr."""
    before, sys.argv = sys.argv, ["gpbt-async", *map(str, args)]
    try:
        main()
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        sys.argv, run_options.on_command_line = before, False
    output = capsys.readouterr()
    return status, output.out, output.err


# ---- the report's data


@pytest.mark.slow
def test_the_data_agrees_with_summary_and_journal(real: RunFolder) -> None:
    data = report_data(read(real))
    summary = json.loads(real.summary.read_text())
    assert {k: data["summary"][k] for k in summary if k in data["summary"]} == {
        k: v for k, v in summary.items() if k in data["summary"]
    }
    assert set(data["summary"]) <= set(summary)
    m = data["members"]
    for fact in facts(real.path, "Started"):
        id = fact["member"]
        assert (m["parent"][id], m["slot"][id]) == (fact["parent"], fact["slot"])
        assert m["index"][id] == int(fact["path"].split("/")[-1])
        assert {d["name"]: m["config"][i][id] for i, d in enumerate(data["space"])} == fact["config"]
    for fact in facts(real.path, "Trained"):
        id = fact["member"]
        assert (m["score"][id], m["seconds"][id]) == (fact["score"], fact["seconds"])
        assert {n: m["metrics"][i][id] for i, n in enumerate(data["metrics"])} == fact["metrics"]
    best = min((f for f in facts(real.path, "Trained")), key=lambda f: f["score"])
    assert data["lineage"][-1] == best["member"] == data["best"]["member"][-1] == summary["best_member"]
    assert [m["generation"][id] for id in data["lineage"]] == list(range(len(data["lineage"])))
    schedule = json.loads(real.schedule.read_text())["schedule"]
    assert data["lineage"] == [step["member"] for step in schedule]
    assert sorted(m["order"]) == list(range(1, 25))
    json.dumps(data)


def test_each_slot_second_is_counted_once(rich: tuple[RunFolder, list[Fact]]) -> None:
    folder, told_facts = rich
    reading = read(folder)
    data = report_data(reading)
    t, total = data["timeline"], data["summary"]
    assert sum(e - b for b, e in zip(t["busy"]["begin"], t["busy"]["end"], strict=True)) == pytest.approx(
        total["busy_s"]
    )
    for cause, seconds in total["idle_s"].items():
        assert sum(t["parts"][cause]) == pytest.approx(seconds, abs=1e-6)
        drawn = sum(e - b for b, e in zip(t["idle"][cause]["begin"], t["idle"][cause]["end"], strict=True))
        assert drawn <= seconds + 1e-6
    assert sum(t["parts"]["busy"]) == pytest.approx(total["busy_s"])
    for slot in range(4):  # a slot trains one member at a time
        spans = [
            (b, e) for s, b, e in zip(t["busy"]["slot"], t["busy"]["begin"], t["busy"]["end"], strict=True) if s == slot
        ]
        assert all(end <= begin + 1e-6 for (_, end), (begin, _) in pairwise(spans))
    # the days between the sessions are left out, and nothing else is
    assert len(t["sessions"]) == 3
    assert t["total"] == pytest.approx(told_facts[-1].t - EPOCH - 80_000, abs=200)
    lost = sum(isinstance(f, events.Lost) for f in told_facts) + sum(a.how == "lost" for a in reading.history.attempts)
    assert data["failures"]["attempts"] == {
        "failed": sum(isinstance(f, events.Failed) for f in told_facts),
        "lost": lost,
        "no score": 0,
    }
    assert lost == total["members"]["lost"] > 0


def test_families_stand_together_in_the_order_of_their_parents(rich: tuple[RunFolder, list[Fact]]) -> None:
    m = report_data(read(rich[0]))["members"]
    for generation in range(1, 5):
        ids = sorted((i for i, g in enumerate(m["generation"]) if g == generation), key=lambda i: m["place"][i])
        assert [m["place"][i] for i in ids] == list(range(len(ids)))
        parents = [m["place"][m["parent"][i]] for i in ids]
        assert parents == sorted(parents)


@pytest.mark.parametrize("facts_told", [0, 1, 5, 60])
def test_a_run_that_has_just_begun_or_was_interrupted(tmp_path: Path, facts_told: int) -> None:
    s = settings(population=8, generations=3)
    folder = write(tmp_path / "part", s, embellished(simulated(s, 2).facts)[:facts_told])
    data = report_data(read(folder))
    assert data["run"]["state"] == "interrupted"
    page = html_report.write(folder).read_text()
    assert 'id="report_data"' in page
    assert "training" not in data["members"]["state"]


def test_two_members_and_a_run_that_failed(tmp_path: Path) -> None:
    s = settings(population=2, generations=1)
    data = report_data(read(write(tmp_path / "two", s, embellished(simulated(s, 1, fail=0.0).facts))))
    assert (len(data["members"]["score"]), len(data["lineage"])) == (2, 1)
    s = settings(population=8, generations=2)
    folder = write(tmp_path / "fails", s, embellished(simulated(s, 2, fail=1.0).facts))
    data = report_data(read(folder))
    assert data["run"]["state"] == "failed"
    assert data["run"]["reason"]
    assert data["lineage"] == []
    assert data["failures"]["attempts"]["failed"] > 0
    html_report.write(folder)


def test_the_data_of_a_running_run(tmp_path: Path) -> None:
    s = settings(population=8, generations=3)
    folder = write(tmp_path / "on", s, embellished(simulated(s, 2).facts)[:40])
    with folder.journal.open("ab") as file:
        file.write(b'{"n": 40, "fact": "Tra')  # being written
    holder = os.open(folder.lock_file, os.O_RDWR | os.O_CREAT)
    import fcntl

    fcntl.flock(holder, fcntl.LOCK_EX)
    data = report_data(read(folder))
    os.close(holder)
    assert data["run"]["state"] == "running"
    slots = [m.slot for m in read(folder).engine.training]
    assert data["members"]["state"].count("training") == len(slots) - slots.count(None) > 0


# ---- importance


def _member(id: int, parent: Node | None, config: dict[str, Any], loss: float) -> Node:
    member = Node(id, (), id, 0 if parent is None else 1, parent, config, 0, State.FINISHED)
    member.loss = member.score = loss
    return member


def test_importance_is_measured_among_siblings_whatever_they_inherited() -> None:
    import random

    rng = random.Random(1)
    space = Space({"up": Float(0, 1), "bowl": Float(0, 1), "idle": Float(0, 1), "kind": Choice(["a", "b"])})
    parents = [_member(i, None, space.sample(rng), float(i)) for i in range(6)]
    children = []
    for i in range(240):
        parent, config = parents[i % 6], space.sample(rng)
        loss = (
            10 * parent.loss
            - float(config["up"])
            + 4 * (float(config["bowl"]) - 0.5) ** 2
            + 0.2 * (config["kind"] == "a")
        )  # type: ignore[arg-type]
        children.append(_member(6 + i, parent, config, loss))
    together, none, below = importances([parents, children], space)
    assert none.shares == (None,) * 4  # six members: too few
    assert none.parent is None
    up, bowl, idle, kind = (share or 0.0 for share in below.shares)
    assert min(up, bowl) > 0.2 > 0.06 > idle
    assert kind > 0.0
    assert below.parent == pytest.approx(1.0, abs=0.03)
    assert below.trends[0] is not None
    assert below.trends[0] > 0.4  # more is better
    assert abs(below.trends[1] or 0.0) < 0.2
    assert (together.shares[0] or 0.0) > 0.1 > (together.shares[2] or 0.0)


# ---- what members left


def test_only_regular_files_and_printable_characters_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_text("password\n")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    for name in ("pipe", "link", "missing"):
        assert logs.log_tail(tmp_path / name, 100) == ""
        assert logs.curve(tmp_path / name, "loss", 9) == []
    log = tmp_path / "log.txt"
    log.write_bytes(b"x" * 5000 + b"\nstep 1\rstep 2\r\n\x1b[31mred\xff \xe2\x80\xae\nlast\n")
    assert logs.log_tail(log, 60) == "step 2\n�[31mred� �\nlast"
    (tmp_path / "m").write_text('{"loss": 1}\nnot json\n[]\n{"loss": "x"}\n{"loss": "NaN"}\n' + '{"loss": 3}\n' * 50)
    values = logs.curve(tmp_path / "m", "loss", 5)
    assert len(values) == 5
    assert values[0] == 1.0
    assert values[-1] == 3.0


def test_a_traceback_is_found_in_the_end_of_a_log() -> None:
    log = "epoch 1\nTraceback (most recent call last):\n  File \"a.py\", line 1\n    x\nKeyError: 'x'\nafter\n"
    assert logs.traceback_of(log).splitlines()[-1] == "KeyError: 'x'"
    assert logs.traceback_of("nothing") == ""


# ---- the page


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.held: dict[str, str] = {}
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = str(dict(attrs).get("id") or tag)

    def handle_data(self, data: str) -> None:
        self.held[self._in] = self.held.get(self._in, "") + data


def _alone(page: Page) -> None:
    """Nothing is fetched, no handler stands in the page, and only the scripts that are named run."""
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "data", "action", "poster", "srcset"):
                assert str(value).startswith("#")
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split(";")[1]
    assert "http" not in policy


def test_the_page_needs_no_other_file_and_holds_the_data(rich: tuple[RunFolder, list[Fact]], tmp_path: Path) -> None:
    folder = rich[0]
    path = html_report.write(folder, tmp_path / "x.html")
    page = Page(path.read_text())
    _alone(page)
    held = json.loads(page.held["report_data"])
    data = report_data(read(folder))
    assert held["members"]["parent"] == data["members"]["parent"]
    assert held["summary"]["score"] == pytest.approx(data["summary"]["score"], rel=1e-6)
    assert dict(held["remains"]["logs"])[data["lineage"][0]].startswith("epoch")
    assert [len(values) for _, values in held["remains"]["curves"]][:3] == [8, 8, 8]
    assert [p.name for p in tmp_path.iterdir()] == ["x.html"]
    assert path.stat().st_size < 6e6


@pytest.mark.parametrize("selection", ["comma", "plus"])
def test_members_that_were_stopped_early_are_shown(tmp_path: Path, capsys: Any, selection: str) -> None:
    s = settings(population=12, generations=6, selection=selection, early_stop=("median", "generation"))
    run_facts = embellished(simulated(s, 4).facts)
    folder = write(tmp_path / "it", s, run_facts)
    stopped = [fact.member for fact in run_facts if isinstance(fact, events.StoppedEarly)]
    assert len(stopped) > 5
    detail = run(capsys, "status", folder.path, "--json")
    generations = json.loads(detail[1])["generations"]
    members = read(folder).engine.tree.members
    for i, g in enumerate(generations):
        assert g["stopped"] == sum(members[id].generation == i for id in stopped)
        assert g["finished"] + g["stopped"] + g["failed"] == sum(m.generation == i for m in members)
    most = max(generations, key=lambda g: g["stopped"])
    line = f"generation {most['generation']:>3}: {most['finished']:>4} finished of 12, {most['stopped']} stopped"
    assert line in run(capsys, "status", folder.path)[1]
    page = Page(html_report.write(folder, tmp_path / "x.html").read_text())
    held = json.loads(page.held["report_data"])["members"]
    assert [id for id, state in enumerate(held["state"]) if state == "stopped"] == sorted(stopped)
    assert not set(stopped) & set(held["parent"]), "never a parent"


def test_no_name_or_text_of_the_user_becomes_markup(tmp_path: Path) -> None:
    s = hostile(settings(population=6, generations=2))
    run_facts = []
    for fact in embellished(simulated(s, 2, fail=0.3).facts):
        if isinstance(fact, events.Trained):
            fact = replace(fact, metrics={EVIL: fact.score, "__proto__": 1.0})
        elif isinstance(fact, events.Failed):
            fact = replace(fact, reason=EVIL)
        run_facts.append(fact)
    folder = write(tmp_path / "evil", s, run_facts, members=12)
    for id in range(12):
        folder.member(id).path.mkdir(exist_ok=True)
        folder.member(id).log.write_text(EVIL + "\n")
    page = Page(html_report.write(folder).read_text())
    _alone(page)
    benign = Page(html_report.write(write(tmp_path / "good", settings(population=6, generations=2), [])).read_text())
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in benign.tags]
    held = json.loads(page.held["report_data"])
    assert held["run"]["metric"] == EVIL
    assert held["space"][0]["name"] == EVIL + "lr"
    assert any("onerror" in text for _, text in held["remains"]["logs"])
    assert "alert(1)" not in "".join(text for where, text in page.held.items() if where != "report_data")


def test_our_scripts_set_text_only() -> None:
    for script in html_report.SCRIPTS:
        text = html_report.asset(script)
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
        ):
            assert word not in text.replace("http://www.w3.org/2000/svg", ""), f"{word} in {script}"


# ---- the command line


def test_the_report_from_the_command_line(
    rich: tuple[RunFolder, list[Fact]], capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = rich[0]
    status, out, _ = run(capsys, "report", folder.path)
    assert (status, out.strip()) == (0, str(folder.report))
    status, _, err = run(capsys, "report", folder.path, "--out", tmp_path)
    assert status == 2
    assert f"--out {tmp_path}: is a folder; give" in err
    status, _, err = run(capsys, "report", folder.path, "--out", tmp_path / "no" / "x.html")
    assert status == 2
    assert "there is no folder" in err
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    status, _, err = run(capsys, "report", folder.path, "--open")
    assert status == 1
    assert "no browser" in err
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    status, out, err = run(capsys, "report", folder.path)
    assert (status, out) == (2, "")
    assert "plotly" in err
    assert "pip install 'gpbt-async[report]'" in err
    assert len(err.splitlines()) == 1
    status, _, err = run(capsys, "report", "nonesuch", "--runs", tmp_path)
    assert status == 2
    assert "no run at" in err


def test_every_member_is_exported(
    rich: tuple[RunFolder, list[Fact]], capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, told_facts = rich
    columns = table(read(folder))
    trained = {f.member: f for f in told_facts if isinstance(f, events.Trained)}
    capsys.readouterr()
    target = tmp_path / "m.csv"
    assert run(capsys, "export", folder.path, "--out", target)[0] == 0
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert len(rows) == 100 == len(columns["member"])
    for id, fact in trained.items():
        assert float(rows[id]["score"]) == fact.score
        assert float(rows[id]["seconds"]) == fact.seconds
        assert float(rows[id]["metric.accuracy"]) == fact.metrics["accuracy"]
    status, _, err = run(capsys, "export", folder.path, "--format", "json", "--out", target)
    assert status == 2
    assert "m.csv is named as csv; give one of them only" in err
    target = tmp_path / "m.table"  # which says nothing
    assert run(capsys, "export", folder.path, "--format", "json", "--out", target)[0] == 0
    as_json = json.loads(target.read_text())
    assert [row["config.optimizer"] for row in as_json] == columns["config.optimizer"]
    import pyarrow.parquet

    target = tmp_path / "m.parquet"
    assert run(capsys, "export", folder.path, "--out", target)[0] == 0
    parquet = pyarrow.parquet.read_table(target).to_pydict()
    assert list(parquet) == list(columns)
    assert parquet["config.lr"] == columns["config.lr"]
    assert parquet["reason"] == columns["reason"]
    status, _, err = run(capsys, "export", folder.path, "--format", "xlsx")
    assert status == 2
    assert "--format xlsx: must be csv, parquet or json" in err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = run(capsys, "export", folder.path, "--format", "parquet", "--out", target)
    assert status == 2
    assert "pip install 'gpbt-async[parquet]'" in err


def test_a_reason_is_not_a_formula_and_odd_values_survive(tmp_path: Path, capfdbinary: Any) -> None:
    s = settings(
        population=4, generations=1, attempts=1, space=Space({"x": Choice([True, 1, "a", None]), "y": Float(0, 1)})
    )
    run_facts: list[Fact] = []
    for fact in simulated(s, 2, fail=0.5, seed=3).facts:
        if isinstance(fact, events.Failed):
            fact = replace(fact, reason='=HYPERLINK("http://x","y")')
        elif isinstance(fact, events.Trained):
            fact = replace(fact, metrics={"=cmd": math.inf, "state": 1.0})
        run_facts.append(fact)
    folder = write(tmp_path / "odd", s, run_facts)
    from gpbt_async.analysis.table import export

    reading = read(folder)
    rows = list(csv.DictReader(io.StringIO(export(reading, "csv").decode())))
    failed = [row for row in rows if row["state"] == "failed"]
    assert failed
    assert all(row["reason"].startswith("'=") for row in failed)
    finished = [row for row in rows if row["state"] == "finished"]
    assert finished
    assert all((row["metric.=cmd"], row["metric.state"]) == ("inf", "1.0") for row in finished)
    as_json = json.loads(export(reading, "json"))
    assert [row["config.x"] for row in as_json] == table(reading)["config.x"]
    assert next(row for row in as_json if row["state"] == "failed")["reason"].startswith("=")
    export(reading, "parquet")  # options of several types


# ---- why a member exists


def test_why_a_member_exists(rich: tuple[RunFolder, list[Fact]], capsys: Any) -> None:
    folder, told_facts = rich
    status, out, _ = run(capsys, "lineage", folder.path, "best", "--json")
    assert status == 0
    descent = json.loads(out)
    best = schedule(RunReader(folder).engine)["schedule"]
    assert [step["member"] for step in descent["ancestry"]] == [step["member"] for step in best]
    assert [step["config"] for step in descent["ancestry"]] == [step["config"] for step in best]
    started: dict[int, events.Started] = {}
    for fact in told_facts:
        if isinstance(fact, events.Started):
            started.setdefault(fact.member, fact)
    for above, step in zip(descent["ancestry"], descent["ancestry"][1:], strict=False):
        id, parent = step["member"], above["member"]
        begin = told_facts.index(started[id])
        depth = {f.member: f.path.count("/") for f in started.values()}
        scores = {f.member: f.score for f in told_facts[:begin] if isinstance(f, events.Trained)}
        done = [
            f.member
            for f in told_facts[:begin]
            if isinstance(f, events.Published) and depth[f.member] == step["generation"] - 1
        ]
        assert step["chosen"]["rivals"] == len(done)
        assert step["chosen"]["rank"] == sorted(done, key=lambda m: scores[m] or 0.0).index(parent) + 1  # type: ignore[arg-type]
        assert step["chosen"]["rank"] <= step["chosen"]["elite"]
        family = [f for f in started.values() if f.parent == parent]
        assert step["siblings"] == len(family) - 1
        assert step["chosen"]["children"] == int(started[id].path.split("/")[-1])
        changed = {k: [above["config"][k], v] for k, v in step["config"].items() if above["config"][k] != v}
        assert step["changed"] == changed
        assert not (step["repeats"] and changed)
    status, text, _ = run(capsys, "lineage", folder.path, descent["ancestry"][-1]["path"])
    assert status == 0
    assert text.count("└─") == len(descent["ancestry"]) - 1
    assert f"why member {descent['member']} exists" in text


@pytest.mark.parametrize("member", ["100", "-1", "0/99", "x", "²", "0//1", "1/", "9" * 30])
def test_an_unknown_member(rich: tuple[RunFolder, list[Fact]], capsys: Any, member: str) -> None:
    status, out, err = run(capsys, "lineage", rich[0].path, "--", member)
    assert (status, out) == (2, "")
    assert f"MEMBER {member!r}: rich has members 0 to 99; give such a number, a path" in err


def test_a_run_without_members(tmp_path: Path, capsys: Any) -> None:
    folder = write(tmp_path / "none", settings(), [])
    status, _, err = run(capsys, "lineage", folder.path, "0")
    assert status == 2
    assert "has no members yet" in err


def test_the_report_shows_the_score_beside_other_data_and_how_the_best_was_chosen(tmp_path: Path) -> None:
    done = cli(
        "launch", SCRIPTS / "chosen.py", "--slots", 2, "--name", "it", "--quiet", "--generations", 2, cwd=tmp_path
    )
    assert done.status == 0, done.err
    folder = RunFolder.open(tmp_path / "runs" / "it")
    reader = read(folder)
    data = report_data(reader)
    choice, (gap,) = data["summary"]["choice"], data["summary"]["gaps"]
    assert choice is not None
    assert data["lineage"][-1] == choice["member"] == data["summary"]["best_member"]
    assert (gap["metric"], gap["mode"], gap["alike"]) == ("holdout", "min", False)
    best = [g.ranking[: reader.engine.selection.parents] for g in reader.engine.tree.generations]
    holdout = {f["member"]: f["metrics"]["holdout"] for f in facts(folder.path, "Trained")}
    for row, members in zip(gap["generations"], best, strict=True):
        assert row["members"] == len(members)
        assert row["metric"] == pytest.approx(sum(holdout[m.id] for m in members) / len(members))
    page = html_report.page(folder, reader)
    assert 'id="gaps-section"' in page
    assert '"gaps":[{' in page
