"""A small run, killed at its n-th fact and resumed, for tests/system/test_crashes.py and bench/crashes.py.

Nothing here reads with the package's own code: facts are plain JSON, processes are the kernel's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import LONG, SCRIPTS, alive, check_folder, cli, facts, run_id, until

POPULATION, GENERATIONS, SLOTS = 4, 3, 2
MODES = ("before", "half", "after")
SCHEDULES = ("sync", "async")


def declared(schedule: str, population: int = POPULATION, script: str = "lineage.py") -> list[str]:
    options = {
        "name": "run", "slots": SLOTS, "population": population, "generations": GENERATIONS, "seed": 11,
        "schedule": schedule, "searcher": "echoing:Echoing",
    }  # fmt: skip
    return [
        str(SCRIPTS / script),
        *(word for name, value in options.items() for word in (f"--{name}", str(value))),
    ]


def whole(cwd: Path, schedule: str, script: str = "lineage.py") -> Path:
    """The run, uninterrupted."""
    done = cli("launch", *declared(schedule, script=script), "--quiet", cwd=cwd)
    assert done.status == 0, done.err
    return cwd / "runs" / "run"


def tree(folder: Path) -> dict[str, Any]:
    """By path: the config of each member, its score and metrics; and the best member."""
    started = {f["member"]: f for f in facts(folder, "Started")}
    trained = {f["member"]: f for f in facts(folder, "Trained")}
    members = {f["path"]: (f["config"], trained[m]["score"], trained[m]["metrics"]) for m, f in started.items()}
    best = json.loads((folder / "summary.json").read_text())["best_member"]
    schedule = json.loads((folder / "schedule.json").read_text())
    return {
        "members": members,
        "best": started[best]["path"],
        "schedule": [(m["path"], m["config"], m["score"], m["seed"]) for m in schedule["schedule"]],
    }


@dataclass
class Crash:
    """The outcome of one crash."""

    crashed: bool
    #: seconds until nothing of the run was alive
    cleared: float = 0.0
    #: the fact it was killed at, as far as the journal can tell
    fact: str = ""
    #: attempts beyond each member's first
    again: int = 0


def crash(
    cwd: Path, schedule: str, mode: str, at: int, population: int = POPULATION, script: str = "lineage.py"
) -> Crash:
    """Launch, be killed at the fact number `at`, resume, resume again; asserts that all is as it must be.

    Nothing is resumed where the run ended before that fact.
    """
    launch = ["launch", *declared(schedule, population, script), "--quiet"]
    argv = [sys.executable, str(SCRIPTS / "crash_at.py"), mode, str(at), *launch]
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent.parent.parent}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=LONG, env=env)
    folder = cwd / "runs" / "run"
    if done.returncode == 0:
        assert len(facts(folder)) < at
        return Crash(False)
    assert done.returncode == -9, done.stderr
    began = time.monotonic()
    run = run_id(folder)
    until(lambda: not alive(run))
    cleared = time.monotonic() - began
    before = facts(folder)
    assert len(before) == at - (mode != "after")
    resumed = cli("resume", "run", "--quiet", cwd=cwd)
    assert resumed.status == 0, resumed.err
    check(folder, population)
    after = facts(folder)
    assert after[: len(before)] == before, "history was rewritten"
    # a member's training counts once: one that has trained, by the journal, is not trained again
    trained = [f["member"] for f in after if f["fact"] == "Trained"]
    assert len(trained) == len(set(trained))
    again = sum(f["attempt"] > 1 for f in after if f["fact"] == "Started")
    assert again <= SLOTS
    if at % 10 == 0:
        once_more = cli("resume", "run", "--quiet", cwd=cwd)
        assert once_more.status == 0, once_more.err
        check(folder, population)
        assert facts(folder) == after, "resuming a finished run changes nothing"
    return Crash(True, cleared, before[-1]["fact"] if before else "", again)


def check(folder: Path, population: int = POPULATION) -> None:
    """The folder of a finished run: one whole tree, exact counts, the right checkpoint, nothing left over or alive."""
    check_folder(folder, population, GENERATIONS)
    summary = json.loads((folder / "summary.json").read_text())
    counts = summary["members"]
    assert counts["finished"] == population * GENERATIONS
    assert (counts["failed"], counts["stopped"], counts["unfinished"]) == (0, 0, 0)
    assert summary["generations"] == [population] * GENERATIONS
    assert facts(folder)[-1] | {"fact": "Closed", "how": "finished"} == facts(folder)[-1]
    winner = json.loads((folder / "schedule.json").read_text())["schedule"]
    past = json.loads((folder / "best" / "checkpoint" / "past.json").read_text())
    assert past == [m["config"] for m in winner], "the best was not trained from its ancestors' checkpoints"
    scores = {f["member"]: f["score"] for f in facts(folder, "Trained")}
    assert summary["score"] == scores[summary["best_member"]]
    assert summary["choice"] is not None or summary["score"] == min(scores.values())
    assert not alive(run_id(folder))


def clear(cwd: Path) -> None:
    shutil.rmtree(cwd / "runs", ignore_errors=True)
