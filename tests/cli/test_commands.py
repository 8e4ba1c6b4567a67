"""A command starts quickly, and still gets the values that Typer would give it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperCommand

from gpbt_async.cli import app, commands

PACKAGE = Path(__file__).parent.parent.parent / "gpbt_async"
LINES = (
    "launch x.py",
    "launch x.py --population 5 --ratio 2.5 --early-stop median --silence GPBT001 --silence GPBT002 --seed 3",
    "launch x.py --runs elsewhere --name it --gpus none --quiet --no-affinity --wait-for-gpus --xid 13=card --json",
    "launch x.py --track jsonl --track csv --start exec --disk 1GiB -m",
    "launch --population few x.py",
    "launch x.py --nonsense",
    "launch",
    "launch x.py y.py",
    "resume it --adopt space --adopt seed --retry-failed",
    "status",
    "status it --runs elsewhere --json",
    "export it",
    "best it --to model",
    "plan x.py --slots 2 --seconds 3 --spread 0.5",
    "plan x.py --slots two",
    "serve --port 0",
    "lineage it 3",
    "gpus",
    "guide member",
    "clean it",
)


def outcome(name: str, words: list[str], kind: type[TyperCommand]) -> object:
    """The values of a command's parameters, or how the line is refused."""
    module = __import__(f"gpbt_async.cli.{app.Commands.HOMES[name]}", fromlist=["_"])
    one = typer.Typer(add_completion=False, rich_markup_mode=None)
    one.command(name, cls=kind)(getattr(module, name))
    command: Any = typer.main.get_command(one)
    try:
        return command.make_context(name, [*words]).params
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("line", LINES)
def test_the_values_are_those_of_typer(line: str) -> None:
    name, *words = line.split()
    quick, whole = (outcome(name, words, kind) for kind in (commands.QuickCommand, TyperCommand))
    assert quick == whole
    if isinstance(quick, dict) and isinstance(whole, dict):
        assert {key: type(value) for key, value in quick.items()} == {key: type(whole[key]) for key in quick}


LAUNCH = """
import sys
def started(event, words):
    if event == "subprocess.Popen":
        print("MODULES", *sys.modules)
sys.addaudithook(started)
from gpbt_async.__main__ import main
main()
"""
SCRIPT = """
import sys
from pathlib import Path
import gpbt_async as gpbt
def train(member):
    Path("in_train.txt").write_text(" ".join(sys.modules))
    member.report(score=member.config["x"])
experiment = gpbt.Experiment(
    train, space={"x": gpbt.Float(0, 1)}, score="score", mode="max", population=2, generations=1
)
"""


def test_little_is_imported_before_the_first_train(tmp_path: Path) -> None:
    """The first member waits for what the scheduler imports before its first process, and for what the zygote imports.

    The rest is imported beside: the scheduler has it all by the time it shows the run.
    """
    (tmp_path / "small.py").write_text(SCRIPT)
    words = ["launch", "small.py", "--gpus", "none", "--quiet", "--slots", "1", "--searcher", "random"]
    done = subprocess.run([sys.executable, "-c", LAUNCH, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = set(next(line for line in done.stdout.splitlines() if line.startswith("MODULES")).split())
    in_train = set((tmp_path / "in_train.txt").read_text().split())
    heavy = {"numpy", "pydantic", "rich", "psutil", "pynvml", "hyperopt", "scipy", "torch", "optuna"}
    assert "gpbt_async.processes.launcher" in before
    assert not before & (heavy | {"gpbt_async.events", "gpbt_async.codec", "gpbt_async.storage.checkpoints"})
    folders = {name.split(".")[1] for name in before if name.startswith("gpbt_async.")}
    assert not folders & {"engine", "analysis", "devices", "preflight", "ui", "member"}
    assert "gpbt_async.member.api" in in_train
    assert not in_train & (heavy | {"asyncio", "typer", "subprocess", "logging", "gpbt_async.events"})
    folders = {name.split(".")[1] for name in in_train if name.startswith("gpbt_async.")}
    lower = {"codec", "declaration", "errors", "experiment", "findings", "formatting", "schedule", "space"}
    assert folders <= lower | {"member", "processes", "storage"}


def test_the_guardian_imports_next_to_nothing() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import gpbt_async.processes.guardian_main; print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", code, str(PACKAGE.parent)]
    loaded = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"asyncio", "dataclasses", "inspect", "logging", "pathlib", "site", "subprocess", "tempfile"}
    assert {name for name in loaded if name.startswith("gpbt_async.")} == {
        f"gpbt_async.{name}" for name in ("processes", "processes.guardian_main", "processes.linux")
    }


def modules_of(*words: str, cwd: Path) -> set[str]:
    """What a command imports, from start to end."""
    code = (
        "import atexit, sys; from gpbt_async.__main__ import main\n"
        "atexit.register(lambda: print('MODULES', *sys.modules)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["status"], ["status", "--json"], ["guide", "member"]])
def test_a_short_command_imports_no_pydantic(words: list[str], tmp_path: Path) -> None:
    loaded = modules_of(*words, cwd=tmp_path)
    assert not loaded & {"pydantic", "numpy", "psutil", "rich", "hyperopt"}
    if words == ["--version"]:
        assert {name for name in loaded if name.startswith("gpbt_async.cli.")} == {
            f"gpbt_async.cli.{name}" for name in ("app", "commands", "output")
        }


def test_only_the_command_that_is_typed_is_imported(tmp_path: Path) -> None:
    loaded = modules_of("guide", cwd=tmp_path)
    assert "gpbt_async.cli.guide" in loaded
    assert not loaded & {"gpbt_async.cli.launch", "gpbt_async.cli.results", "gpbt_async.cli.runs"}


def test_a_command_that_does_not_exist_has_its_neighbours_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpbt-async", "lanch"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    assert "'launch'" in capsys.readouterr().err
