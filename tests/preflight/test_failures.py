"""Whole runs whose members fail: what is tried again, how early it is known, and what is said."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from harness import cli, cli_here, facts, start, until
from run_checker import check_run

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "import os, sys, time, pathlib\nimport gpbt_async as gpbt\n\ndef train(member):\n"
DONE = "    (member.checkpoint / 'w').write_text(str(member.id))\n    member.report(score=member.config['x'])\n\n"


def written(place: Path, body: str, end: str = DONE, **settings: object) -> Path:
    given = {"score": "score", "mode": "max", "population": 6, "generations": 2, "searcher": "random", **settings}
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    script = place / "mine.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script.write_text(
        f"{HEAD}{lines}{end}\nexperiment = gpbt.Experiment(train, space={{'x': gpbt.Float(0.0, 1.0)}}, {words})\n"
    )
    return script


def starts(folder: Path) -> Counter[int]:
    return Counter(fact["member"] for fact in facts(folder, "Started"))


@pytest.mark.parametrize(
    ("body", "attempts"),
    [
        ("raise ValueError('no')", 2),
        ("assert member.config['x'] > 2", 2),
        ("raise ExceptionGroup('two', [ValueError('a'), TypeError('b')])", 2),
        ("class Odd(Exception):\n    def __str__(self): raise KeyError('no')\nraise Odd()", 2),
        ("import no_such_module_anywhere", 2),
        ("raise RuntimeError('Error(s) in loading state_dict for Net:\\n\\tsize mismatch for w: copying a param')", 1),
        ("raise RuntimeError(f'attempt {member.attempt}')", 3),
        ("raise ConnectionError('the server is away')", 3),
        ("raise RuntimeError('CUDA error: unspecified launch failure')", 3),
        ("sys.exit(1)", 3),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), 11)", 3),
        ("try:\n    raise OSError(5, 'io')\nexcept OSError as error:\n    raise ValueError('no') from error", 3),
    ],
)
def test_the_number_of_attempts(tmp_path: Path, body: str, attempts: int) -> None:
    guarded = "if member.id == 0:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    script = written(tmp_path, guarded, population=2, generations=1)
    done = cli("launch", script, "--slots", 2, "--name", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "r"
    assert starts(folder) == {0: attempts, 1: 1}
    certain = [fact["certain"] for fact in facts(folder, "Failed")]
    assert certain == [False] * (attempts - 1) + [attempts < 3]
    assert check_run(folder) == []
    assert f"member 0 failed for good (attempt {attempts})" in done.err


def test_a_passing_failure_gets_all_attempts(tmp_path: Path) -> None:
    body = "if member.id % 2 and member.attempt < 3:\n    raise TimeoutError('the file server is away')"
    done = cli("launch", written(tmp_path, body), "--slots", 2, "--name", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "r"
    assert set(starts(folder).values()) == {1, 3}
    assert check_run(folder) == []


def test_a_checkpoint_with_a_reserved_name_is_tried_twice(tmp_path: Path) -> None:
    body = "if member.id == 0:\n    (member.checkpoint / 'manifest.json').write_text('mine')"
    done = cli(
        "launch", written(tmp_path, body, population=2, generations=1), "--slots", 1, "--name", "r", cwd=tmp_path
    )
    assert done.status == 0, done.err
    assert starts(tmp_path / "runs" / "r") == {0: 2, 1: 1}
    assert check_run(tmp_path / "runs" / "r") == []


MUTE = "member.report(val_score=1.0)\n"


@pytest.mark.parametrize("slots", [1, 3])
def test_a_misspelt_score_costs_one_interval_per_slot_and_is_named(tmp_path: Path, slots: int) -> None:
    script = written(tmp_path, MUTE, end="", population=12)
    done = cli("launch", script, "--slots", slots, "--name", "r", cwd=tmp_path)
    assert done.status == 1
    folder = tmp_path / "runs" / "r"
    assert sum(starts(folder).values()) <= slots
    assert "r has failed: the score 'score' is never reported: " in done.err
    assert "reported 'val_score'; did you mean score='val_score'?" in done.err
    if slots == 1:
        assert done.err.count("did you mean") == 1, "the finding came with the reason, which says it all"
    assert [found["code"] for found in facts(folder, "Found")].count("GPBT011") == 1
    assert "did you mean score='val_score'?" in cli_here("status", "r", cwd=tmp_path).out
    strict = cli("launch", script, "--slots", 3, "--name", "s", "--strict", "--silence", "GPBT001", cwd=tmp_path)
    assert strict.status in (1, 2)
    # mended, it goes on from where it was
    written(tmp_path, "", population=12)
    mended = cli("resume", "r", "--retry-failed", "--changed-script", cwd=tmp_path)
    assert mended.status == 0, mended.err
    assert len(facts(folder, "Published")) == 24
    assert check_run(folder) == []


def test_free_slots_wait_while_it_is_in_doubt_whether_the_script_works(tmp_path: Path) -> None:
    """Member 0 ends without its score; member 1 reports it, and trains on: the other slot goes on at once."""
    go, report = tmp_path / "go", tmp_path / "report"
    body = (
        "if member.id == 0:\n    member.report(other=1.0)\n    return\n"
        f"while member.id == 1 and not pathlib.Path({str(report)!r}).exists():\n    time.sleep(.005)\n"
        "member.report(score=0.5)\n"
        f"while member.id == 1 and not pathlib.Path({str(go)!r}).exists():\n    time.sleep(.005)\n"
    )
    run = start("launch", written(tmp_path, body), "--slots", 2, "--name", "r", cwd=tmp_path)
    folder = tmp_path / "runs" / "r"
    until(lambda: facts(folder, "Trained"))
    doubt = until(lambda: re.search(r"the members in training to end: .*", cli_here("status", "r", cwd=tmp_path).out))
    assert "member 0 ended without its score 'score', and perhaps all do" in doubt[0]
    assert sum(starts(folder).values()) == 2
    report.touch()
    until(lambda: sum(starts(folder).values()) > 2)
    assert [fact["member"] for fact in facts(folder, "Scored")] == [1]
    go.touch()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert check_run(folder) == []
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["idle_s"]["evidence"] > 0
    spent = sum(summary["idle_s"].values()) + summary["busy_s"]
    assert spent == pytest.approx(summary["slots"] * summary["wall_s"], rel=1e-6, abs=1e-6)


def test_a_child_that_cannot_load_its_parent_is_a_finding_at_once(tmp_path: Path) -> None:
    """The model's shape is a hyperparameter."""
    body = (
        "width = round(member.config['x'] * 1e6)\n"
        "if member.parent and int((member.parent / 'w').read_text()) != width:\n"
        "    raise RuntimeError('Error(s) in loading state_dict for Net:\\n\\tsize mismatch for w: copying a param')\n"
        "(member.checkpoint / 'w').write_text(str(width))\n"
        "(member.checkpoint / 'id').write_text(str(member.id))\nmember.report(score=member.config['x'])\n"
    )
    script = written(tmp_path, body, end="", population=8)
    done = cli("launch", script, "--slots", 2, "--name", "r", cwd=tmp_path)
    folder = tmp_path / "runs" / "r"
    (found,) = [fact for fact in facts(folder, "Found") if fact["code"] == "GPBT010"]
    assert "cannot load the checkpoint of its parent" in found["text"]
    assert "remedy" not in found["text"]
    assert "cannot be inherited: take it out of the space" in found["remedy"]
    first = next(fact["n"] for fact in facts(folder, "Failed"))
    assert found["n"] == first + 1, "at the first that fails"
    failed = facts(folder, "Failed")
    assert len({fact["member"] for fact in failed}) == len(failed) > 1, "none is tried twice"
    assert done.err.count("cannot be inherited") == 3, "with the first failure, with the finding, and at the end"
    strict = cli("launch", script, "--slots", 2, "--name", "s", "--strict", cwd=tmp_path)
    assert strict.status == 2
    assert "GPBT010" in strict.err
