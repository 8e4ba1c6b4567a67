"""`--help` from outside, its examples against the options there are, and Tab in a real shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gpbt_async.cli.app import app
from gpbt_async.cli.options import MOST, words_of

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_short_line_and_examples_that_are_right(name: str) -> None:
    words = words_of(name)
    assert len(words["short_help"]) <= 60
    page = COMMANDS[name].get_help(typer.Context(COMMANDS[name], info_name=name))
    examples = [line.strip() for line in page.partition("Examples:\n")[2].splitlines()]
    assert examples, "they stand at the end of its page, line by line"
    for example in examples:
        typed = re.split("  +", example)[0].partition("|")[0].partition("2>")[0]
        call = re.fullmatch(rf"(gpbt-async|python -m pdb -m gpbt_async) {name}( .*)?", typed.strip())
        assert call, example
        COMMANDS[name].make_context(name, shlex.split(call[2] or ""))  # raises for an option there is not


def test_the_readme_names_every_command() -> None:
    text = (Path(__file__).parent.parent.parent / "README.md").read_text()
    assert [name for name in COMMANDS if f"`gpbt-async {name}" not in text and f"`{name} " not in text] == []


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
    assert done.stdout.splitlines() == ["status stop", "one two", "other", "", "best 0 1 2", "best", "", "zygote exec"]


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
