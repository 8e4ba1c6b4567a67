"""A command starts quickly, and still gets the values that Typer would give it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.core import TyperCommand

from gpbt_async.cli import app, commands

if TYPE_CHECKING:
    from pathlib import Path

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
