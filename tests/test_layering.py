"""Imports point down only, and the package stays cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpbt_async"

VOCABULARY = {"errors", "sizes", "space", "asks", "events", "experiment", "wire"}
ENGINE = {"stopping", "tree", "rule", "ending", "keeping", "lineage", "usage", "history", "results"}

#: what each module may import from the package; rooms do not know one another
MAY: dict[str, set[str]] = {
    # vocabulary
    "errors": set(),
    "space": {"errors"},
    "asks": {"space"},
    "events": {"space"},
    "sizes": set(),
    "experiment": {"errors", "sizes", "space"},
    "wire": {"errors"},
    # engine
    "tree": {"asks", "space"},
    "stopping": {"experiment", "tree"},
    "rule": {"asks", "experiment", "tree"},
    "ending": {"experiment", "rule", "tree"},
    "keeping": {"ending", "events", "experiment", "rule", "tree"},
    "lineage": {"asks", "ending", "keeping", "errors", "events", "experiment", "rule", "space", "stopping", "tree"},
    "usage": {"errors", "events", "lineage"},
    "history": {"events", "lineage", "tree"},
    "results": {"asks", "lineage", "space", "tree", "usage"},
    "simulate": VOCABULARY | {"lineage", "stopping", "tree", "usage"},
    # rooms: searching
    "parzen": {"asks", "space"},
    "kinship": {"asks", "space"},
    "optuna_searchers": {"asks", "space"},
    "searchers": VOCABULARY | {"kinship", "optuna_searchers", "parzen"},
    "asking": VOCABULARY | {"processes", "searchers"},
    "answering": VOCABULARY | {"asking", "searchers"},
    "testing": VOCABULARY | {"searchers"},
    # rooms: devices
    "nvml": set(),
    "visible": {"errors", "nvml"},
    "packing": {"sizes", "visible"},
    "health": {"sizes"},
    "ledger": {"packing", "sizes", "visible"},
    "accounts": {"ledger", "nvml"},
    "slot": {"processes", "visible"},
    "watch": {"accounts", "health", "ledger", "nvml", "visible"},
    "cards": {
        "accounts",
        "errors",
        "health",
        "ledger",
        "nvml",
        "packing",
        "processes",
        "sizes",
        "slot",
        "visible",
        "watch",
    },
    "devices": {"cards", "errors", "events", "health", "nvml", "packing", "slot", "visible", "watch"},
    # rooms: files
    "files": {"errors"},
    "codec": {"events"},
    "journal": {"codec", "errors", "events", "files"},
    "checkpoints": {"errors", "files"},
    "lock": {"errors", "files"},
    "folder": {"errors", "files", "lock"},
    # rooms: processes
    "processes": set(),
    "member": {"errors", "wire"},
    "script": {"errors", "experiment"},
    "child": {"errors", "member", "processes", "script", "wire"},
    "guardian": {"processes"},
    "zygote": {"child", "errors", "guardian", "processes", "script", "wire"},
    "channel": {"errors", "processes", "wire"},
    "outcome": {"processes"},
    "worker": {"errors", "outcome", "processes", "wire"},
    "command": {"errors", "wire", "worker"},
    "guarding": {"channel", "errors", "processes", "worker"},
    "forking": {"channel", "errors", "guarding", "outcome", "processes", "wire", "worker"},
    "launcher": {"channel", "command", "errors", "forking", "guarding", "processes", "wire", "worker"},
    # the loop, and the door
    "clock": set(),
    "deadlines": set(),
    "disk": {"events", "files", "sizes"},
    "watchdog": {"events", "lineage", "slot", "tree"},
    "briefing": {
        "asks",
        "events",
        "checkpoints",
        "command",
        "experiment",
        "files",
        "folder",
        "slot",
        "stopping",
        "tree",
        "wire",
    },
    "scheduler": VOCABULARY
    | ENGINE
    | {
        "asking",
        "briefing",
        "checkpoints",
        "clock",
        "deadlines",
        "disk",
        "folder",
        "journal",
        "launcher",
        "outcome",
        "packing",
        "searchers",
        "slot",
        "watchdog",
        "worker",
    },
    "listeners": {"events"},
    "board": {"errors", "files", "folder", "slot"},
    "record": {"errors", "experiment", "files"},
    "asked": {"errors", "experiment", "health", "sizes"},
    "opening": VOCABULARY
    | ENGINE
    | {
        "",
        "asked",
        "asking",
        "checkpoints",
        "clock",
        "command",
        "devices",
        "disk",
        "folder",
        "journal",
        "launcher",
        "lock",
        "record",
        "searchers",
        "slot",
    },
    "postmortem": {"errors", "folder", "lineage", "outcome", "tree"},
    "run": VOCABULARY
    | ENGINE
    | {
        "",
        "asked",
        "asking",
        "board",
        "briefing",
        "checkpoints",
        "clock",
        "disk",
        "files",
        "folder",
        "listeners",
        "opening",
        "postmortem",
        "scheduler",
        "slot",
    },
    # faces
    "importance": {"space", "tree"},
    "timeline": {"history", "usage"},
    "remains": set(),
    "story": {"history", "importance", "reading", "remains", "results", "timeline", "tree"},
    "export": {"asks", "errors", "files", "history", "reading"},
    "report": {"errors", "export", "files", "folder", "reading", "story"},
    "descent": {"asks", "errors", "reading", "tree", "wording"},
    "telling": {"descent", "export", "options", "reading", "report"},
    "reading": VOCABULARY
    | ENGINE
    | {"board", "checkpoints", "deadlines", "files", "folder", "gpulines", "journal", "record", "wording"},
    "gpulines": {"sizes", "wording"},
    "inventory": {
        "board",
        "errors",
        "folder",
        "gpulines",
        "health",
        "nvml",
        "processes",
        "sizes",
        "visible",
        "wording",
    },
    "options": {"errors", "files"},
    "tools": {
        "cleaning",
        "errors",
        "inventory",
        "options",
        "planning",
        "reading",
        "sizes",
        "trying",
    },
    "cleaning": {"errors", "files", "folder", "reading"},
    "planning": VOCABULARY | {"folder", "launcher", "reading", "simulate", "tree"},
    "trying": {"child", "errors", "experiment", "member", "script", "space"},
    "wording": VOCABULARY | ENGINE,
    "frame": VOCABULARY | ENGINE | {"folder", "gpulines", "slot", "wording"},
    "lines": VOCABULARY | ENGINE | {"frame", "wording"},
    "view": VOCABULARY | ENGINE | {"frame", "lines", "wording"},
    "driving": {"errors", "options", "postmortem", "run", "view"},
    "cli": {"", "driving", "errors", "folder", "options", "processes", "reading", "run", "telling", "tools"},
    "__init__": {"asks", "errors", "events", "experiment", "member", "results", "run", "space"},
    "__main__": {"cli"},
}

#: third-party packages a module may import, wherever in it
THIRD_PARTY: dict[str, set[str]] = {
    "parzen": {"hyperopt", "numpy"},
    "kinship": {"numpy"},
    "optuna_searchers": {"cmaes", "numpy", "optuna", "scipy", "torch"},
    "nvml": {"pynvml"},
    "files": {"aiofiles"},
    "folder": {"aiofiles"},
    "checkpoints": {"xxhash"},
    "view": {"rich"},
    "cli": {"typer"},
    "options": {"typer"},
    "tools": {"typer"},
    "telling": {"typer"},
    "report": {"plotly"},
    "export": {"pyarrow"},
    "child": {"numpy", "torch", "threadpoolctl"},
    "zygote": {"numpy", "torch"},
}

#: standard modules that only some may import: where processes, clocks and the event loop belong
ONLY = {
    "subprocess": {"guarding", "launcher", "testing"},
    "asyncio": {
        "asking", "board", "cards", "channel", "checkpoints", "cleaning", "cli", "command", "deadlines", "devices",
        "disk", "driving", "files", "folder", "forking", "guarding", "journal", "launcher", "listeners", "lock",
        "nvml", "opening", "planning", "run", "scheduler", "slot", "view", "watch", "watchdog", "worker",
    },
    "time": {
        "asking", "child", "clock", "command", "devices", "disk", "folder", "forking", "guardian", "guarding",
        "inventory", "launcher", "lock", "member", "processes", "reading", "run", "trying", "view", "worker",
        "zygote",
    },
}  # fmt: skip

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(module: str) -> tuple[set[str], set[str]]:
    """(modules of the package, top-level names of all else), type-checking imports left out for the latter."""
    ours: set[str] = set()
    others: set[str] = set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            ours |= {node.module} if node.module else {alias.name for alias in node.names}
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add((node.module or "").partition(".")[0])
    return {"" if name == "__version__" else name for name in ours}, others


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    assert module in MAY, f"{module}.py has no place in the house yet: give it a row here"
    ours, others = imports(module)
    assert ours <= MAY[module]
    foreign = {name for name in others if name not in sys.stdlib_module_names}
    assert foreign <= THIRD_PARTY.get(module, set()) | {"gpbt_async"}
    for name, allowed in ONLY.items():
        assert name not in others or module in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_stays_on_a_few_screens_and_says_what_it_is(module: str) -> None:
    text = (PACKAGE / f"{module}.py").read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


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
