"""Imports point down only, and the package stays cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpbt_async"

VOCABULARY = {"errors", "sizes", "space", "asks", "schedule", "events", "experiment", "wire"}
ENGINE = {
    "adoption",
    "idleness",
    "question",
    "stopping",
    "tree",
    "rule",
    "ending",
    "keeping",
    "lineage",
    "usage",
    "history",
    "replays",
    "results",
}

#: what each module may import from the package; rooms do not know one another
MAY: dict[str, set[str]] = {
    # vocabulary
    "errors": set(),
    "space": {"arguments", "foreign", "errors"},
    "asks": {"space"},
    "events": {"space"},
    "sizes": set(),
    "schedule": {"errors", "space"},
    "experiment": {
        "arguments",
        "resources",
        "standalone",
        "target",
        "errors",
        "preflight",
        "schedule",
        "sizes",
        "space",
    },
    # the pre-flight: in the member's process, and pure checks over facts and telemetry
    "preflight/adapters": {"preflight", "script"},
    "preflight/config": set(),
    "preflight/telemetry": {"preflight", "script"},
    "preflight/seeding": {"preflight", "script"},
    "preflight/findings": set(),
    "preflight/checks": {"ending", "events", "experiment", "lineage", "preflight", "space", "tree"},
    "wire": {"errors"},
    # engine
    "tree": {"asks", "schedule", "space"},
    "stopping": {"experiment", "tree"},
    "rule": {"adoption", "asks", "events", "experiment", "space", "tree"},
    "ending": {"events", "experiment", "rule", "tree"},
    "keeping": {"ending", "events", "experiment", "rule", "tree"},
    "lineage": {
        "adoption",
        "idleness",
        "question",
        "asks",
        "ending",
        "keeping",
        "errors",
        "events",
        "experiment",
        "rule",
        "space",
        "stopping",
        "tree",
    },
    "usage": {"errors", "events", "lineage"},
    "history": {"events", "lineage", "tree"},
    "replays": {"lineage", "tree"},
    "results": {"asks", "lineage", "replays", "schedule", "space", "tree", "usage"},
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
    "member": {"standalone", "preflight", "errors", "wire"},
    "script": {"address", "preflight", "terminal", "errors", "experiment"},
    "child": {"schedulers", "terminal", "preflight", "errors", "member", "processes", "script", "wire"},
    "guardian": {"processes"},
    "zygote": {
        "torch",
        "importing",
        "terminal",
        "preflight",
        "child",
        "errors",
        "guardian",
        "processes",
        "script",
        "wire",
    },
    "channel": {"errors", "processes", "wire"},
    "outcome": {"preflight", "processes"},
    "worker": {"errors", "outcome", "processes", "wire"},
    "deadlock": {"processes", "worker"},
    "command": {"errors", "wire", "worker"},
    "guarding": {"channel", "errors", "processes", "worker"},
    "forking": {"channel", "errors", "guarding", "outcome", "processes", "wire", "worker"},
    "launcher": {
        "address",
        "channel",
        "command",
        "deadlock",
        "errors",
        "forking",
        "guarding",
        "processes",
        "wire",
        "worker",
    },
    # inside a training script, beside a framework
    "torch": {"groups", "optimizers", "schedulers", "preflight", "member", "schedule"},
    "lightning": {"member", "schedule", "torch"},
    "hf": {"member", "schedule", "torch"},
    # rooms: trackers
    "tracked": set(),
    "plain_trackers": {"files", "tracked"},
    "tensorboard_tracker": {"files", "tracked"},
    "mlflow_tracker": {"tracked"},
    "wandb_tracker": {"tracked"},
    "trackers": {"errors", "mlflow_tracker", "plain_trackers", "tensorboard_tracker", "tracked", "wandb_tracker"},
    "following": VOCABULARY | {"files", "folder", "journal", "lineage", "record", "tracked", "tree"},
    "teller": {"errors", "files", "folder", "following", "record", "tracked", "trackers"},
    "tracking": {"errors", "folder", "processes", "trackers"},
    # the loop, and the door
    "clock": set(),
    "deadlines": set(),
    "disk": {"filesystems", "events", "files", "sizes"},
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
    "gate": {"briefing", "checkpoints", "disk", "errors", "slot", "tree", "wire"},
    "scheduler": VOCABULARY
    | ENGINE
    | {
        "blame",
        "preflight",
        "gate",
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
    "record": {"address", "errors", "experiment", "files"},
    "asked": {"devices", "errors", "experiment", "health", "record", "sizes"},
    "opening": VOCABULARY
    | ENGINE
    | {
        "address",
        "declaration",
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
        "tracking",
    },
    "postmortem": {"errors", "folder", "lineage", "outcome", "tree"},
    "run": VOCABULARY
    | ENGINE
    | {
        "standalone",
        "preflight",
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
        "gate",
        "listeners",
        "opening",
        "postmortem",
        "record",
        "scheduler",
        "slot",
    },
    # faces
    "importance": {"space", "tree"},
    "timeline": {"history", "usage"},
    "remains": set(),
    "story": {"folder", "history", "importance", "reading", "remains", "results", "timeline", "tree"},
    "export": {"asks", "errors", "files", "history", "reading"},
    "trace": {"asks", "files", "history", "reading", "timeline"},
    "reading": VOCABULARY | ENGINE | {"board", "files", "folder", "gpulines", "journal", "record", "waits", "wording"},
    "waits": {"asks", "deadlines", "events", "reading", "tree", "wording"},
    "home": VOCABULARY | ENGINE | {"", "checkpoints", "files", "folder", "journal", "reading", "wording"},
    "replaying": VOCABULARY | ENGINE | {"driving", "folder", "options", "reading", "run"},
    "patches": {"files"},
    "report": {"errors", "export", "files", "folder", "patches", "reading", "story"},
    "live": {"errors", "folder", "reading", "remains", "story", "tree"},
    "doorkeeper": set(),
    "serve": {
        "",
        "board",
        "doorkeeper",
        "errors",
        "folder",
        "live",
        "gate",
        "patches",
        "remains",
        "report",
        "steering",
        "story",
    },
    "descent": {"asks", "errors", "reading", "tree", "wording"},
    "telling": {"descent", "errors", "export", "folder", "helping", "options", "reading", "report", "serve", "trace"},
    "steering": {"errors", "folder", "gate", "reading"},
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
    "helping": {"folder"},
    "options": {"errors", "files", "helping"},
    "tools": {
        "address",
        "cleaning",
        "diagnosis",
        "doctor",
        "driving",
        "errors",
        "folder",
        "helping",
        "inventory",
        "options",
        "planning",
        "processes",
        "reading",
        "sizes",
        "teller",
        "trackers",
        "trying",
    },
    "cleaning": {"errors", "files", "folder", "reading"},
    "planning": VOCABULARY | {"address", "folder", "launcher", "reading", "simulate", "tree"},
    "touches": set(),
    "vitals": {"processes"},
    "forecast": {"experiment", "planning"},
    "diagnosis": {"planning", "sizes", "wording"},
    "doctor": {
        "address",
        "preflight",
        "space",
        "asked",
        "briefing",
        "checkpoints",
        "command",
        "deadlines",
        "devices",
        "diagnosis",
        "errors",
        "experiment",
        "files",
        "folder",
        "forecast",
        "launcher",
        "outcome",
        "record",
        "rule",
        "slot",
        "touches",
        "tree",
        "trying",
        "vitals",
        "wire",
        "worker",
    },
    "trying": {"address", "foreign", "preflight", "tree", "child", "errors", "experiment", "member", "script", "space"},
    "wording": VOCABULARY | ENGINE,
    "frame": VOCABULARY | ENGINE | {"outcome", "folder", "gpulines", "slot", "wording"},
    "lines": VOCABULARY | ENGINE | {"frame", "preflight", "wording"},
    "view": VOCABULARY | ENGINE | {"frame", "lines", "wording"},
    "notebook": {"descent", "errors", "events", "folder", "frame", "lines", "reading", "report", "view", "wording"},
    "attached": VOCABULARY | ENGINE | {"board", "folder", "frame", "journal", "record", "remains", "slot"},
    "driving": {
        "attached",
        "errors",
        "folder",
        "options",
        "postmortem",
        "processes",
        "replays",
        "run",
        "view",
        "wording",
    },
    "guide": {"errors"},
    "cli": {
        "address",
        "",
        "driving",
        "errors",
        "folder",
        "guide",
        "helping",
        "home",
        "options",
        "processes",
        "reading",
        "replaying",
        "run",
        "steering",
        "telling",
        "tools",
    },
    "__init__": {
        "alone",
        "arguments",
        "asks",
        "errors",
        "events",
        "experiment",
        "hf",
        "lightning",
        "member",
        "notebook",
        "results",
        "run",
        "schedule",
        "space",
        "torch",
    },
    # a declaration, and where it is
    "arguments": {"errors"},
    "foreign": {"arguments", "errors"},
    "resources": {"arguments", "errors", "sizes"},
    "target": {"errors"},
    "address": {"errors"},
    "declaration": {"adoption", "errors", "experiment", "lineage", "record", "space"},
    "standalone": set(),
    "alone": {"child", "errors", "experiment", "member", "standalone", "trying"},
    # engine, the rest of it
    "adoption": {"asks", "errors", "experiment", "space", "tree"},
    "question": {"adoption", "asks", "space", "tree"},
    "idleness": {"lineage", "tree"},
    # full file systems, whose fault it was
    "filesystems": {"sizes"},
    "blame": {"checkpoints", "disk", "filesystems", "gate", "outcome", "packing", "preflight", "slot", "tree"},
    # inside a member: schedulers and groups of torch's, no terminal, an import by statements
    "groups": {"preflight"},
    "schedulers": {"groups", "script"},
    "optimizers": {"groups", "preflight", "schedulers"},
    "terminal": set(),
    "importing": {"script"},
    # the pre-flight: the rest of it
    "preflight/direction": set(),
    "preflight/failures": {"lineage", "outcome", "preflight", "tree"},
    "preflight/heirs": {"experiment", "tree"},
    "preflight/hydra": set(),
    "preflight/loading": {"preflight", "script"},
    "preflight/parent": {"preflight"},
    "preflight/remedies": {"filesystems", "preflight"},
    "preflight/splits": {"preflight", "script"},
    "preflight/verdicts": {"preflight", "tree"},
    "preflight/weights": {"preflight"},
    "__main__": {"cli"},
}

#: third-party packages a module may import, wherever in it
THIRD_PARTY: dict[str, set[str]] = {
    "preflight/weights": {"torch"},
    "optimizers": {"torch"},
    "parzen": {"hyperopt", "numpy"},
    "kinship": {"numpy"},
    "optuna_searchers": {"cmaes", "numpy", "optuna", "scipy", "torch"},
    "nvml": {"pynvml"},
    "files": {"aiofiles"},
    "folder": {"aiofiles"},
    "checkpoints": {"xxhash"},
    "view": {"rich"},
    "notebook": {"IPython", "rich"},
    "cli": {"typer"},
    "guide": {"typer"},
    "helping": {"typer"},
    "options": {"typer"},
    "replaying": {"typer"},
    "tools": {"typer"},
    "telling": {"typer"},
    "report": {"plotly"},
    "doorkeeper": {"starlette"},
    "serve": {"starlette", "uvicorn"},
    "export": {"pyarrow"},
    "child": {"numpy", "torch", "threadpoolctl"},
    "torch": {"numpy", "safetensors", "torch"},
    "lightning": {"lightning", "pytorch_lightning"},
    "hf": {"transformers"},
    "zygote": {"numpy", "torch"},
    "tensorboard_tracker": {"tensorboard"},
    "mlflow_tracker": {"mlflow"},
    "wandb_tracker": {"wandb"},
}

#: standard modules that only some may import: where processes, clocks and the event loop belong
ONLY = {
    "subprocess": {"guarding", "launcher", "testing"},
    "asyncio": {
        "asking", "attached", "board", "cards", "channel", "checkpoints", "cleaning", "cli", "command", "deadlines",
        "deadlock", "devices", "disk", "doctor", "driving", "files", "folder", "forking", "gate", "guarding", "journal",
        "launcher",
        "listeners", "live", "lock", "nvml", "opening", "planning", "run", "scheduler", "serve", "slot", "tracking",
        "view", "watch", "watchdog", "worker",
    },
    "time": {
        "asking", "child", "clock", "command", "devices", "disk", "doctor", "folder", "following", "forking",
        "guardian", "guarding", "importing", "inventory", "launcher", "live", "lock", "member", "notebook", "processes",
        "reading",
        "preflight/seeding", "preflight/telemetry",
        "run", "serve", "steering", "teller", "tensorboard_tracker", "trying", "view", "vitals", "worker", "zygote",
    },
}  # fmt: skip

#: the modules, by their path without suffix; those of a folder are rooms behind one waist, the folder's name
MODULES = sorted(
    str(path.relative_to(PACKAGE).with_suffix(""))
    for path in PACKAGE.rglob("*.py")
    if path.parent == PACKAGE or path.name != "__init__.py"
)


def imports(module: str) -> tuple[set[str], set[str]]:
    """(modules of the package, top-level names of all else), type-checking imports left out for the latter."""
    ours: set[str] = set()
    others: set[str] = set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = node.level == 1 and "/" in module  # of the module's own folder
            ours |= {node.module} if node.module else {alias.name for alias in node.names}
            if inside:
                ours -= {node.module} if node.module else {alias.name for alias in node.names}
                ours.add(module.partition("/")[0])
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add((node.module or "").partition(".")[0])
    return {"" if name == "__version__" else name.partition(".")[0] for name in ours}, others


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
    assert len(text.splitlines()) <= 450
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
