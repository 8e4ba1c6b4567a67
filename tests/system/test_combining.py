"""`best --merge` and `best --ensemble` over real runs: what is combined, what it gains, and all that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from harness import alive, cli, facts, kill_hard, run_id, start, until
from run_checker import check_run

from gpbt_async.storage.manifest import Manifest

if TYPE_CHECKING:
    from pathlib import Path

#: members scatter around the optimum, so that their mean is nearer to it than each of them
SCRIPT = """
import os
import numpy as np
import gpbt_async as gpbt

GOAL = np.linspace(-1, 1, 40)

def train(member):
    w = np.zeros(40) if member.parent is None else np.load(member.parent / "w.npz")["w"]
    w = w + 0.7 * (GOAL - w) + member.config["width"] * np.random.default_rng(member.seed).normal(size=40)
    np.savez(member.checkpoint / "w.npz", w=w.astype("float32"), seen=np.array(member.id))
    (member.checkpoint / "note.txt").write_text(f"by member {member.id}")
    member.report(loss=float(np.mean((w.astype("float32") - GOAL) ** 2)))

def validate(member):
    with open("calls", "a") as file:
        file.write(f"{member.id} {len(member.parents)}\\n")
    fault = os.environ.get("FAULT", "")
    if fault == "hold" and len(open("calls").readlines()) == 3:
        open("fifo").read()  # blocks until the process is killed
    if fault == "raise":
        raise ValueError("no such data")
    if fault == "mute":
        return member.report(accuracy=1.0)
    predictions = [np.load(folder / "w.npz")["w"] for folder in member.parents]
    loss = float("nan") if fault == "nan" else float(np.mean((np.mean(predictions, axis=0) - GOAL) ** 2))
    member.report(loss=loss, far=float(np.abs(np.mean(predictions, axis=0) - GOAL).max()))

experiment = gpbt.Experiment(
    train, space={"width": gpbt.Float(0.2, 0.4)}, score="loss", mode="min", population=6, generations=3, ratio=0.5,
    resources=gpbt.Resources(gpus=0), validate=validate,
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "scatter.py").write_text(SCRIPT)
    done = cli("launch", "scatter.py", "--name", "r", "--slots", "2", "--quiet", cwd=folder)
    assert done.status == 0, done.err
    return folder


@pytest.fixture
def home(trained: Path) -> Path:
    """The folder of the run, in which the results of other tests are deleted: a run may be copied, its cwd may not."""
    for name in ("merged", "ensemble", ".merged.part", ".ensemble.part"):
        shutil.rmtree(trained / "runs" / "r" / name, ignore_errors=True)
    for name in ("calls", "fifo"):
        (trained / name).unlink(missing_ok=True)
    return trained


def combined(home: Path, *options: str, status: int = 0, **env: str) -> Any:
    done = cli("best", "r", *options, "--json", cwd=home, env=env)
    assert done.status == status, done.err
    return json.loads(done.out) if status == 0 else done.err


def weights(folder: Path) -> np.ndarray[Any, Any]:
    return np.load(folder / "w.npz")["w"]


def calls(home: Path) -> list[str]:
    return (home / "calls").read_text().splitlines()


def test_the_merge_is_the_mean_of_the_weights_and_better_than_the_best(home: Path) -> None:
    run = home / "runs" / "r"
    journal, best = (run / "journal.jsonl").read_bytes(), os.readlink(run / "best")
    made = combined(home, "--merge")
    scores = {fact["member"]: fact["score"] for fact in facts(run, "Trained")}
    there = sorted((m for m in scores if (run / f"members/{m:04}/checkpoint").exists()), key=scores.__getitem__)
    assert made["candidates"] == there
    assert len(there) >= 6, "three of each of the last two generations, and the best"
    assert made["best"] == there[0] == made["members"][0]
    assert len(made["members"]) >= 2
    assert made["gain"] == pytest.approx(made["best_score"] - made["score"])
    assert made["score"] < made["best_score"] == pytest.approx(made["reported"], rel=1e-5)

    merged = run / "merged" / "checkpoint"
    mean = np.mean([weights(run / f"members/{m:04}/checkpoint") for m in made["members"]], axis=0)
    np.testing.assert_allclose(weights(merged), mean, rtol=1e-6)
    assert weights(merged).dtype == np.float32
    assert int(np.load(merged / "w.npz")["seen"]) == made["best"], "integers are the best one's"
    assert (merged / "note.txt").read_text() == f"by member {made['best']}"
    assert Manifest.read(merged) is not None
    assert sorted(os.listdir(run / "merged")) == ["checkpoint", "log.txt", "summary.json"]
    assert (run / "journal.jsonl").read_bytes() == journal
    assert os.readlink(run / "best") == best, "the best stays what it is"
    assert check_run(run) == []

    kept = [step for step in made["steps"] if step["kept"]]
    assert [step["members"] for step in kept] == [made["members"][: n + 1] for n in range(len(kept))]
    assert all(a["score"] > b["score"] for a, b in pairwise(kept))
    assert len(made["steps"]) == len(there) == len(calls(home))

    again = combined(home, "--merge")
    assert again == made
    assert len(calls(home)) == len(there), "the result is there: nothing is validated again"


def test_the_ensemble_tries_strangers_first(home: Path) -> None:
    run = home / "runs" / "r"
    made = combined(home, "--ensemble", "3")
    assert 2 <= len(made["members"]) <= 3
    folders = [run / "ensemble" / each for each in made["checkpoints"]]
    assert [int(folder.name) for folder in folders] == made["members"]
    goal = np.linspace(-1, 1, 40)
    assert np.mean((np.mean([*map(weights, folders)], axis=0) - goal) ** 2) == pytest.approx(made["score"])
    one = run / f"members/{made['best']:04}/checkpoint/w.npz"
    assert folders[0].joinpath("w.npz").samefile(one), "nothing is copied"

    ancestors = {fact["member"]: fact["parent"] for fact in facts(run, "Started")}

    def line(member: int | None) -> set[int]:
        return set() if member is None else {member} | line(ancestors[member])

    added = made["steps"][1]["members"][1]
    others = [member for member in made["candidates"] if member != made["best"]]
    shared = {member: len(line(member) & line(made["best"])) for member in others}
    assert shared[added] == min(shared.values())

    text = cli("best", "r", "--ensemble", "3", cwd=home)
    assert text.status == 0
    assert f"ensemble of {len(folders)} of {len(made['candidates'])} checkpoints" in text.out
    assert combined(home, "--ensemble", "2")["members"] == made["members"][:2], "another K is another ensemble"


def test_a_command_that_was_killed_goes_on_and_nothing_half_written_is_taken_for_whole(home: Path) -> None:
    run = home / "runs" / "r"
    os.mkfifo(home / "fifo")
    process = start("best", "r", "--merge", cwd=home, env={"FAULT": "hold"})
    until(lambda: (home / "calls").exists() and len(calls(home)) == 3)
    kill_hard(process)
    assert not (run / "merged").exists()
    steps = run / ".merged.part" / "steps.jsonl"
    assert len(steps.read_text().splitlines()) == 3, "what they are about, and two validations"
    with open(steps, "a") as file:
        file.write('{"members": [1')  # a line that the kill has torn

    made = combined(home, "--merge")
    assert len(calls(home)) == len(made["steps"]) + 1, "only the one that was killed is repeated"
    assert not (run / ".merged.part").exists()
    assert check_run(run) == []
    shutil.rmtree(run / "merged")
    (home / "calls").unlink()
    assert combined(home, "--merge") == made, "as if it had not been killed"


def test_stop_ends_it_and_meanwhile_the_run_is_not_to_be_changed(home: Path) -> None:
    os.mkfifo(home / "fifo")
    process = start("best", "r", "--ensemble", "4", cwd=home, env={"FAULT": "hold"})
    until(lambda: (home / "calls").exists() and len(calls(home)) == 3)
    for words in (["clean", "r"], ["best", "r", "--merge"]):
        refused = cli(*words, cwd=home)
        assert refused.status == 2
        assert f"is being run by process {process.pid}" in refused.err
    assert cli("stop", "r", cwd=home).status == 0
    process.communicate()
    assert process.returncode == 130
    assert not (home / "runs" / "r" / "ensemble").exists()
    assert alive(run_id(home / "runs" / "r")) == []


def test_a_merge_that_is_not_on_the_disk_though_its_validation_is_written_down_is_made_again(home: Path) -> None:
    run = home / "runs" / "r"
    made = combined(home, "--merge")
    work = run / ".merged.part"
    (run / "merged").rename(work)
    (work / "steps.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (made, *made["steps"])))
    mean = weights(work / "checkpoint")
    for damage in (lambda: shutil.rmtree(work / "checkpoint"), lambda: None):
        damage()
        (home / "calls").unlink(missing_ok=True)
        again = combined(home, "--merge")
        assert again == made
        assert len(calls(home)) == 1
        np.testing.assert_array_equal(weights(run / "merged" / "checkpoint"), mean)
        (run / "merged").rename(work)
        (work / "steps.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (made, *made["steps"])))
        data = work / "checkpoint" / "w.npz"
        data.chmod(0o644)
        data.write_bytes(data.read_bytes()[:-1])  # torn by the machine's end


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raise", "ValueError: no such data"),
        ("nan", "loss is nan"),
        ("mute", "never reported 'loss' (reported: accuracy)"),
    ],
)
def test_a_best_member_that_cannot_be_validated_is_an_error(home: Path, fault: str, says: str) -> None:
    error = combined(home, "--merge", status=1, FAULT=fault)
    assert "the best member alone cannot be validated" in error
    assert says in error
    assert not (home / "runs" / "r" / "merged").exists()
    assert combined(home, "--merge")["gain"] > 0, "what has failed is tried again"


def test_what_cannot_be_combined_says_why(home: Path, tmp_path: Path) -> None:
    assert "needs --merge or --ensemble" in combined(home, "--gpus", "none", status=2).replace("need ", "needs ")
    assert "give only one of them" in combined(home, "--merge", "--ensemble", "2", status=2)
    assert "--ensemble: got 1; must be from 2" in combined(home, "--ensemble", "1", status=2)
    assert "--gpus" in combined(home, "--merge", "--gpus", "7", status=2)

    unfinished = tmp_path / "unfinished"
    shutil.copytree(home / "runs" / "r", unfinished, symlinks=True, ignore=shutil.ignore_patterns("control"))
    lines = (unfinished / "journal.jsonl").read_text().splitlines(keepends=True)
    (unfinished / "journal.jsonl").write_text("".join(lines[: len(lines) // 2]))
    done = cli("best", unfinished, "--merge", cwd=home)
    assert done.status == 2
    assert "has not finished" in done.err
    assert "gpbt-async resume" in done.err

    cleaned = tmp_path / "cleaned"
    shutil.copytree(home / "runs" / "r", cleaned, symlinks=True, ignore=shutil.ignore_patterns("control"))
    assert cli("clean", cleaned, cwd=home).status == 0
    assert len([*cleaned.glob("members/*/checkpoint")]) == 1
    done = cli("best", cleaned, "--merge", cwd=home)
    assert done.status == 2
    assert "has one checkpoint, that of its best member" in done.err


def test_without_a_function_that_validates_only_the_best_is_kept_and_the_remedy_is_said(tmp_path: Path) -> None:
    (tmp_path / "scatter.py").write_text(SCRIPT.replace(" validate=validate,", ""))
    launched = cli("launch", "scatter.py", "--name", "r", "--generations", "1", "--slots", "2", "-q", cwd=tmp_path)
    assert launched.status == 0, launched.err
    assert len([*(tmp_path / "runs/r").glob("members/*/checkpoint")]) == 1
    done = cli("best", "r", "--merge", cwd=tmp_path)
    assert done.status == 2
    assert "write a function validate(member)" in done.err


def test_files_that_cannot_be_averaged_are_named_and_fresh_interpreters_validate_too(tmp_path: Path) -> None:
    note = '    (member.checkpoint / "note.txt")'
    pickled = SCRIPT.replace(note, f'    (member.checkpoint / "model.pkl").write_bytes(bytes([member.id]))\n{note}')
    (tmp_path / "scatter.py").write_text(pickled)
    options = ("--name", "r", "--generations", "1", "--slots", "2", "--start", "exec", "-q")
    assert cli("launch", "scatter.py", *options, cwd=tmp_path).status == 0
    error = combined(tmp_path, "--merge", status=1)
    assert "no member can be added" in error
    assert "model.pkl: files of this kind cannot be averaged" in error
    assert "--ensemble" in error
    assert combined(tmp_path, "--ensemble", "2")["gain"] >= 0, "predictions need no average of weights"


def test_a_run_of_an_application_is_merged_as_well(tmp_path: Path) -> None:
    (tmp_path / "scatter.py").write_text(SCRIPT)
    (tmp_path / "app.py").write_text(
        "import asyncio\nimport gpbt_async as gpbt\nfrom scatter import experiment\n"
        "if __name__ == '__main__':\n"
        "    print(asyncio.run(gpbt.launch(experiment, 'runs/r', slots=2, changes={'generations': 1})).member)\n"
    )
    subprocess.run([sys.executable, "app.py"], cwd=tmp_path, check=True, capture_output=True)
    made = combined(tmp_path, "--merge")
    assert made["best"] == made["members"][0]
    assert len(made["steps"]) == len(made["candidates"]) > 1


def test_what_choose_by_has_chosen_is_combined_by_its_metric(tmp_path: Path) -> None:
    text = SCRIPT.replace("validate=validate,", 'validate=validate, choose_by="holdout_loss",')
    text = text.replace(
        "GOAL) ** 2)))\n\ndef validate", "GOAL) ** 2)), holdout_loss=1 + member.config['width'])\n\ndef validate"
    )
    text = text.replace("far=float(", "holdout_loss=1 / len(member.parents), far=float(")
    assert text.count("holdout_loss") == 3
    (tmp_path / "scatter.py").write_text(text)
    done = cli("launch", "scatter.py", "--name", "r", "--slots", "2", "--quiet", cwd=tmp_path)
    assert done.status == 0, done.err
    made = combined(tmp_path, "--merge")
    assert (made["metric"], made["mode"], made["best_score"]) == ("holdout_loss", "min", 1.0)
    assert made["reported"] > 1
    assert made["members"] == [made["best"]], "an average is one folder, and so no better by this metric"
    several = combined(tmp_path, "--ensemble", "3")
    assert several["score"] == pytest.approx(1 / 3), "whatever the score says"
    (tmp_path / "scatter.py").write_text(text.replace("holdout_loss=1 / len(member.parents), ", ""))
    assert "did not report 'holdout_loss'" in combined(tmp_path, "--merge", "--changed-script", status=1)
