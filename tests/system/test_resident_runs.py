"""Whole runs whose members share processes: the same results as with forks, after kills too, and on GPUs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from gpu_machine import A, B
from harness import cli, facts, start, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_machine import Machine

SCRIPT = """
import json, random, time
import gpbt_async as gpbt

def train(member):
    value = json.loads((member.parent / "x").read_text()) if member.parent is not None else random.random()
    value += member.config["x"] * random.random()
    time.sleep({seconds})
    (member.checkpoint / "x").write_text(json.dumps(value))
    member.report(loss=value)

experiment = gpbt.Experiment(
    train, space={{"x": gpbt.Float(-1, 1)}}, score="loss", mode="min", population=6, generations=3, schedule="sync"
)
"""


def scores(run: Path) -> dict[str, float]:
    """By path in the tree, as the members' numbers depend on which of them ends first."""
    paths = {fact["member"]: fact["path"] for fact in facts(run, "Started")}
    return {paths[fact["member"]]: fact["score"] for fact in facts(run, "Trained")}


def pids(run: Path) -> set[int]:
    return {fact["pid"] for fact in facts(run, "Started")}


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    def write(seconds: float = 0.0) -> Path:
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(seconds=seconds))
        return path

    return write


def test_a_synchronous_run_has_the_results_of_forks(script: Callable[..., Path], tmp_path: Path) -> None:
    path = script()
    for how in ("zygote", "resident"):
        done = cli("launch", path, "--slots", 2, "--start", how, "--name", how, cwd=tmp_path)
        assert done.status == 0, done.err
    forks, residents = tmp_path / "runs" / "zygote", tmp_path / "runs" / "resident"
    assert scores(residents) == scores(forks)
    assert len(pids(forks)) == 18
    assert len(pids(residents)) == 2
    assert json.loads((residents / "summary.json").read_text())["start_s"]["process"] > 0


@pytest.mark.parametrize("whom", ["scheduler", "zygote"])
def test_a_run_that_was_hit_ends_as_if_it_had_not_been(script: Callable[..., Path], tmp_path: Path, whom: str) -> None:
    path = script(0.05)
    whole = cli("launch", path, "--slots", 2, "--name", "whole", cwd=tmp_path)
    assert whole.status == 0, whole.err
    running = start("launch", path, "--slots", 2, "--start", "resident", "--name", "hit", cwd=tmp_path)
    run = tmp_path / "runs" / "hit"
    until(lambda: (run / "journal.jsonl").exists() and len(scores(run)) >= 5)
    pid = running.pid if whom == "scheduler" else _pid(run, whom)
    os.kill(pid, signal.SIGKILL)
    running.communicate()
    if whom == "scheduler":
        resumed = cli("resume", run, cwd=tmp_path)
        assert resumed.status == 0, resumed.err
        assert "resident" in cli("status", run, cwd=tmp_path).out
    assert scores(run) == scores(tmp_path / "runs" / "whole")


def _pid(run: Path, whom: str) -> int:
    last = facts(run, "Started")[-1]
    if whom == "member":
        return int(last["pid"])
    parent = _parent(int(last["pid"]))
    return parent if whom == "zygote" else _parent(parent)


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def test_on_gpus_a_process_trains_on_its_gpu_again(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=6, generations=2)
    done = m.launch("--start", "resident")
    assert done.status == 0, done.err
    gpus = {(entry.gpus[0], entry.member): None for entry in m.log() if entry.what == "in"}
    assert {gpu for gpu, _ in gpus} == {A, B}
    assert len({fact["pid"] for fact in m.facts("Started")}) == 2
    assert "set aside" not in done.err


def test_a_member_that_fails_in_a_used_process_is_tried_in_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("""
import multiprocessing
import gpbt_async as gpbt

def train(member):
    multiprocessing.set_start_method("spawn")  # once a process
    member.report(loss=member.config["x"])

experiment = gpbt.Experiment(
    train, space={"x": gpbt.Float(-1, 1)}, score="loss", mode="min", population=4, generations=2, attempts=1
)
""")
    done = cli("launch", "script.py", "--slots", 1, "--start", "resident", "--name", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    run = tmp_path / "runs" / "r"
    assert len(scores(run)) == 8
    assert facts(run, "Failed") == []
    lost = facts(run, "Lost")
    assert lost
    assert all("failed in a process that had trained other members: RuntimeError" in fact["reason"] for fact in lost)


def test_a_pause_ends_the_idle_processes(script: Callable[..., Path], tmp_path: Path) -> None:
    path = script(0.4)
    running = start("launch", path, "--slots", 2, "--start", "resident", "--name", "held", cwd=tmp_path)
    run = tmp_path / "runs" / "held"
    until(lambda: (run / "journal.jsonl").exists() and len(scores(run)) >= 3)
    assert cli("pause", "held", cwd=tmp_path).status == 0
    used = pids(run)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(run)))
    assert running.poll() is None
    assert cli("pause", "held", "--end", cwd=tmp_path).status == 0
    _, err = running.communicate()
    assert running.returncode == 0, err
    assert len(scores(run)) == 18
    assert pids(run) > used, "members train in new processes after the pause"


UNREPEATABLE = """
import gpbt_async as gpbt
USED = []

def train(member):
    member.report(loss=member.config["x"])
    if USED:
        raise RuntimeError("context has already been set")
    USED.append(1)

space = {"x": gpbt.Float(0, 1)}
experiment = gpbt.Experiment(train, space=space, score="loss", mode="min", population=6, generations=2)
"""


def test_a_script_that_no_second_member_can_use_gets_new_processes_and_the_user_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "once.py"
    path.write_text(UNREPEATABLE)
    done = cli("launch", path, "--slots", 1, "--start", "resident", "--name", "once", cwd=tmp_path)
    assert done.status == 0, done.err
    run = tmp_path / "runs" / "once"
    assert len(scores(run)) == 12
    assert len(facts(run, "Lost")) == 2
    assert done.err.count("2 members failed in a process that had trained other members") == 1
    checked = cli("doctor", path, "--start", "resident", cwd=tmp_path)
    assert checked.status == 1
    assert "try it without --start resident" in checked.out + checked.err
