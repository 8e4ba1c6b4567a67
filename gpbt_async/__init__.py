"""gpbt-async: Genealogical Population-Based Training on one workstation, as an asyncio library and a command.

Begin with Experiment (what to train), Member (what a training function gets) and Run (one execution). Further modules:
`gpbt_async.torch`, `.lightning` and `.hf` for use inside a training script, `.testing` with the contract of searchers,
`.tracked` with that of trackers, `.simulate` with the engine on a virtual clock. `gpbt-async guide` shows how to begin.

The public names are imported when first used (PEP 562): every training process imports this package, and should pay
microseconds for what it does not use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import events as events
    from . import hf as hf
    from . import lightning as lightning
    from . import notebook as notebook
    from . import torch as torch
    from .analysis.run_summary import Best as Best
    from .ask import Ask as Ask
    from .errors import (
        DeviceError as DeviceError,
    )
    from .errors import (
        ExperimentError as ExperimentError,
    )
    from .errors import (
        FolderError as FolderError,
    )
    from .errors import (
        GPBTError as GPBTError,
    )
    from .errors import (
        JournalError as JournalError,
    )
    from .errors import (
        LaunchError as LaunchError,
    )
    from .errors import (
        MissingExtra as MissingExtra,
    )
    from .errors import (
        PreflightError as PreflightError,
    )
    from .errors import (
        RunFailed as RunFailed,
    )
    from .errors import (
        ScriptError as ScriptError,
    )
    from .errors import (
        SearcherError as SearcherError,
    )
    from .errors import (
        Stopped as Stopped,
    )
    from .experiment import Experiment as Experiment
    from .experiment import Resources as Resources
    from .member.alone import run_alone as run_alone
    from .member.api import Member as Member
    from .schedule import Schedule as Schedule
    from .scheduler.run import Run as Run
    from .scheduler.run import launch as launch
    from .space import Choice as Choice
    from .space import Float as Float
    from .space import Int as Int
    from .space import Space as Space

_HOMES = {
    **dict.fromkeys(("Float", "Int", "Choice", "Space"), "space"),
    **dict.fromkeys(("Experiment", "Resources"), "experiment"),
    **dict.fromkeys(("Run", "launch"), "scheduler.run"),
    **dict.fromkeys(
        (
            "GPBTError",
            "ExperimentError",
            "ScriptError",
            "FolderError",
            "JournalError",
            "DeviceError",
            "LaunchError",
            "MissingExtra",
            "SearcherError",
            "PreflightError",
            "RunFailed",
            "Stopped",
        ),
        "errors",
    ),
    "Member": "member.api",
    "run_alone": "member.alone",
    "Best": "analysis.run_summary",
    "Ask": "ask",
    "Schedule": "schedule",
}
#: modules that are reached through the package: `gpbt.torch.save(...)`, which imports torch when it needs it
_MODULES = ("events", "torch", "lightning", "hf", "notebook")

#: other tuners' names for the same things
_OTHERS = {
    **dict.fromkeys(("loguniform", "logfloat", "qloguniform"), "Float(low, high, log=True)"),
    **dict.fromkeys(("uniform", "real", "quniform", "suggestfloat"), "Float(low, high)"),
    **dict.fromkeys(("integer", "randint", "suggestint"), "Int(low, high)"),
    **dict.fromkeys(("categorical", "suggestcategorical", "gridsearch"), "Choice([...])"),
    "constant": "the value itself, in the space",
    "report": "member.report(loss=...), in the training function",
}

__version__ = "0.1.0"
__all__ = [*sorted(_HOMES), "__version__", "events"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module("." + name, __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_meant(name)}")
    value = getattr(import_module("." + _HOMES[name], __name__), name)
    globals()[name] = value
    return value


def _meant(name: str) -> str:
    """What a name that does not exist was most likely meant to be, as the end of a sentence."""
    if name.startswith("_"):  # a probe, as by hasattr
        return ""
    from .declaration.arguments import close_to

    other = _OTHERS.get(name.lower().replace("_", "")) or close_to(name, (*_HOMES, *_MODULES))
    return f": did you mean {other}?" if other else f": there are {', '.join(sorted(_HOMES))}"


def __dir__() -> list[str]:
    return __all__
