"""gpbt.Schedule: a schedule read from wherever it stands, and asked what to train with."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import gpbt_async as gpbt

if TYPE_CHECKING:
    from pathlib import Path

CONFIGS: list[dict[str, Any]] = [{"lr": 0.1, "act": "relu"}, {"lr": 0.03, "act": None}, {"lr": 0.01, "act": True}]


def test_it_is_a_sequence_of_configs_that_nobody_changes() -> None:
    schedule = gpbt.Schedule.load(CONFIGS)
    assert len(schedule) == 3
    assert list(schedule) == CONFIGS
    assert schedule[-1] == CONFIGS[2]
    assert schedule[1:] == CONFIGS[1:]
    schedule[0]["lr"] = 7.0
    assert schedule[0]["lr"] == 0.1
    assert gpbt.Schedule.load(schedule) is schedule
    assert schedule == gpbt.Schedule(CONFIGS)
    assert hash(schedule) == hash(gpbt.Schedule(CONFIGS))


def test_progress_and_steps_are_divided_equally() -> None:
    schedule = gpbt.Schedule(CONFIGS)
    assert [schedule.at(p)["lr"] for p in (0, 0.33, 0.34, 0.66, 0.67, 1.0)] == [0.1, 0.1, 0.03, 0.03, 0.01, 0.01]
    assert [schedule.interval(step, 7) for step in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert [schedule.config(step, 3) for step in range(3)] == CONFIGS
    for progress in (-0.01, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"must be from 0 \(training begins\) to 1"):
            schedule.at(progress)
    for step, steps in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="must be from 0 to the number of steps less one"):
            schedule.config(step, steps)


def test_it_survives_json_with_all_that_is_known(tmp_path: Path) -> None:
    flat = gpbt.Schedule(CONFIGS).to_json()
    flat |= {"run": "digits-1", "member": 9, "score": 0.5, "metric": "loss", "mode": "min", "metrics": {"gap": "NaN"}}
    flat["schedule"][0] |= {"seed": 17, "score": 0.7, "member": 3, "path": "3"}
    (tmp_path / "schedule.json").write_text(json.dumps(flat))
    for source in (tmp_path, tmp_path / "schedule.json", str(tmp_path)):
        schedule = gpbt.Schedule.load(source)
        assert list(schedule) == CONFIGS
        assert (schedule.origin.run, schedule.origin.member, schedule.origin.score) == ("digits-1", 9, 0.5)
        assert schedule.origin.metrics["gap"] != schedule.origin.metrics["gap"]
        assert schedule.intervals[0].seed == 17
        assert schedule.seedless().intervals[0].seed is None
    (tmp_path / "bare.json").write_text(json.dumps(CONFIGS))
    assert list(gpbt.Schedule.load(tmp_path / "bare.json")) == CONFIGS


@pytest.mark.parametrize(
    ("configs", "match"),
    [
        ([], r"schedule: got \[\]; must be a list of at least one config"),
        ({"lr": 1}, "must be a list of at least one config"),
        ("runs", "must be a list of at least one config"),
        ([{}], r"schedule\[0\]: got {}; must be a dict of names and plain values"),
        ([{"lr": 1}, 3], r"schedule\[1\]: got 3; must be a dict"),
        ([{"lr": [1]}], r"schedule\[0\].*plain values"),
        ([{"lr": float("inf")}], r"schedule\[0\].*plain values"),
        ([{"lr": 1}, {"wd": 1}], r"schedule\[1\]: got {'wd': 1}; must have the names of the first config: lr"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(configs: Any, match: str) -> None:
    with pytest.raises(gpbt.ExperimentError, match=match):
        gpbt.Schedule(configs)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "does not exist: give a run's folder"),
        ("{", "cannot read"),
        ("7", "is no schedule, or damaged: schedule: got 7"),
        ('{"member": 1}', "is no schedule, or damaged: KeyError"),
        ('{"schedule": [{"lr": []}]}', r"is no schedule, or damaged: schedule\[0\]"),
        ('{"score": "x", "schedule": [{"lr": 1}]}', "is no schedule, or damaged: ValueError"),
        ('{"schedule": []}', "is empty: the run has no finished member yet"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str | None, match: str) -> None:
    if text is not None:
        (tmp_path / "schedule.json").write_text(text)
    with pytest.raises(gpbt.FolderError, match=match) as error:
        gpbt.Schedule.load(tmp_path)
    assert str(tmp_path / "schedule.json") in str(error.value)


def test_a_training_loop_that_uses_it_loads_little() -> None:
    code = "import sys, gpbt_async as g; g.Schedule([{'lr': 1}]).at(0.5); print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "numpy", "torch", "aiofiles", "lightning", "transformers"} & set(loaded)
