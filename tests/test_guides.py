"""README and guides: what they show is run, what they name exists, and what they number is what the code says."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import typer.main
from harness import LONG, cli
from run_checker import check_run

import gpbt_async as gpbt
from gpbt_async.analysis import usage
from gpbt_async.cli import app, forecast, guide
from gpbt_async.devices import xids as table
from gpbt_async.experiment import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PACKAGE, README = ROOT / "gpbt_async", ROOT / "README.md"
DOCUMENTS = [README, *(PACKAGE / "guides" / f"{name}.md" for name in guide.NAMES)]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS: dict[str, Any] = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
#: what variables of these names hold, wherever they are shown
HOLDS: dict[str, Any] = {
    "member": gpbt.Member, "ask": gpbt.Ask, "run": gpbt.Run, "schedule": gpbt.Schedule, "best": gpbt.Best
}  # fmt: skip


class Block(NamedTuple):
    where: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that it is the whole of, which its first line says."""
        found = re.match(r"# ([\w-]+\.\w+)", self.text)
        return found[1] if found else None


def blocks(document: Path) -> list[Block]:
    text = document.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(f"{document.name}:{text[: m.start()].count(chr(10)) + 1}", m[1], m[2]) for m in found]


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
FILES = {block.file: block.text for block in BLOCKS if block.file}
#: lines for a shell: (where, words)
LINES = [(b.where, shlex.split(line)) for b in BLOCKS if b.language == "sh" for line in b.text.splitlines()]
#: what stands between backquotes
SPANS = {
    document.name: re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S))
    for document in DOCUMENTS
}


def ids(value: Any) -> str | None:
    return value.where if isinstance(value, Block) else None


# ---- the README


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 170
    assert [line for line in lines if len(line) > 120 and not line.startswith("python -m venv")] == []


def test_the_readme_begins_with_the_two_commands_of_a_fresh_machine() -> None:
    """Whoever tries a release takes them from there, word by word."""
    first, tests = (block.text for block in blocks(README)[:2])
    assert README.read_text().index("## Try it") < README.read_text().index(first)
    made = "python -m venv .venv && .venv/bin/pip install torch=="
    assert first.startswith(made)
    assert tests.startswith(made)
    assert first.rstrip().endswith("'.[examples]' && .venv/bin/gpbt-async launch examples/digits.py")
    assert tests.rstrip().endswith("-e '.[test]' && .venv/bin/python -m pytest -n auto")
    pinned = {re.findall(r"torch==\S+", text)[0] for text in (first, tests, (ROOT / ".ci" / "run").read_text())}
    assert len(pinned) == 1


def test_the_readme_lists_all_commands() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `gpbt-async ")]
    told = {name for row in rows for name in re.findall(r"`(?:gpbt-async )?([a-z]+)\b[^`]*`", row.split(" | ")[0])}
    assert told == set(COMMANDS)


# ---- what is shown, is run


def python(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that is shown, and a run called digits-1."""
    where = tmp_path_factory.mktemp("guides")
    for name, text in FILES.items():
        (where / name).write_text(text)
    (where / "mine.py").write_text(FILES["hill.py"])  # to be imported in no time
    done = cli("launch", "hill.py", "--name", "digits-1", "--slots", 2, "-q", cwd=where)
    assert done.status == 0, done.err
    return where


def test_the_script_of_the_readme_is_a_member(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    done = cli("launch", "mine.py", "--population", 2, "--generations", 2, "--slots", 2, "-q", cwd=tmp_path)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "mine-1"
    assert check_run(folder) == []
    assert json.loads((folder / "summary.json").read_text())["best_metrics"].keys() == {"loss", "accuracy"}


def test_the_member_without_torch_goes_downhill(scratch: Path) -> None:
    folder = scratch / "runs" / "digits-1"
    assert check_run(folder) == []
    assert json.loads((folder / "summary.json").read_text())["score"] < 1


def test_one_file_is_a_program_and_a_member(scratch: Path) -> None:
    assert python("both.py", cwd=scratch).endswith("}\n")
    assert cli("launch", "both.py", "--slots", 2, "-q", cwd=scratch).status == 0


def test_the_recipe_for_hydra(scratch: Path) -> None:
    pytest.importorskip("hydra")
    (config,) = (block.text for block in BLOCKS if block.language == "yaml")
    (scratch / "conf").mkdir()
    (scratch / "conf" / "config.yaml").write_text(config)
    done = cli("launch", "composed.py", "--slots", 2, "--strict", "-q", cwd=scratch)
    assert done.status == 0, done.err
    assert check_run(scratch / "runs" / "composed-1") == []
    assert json.loads((scratch / "runs" / "composed-1" / "summary.json").read_text())["score"] < 1


@pytest.mark.skipif(shutil.which("awk") is None, reason="no awk")
def test_the_program_in_awk_goes_downhill(scratch: Path) -> None:
    done = cli("launch", "descend.py", "--slots", 2, "-q", cwd=scratch)
    assert done.status == 0, done.err
    folder = scratch / "runs" / "descend-1"
    assert check_run(folder) == []
    assert json.loads((folder / "summary.json").read_text())["score"] < 1


def test_the_scheduler_of_the_guide_follows_the_config(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "scheduled.py").write_text(FILES["scheduled.py"])
    done = cli("launch", "scheduled.py", "--slots", 2, "-q", "--strict", cwd=tmp_path)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "scheduled-1"
    assert check_run(folder) == []
    summary = json.loads((folder / "summary.json").read_text())
    last = gpbt.Schedule.load(folder)[-1]
    assert summary["best_metrics"]["highest"] == pytest.approx(last["lr"], rel=0.01)


def test_the_application_runs_the_experiment(scratch: Path) -> None:
    told = python("loop.py", cwd=scratch)
    assert told.count("has finished") == 24
    assert check_run(scratch / "runs" / "loop") == []


def test_the_searcher_passes_its_test_and_is_used(scratch: Path) -> None:
    python("-c", "import test_half; test_half.test_half()", cwd=scratch)
    options = ["--searcher", "half:Half", "--population", 3, "--generations", 2, "--slots", 2, "-q"]
    done = cli("launch", "hill.py", *options, cwd=scratch)
    assert done.status == 0, done.err


#: commands that only look at a run that is there; the rest starts processes, needs GPUs, or is tested elsewhere
LOOKING = ("status", "best", "lineage", "export", "track", "plan", "guide")


def test_commands_about_a_run_do_what_they_are_said_to(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(scratch)
    lines = [words[1:] for _, words in LINES if words[0] == "gpbt-async" and words[1] in LOOKING]
    lines = [words for words in lines if not {"--merge", "--ensemble"} & set(words)]  # they start processes
    assert {words[0] for words in lines} == set(LOOKING) - {"guide"}
    for words in lines:
        app.app(words, standalone_mode=False)
        told = capsys.readouterr()
        assert told.out or told.err, words
    assert len((scratch / "members.csv").read_text().splitlines()) == 25
    assert {path.name for path in (scratch / "my-model").iterdir()} >= {"checkpoint", "schedule.json", "README.txt"}
    told_too = python("along.py", cwd=scratch)  # which uses what was exported
    assert told_too.startswith("3 {'lr'")
    app.app(["clean", "digits-1"], standalone_mode=False)


def test_six_lines_are_those_of_the_example() -> None:
    """The guide's diff, applied to one example, gives the other."""
    (diff,) = (block.text for block in BLOCKS if block.language == "diff")
    before, after = (code(ROOT / "examples" / name) for name in ("plain.py", "plain_member.py"))
    changes = [
        (tag, before[a1:a2], after[b1:b2])
        for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        if tag != "equal"
    ]
    shown = diff.splitlines()
    assert [line[1:] for line in shown if line.startswith("-")] == [line for _, old, _ in changes for line in old]
    assert [line[1:] for line in shown if line.startswith("+")] == [line for _, _, new in changes for line in new]
    around = [line[1:] for line in shown if line.startswith(" ")]
    assert [line for line in before if line in around] == around


def code(path: Path) -> list[str]:
    """Its lines that are not blank, without the docstring at its head."""
    return [line for line in path.read_text().partition('"""\n\n')[2].splitlines() if line.strip()]


# ---- what is named, exists


@pytest.mark.parametrize("block", PYTHON, ids=ids)
def test_python_is_python_and_names_what_there_is(block: Block) -> None:
    text = textwrap.dedent(block.text)
    if block.file is None:  # a fragment, of the body of a coroutine perhaps
        text = "async def fragment():\n" + textwrap.indent(text, "    ")
    tree = ast.parse(text)
    compile(tree, block.where, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpbt_async"):
            for alias in node.names:
                assert hasattr(importlib.import_module(node.module or ""), alias.name)
        elif isinstance(node, ast.Attribute):
            exists(ast.unparse(node), block.where)
        elif isinstance(node, ast.Call):
            accepts(node, block.where)


def exists(chain: str, where: str) -> None:
    first, *names = chain.split(".")
    if first == "gpbt" and names and names[0] in ("torch", "lightning", "hf"):
        assert len(names) == 1 or names[1] in defined(names[0]), f"{where}: {chain}"
    elif first in ("gpbt", "gpbt_async"):
        assert resolved(names), f"{where}: {chain}"
    elif first in HOLDS and names and names != ["json"]:
        assert names[0].partition("[")[0] in public(HOLDS[first]), f"{where}: {chain}"


def resolved(names: list[str]) -> Any:
    """What `gpbt_async.a.b` is, a module that nobody has imported yet among them."""
    found: Any = gpbt
    for name in names:
        found = getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{found.__name__}.{name}")
    return found


def defined(module: str) -> dict[str, ast.arguments]:
    """Functions and classes of a module that may need a package that is not installed, with what they take."""
    found = {}
    for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node.args
        elif isinstance(node, ast.ClassDef):
            made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            found[node.name] = made[0].args if made else ast.arguments([], [], None, [], [], None, [])
    return found


@functools.cache
def public(kind: type) -> set[str]:
    """Attributes of an instance: methods, properties, slots, and what `__init__` sets."""
    made = inspect.getsource(kind)
    return {name for name in [*dir(kind), *re.findall(r"self\.(\w+)(?:: [^=\n]+)? = ", made)] if name[0] != "_"}


def accepts(call: ast.Call, where: str) -> None:
    """The keywords of a call of ours are those of its signature."""
    chain = ast.unparse(call.func)
    given = {keyword.arg for keyword in call.keywords if keyword.arg}
    first, *names = chain.split(".")
    if first != "gpbt" or not given:
        return
    if names[0] in ("torch", "lightning", "hf"):
        takes = defined(names[0])[names[1]]
        known = {a.arg for a in (*takes.args, *takes.kwonlyargs)} | (given if takes.kwarg else set())
    else:
        known = set(inspect.signature(resolved(names)).parameters)
    assert given <= known, f"{where}: {chain} takes no {given - known}"


def lines_of_ours() -> Iterator[tuple[str, list[str]]]:
    """All that is to be typed after `gpbt-async`, but for commands that come later."""
    for where, words in LINES:
        if words[0] == "gpbt-async":
            yield where, words[1:]
    for name, spans in SPANS.items():
        for span in spans:
            if span.startswith("gpbt-async ") and not set(span) & set("[|…"):
                words = shlex.split(span.replace("\\", ""))[1:]
                # what stands for a file, a number …
                words = ["2" if word in ("N", "K") else word for word in words]
                if words[0] not in ("NAME",) and len(words) > 1:
                    yield name, words


def test_every_line_for_a_shell_would_be_understood() -> None:
    count = 0
    for where, words in lines_of_ours():
        if words == ["guide", "NAME"]:
            continue
        assert words[0] in COMMANDS, f"{where}: {words}"
        try:
            COMMANDS[words[0]].make_context(words[0], words[1:])
        except Exception as error:
            raise AssertionError(f"{where}: gpbt-async {' '.join(words)}: {error}") from None
        count += 1
    assert count > 40
    other = {words[0] for _, words in LINES if words[0] != "gpbt-async"}
    assert other <= {"python", "pip", "pdoc"}


def test_options_that_are_named_exist() -> None:
    known = {option for c in COMMANDS.values() for p in c.params for option in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "--install-completion"}
    for name, spans in SPANS.items():
        named = {option for span in spans if "ruff" not in span for option in re.findall(r"(?<![\w-])--[a-z-]+", span)}
        assert named <= known, f"{name}: {named - known}"


def test_arguments_and_attributes_that_are_named_exist() -> None:
    kinds = (gpbt.Experiment, gpbt.Resources, gpbt.Run, gpbt.Float, gpbt.Space.step)
    known = {name for kind in kinds for name in inspect.signature(kind).parameters}
    known |= {a.arg for takes in defined("torch").values() for a in (*takes.args, *takes.kwonlyargs)}
    known |= {
        "weights_only",
        "random_state",
        "cycle_momentum",
        "generator",
        "max_lr",
        "swa_lr",
    }  # of torch, of scikit-learn
    for name, spans in SPANS.items():
        given = {found[1] for span in spans if (found := re.match(r"(?:gpbt\.Resources\()?([a-z_]+)=", span))}
        assert given <= known, f"{name}: {given - known}"
        for span in spans:
            exists(span.partition("(")[0], name)


def test_files_that_are_named_exist() -> None:
    for name, spans in SPANS.items():
        for span in spans:
            if re.match(r"(examples|bench|tests|gpbt_async)/[\w/.]+$", span):
                assert (ROOT / span).exists(), f"{name}: {span}"
            if found := re.match(r"python -m bench\.(\w+)", span):
                assert (ROOT / "bench" / found[1]).is_dir()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        assert link.startswith("https://") or (document.parent / link).is_file(), link


def test_extras_that_are_named_exist() -> None:
    extras = set(PYPROJECT["project"]["optional-dependencies"])
    for document in DOCUMENTS:
        text = document.read_text()
        named = set(re.findall(r"extra `(\w+)`", text)) | set(re.findall(r"'\.\[(\w+)\]'", text))
        assert named <= extras, f"{document.name}: {named - extras}"


# ---- what is numbered, is what the code says


def read(name: str) -> str:
    return (PACKAGE / "guides" / f"{name}.md").read_text()


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    lines = text[text.index(head) :].splitlines()[2:]
    ends = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:ends]]


def test_every_folder_is_named_and_every_file_that_is_named_exists() -> None:
    package = Path(gpbt.__file__).parent
    named = {name for cell, *_ in rows(read("inside"), "| folder") for name in re.findall(r"`(\w+)/`", cell)}
    assert named == {path.parent.name for path in package.glob("*/__init__.py")}
    files = [file for _, cell in rows(read("inside"), "| question") for file in re.findall(r"`([\w/]+\.py)`", cell)]
    assert len(files) >= 20
    assert [file for file in files if not (package / file).is_file()] == []
    benches = {name for cell, *_ in rows(read("inside"), "| `bench/`") for name in re.findall(r"`(\w+)[./]", cell)}
    assert benches == {path.stem for path in (ROOT / "bench").glob("*.py")} - {"__init__"} | {"quality"}


def test_all_causes_of_idleness_are_told() -> None:
    told = [cell.strip("`") for cell, *_ in rows(read("report"), "| cause")]
    assert set(told) == set(usage.CAUSES)


def test_xids_are_those_of_the_table() -> None:
    shown = {blames.strip("`"): xids for xids, blames, _ in rows(read("gpus"), "| Xid")}
    assert shown.pop("card") == "all others"
    assert set(shown) == set(table.XIDS.values())
    for whose, xids in shown.items():
        assert {int(xid) for xid in xids.split(", ")} == {xid for xid, blame in table.XIDS.items() if blame == whose}


def test_defaults_are_those_of_the_experiment() -> None:
    takes = inspect.signature(gpbt.Experiment).parameters
    told = {}
    for names, values, _ in rows(read("method"), "| field"):
        for name, value in zip(re.findall(r"`(\w+)`", names), values.replace("`", "").split(", "), strict=True):
            told[name] = value
    of_none = {"early_stop": "off", "preset": ""}
    assert told == {name: of_none.get(name) or str(takes[name].default or "") for name in told} | {"ratio": "1"}
    with_option = {p.name for p in COMMANDS["launch"].params}
    assert set(told) <= with_option


def test_the_plan_is_what_plan_says() -> None:
    declared = {
        "space": gpbt.Space({"lr": gpbt.Float(1e-3, 1, log=True)}),
        "score": "loss",
        "mode": "min",
        "generations": 10,
    }
    draw = forecast.log_normal(60, 0.3)

    def planned(population: int, slots: int, schedule: str = "async") -> tuple[float, float]:
        made = Settings(**declared, population=population, schedule=schedule)
        runs = [forecast.simulate(made.replaced(seed=seed), slots, draw) for seed in range(forecast.SEEDS)]
        return statistics.median(s.makespan for s in runs) / 60, statistics.mean(s.utilisation for s in runs)

    for cells in rows(read("gpus"), "| slots"):
        slots, *told = (float(re.match(r"\d+", cell)[0]) for cell in cells)  # type: ignore[index]
        many, few = planned(25, int(slots)), planned(8, int(slots))
        now = [many[0], 100 * many[1], few[0], 100 * few[1], planned(8, int(slots), "sync")[0]]
        assert told == pytest.approx(now, abs=0.6), slots


# ---- the guides in the package


def test_the_guides_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.stem for path in (PACKAGE / "guides").iterdir()} == set(guide.NAMES)
    app.app(["guide"], standalone_mode=False)
    listed = capsys.readouterr().out
    for name in guide.NAMES:
        assert f"{name:10}{guide.title(name)}" in listed
        app.app(["guide", name], standalone_mode=False)
        assert capsys.readouterr().out == read(name)
        assert read(name).startswith("# ")
    with pytest.raises(gpbt.ExperimentError, match=r"guide: got 'nope'; must be one of member, findings, gpus"):
        app.app(["guide", "nope"], standalone_mode=False)


def test_all_that_is_no_code_is_in_the_wheel() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["gpbt_async"]
    told = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    there = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == told
