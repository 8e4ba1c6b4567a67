"""`--help` and its examples, options that travel as one value, and Tab in a real shell."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from gpbt_async.cli.app import app
from gpbt_async.cli.completion import MOST
from gpbt_async.cli.options import CHANGES, MACHINE, Name, arguments, takes
from gpbt_async.declaration.run_options import RunOptions
from gpbt_async.errors import ExperimentError

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_short_line_and_valid_examples(name: str) -> None:
    short = COMMANDS[name].get_short_help_str(60)
    assert short.endswith("."), "the first sentence of the docstring fits into the list of commands"
    assert not short.endswith("...")
    page = COMMANDS[name].get_help(typer.Context(COMMANDS[name], info_name=name))
    examples = [line.strip() for line in page.partition("Examples:\n")[2].splitlines()]
    assert examples, "they are the last lines of the page"
    for example in examples:
        typed = re.split("  +", example)[0].partition("|")[0].partition("2>")[0]
        call = re.fullmatch(rf"(gpbt-async|python -m pdb -m gpbt_async) {name}( .*)?", typed.strip())
        assert call, example
        COMMANDS[name].make_context(name, shlex.split(call[2] or ""))  # raises for an option there is not


def test_the_readme_names_every_command() -> None:
    text = (Path(__file__).parent.parent.parent / "README.md").read_text()
    assert [name for name in COMMANDS if f"`gpbt-async {name}" not in text and f"`{name} " not in text] == []


# ---- options that travel as one value


def packed(*line: str, **groups: tuple[str, ...]) -> dict[str, Any]:
    """What a command gets for its groups when this is typed behind its name."""
    got: dict[str, Any] = {}

    def both(*, changes: dict[str, Any], options: RunOptions) -> None:
        got.update(changes=changes, options=options)

    def one(*, options: RunOptions, name: Name = None) -> None:
        got.update(options=options, name=name)

    app = typer.Typer()
    app.command()(takes(**groups)(both if "changes" in groups else one))
    app(line, standalone_mode=False)
    return got


def test_the_options_of_the_machine_are_the_fields_of_run_options() -> None:
    assert {field.name for field in dataclasses.fields(RunOptions)} == set(MACHINE)


def test_what_is_not_given_is_not_handed_over() -> None:
    assert packed(changes=(*CHANGES,), options=(*MACHINE,)) == {"changes": {}, "options": RunOptions()}
    assert arguments(RunOptions()) == {}


def test_options_travel_as_one_value_each() -> None:
    line = "--population 5 --early-stop median --silence GPBT001,GPBT002 --silence GPBT003 --slots 2 --no-affinity"
    line += " --wait-for-gpus --xid 13=card --xid 31=nobody --track jsonl --track csv --start exec --disk 1GiB"
    got = packed(*line.split(), changes=(*CHANGES,), options=(*MACHINE,))
    assert got["changes"] == {"population": 5, "early_stop": "median", "silence": "GPBT001,GPBT002,GPBT003"}
    given: dict[str, Any] = {
        "slots": 2, "affinity": False, "wait_for_gpus": True, "xids": {13: "card", 31: "nobody"}, "disk": "1GiB",
        "track": ("jsonl", "csv"), "start": "exec",
    }  # fmt: skip
    assert got["options"] == RunOptions(**given)
    assert arguments(got["options"]) == given
    assert packed("--share", "none", options=("share",))["options"] == RunOptions(share="none")
    assert packed("--no-wait-for-gpus", options=(*MACHINE,))["options"] == RunOptions(wait_for_gpus=False)


def test_a_command_takes_a_part_of_a_group_beside_options_of_its_own() -> None:
    assert packed("--share", "3", "--name", "x", options=("share",)) == {"options": RunOptions(share=3), "name": "x"}
    with pytest.raises(Exception, match=r"No such option.*--vram"):
        packed("--vram", "1GiB", options=("share",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--start magic", "--start: got 'magic'; must be one of 'zygote', 'exec', 'resident', 'none'"),
        ("--nvml-library=", "--nvml-library: got ''; must be the path of a library"),
        ("--xid 13", "--xid 13: must be a number, =, and card, member or nobody, such as 109=member"),
        ("--xid 13=us", "--xid 13=us: must be a number"),
        ("--xid 13=card --xid 13=member", "--xid 13=member: card is blamed for it already; give only one"),
        ("--share few", "--share: got 'few'; must be a whole number of at least 1, or 'none'"),
    ],
)
def test_an_invalid_value_is_refused_with_what_is_allowed(line: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=re.escape(message)):
        packed(*line.split(), options=(*MACHINE,))


def test_help_and_tab_import_only_options() -> None:
    """Both import every command's module, and a person waits for them."""
    code = "import sys, typer, gpbt_async.cli.app as cli; list(typer.main.get_command(cli.app).commands.values())"
    code += "; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"asyncio", "numpy", "rich", "psutil", "pynvml", "aiofiles"}
    folders = {name.split(".")[1] for name in loaded if name.startswith("gpbt_async.")}
    assert folders == {"cli", "declaration", "errors", "formatting"}


# ---- Tab

TAB = """
eval "$(_GPBT_ASYNC_COMPLETE=source_bash gpbt-async)"
tab() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMPREPLY=()
  _gpbt_async_completion gpbt-async; echo "${COMPREPLY[*]}"
}
tab gpbt-async st
tab gpbt-async status ""
tab gpbt-async resume --runs more ""
tab gpbt-async watch more/
tab gpbt-async lineage one ""
tab gpbt-async lineage nothing be
tab gpbt-async launch ""
tab gpbt-async launch x.py --start ""
"""


def test_tab_in_bash(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    for run in ("runs/one", "runs/two", "more/other"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "experiment.json").write_text("{}")
    (tmp_path / "runs" / "no-run").mkdir()
    for member in range(3):
        (tmp_path / "runs" / "one" / "members" / f"{member:04}").mkdir(parents=True)
    program = tmp_path / "gpbt-async"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gpbt_async "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", TAB], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "status stop",
        "one two",
        "other",
        "",
        "best 0 1 2",
        "best",
        "",
        "zygote exec resident none",
    ]


def test_tab_in_zsh_and_of_many_members(tmp_path: Path) -> None:
    for member in range(MOST + 50):
        (tmp_path / "runs" / "big" / "members" / f"{member:04}").mkdir(parents=True)

    def tab(line: str) -> str:
        env = {**os.environ, "_GPBT_ASYNC_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
        done = subprocess.run(
            [sys.executable, "-m", "gpbt_async"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    assert tab("gpbt-async lineage big ").count('"') == 2 * MOST
    assert "_files" in tab("gpbt-async doctor "), "the shell knows files best"
