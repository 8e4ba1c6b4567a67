"""The examples: all of them run. (app.py and notebook.ipynb have test files of their own.)"""

from __future__ import annotations

import difflib
import json
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness import LONG, cli, facts, run_id
from run_checker import alive, check_run

EXAMPLES = Path(__file__).parent.parent / "examples"
README = EXAMPLES.parent / "README.md"


#: which tests run an example
RUN_BY = {
    **dict.fromkeys(["digits", "embed", "partial_fit", "plain", "plain_member", "valley"], "test_examples.py"),
    "app": "test_examples_app.py",
    "notebook": "test_notebook.py",
}


def test_every_example_is_run() -> None:
    there = {path.stem for path in EXAMPLES.iterdir() if path.suffix not in ("", ".awk") and path.is_file()}
    assert there == set(RUN_BY), "valley.awk is run by valley.py"
    for name, tests in RUN_BY.items():
        assert re.search(rf'"{name}(\.py|\.ipynb)?"', (Path(__file__).parent / tests).read_text()), name


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


def launched(name: str, where: Path, *options: object, script: Path = EXAMPLES) -> Path:
    done = cli("launch", script / f"{name}.py", "--slots", 2, "-q", *options, cwd=where)
    assert done.status == 0, done.err
    folder = where / "runs" / f"{name}-1"
    assert check_run(folder) == []
    assert facts(folder, "Found") == [], "an example is sound"
    return folder


def test_the_script_as_a_member(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
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
    output = cli("replay", folder.name, "-q", "--json", cwd=tmp_path).json["replay"]
    assert output["replays"][0]["scores"] == [
        m["score"] for m in json.loads((folder / "schedule.json").read_text())["schedule"]
    ]


def test_a_member_that_learns_by_partial_fit(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    folder = launched("partial_fit", tmp_path, "--population", 4, "--generations", 3)
    metrics = [json.loads(line) for p in folder.glob("members/*/metrics.jsonl") for line in p.read_text().splitlines()]
    assert len(metrics) == 4 * 3 * 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_metrics"]["accuracy"] > 0.8
    for option in (["--merge"], ["--ensemble", 2]):
        made = cli("best", folder.name, *option, "--json", cwd=tmp_path).json
        assert made["best_score"] == pytest.approx(summary["score"])
        assert made["score"] <= made["best_score"]
        assert len(made["steps"]) > 1


@pytest.mark.slow
def test_the_first_example_of_the_readme(tmp_path: Path) -> None:
    """With shorter intervals than it has."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    text = (EXAMPLES / "digits.py").read_text()
    assert text.count("EPOCHS = 8 ") == 1
    (tmp_path / "digits.py").write_text(text.replace("EPOCHS = 8 ", "EPOCHS = 3 "))
    folder = launched("digits", tmp_path, "--population", 2, "--generations", 2, "--seed", 1, script=tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_metrics"].keys() == {"loss", "accuracy", "test_accuracy"}
    assert summary["best_metrics"]["test_accuracy"] > 0.3, "chance is 0.1"
    assert {p.name for p in (folder / "best" / "checkpoint").iterdir()} == {"model.pt", "manifest.json"}
    made = cli("best", folder.name, "--merge", "--json", cwd=tmp_path).json
    assert made["best_score"] == pytest.approx(summary["score"], rel=1e-4)
    assert made["steps"][0]["metrics"].keys() == {"loss", "accuracy", "test_loss", "test_accuracy"}


def test_the_script_before_it_was_made_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "plain.py"), run_name="__main__")  # not another process: it would import torch anew
    output = capsys.readouterr().out
    epochs = re.findall(r"^epoch (\d): validation loss [0-9.]+, accuracy ([0-9.]+)$", output, re.MULTILINE)
    assert [int(number) for number, _ in epochs] == [0, 1, 2]
    assert float(epochs[-1][1]) > 0.7
    assert (tmp_path / "model.pt").stat().st_size > 0


@pytest.mark.slow
def test_an_application_with_a_run_beside_its_service(tmp_path: Path) -> None:
    """Ctrl-C in the middle, and started again; with shorter intervals than it has."""
    text = (EXAMPLES / "embed.py").read_text()
    assert text.count("MOVES = 40_000") == 1
    script, folder = tmp_path / "embed.py", tmp_path / "runs" / "embed"
    script.write_text(text.replace("MOVES = 40_000", "MOVES = 8_000"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-u", script], cwd=tmp_path, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        address = re.fullmatch(r"the best tour so far: nc (127\.0\.0\.1) (\d+)\n", process.stdout.readline())
        assert address is not None
        first = process.stdout.readline()
        assert re.fullmatch(r"member \d, generation 0: [0-9.]+\n", first)
        with socket.create_connection((address[1], int(address[2])), LONG) as asked, asked.makefile() as answer:
            assert float(answer.read()) <= float(first.split()[-1])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (1, "\ninterrupted: start the program again to go on\n")
    assert alive(run_id(folder)) == []
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"the best tour is ([0-9.]+) long, annealed by this schedule:\n((?:  .*\n)+)\Z", done.stdout)
    assert found is not None
    assert check_run(folder) == []
    best = json.loads((folder / "schedule.json").read_text())
    assert f"{best['score']:.1f}" == found[1]
    assert len(found[2].splitlines()) == len(best["schedule"])
