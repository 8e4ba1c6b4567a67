"""Five floors: a folder imports from lower floors only, no modules import each other in a circle, and the package
stays cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpbt_async"

#: the root's own modules: the vocabulary that everything shares, and what only users import
FACADES = {"torch", "lightning", "hf", "testing", "simulate"}
TOP = {"notebook", "serve", "__init__", "__main__"}
#: a folder imports from lower floors only
FLOORS = (
    ("vocabulary", "declaration"),
    ("engine", "storage", "processes"),
    ("member", "devices", "searchers", "trackers", "preflight", "analysis"),
    ("scheduler", "ui", "facades"),
    ("cli", "top"),
)
#: folders of the floors below that a folder may import, where that is not all of them
MAY = {
    "engine": {"vocabulary", "declaration"},
    "storage": {"vocabulary", "declaration"},
    "processes": {"vocabulary", "declaration"},
    "devices": {"vocabulary", "declaration", "storage", "processes"},
    "searchers": {"vocabulary", "declaration", "processes"},
    "preflight": {"vocabulary", "declaration", "engine", "processes"},
    "analysis": {"vocabulary", "declaration", "engine", "storage"},
    "ui": {"vocabulary", "declaration", "engine", "storage", "devices", "preflight", "analysis"},
    "facades": {"vocabulary", "declaration", "engine", "member", "searchers", "analysis", "ui"},
}
#: third-party packages a module may import, wherever in it
THIRD_PARTY: dict[str, set[str]] = {
    "member/merging": {"numpy", "safetensors", "torch"},
    "member/weights": {"torch"},
    "member/optimizers": {"torch"},
    "member/member_main": {"numpy", "torch", "threadpoolctl"},
    "member/zygote_main": {"numpy", "torch"},
    "searchers/grid": {"numpy"},
    "searchers/tpe": {"hyperopt"},
    "searchers/kin": {"numpy"},
    "searchers/optuna": {"cmaes", "numpy", "optuna", "scipy", "torch"},
    "devices/nvml": {"pynvml"},
    "storage/files": {"aiofiles"},
    "storage/checkpoints": {"xxhash"},
    "storage/manifest": {"xxhash"},
    "ui/terminal": {"rich"},
    "ui/html_report": {"plotly"},
    "ui/web_auth": {"starlette"},
    "ui/web_server": {"starlette", "uvicorn"},
    "analysis/table": {"pyarrow"},
    "cli/forecast": {"psutil"},
    "cli/probes": {"psutil"},
    "trackers/tensorboard": {"tensorboard"},
    "trackers/mlflow": {"mlflow"},
    "trackers/wandb": {"wandb"},
    "notebook": {"IPython", "rich"},
    "torch": {"numpy", "safetensors", "torch"},
    "lightning": {"lightning", "pytorch_lightning"},
    "hf": {"transformers"},
}
#: a decision is a function of what it is given: no clock, no event loop, no process
PURE = {"engine", "vocabulary", "declaration", "preflight"}
PURE_MODULES = {"devices/allocator", "devices/health", "devices/selection", "processes/wire"}
IMPURE = {"asyncio", "subprocess", "time", "threading", "socket"}
#: what a member's process and the guardian (python -I -S) run: the standard library, and no event loop
LIGHT = {"processes/linux", "processes/guardian_main", "processes/wire", "errors", "member"}

MODULES = sorted(str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py"))
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}


def folder_of(module: str) -> str:
    if "/" in module:
        return module.partition("/")[0]
    return "facades" if module in FACADES else "top" if module in TOP else "vocabulary"


def imports(module: str) -> tuple[set[str], set[str]]:
    """(modules of the package, for types or not; top-level names of all else that is imported when it runs)."""
    ours: set[str] = set()
    others: set[str] = set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    here = ["gpbt_async", *module.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            path = "/".join([*base, *(node.module or "").split(".")]).strip("/")
            if path.partition("/")[0] == "gpbt_async":
                path = path.partition("/")[2]
                for alias in node.names:
                    below = f"{path}/{alias.name}".strip("/")
                    ours.add(below if below in MODULES else path if path in MODULES else f"{path}/__init__".strip("/"))
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add((node.module or "").partition(".")[0])
    return ours - {"__init__"}, others  # the package's own name is asked for its version only


@pytest.mark.parametrize("module", MODULES)
def test_a_folder_imports_from_lower_floors_only(module: str) -> None:
    folder = folder_of(module)
    assert folder in FLOOR, f"the folder {folder} has no floor yet"
    for each in imports(module)[0]:
        below = folder_of(each)
        if below == folder:
            continue
        lower = FLOOR[below] < FLOOR[folder] or {folder, below} == {"vocabulary", "declaration"} or folder == "top"
        assert lower, f"{module} imports {each}, which is not on a lower floor"
        assert below in MAY.get(folder, set(FLOOR)) | {"vocabulary", "declaration"}, f"{module} imports {each}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for types are counted, too."""
    graph = {module: imports(module)[0] - {module} for module in MODULES if module != "__init__"}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_belongs_there(module: str) -> None:
    folder, (_, others) = folder_of(module), imports(module)
    foreign = {name for name in others if name not in sys.stdlib_module_names} - {"gpbt_async"}
    assert foreign <= THIRD_PARTY.get(module, {"typer"} if folder == "cli" else set())
    if folder in PURE or module in PURE_MODULES:
        assert not others & IMPURE, "a decision needs no clock, no process and no event loop"
    if module in LIGHT or folder in LIGHT:
        assert "asyncio" not in others


def test_the_root_holds_what_a_user_imports() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 20


@pytest.mark.parametrize("module", MODULES)
def test_a_module_stays_on_a_few_screens_and_says_what_it_is(module: str) -> None:
    text = (PACKAGE / f"{module}.py").read_text()
    assert len(text.splitlines()) <= 450
    said = ast.get_docstring(ast.parse(text))
    assert said
    if module.endswith("/__init__"):
        assert 5 <= len(said.splitlines()) <= 25, "says what may live in the folder, and what the others use of it"


def test_no_class_name_stands_for_two_things() -> None:
    """But callbacks for Lightning and for Hugging Face, of which a script imports one."""
    where: dict[str, list[str]] = {}
    for module in MODULES:
        for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(module)
    twice = {name: modules for name, modules in where.items() if len(modules) > 1}
    assert set(twice) <= {"MemberCallback", "ScheduleCallback"}, twice


def test_the_package_imports_nothing_heavy() -> None:
    code = "import sys, gpbt_async; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio", "numpy", "hyperopt", "optuna", "torch", "rich", "typer", "pynvml"}
    assert not heavy & set(loaded)


def test_a_training_script_loads_little() -> None:
    """What a member's process needs of us: no event loop, no searcher, no terminal."""
    code = "import sys, gpbt_async as g; g.Experiment, g.Member, g.Float; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "numpy", "hyperopt", "torch", "rich", "typer", "pynvml", "aiofiles"} & set(loaded)


def test_every_public_name_is_there() -> None:
    import gpbt_async

    for name in gpbt_async.__all__:
        assert getattr(gpbt_async, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        gpbt_async.nonsense  # noqa: B018
