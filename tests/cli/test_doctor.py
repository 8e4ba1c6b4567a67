"""The doctor: healthy scripts, scripts with one fault each, its judgement of figures, and its probes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gpu_machine import PLAYING, A
from harness import cli, cli_here, start

import gpbt_async as gpbt
from gpbt_async.cli.diagnosis import inherited_gain, warnings
from gpbt_async.cli.measurements import CheckUp, Expected, Problem, TrainedInterval
from gpbt_async.cli.probes import Touches, Vitals
from gpbt_async.experiment import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpu_machine import Machine
    from harness import Done

SCRIPT = """
import json, random
import gpbt_async as gpbt
{top}
def train(member):
    level = json.loads((member.parent / "deep" / "s.json").read_text()) if member.parent else 1.0
    {first}
    for step in range(4):
        level *= 0.7 + 0 * member.config["x"]
        member.report(loss=level + {noise})
    (member.checkpoint / "deep").mkdir()
    (member.checkpoint / "deep" / "s.json").write_text(json.dumps(level))
    {last}

experiment = gpbt.Experiment(
    train, space={{"x": gpbt.Float(0, 1)}}, score="loss", mode="min", population=6, generations=3, searcher="random",
    resources=gpbt.Resources(gpus=0), {more}
)
"""


def examined(
    tmp_path: Path, *options: object, top: str = "", first: str = "", noise: str = "0", last: str = "", more: str = ""
) -> Done:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(top=top, first=first, noise=noise, last=last, more=more))
    done = cli("doctor", script, "--slots", 2, *options, cwd=tmp_path)
    assert "Traceback" not in done.err, done.err
    assert os.listdir(tmp_path) == ["script.py"], "nothing is left"
    return done


def test_a_healthy_script(tmp_path: Path) -> None:
    done = examined(tmp_path, "--repeat", "--json", "--set", "x=0.25")
    assert done.status == 0, done.err
    result = done.json
    assert "telemetry" not in result["member"], "what the process noted is not for people"
    assert all("train longer" in w["remedy"] for w in result["warnings"]), "its intervals are milliseconds"
    assert result["start"] == "fork"
    assert result["fork_safe"] is True
    assert result["member"]["config"] == {"x": 0.25}
    assert result["child"]["read"] == ["deep/s.json"]
    assert result["member"]["read"] is None
    assert result["scores"]["repeat"] == result["scores"]["member"] == pytest.approx([0.7, 0.49, 0.343, 0.2401])
    assert result["scores"]["child"][0] == pytest.approx(0.2401 * 0.7)
    for who in ("member", "child"):
        assert result[who]["reports"] == 4
        assert result[who]["files"] == 1
        assert result[who]["checkpoint_bytes"] > 0
        assert 0 <= result[who]["first_report_s"] <= result[who]["seconds"]
        assert result[who]["write_s"] >= 0
    expected = result["expected"]
    assert expected["wall_s"] >= result["import_s"]
    assert expected["disk_bytes"] > expected["checkpoints"] * result["child"]["checkpoint_bytes"]
    assert 2 <= expected["checkpoints"] <= 12, "the elites of two generations, pending children's parents, the best"


@pytest.mark.parametrize(
    ("wrong", "what", "remedy"),
    [
        ({"first": "level = 1.0"}, "reported the same 4 values of loss as its parent", "load it: if member.parent"),
        (
            {"first": "level, dice = 1.0, random.SystemRandom()", "noise": "dice.random() * 1e-3"},
            "the child seems to start from nothing",
            "load it: if member.parent is not None",
        ),
        (
            {"last": "(member.parent or member.checkpoint).joinpath('note').write_text('x')"},
            "the child changed its parent's checkpoint (note)",
            "write only to its own folder (member.checkpoint)",
        ),
        (
            {"top": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"},
            "the script leaves 1 thread running after its import",
            "start threads in the training function",
        ),
        (
            {"more": "early_stop='median', stall_timeout=0.1", "first": "import time; time.sleep(600)"},
            "reported nothing for 0.1 s (stall_timeout)",
            "",
        ),
        ({"last": "assert member.parent is None, 'no child of mine'"}, "AssertionError: no child of mine", ""),
        ({"noise": "float('nan')"}, "loss is nan", ""),
    ],
)  # fmt: skip
def test_one_fault_is_reported_with_its_remedy(tmp_path: Path, wrong: dict[str, str], what: str, remedy: str) -> None:
    done = examined(tmp_path, **wrong)
    assert what in done.out
    assert f"  remedy: {remedy}" in done.out if remedy else " failed: " in done.out
    assert done.status == (0 if remedy else 1), done.out


def test_a_second_child_differs_in_every_dimension(tmp_path: Path) -> None:
    fits = "sizes = json.loads((member.parent / 'size').read_text()) if member.parent else {c}; "
    fits = fits.format(c="member.config['x'] > .5") + "assert sizes == (member.config['x'] > .5), 'size mismatch'"
    done = examined(tmp_path, first=fits, last="(member.checkpoint / 'size').write_text(json.dumps(sizes))")
    assert done.status == 1
    assert "the second child failed: AssertionError: size mismatch" in done.out


def test_findings_of_the_preflight_are_among_the_warnings_and_can_be_silenced(tmp_path: Path) -> None:
    text = SCRIPT.format(top="", first="random.seed(1)", noise="0", last="", more="")
    (tmp_path / "script.py").write_text(text.replace('member.config["x"]', "0"))
    done = cli("doctor", "script.py", cwd=tmp_path)
    assert done.status == 0
    assert "GPBT001: member 0 never read the hyperparameter 'x'" in done.out
    assert "both seed python's random numbers with 1 at script.py:" in done.out
    done = cli("doctor", "script.py", "--strict", cwd=tmp_path)
    assert done.status == 2
    done = cli("doctor", "script.py", "--silence", "GPBT001,GPBT006", "--strict", "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert done.json["findings"] == []


@pytest.mark.parametrize(
    ("old", "new", "quote"),
    [
        ("if member.parent else", "if False else", "the child opened no file of its parent's checkpoint"),
        ('(member.checkpoint / "deep" / "s.json").write_text', "str", "the checkpoint is empty: every child starts"),
    ],
)
def test_a_child_that_inherits_nothing_is_found_even_if_scores_are_random(
    tmp_path: Path, old: str, new: str, quote: str
) -> None:
    script = tmp_path / "script.py"
    text = SCRIPT.format(top="", first="", noise="random.SystemRandom().random()", last="", more="")
    assert old in text
    script.write_text(text.replace(old, new).replace("if member.parent else", "if False else"))
    done = cli("doctor", script, cwd=tmp_path)
    assert quote in done.out
    assert done.status == 0


SOLVER = """import gpbt_async as gpbt
program = 'n=$(cat "$0/n" || echo 0); echo "{{\\\\"s\\\\": $n}}" >> "$GPBT_METRICS"; echo $((n + 1)) > "$1/n"'
experiment = gpbt.Experiment(
    command=["sh", "-c", program, "{parent}", "{checkpoint}"], space={"x": gpbt.Float(0, 1)}, score="s", mode="max",
    population=2, generations=2, resources=gpbt.Resources(gpus=0),
)
"""


def test_a_program_is_examined_too(tmp_path: Path) -> None:
    script = tmp_path / "solver.py"
    script.write_text(SOLVER)
    result = cli("doctor", script, "--json", cwd=tmp_path).json
    assert result["start"] == "program"
    assert result["child"]["read"] == ["n"]
    assert (result["member"]["score"], result["child"]["score"]) == (0, 1)
    script.write_text(SOLVER.replace('"$0/n"', '"/nowhere"'))
    blind = cli("doctor", script, cwd=tmp_path)
    assert "opened no file" in blind.out
    assert "$GPBT_PARENT" in blind.out
    bare = '; echo "{{\\\\"s\\\\": .84}}" >> $GPBT_METRICS; echo $(('
    script.write_text(SOLVER.replace("; echo $((", bare))
    result = cli("doctor", script, cwd=tmp_path).out
    assert "'{\"s\": .84}'\n  remedy: numbers in JSON begin with a digit: 0.84\n" in result
    script.write_text(SOLVER.replace('score="s"', 'score="z"'))
    assert "the member failed: never reported 'z' (reported: s)" in cli("doctor", script, cwd=tmp_path).out


def test_gpu_memory_is_measured(machine: Callable[..., Machine]) -> None:
    m = machine(A)
    m.say("mib", 3000)
    m.say("seconds", 1)
    m.state.set(f"mem {A} 40960 9000 0")  # a desktop's
    tried = ("doctor", PLAYING, "--nvml-library", m.driver, "--json")
    assert m.cli(*tried).status == 2
    done = m.cli(*tried, "--others-may-use", "12GiB", "--xid", "109=member", "--no-affinity")
    assert done.status == 0, done.err
    assert done.json["device"] == "cuda"
    assert done.json["child"]["vram"] == 3000 << 20
    assert 0 < done.json["child"]["private"] <= done.json["child"]["resident"], "who lives a second is looked at"
    assert done.json["expected"]["gpu_bytes"] == [40960 << 20]


@pytest.mark.parametrize(
    ("arguments", "quotes"),
    [
        (["nowhere.py"], ["nowhere.py does not exist: give the path of a Python script"]),
        (["script.py", "--set", "x=7"], ["--set x=7", "Float"]),
        (["script.py", "--gpus", "0", "--slots", "1"], ["--gpus", "--slots"]),
        (["script.py", "--share", "2", "--slots", "2"], ["--share is about GPUs, and --slots 2 asks for the CPU"]),
        (["script.py", "--population", "0"], ["--population: got 0"]),
    ],
)
def test_what_cannot_be_started_is_refused_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], quotes: list[str]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(top="", first="", noise="0", last="", more=""))
    done = cli_here("doctor", *arguments, cwd=tmp_path)
    assert done.status == 2
    for quote in quotes:
        assert quote in done.err
    assert os.listdir(tmp_path) == ["script.py"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(
        SCRIPT.format(top="import time", first="time.sleep(60)",
                      noise="0", last="", more="")
    )  # fmt: skip
    running = start("doctor", "script.py", cwd=tmp_path)
    assert running.stderr is not None
    assert any("training the member" in line for line in running.stderr)
    running.send_signal(number)
    running.communicate(timeout=30)
    assert running.returncode == 130
    assert os.listdir(tmp_path) == ["script.py"]


# ---- what it measures by


def test_files_are_watched_in_folders_that_are_made_later(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    touches = Touches(tmp_path)
    try:
        (tmp_path / "a" / "b").mkdir(parents=True)
        touches.read(1.0)
        with open(tmp_path / "a" / "b" / "new", "w") as file:
            touches.read(2.0)
            file.write("x")
        touches.read(5.0)
        assert touches.writing == 3.0
        assert (tmp_path / "old").read_text() == "x"
        touches.read(6.0)
        assert touches.opened == {"old", "a/b/new"}
        assert touches.written == touches.changed == {"a/b/new"}
        (tmp_path / "old").unlink()
        touches.read(7.0)
        assert touches.changed == {"a/b/new", "old"}
        assert touches.writing == 3.0
        assert not touches.missed
    finally:
        touches.close()


def test_figures_of_a_process_and_its_children() -> None:
    program = "import os, sys; held = b'x' * (64 << 20); print(flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        vitals = Vitals(process.pid)
        vitals.look()
        assert vitals.processes == 2
        assert vitals.private > 64 << 20 > vitals.resident > 0
        assert vitals.cores is None, "one look is no span"
    finally:
        process.communicate()
    vitals.look()
    assert vitals.private > 64 << 20, "the most there ever was"


DECLARED: dict[str, Any] = {
    "space": gpbt.Space({"x": gpbt.Float(0, 1)}), "score": "loss", "mode": "min", "population": 4, "generations": 3
}  # fmt: skip


def checked(**changes: Any) -> CheckUp:
    """What the doctor measures of a healthy script, with some of it changed: child__seconds=2, settings__mode="max"."""

    def interval(who: str, scores: list[float]) -> TrainedInterval:
        return TrainedInterval(
            who, {"x": 0.5}, start_s=0.01, seconds=10.0, write_s=0.1, publish_s=0.1, checkpoint_bytes=1 << 20, files=1,
            other_bytes=100, reports=4, first_report_s=2.0, silence_s=3.0, private=1 << 20, cores=1.0, read=["w"],
            scores=scores,
        )  # fmt: skip

    def fields(of: str) -> dict[str, Any]:
        return {name.removeprefix(f"{of}__"): v for name, v in changes.items() if name.startswith(f"{of}__")}

    expected = Expected(
        population=4, generations=2, schedule="async", slots=2, wall_s=60.0, at_most=False, checkpoints=2,
        disk_bytes=1 << 20, disk_free=1 << 30, memory_bytes=1 << 20, memory_free=1 << 30, gpu_bytes=[],
    )  # fmt: skip
    members = {"member": interval("member", [1.0, 0.5]), "child": interval("child", [0.4, 0.3])}
    if fields("repeat"):
        members["repeat"] = interval("repeat", [1.0, 0.5])
    return CheckUp(
        script="s.py",
        settings=Settings(**DECLARED | fields("settings")),
        import_s=0.1,
        cuda_at_import=None,
        slots=2,
        members={who: replace(member, **fields(who)) for who, member in members.items()},
        expected=replace(expected, **fields("expected")),
        **{"start": "fork"} | {name: value for name, value in changes.items() if "__" not in name},
    )


@pytest.mark.parametrize(
    ("changes", "quote"),
    [
        ({}, None),
        ({"child__seconds": 0.5, "child__start_s": 0.1, "member__start_s": 0.2}, "takes 0.10 s to start"),
        ({"child__write_s": 4.0}, "writing the checkpoint takes 40 % of an interval (4.00 s of 10 s)"),
        ({"child__publish_s": 30.0}, "2 slots give one every 5.00 s: members will wait for the disk"),
        ({"expected__disk_bytes": 2 << 30}, "2.0 GiB of disk at its peak, and 1.0 GiB are free"),
        ({"expected__memory_bytes": 2 << 30}, "--slots 1"),
        ({"child__other_bytes": 5 << 20}, "5 MiB of log and metrics, 40 MiB in a run"),
        ({"slot_threads": 8}, "import threadpoolctl"),
        ({"slot_threads": 8, "child__cores": 0.1}, "load data once, at the script's top level"),
        ({"child__cores": 3.7}, "cpus=4"),
        ({"settings__stall_timeout": 5.0}, "stall_timeout=6"),
        ({"settings__member_timeout": 11.0}, "member_timeout=20"),
        (
            {"settings__early_stop": ("median",), "member__scores": [1.0], "child__scores": [0.5]},
            "only one an interval, after 20 %",
        ),
        ({"device": "cuda", "child__vram": 0}, "member.device"),
        ({"repeat__scores": [1.0, 0.6]}, "deterministic"),
        (
            {"child__seconds": 1.0, "child__import_s": 0.5},
            "trains for 1.00 s, of which 0.50 s go into imports import at the top of the script, or start members with",
        ),
        (
            {"child__seconds": 0.5, "child__start_s": 0.1, "member__start_s": 0.2, "start": "resident"},
            "let each member",
        ),
        ({"member__scores": [1.0], "child__scores": [1.0]}, "or this score has reached its best value"),
        ({"parent_damaged": "it has changed"}, "the child changed its parent's checkpoint"),
        ({"trouble": [Problem("CUDA is initialised at s.py:3", "move this line")]}, "move this line"),
    ],
)
def test_each_bad_figure_gives_one_warning(changes: dict[str, Any], quote: str | None) -> None:
    problems = warnings(checked(**changes))
    assert len(problems) == (quote is not None), problems
    if quote is not None:
        assert quote in f"{problems[0].what} {problems[0].remedy}"
        assert problems[0].what
        assert problems[0].remedy


@pytest.mark.parametrize(
    ("scores", "child", "mode", "share"),
    [
        ([1.0, 0.5], [0.75], "min", 0.5),
        ([0.5, 1.0], [1.0], "max", 1.0),
        ([0.5, 1.0], [0.25], "max", -0.5),
        ([1.0], [0.5], "min", None),
        ([0.5, 1.0], [1.0], "min", None),
        ([float("inf"), 1.0], [1.0], "min", None),
    ],
)
def test_how_much_of_its_parents_gain_a_child_begins_with(
    scores: list[float], child: list[float], mode: str, share: float | None
) -> None:
    assert inherited_gain(scores, child, mode) == share


REMEMBERS = """
import gpbt_async as gpbt
STEPS = 0
def train(member):
    global STEPS
    STEPS += 1
    (member.checkpoint / "x").write_text("x")
    if member.parent is not None:
        (member.parent / "x").read_text()
    member.report(loss=1 / (1 + member.config["x"] + {steps}))
space = {{"x": gpbt.Float(0, 1)}}
experiment = gpbt.Experiment(train, space=space, score="loss", mode="min", population=4, generations=2)
"""


@pytest.mark.parametrize(("steps", "remembers"), [("STEPS", True), ("0", False)])
def test_a_script_that_remembers_is_found_before_its_members_share_a_process(
    tmp_path: Path, steps: str, remembers: bool
) -> None:
    (tmp_path / "script.py").write_text(REMEMBERS.format(steps=steps))
    shown = cli("doctor", "script.py", "--start", "resident", "--slots", "1", cwd=tmp_path)
    assert "each slot has one process, which trains member after member" in shown.out
    assert ("in one that had trained other members: the script remembers" in shown.out) is remembers
    assert "members change globals of the script (script.STEPS)" in shown.out
    assert shown.status == 0, shown.out
