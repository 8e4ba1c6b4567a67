"""How a script is named: by its path, as a module, one of several experiments; and what is said where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from harness import Done, cli, cli_here, facts, kill_hard, start, until
from run_checker import check_run

import gpbt_async as gpbt
from gpbt_async.declaration.address import Address, as_module, find
from gpbt_async.errors import ScriptError
from gpbt_async.member import script

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import time
from pathlib import Path
import gpbt_async as gpbt
from .helper import K

def train(member):
    while Path("hold").exists():
        time.sleep(0.01)
    before = 0.0 if member.parent is None else float((member.parent / "x").read_text())
    x = before + K * member.config["x"]
    member.report(loss=x, k=K)
    (member.checkpoint / "x").write_text(str(x))

def other(member):
    train(member)

common = dict(space={"x": gpbt.Float(0, 1)}, score="loss", mode="min", population=2, generations=2)
experiment = gpbt.Experiment(train, searcher="random", resources=gpbt.Resources(gpus=0), **common)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a package `proj`, of which a module imports relatively; its __init__ says who imports it."""
    package = tmp_path / "proj"
    package.mkdir()
    says = 'with open("imported", "a") as file:\n    print(os.getpid(), file=file)\n'
    (package / "__init__.py").write_text("import os\n" + says)
    (package / "helper.py").write_text("K = 2\n")
    (package / "tune.py").write_text(SCRIPT)
    return tmp_path


QUICK = ("--slots", 2, "-q")


@pytest.mark.parametrize(
    "words", [["proj.tune"], ["-m", "proj.tune"], ["proj.tune:experiment"], ["proj.tune", "--start", "exec"]]
)
def test_a_module_is_launched_by_its_name(project: Path, words: list[str]) -> None:
    run = start("launch", *words, *QUICK, cwd=project)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    folder = project / "runs" / "tune-1"
    assert check_run(folder) == []
    assert json.loads((folder / "summary.json").read_text())["best_metrics"]["k"] == 2
    imported = {int(pid) for pid in (project / "imported").read_text().split()}
    assert run.pid not in imported, "the scheduler imports nothing of the user's"
    record = json.loads((folder / "experiment.json").read_text())
    assert (record["module"], record["root"]) == ("proj.tune", str(project))
    assert record["script"] == str(project / "proj" / "tune.py")


def test_the_other_commands_take_modules_too(project: Path) -> None:
    assert "2 generations of 2 members" in cli_here("plan", "proj.tune", "--seconds", 1, cwd=project).out
    tried = cli("try", "-m", "proj.tune", "--set", "x=0.5", cwd=project)
    assert (tried.status, "score   loss=1.0" in tried.out) == (0, True), tried.err
    examined = cli("doctor", "proj.tune", "--slots", 1, cwd=project)
    assert examined.status == 0, examined.err
    assert examined.out.startswith("proj.tune\n")


def test_a_run_of_a_module_is_resumed_and_replayed_as_one(project: Path) -> None:
    (project / "hold").touch()
    run = start("launch", "proj.tune", "--name", "r", "--slots", 2, cwd=project)
    folder = project / "runs" / "r"
    until(lambda: len(facts(folder, "Entered")) == 2)
    kill_hard(run)
    (project / "hold").unlink()
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    (project / "proj").rename(elsewhere / "proj")
    lost = cli_here("resume", "r", cwd=project)
    assert lost.status == 2
    assert "proj/tune.py, the script of this run, does not exist: put it back there, or say where it is now" in lost.err
    run = start("resume", "r", "--script", "elsewhere/proj/tune.py", "--start", "exec", cwd=project)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert json.loads((folder / "experiment.json").read_text())["root"] == str(elsewhere)
    assert check_run(folder) == []
    done = cli("replay", "r", "-q", cwd=project)
    assert done.status == 0, done.err
    (elsewhere / "proj").rename(project / "proj")
    assert cli("resume", "r", "--script", "proj.tune", cwd=project).status == 0
    assert cli("replay", "r", "--script", "proj.tune", "-q", cwd=project).status == 0


async def test_an_application_names_a_module(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    async with gpbt.Run("proj.tune", slots=2) as run:
        best = await run.wait()
    assert best is not None
    assert run.name == "tune-1"
    assert "proj" not in sys.modules
    with pytest.raises(ScriptError, match=r"there is no module 'proj\.tine'.*did you mean proj\.tune\?"):
        gpbt.Run("proj.tine", slots=2)


def test_one_of_several_experiments_is_chosen_by_name(project: Path) -> None:
    text = SCRIPT.replace("from .helper import K", "K = 1")
    more = '\nsecond = gpbt.Experiment(other, **{**common, "population": 3}, searcher="random")\n'
    file = project / "many.py"
    file.write_text(text + more)
    unsaid = cli("launch", "many.py", *QUICK, cwd=project)
    assert unsaid.status == 2
    assert (
        "many.py declares 2 experiments (experiment, second): say which, as in gpbt-async launch many.py:experiment"
        in unsaid.err
    )
    (project / "hold").touch()
    run = start("launch", "many.py:second", "--name", "r", "--slots", 2, "--gpus", "none", cwd=project)
    folder = project / "runs" / "r"
    until(lambda: facts(folder, "Entered"))
    kill_hard(run)
    (project / "hold").unlink()
    done = cli("resume", "r", "--start", "exec", cwd=project)
    assert done.status == 0, done.err
    assert json.loads((folder / "experiment.json").read_text())["variable"] == "second"
    assert json.loads((folder / "summary.json").read_text())["population"] == 3
    wrong = cli("launch", "many.py:third", *QUICK, cwd=project)
    assert wrong.status == 2
    assert "many.py has no experiment called 'third' at its top level; it declares experiment, second" in wrong.err


@pytest.mark.parametrize("words", [["proj/tune.py"], ["tune.py"]])
def test_a_file_of_a_package_says_what_to_type(project: Path, words: list[str]) -> None:
    where = project if "/" in words[0] else project / "proj"
    refused = cli("launch", *words, *QUICK, cwd=where)
    assert refused.status == 2
    assert (
        "ImportError: attempted relative import with no known parent package\n    from .helper import K" in refused.err
    )
    typed = "it is a module of a package, so launch it as one: gpbt-async launch -m proj.tune"
    assert f"{typed}\n" in refused.err or f"{typed} (in the folder {project})\n" in refused.err
    assert (f"(in the folder {project})" in refused.err) == (where != project)
    assert cli("launch", "-m", "proj.tune", *QUICK, cwd=project).status == 0


def test_a_file_that_imports_its_own_package_by_name_says_what_to_type(project: Path) -> None:
    file = project / "proj" / "tune.py"
    file.write_text(SCRIPT.replace("from .helper", "from proj.helper"))
    refused = cli("launch", "proj/tune.py", *QUICK, cwd=project)
    assert "No module named 'proj'" in refused.err
    assert "gpbt-async launch -m proj.tune\n" in refused.err
    (project / "scripts").mkdir()
    file.rename(project / "scripts" / "tune.py")
    refused = cli("launch", "scripts/tune.py", *QUICK, cwd=project)
    assert "gpbt-async launch -m scripts.tune\n" in refused.err
    assert cli("launch", "-m", "scripts.tune", *QUICK, cwd=project).status == 0


def test_a_missing_library_is_no_matter_of_packages(project: Path) -> None:
    file = project / "mine.py"
    file.write_text("import library_that_is_nowhere\n")
    refused = cli("launch", "mine.py", *QUICK, cwd=project)
    assert refused.status == 2
    assert "gpbt-async launch -m" not in refused.err


def test_a_module_that_another_one_hides_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is loaded already: of the standard library, most likely."""
    (project / "json.py").write_text(SCRIPT.replace("from .helper import K", "K = 1"))
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", sys.path[:])
    address = find("json")
    assert address.file == str(project / "json.py")
    with pytest.raises(script.NoExperiment, match="which has the same name: rename one of them, or launch it by its"):
        script.load(address.to_json())
    assert script.load(Address(address.file).to_json()).variable == "experiment"


def test_a_package_without_init_and_the_current_folder_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    loose = project / "loose" / "sub"
    loose.mkdir(parents=True)
    (loose / "tune.py").write_text(SCRIPT)
    (loose / "helper.py").write_text("K = 3\n")
    other = project / "other" / "proj"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "tune.py").write_text("raise RuntimeError('the wrong one')\n")
    monkeypatch.syspath_prepend(project / "other")
    assert find("proj.tune") == Address(str(project / "proj" / "tune.py"), "proj.tune", str(project))
    assert cli("launch", "loose.sub.tune", *QUICK, cwd=project).status == 0
    monkeypatch.chdir(loose)
    assert find("proj.tune").root == str(project / "other"), "and then along the import path"
    refused = cli("launch", "loose/sub/tune.py", *QUICK, cwd=project)
    assert "gpbt-async launch -m loose.sub.tune\n" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["proj.tine"], "no module 'proj.tine': {here}/proj has neither tine.py nor tine/; did you mean proj.tune?"),
        (["nowhere.tune"], "no module 'nowhere.tune': nowhere.py and nowhere/ were looked for in {here} and on"),
        (["nowhere"], "nowhere is neither a file nor a module: nowhere.py and nowhere/ were looked for in {here}"),
        (["-m", "nowhere"], "there is no module 'nowhere': nowhere.py and nowhere/ were looked for in {here} and on"),
        (["tine.py"], "{here}/tine.py does not exist: give the path of a Python script that declares an Experiment"),
        (["tine.py:experiment"], "{here}/tine.py does not exist: give the path of a Python script"),
        (["./tine"], "{here}/tine does not exist: give the path of a Python script"),
        (["-m", "proj/tune.py"], "-m takes the name of a module, not a path: got 'proj/tune.py'; -m proj.tune, or"),
        (["-m", "proj..tune"], "-m takes the name of a module, such as pkg.train: got 'proj..tune'"),
        (["proj"], "the package proj declares no experiment: name the module in it that does, such as proj.train"),
        (["loose"], "loose is a folder without __init__.py ({here}/loose), which holds no experiment: name the module"),
        (["."], "{here} is a folder: give the path of a Python script that declares an Experiment"),
        (["note.ipynb"], "{here}/note.ipynb is a notebook: put the training function and the experiment into a file"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_in_a_sentence(project: Path, words: list[str], said: str) -> None:
    (project / "loose").mkdir()
    (project / "note.ipynb").write_text("{}")
    for command in (["launch"], ["plan", "--seconds", "1"], ["try"], ["doctor"]):
        refused = cli_here(*command, *words, cwd=project)
        assert refused.status == 2, command
        assert said.format(here=project) in refused.err, command
        assert "Traceback" not in refused.err
    assert not list((project / "runs").glob("*"))


def test_a_script_by_odd_paths(project: Path) -> None:
    """With spaces, without .py, with a colon in its name, as a symlink that has a neighbour where it points."""
    text = SCRIPT.replace("from .helper import K", "K = 1")
    (project / "a b").mkdir()
    for name in ("a b/my script.py", "noext", "odd:name"):
        (project / name).write_text(text)
        done = cli("launch", name, *QUICK, cwd=project)
        assert done.status == 0, (name, done.err)
    (project / "real").mkdir()
    (project / "real" / "neighbour_of_mine.py").write_text("K = 1\n")
    (project / "real" / "mine.py").write_text(SCRIPT.replace("from .helper", "from neighbour_of_mine"))
    (project / "a b" / "link.py").symlink_to(project / "real" / "mine.py")
    done = cli("launch", "a b/link.py", *QUICK, cwd=project)
    assert done.status == 0, done.err
    assert sorted(p.name for p in (project / "runs").iterdir()) == ["link-1", "my-script-1", "noext-1", "odd-name-1"]


def test_a_file_as_a_module(project: Path) -> None:
    deep = project / "proj" / "deep"
    deep.mkdir()
    (deep / "__init__.py").touch()
    assert as_module(str(deep / "x.py"), levels=1) == ("proj.deep.x", str(project))
    assert as_module(str(deep / "x.py"), package="proj") == ("proj.deep.x", str(project))
    assert as_module(str(project / "proj" / "__init__.py"), levels=1) == ("proj", str(project))
    assert as_module(str(project / "proj" / "noext")) is None


# ---- Hydra


HYDRA = """
import hydra, gpbt_async as gpbt
from pathlib import Path
from omegaconf import DictConfig, OmegaConf

@hydra.main(version_base=None, config_path="conf", config_name="c")
def main(cfg: DictConfig):
    global CFG
    CFG = cfg

def indirectly():
    main()

def train(member):
    CALL
    x = CFG.start if member.parent is None else float((member.parent / "x").read_text())
    x -= CFG.lr * x
    member.report(loss=x * x)
    (member.checkpoint / "x").write_text(str(x))

experiment = gpbt.Experiment(
    train, space={"lr": gpbt.Float(1e-3, 0.9, log=True)}, score="loss", mode="min", population=2, generations=2,
    searcher="random", resources=gpbt.Resources(gpus=0), attempts=1,
)
"""
RECIPE = """global CFG
    with hydra.initialize_config_dir(config_dir=str(Path(__file__).parent / "conf"), version_base=None):
        CFG = hydra.compose("c", overrides=[f"lr={member.config['lr']}"])
"""


def hydra_run(where: Path, call: str, *words: str) -> Done:
    pytest.importorskip("hydra")
    (where / "conf").mkdir(exist_ok=True)
    (where / "conf" / "c.yaml").write_text("start: 4.0\nlr: 0.1\n")
    (where / "mine.py").write_text(HYDRA.replace("CALL", call))
    return cli("launch", "mine.py", "--name", "r", "--slots", 1, *words, cwd=where)


def test_the_recipe_for_hydra_works_and_its_reads_are_seen(tmp_path: Path) -> None:
    done = hydra_run(tmp_path, RECIPE, "--strict")
    assert done.status == 0, done.err
    assert "GPBT" not in done.err, "what goes into an override has been read"
    assert check_run(tmp_path / "runs" / "r") == []


def test_hydra_main_in_the_training_function_is_refused_with_the_recipe(tmp_path: Path) -> None:
    refused = hydra_run(tmp_path, "main()")
    assert refused.status == 2
    assert "mine.py: the training function calls main, which has @hydra.main(config_path='conf')" in refused.err
    assert (
        "hydra.initialize_config_dir(config_dir=str(Path(__file__).parent / 'conf'), version_base=None)" in refused.err
    )
    assert not (tmp_path / "runs" / "r").exists()


def test_hydras_failure_deeper_down_is_known_by_its_error(tmp_path: Path) -> None:
    failed = hydra_run(tmp_path, "indirectly()")
    assert failed.status == 1
    assert "Hydra finds no config when a script is imported, as here: in the training function compose" in failed.err


def test_a_hydra_main_that_finds_its_config_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "__init__.py").touch()
    done = hydra_run(tmp_path, "main()")
    assert "the training function calls main" not in done.err
    assert done.status == 0, done.err


# ---- a script that is simply run


MINE = """
import gpbt_async as gpbt

def train(member):
    member.report(loss=(1 - member.config["x"]) ** 2, seed=member.seed)
    (member.checkpoint / "x").write_text(str(member.config["x"]))

experiment = gpbt.Experiment(
    train, space={"x": gpbt.Float(0, 1), "y": gpbt.Int(1, 9)}, score="loss", mode="min", population=2, generations=1,
    searcher="random", resources=gpbt.Resources(gpus=0),
)
"""
WORD = "mine.py declares an experiment and was run as a program, which trains nothing: gpbt-async launch mine.py\n"


def python(where: Path, *words: str, text: str = MINE) -> subprocess.CompletedProcess[str]:
    (where / "mine.py").write_text(text)
    return subprocess.run([sys.executable, *words], cwd=where, capture_output=True, text=True, input="", timeout=60)


def test_a_script_that_is_simply_run_says_what_it_is(tmp_path: Path) -> None:
    done = python(tmp_path, "mine.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", WORD)
    assert python(tmp_path, "-m", "mine").stderr == WORD.replace("launch mine.py", "launch -m mine")
    inside = MINE.replace("experiment =", 'if __name__ == "__main__":\n  experiment =')
    assert python(tmp_path, "mine.py", text=inside).stderr == WORD
    assert "declares an experiment" not in cli("launch", "mine.py", "-q", cwd=tmp_path).err


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["-i", "mine.py"], ""),
        (["-c", "import mine"], ""),
        (["mine.py"], "raise SystemExit(gpbt.run_alone(experiment, on_report=len)['loss'] > 9)"),
        (
            ["mine.py"],
            "import asyncio\nif __name__ == '__main__':\n    asyncio.run(gpbt.launch(experiment, 'r', slots=1))",
        ),
        (["mine.py"], "def later():\n    return gpbt.Run(experiment)"),
        (["mine.py"], "train(gpbt.Member.local({'x': .5}, '.', on_report=len))"),
        (["mine.py"], "if __name__ == '__main__':\n    print('something of its own')"),
    ],
)
def test_who_uses_the_experiment_or_imports_it_hears_nothing(tmp_path: Path, words: list[str], more: str) -> None:
    done = python(tmp_path, *words, text=f"{MINE}\n{more}\n")
    assert done.returncode == 0, done.stderr
    assert "declares an experiment" not in done.stderr


def test_a_traceback_says_enough(tmp_path: Path) -> None:
    done = python(tmp_path, "mine.py", text=MINE + "\nraise RuntimeError('x')\n")
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: x\n")


def test_one_file_serves_both(tmp_path: Path) -> None:
    guard = 'if __name__ == "__main__":\n    print(gpbt.run_alone(experiment, {"x": 0.25}, seed=7))\n'
    done = python(tmp_path, "mine.py", text=MINE + guard)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["report: loss=0.5625  seed=7", "{'loss': 0.5625, 'seed': 7}"]
    assert cli("launch", "mine.py", "-q", cwd=tmp_path).status == 0


def test_run_alone_trains_one_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn: list[dict[str, float]] = []

    def train(member: gpbt.Member) -> None:
        drawn.append(dict(member.config))
        before = 0.0 if member.parent is None else float((member.parent / "x").read_text())
        member.report(loss=9.0)
        member.report(loss=before + member.config["x"], seed=member.seed)
        (member.checkpoint / "x").write_text(str(before + member.config["x"]))
        if member.config["x"] == 1:
            raise gpbt.Stopped

    assert gpbt.run_alone(train, {"x": 2.0}, checkpoint=tmp_path / "one" / "two") == {"loss": 2.0, "seed": 0}
    assert "report: loss=2" in capsys.readouterr().out
    told: list[object] = []
    got = gpbt.run_alone(train, {"x": 1.0}, parent=tmp_path / "one" / "two", seed=3, on_report=told.append)
    assert got == {"loss": 3.0, "seed": 3}
    assert told == [{"loss": 9.0}, {"loss": 3.0, "seed": 3}]
    sys.path.insert(0, str(tmp_path))
    try:
        (tmp_path / "alone_of_mine.py").write_text(MINE)
        import alone_of_mine as mine  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    same = [gpbt.run_alone(mine.experiment, seed=5, on_report=len)["loss"] for _ in range(2)]
    assert same[0] == same[1] != gpbt.run_alone(mine.experiment, seed=6, on_report=len)["loss"]
    assert gpbt.run_alone(mine.experiment, {"x": 0.5}, on_report=len)["loss"] == 0.25
    for config, said in (({"x": 2.0}, "must be in Float"), ({"z": 1}, "is no hyperparameter; there are x, y")):
        with pytest.raises(gpbt.ExperimentError, match=said):
            gpbt.run_alone(mine.experiment, config)
    with pytest.raises(gpbt.ExperimentError, match="config: got None; must be given where there is no experiment"):
        gpbt.run_alone(train)
    with pytest.raises(gpbt.ExperimentError, match="must be the folder of a checkpoint"):
        gpbt.run_alone(train, {"x": 1.0}, parent=tmp_path / "nowhere")
    command = gpbt.Experiment(command=["awk"], space={"x": gpbt.Float(0, 1)}, score="loss", mode="min")
    with pytest.raises(gpbt.ExperimentError, match="declares a command"):
        gpbt.run_alone(command)
