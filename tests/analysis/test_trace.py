"""trace.json against the Trace Event Format, the journal and the summary."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import run_factory
from harness import SCRIPTS, cli, cli_here, facts
from run_factory import embellished, settings, simulated, write

from gpbt_async import events
from gpbt_async.analysis import run_summary, trace
from gpbt_async.analysis.reader import RunReader

if TYPE_CHECKING:
    from pathlib import Path

#: what each phase must have, beside ph, pid and tid
NEEDS = {
    "M": {"name", "args"},
    "X": {"name", "cat", "ts", "dur", "args"},
    "i": {"name", "cat", "ts", "s"},
    "C": {"name", "ts", "args"},
    "s": {"name", "cat", "ts", "id"},
    "f": {"name", "cat", "ts", "id", "bp"},
}


def valid(trace: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Assert that it is in the format, and its slices can be drawn; the events by phase."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        assert NEEDS[event["ph"]] <= set(event), event
        assert {type(event[name]) for name in ("pid", "tid", *({"ts", "dur", "id"} & set(event)))} == {int}
        assert event["pid"] > 0 < event["tid"]
        assert event.get("ts", 0) >= 0 <= event.get("dur", 0)
        found[event["ph"]].append(event)
    timed = [event["ts"] for event in trace["traceEvents"] if event["ph"] != "M"]
    assert timed == sorted(timed)
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found["M"] if e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in found["M"] if e["name"] == "process_name"}
    assert len(set(processes.values())) == len(processes)
    rows: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in found["X"]:
        rows[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert set(rows) <= set(names)
    for spans in rows.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans))), "slices of a row overlap"
    assert {e["s"] for e in found["i"]} <= {"g", "t"}
    starts, ends = ({e["id"]: e for e in found[phase]} for phase in "sf")
    assert set(starts) == set(ends)
    assert len(starts) == len(found["s"]) == len(found["f"])
    for id, end in ends.items():
        start = starts[id]
        assert start["ts"] <= end["ts"]
        for side in (start, end):
            spans = rows[side["pid"], side["tid"]]
            assert any(begin <= side["ts"] <= until for begin, until in spans), "an arrow hangs in the air"
    return found


@pytest.mark.parametrize("crashes", [[], [300.0, 900.0]])
def test_a_simulated_run_slice_by_slice(tmp_path: Path, crashes: list[float]) -> None:
    s = settings(population=20, generations=5)
    run_facts = embellished(simulated(s, 4, fail=0.15, crashes=crashes).facts, pause=40_000.0)
    reading = RunReader(write(tmp_path / "run", s, run_facts, members=0), history=True)
    found = valid(json.loads(json.dumps(trace.trace(reading), allow_nan=False)))
    slots = [e for e in found["X"] if e["pid"] == trace.SLOTS]
    busy = [e for e in slots if "cause" not in e["args"]]
    entered = [fact for fact in run_facts if isinstance(fact, events.Entered)]
    assert [(e["args"]["member"], e["args"]["attempt"]) for e in busy] == [(f.member, f.attempt) for f in entered]
    summary = run_summary.summary(reading.engine, reading.usage.so_far())
    if not crashes:
        assert sum(e["dur"] for e in busy) / 1e6 == pytest.approx(summary["busy_s"], rel=1e-6)
    idle: defaultdict[str, float] = defaultdict(float)
    for event in slots:
        if "cause" in event["args"]:
            idle[event["args"]["cause"]] += event["dur"] / 1e6
    for cause, seconds in summary["idle_s"].items():
        assert idle[cause] == pytest.approx(seconds, rel=0.02, abs=1.0)
    answers = [e for e in found["X"] if e["pid"] == trace.SEARCHER]
    assert len(answers) == sum(isinstance(fact, events.Suggested) for fact in run_facts)
    published = [e for e in found["X"] if e["pid"] == trace.CHECKPOINTS]
    assert len(published) == sum(isinstance(fact, events.Published) for fact in run_facts)
    assert len([e for e in found["i"] if e["s"] == "g"]) == len(crashes)
    assert found["C"][-1]["args"] == {s.score: reading.engine.best.score}  # type: ignore[union-attr]
    born = [f for f in entered if reading.engine.tree.members[f.member].parent is not None]
    assert len(found["f"]) == len(born), "an arrow to each attempt at a child"


@pytest.mark.parametrize("early", [0.01, 1.0, 30.0, 1e6])
def test_a_member_whose_clock_is_ahead_of_the_schedulers(tmp_path: Path, early: float) -> None:
    """As members do that the zygote starts in less time than the scheduler takes to write Started down."""
    s = settings(population=20, generations=5)
    run_facts = [
        replace(fact, t=max(run_factory.EPOCH, fact.t - early)) if isinstance(fact, events.Entered) else fact
        for fact in embellished(simulated(s, 4, fail=0.15).facts)
    ]
    reading = RunReader(write(tmp_path / "run", s, run_facts, members=0), history=True)
    found = valid(json.loads(json.dumps(trace.trace(reading), allow_nan=False)))
    members = [(e["args"]["member"], e["args"]["attempt"]) for e in found["X"] if "attempt" in e["args"]]
    entered = [(fact.member, fact.attempt) for fact in run_facts if isinstance(fact, events.Entered)]
    assert sorted(members) == sorted(entered), "in another order: the trace's is that of time"


def test_report_writes_the_trace_unless_no_trace(tmp_path: Path) -> None:
    assert cli("launch", SCRIPTS / "lineage.py", "--slots", 2, "--name", "it", "-q", cwd=tmp_path).status == 0
    folder = tmp_path / "runs" / "it"
    done = cli_here("report", "it", "--no-trace", cwd=tmp_path)
    assert done.out.strip() == str(folder / "report.html")
    assert not (folder / "trace.json").exists()
    done = cli_here("report", "it", cwd=tmp_path)
    assert done.out.strip() == str(folder / "report.html"), "for scripts: nothing else"
    assert f"wrote {folder / 'trace.json'}, too, for ui.perfetto.dev" in done.err
    written = json.loads((folder / "trace.json").read_text())
    found = valid(written)
    members = {e["args"]["member"]: e for e in found["X"] if "generation" in e["args"] and "attempt" in e["args"]}
    started = {fact["member"]: fact for fact in facts(folder, "Started")}
    assert set(members) == set(started)
    for id, fact in started.items():
        assert members[id]["args"]["config"] == fact["config"]
        assert members[id]["args"]["parent"] == fact["parent"]
        assert members[id]["tid"] == fact["slot"] + 1
        assert members[id]["args"]["how"] == "published"
    assert len(found["f"]) == sum(fact["parent"] is not None for fact in started.values())
    assert written["otherData"]["run"] == "it"
    elsewhere = cli_here("report", "it", "--out", tmp_path / "r.html", cwd=tmp_path)
    assert elsewhere.status == 0
    assert (tmp_path / "r.trace.json").exists()
