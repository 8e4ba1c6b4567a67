"""The examples for people who have a program already: they run, and little had to be changed."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from check_run import check_run
from harness import LONG, cli

EXAMPLES = Path(__file__).parent.parent / "examples"
README = EXAMPLES.parent / "README.md"


def code(name: str) -> list[str]:
    """Its lines that are not blank, without the docstring at its head."""
    text = (EXAMPLES / name).read_text().partition('"""\n\n')[2]
    return [line for line in text.splitlines() if line.strip()]


def test_six_lines_make_a_member_of_an_ordinary_script() -> None:
    before, after = code("plain.py"), code("plain_member.py")
    assert 50 <= len((EXAMPLES / "plain.py").read_text().splitlines()) <= 60
    assert not any("gpbt" in line for line in before)
    changes = [
        (tag, max(a2 - a1, b2 - b1), after[b1:b2])
        for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        if tag != "equal"
    ]
    assert sum(count for _, count, _ in changes) <= 6, changes
    shown = README.read_text()  # a new user reads no more than that
    for _, _, lines in changes:
        for line in lines:
            assert line.strip() in shown, f"README does not show {line.strip()!r}"


def launched(name: str, where: Path, *options: object) -> Path:
    done = cli("launch", EXAMPLES / f"{name}.py", "--slots", 2, "-q", *options, cwd=where)
    assert done.status == 0, done.err
    folder = where / "runs" / f"{name}-1"
    assert check_run(folder) == []
    return folder


def test_a_script_that_was_made_a_member(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    before = subprocess.run(
        [sys.executable, EXAMPLES / "plain.py"], cwd=tmp_path, capture_output=True, text=True, timeout=LONG
    )
    assert before.stdout.count("validation loss") == 3, before.stderr
    assert (tmp_path / "model.pt").is_file()
    folder = launched("plain_member", tmp_path, "--population", 3, "--generations", 2)
    checkpoint = folder / "best" / "checkpoint"
    assert {p.name for p in checkpoint.iterdir()} == {"model.pt", "state.pt", "manifest.json"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_metrics"].keys() == {"loss", "accuracy"}


@pytest.mark.skipif(shutil.which("awk") is None, reason="no awk")
def test_a_member_in_awk_and_its_replay(tmp_path: Path) -> None:
    folder = launched("valley", tmp_path, "--generations", 3)
    state = (folder / "best" / "checkpoint" / "state").read_text().split()
    x, y = map(float, state[:2])
    score = json.loads((folder / "summary.json").read_text())["score"]
    assert (1 - x) ** 2 + 100 * (y - x * x) ** 2 == pytest.approx(score)
    assert score < 5, "it went down"
    # awk draws no random numbers: the schedule alone decides
    told = cli("replay", folder.name, "-q", "--json", cwd=tmp_path).json["replay"]
    assert told["replays"][0]["scores"] == [
        m["score"] for m in json.loads((folder / "schedule.json").read_text())["schedule"]
    ]


def test_a_member_that_learns_by_partial_fit(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    folder = launched("partial_fit", tmp_path, "--population", 4, "--generations", 3)
    metrics = [json.loads(line) for p in folder.glob("members/*/metrics.jsonl") for line in p.read_text().splitlines()]
    assert len(metrics) == 4 * 3 * 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_metrics"]["accuracy"] > 0.8
