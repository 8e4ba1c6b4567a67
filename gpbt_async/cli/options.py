"""The options that several commands share.

Each is declared once. Most of them come in two groups, each of which travels as one value: `changes`, the fields of the
experiment that the command line replaces, and `options`, what a run asks of the machine (RunOptions). A command that
`takes` a group has one parameter for it. An option of a single command is declared with that command.

The surprise: Typer reads a command's `__signature__`. `takes` writes the options of its groups into it.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..declaration.run_options import NONE, STARTS, RunOptions
from ..errors import ExperimentError
from .completion import among, files, runs, searchers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Command = Callable[..., None]

T = TypeVar("T")

# ---- values


def whole(option: str, must: str = "of at least 1") -> Callable[[Any], int]:
    """A parser whose error names the option, the value and what is allowed; Typer's own names no bounds.

    The code that uses the value checks its range, with the same words.
    """
    return _parser(option, int, "int", f"a whole number {must}")


def _whole_or_none(text: Any) -> int | str:
    return NONE if text == NONE else int(text)


def _seed(text: Any) -> int:
    if int(text) < 0:
        raise ValueError
    return int(text)


def real(option: str, must: str = "of seconds above 0") -> Callable[[Any], float]:
    return _parser(option, float, "float", f"a number {must}".rstrip())


def _parser(option: str, kind: Callable[[Any], T], name: str, must: str) -> Callable[[Any], T]:
    def parse(text: Any) -> T:
        try:
            return kind(text)
        except ValueError:
            raise ExperimentError(f"{option}: got {text!r}; must be {must}") from None

    parse.__name__ = name  # which --help shows
    return parse


def option(*names: str, help: str, **more: Any) -> Any:
    """A Typer option that is None unless it is given."""
    return typer.Option(*names, help=help, show_default=False, **more)


def _maybe(kind: Any, help: str, *names: str, **more: Any) -> Any:
    return Annotated[kind | None, option(*names, help=help, **more)]


# ---- options of several commands

GPUS = "GPUs to use, by index or UUID, such as 0,2. all: every GPU. none: train on the CPU."
LIBRARY = "Path of NVIDIA's library libnvidia-ml.so.1. Needed only where the system does not find it."
TRACKERS = (
    "jsonl[:FILE], csv[:DIR], tensorboard[:DIR], mlflow[:DIR or URI], wandb[:DIR] or module:Name. "
    "The default place is the run's folder."
)
Runs = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="The folder that holds the runs.", autocompletion=files)
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings and failures.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: a name under --runs, or a path.", autocompletion=runs)
]
AnyRun = Annotated[str | None, typer.Argument(metavar="RUN", help="One run. Default: all runs.", autocompletion=runs)]
Script = Annotated[
    str,
    typer.Argument(
        metavar="SCRIPT",
        help="A Python file, or a module such as pkg.train, that declares a gpbt.Experiment. FILE:NAME chooses one of "
        "several.",
        autocompletion=files,
    ),
]
AsModule = Annotated[bool, typer.Option("-m", "--module", help="SCRIPT is a module, as with python -m.")]
Moved = Annotated[
    str | None, option("--script", metavar="PATH", help="Path of the script, or name of its module, if it has moved.")
]
Changed = Annotated[bool, typer.Option("--changed-script", help="Accept a script that was edited since the run began.")]
Name = Annotated[str | None, option("--name", metavar="NAME", help="Name of the new run. Default: the next free name.")]
Silence = Annotated[
    list[str] | None,
    option(
        "--silence",
        metavar="CODE",
        help="Do not report the finding CODE, such as GPBT009. Separate several with commas. See `gpbt-async guide "
        "findings`.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Stop at the first finding, a likely fault of the script. The exit status is then 2."
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        parser=_parser("--seed", _seed, "int", "a whole number of at least 0"),
        help="Seed for drawing the config and for training.",
    ),
]
Sets = Annotated[list[str] | None, option("--set", metavar="NAME=VALUE", help="Fix a hyperparameter. May be repeated.")]

#: fields of the experiment that the command line may replace
CHANGES: dict[str, object] = {
    "population": _maybe(int, "Members per generation.", parser=whole("--population")),
    "generations": _maybe(int, "Number of generations.", parser=whole("--generations")),
    "ratio": _maybe(
        float,
        "Number of children of each parent, divided by the number of parents in a generation. With 1, both are about "
        "the square root of the population. A higher ratio gives fewer parents, with more children each.",
        parser=real("--ratio", "greater than 0"),
    ),
    "searcher": _maybe(
        str,
        "The searcher, which chooses configs: local | tpe | kin | perturb | random | optuna:SAMPLER | module:Name.",
        autocompletion=searchers,
    ),
    "history": _maybe(
        str,
        "The results that the searcher sees. inherit: those of generation 0, and of all children of the parent and of "
        "its ancestors. reset: only those of the parent's own children. global: all.",
        autocompletion=among("inherit", "reset", "global"),
    ),
    "selection": _maybe(
        str,
        "comma: only members of the previous generation become parents. plus: earlier parents stay parents while they "
        "are among the best.",
        autocompletion=among("comma", "plus"),
    ),
    "evidence": _maybe(
        float,
        "The share of a generation, from 0 to 1, that must finish before the next generation begins.",
        parser=real("--evidence", "from 0 to 1"),
    ),
    "schedule": _maybe(
        str,
        "async: a generation begins once a share (--evidence) of the previous one has finished. sync: it begins once "
        "all of it has.",
        autocompletion=among("async", "sync"),
    ),
    "early_stop": _maybe(
        str,
        "Save work. median: stop members with a poor first report. generation: create no more members in a "
        "generation once one of them improves on the previous generation's best by more than that generation's best "
        "improved on the one before. median,generation: both. none: neither.",
    ),
    "preset": _maybe(str, "paper: the settings of the paper's algorithm. Other options override them."),
    "choose_by": _maybe(
        str,
        "Choose the final model, among the best of the last generation, by this reported metric, which selects no "
        "parents, such as holdout_loss or fit:max. none: by the score.",
        metavar="METRIC[:max|min]",
    ),
    "attempts": _maybe(int, "Maximum number of attempts for a member that fails.", parser=whole("--attempts")),
    "stall_timeout": _maybe(
        float,
        "End a member that has reported nothing for S seconds. This counts as a failure.",
        metavar="S",
        parser=real("--stall-timeout"),
    ),
    "member_timeout": _maybe(
        float,
        "End a member that has trained for S seconds. This counts as a failure.",
        metavar="S",
        parser=real("--member-timeout"),
    ),
    "seed": _maybe(int, "Seed of all random decisions.", parser=whole("--seed", "of at least 0")),
    "silence": Silence,
}

#: what a run asks of the machine: the fields of RunOptions
MACHINE: dict[str, object] = {
    "slots": _maybe(
        int, "Train on the CPU, with up to N members at the same time.", metavar="N", parser=whole("--slots")
    ),
    "gpus": _maybe(str, GPUS, metavar="LIST"),
    "share": _maybe(
        int,
        "How many members may share a GPU. none: as the script declares.",
        metavar="N",
        parser=_parser("--share", _whole_or_none, "int", "a whole number of at least 1, or 'none'"),
    ),
    "vram": _maybe(
        str,
        "GPU memory that a member needs, such as 6GiB. auto: measure it. none: as the script declares.",
        metavar="SIZE",
    ),
    "wait_for_gpus": _maybe(
        bool, "If all GPUs are in use, wait for one. Without this option, the command fails instead."
    ),
    "xids": _maybe(
        list[str],
        "Set whom to blame for NVIDIA's error Xid N: card, member or nobody, as in 31=card. May be "
        "repeated. none: use the built-in table only.",
        "--xid",
        metavar="N=BLAME",
    ),
    "others_may_use": _maybe(
        str,
        "Use a GPU only while other programs, such as a desktop, hold at most SIZE of its memory. none: the default, "
        "1GiB or 5 % of the GPU, whichever is larger.",
        metavar="SIZE",
    ),
    "affinity": _maybe(bool, "Bind each member to the CPU cores near its GPU. This is the default."),
    "nvml_library": _maybe(str, f"{LIBRARY} none: let the system find it.", metavar="PATH"),
    "disk": _maybe(
        str,
        "Limit for the run's checkpoints, such as 50GiB. At the limit, new members wait. none: no limit.",
        metavar="SIZE",
    ),
    "track": _maybe(
        list[str], f"Report to a tracker: {TRACKERS} May be repeated. none: no tracker.", metavar="WHAT[:WHERE]"
    ),
    "start": _maybe(
        str,
        "zygote: fork every member from one process that has imported the script, even where its threads make that "
        "unsafe. exec: start a new Python for each member. resident: each slot has one process, which "
        "trains member after member, for short intervals. none: the default, which forks only where that is safe.",
        metavar="zygote|exec|resident|none",
        autocompletion=among(*STARTS),
    ),
}


# ---- groups


def takes(*, changes: Iterable[str] = (), options: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Gives a command the options that its parameters `changes` and `options` are made of.

    changes: names in CHANGES; the command gets a dict of those that were given. options: names in MACHINE; it gets a
    RunOptions.
    """
    chosen = {"changes": (CHANGES, tuple(changes), _changes), "options": (MACHINE, tuple(options), _run_options)}
    groups = {name: (table, names, pack) for name, (table, names, pack) in chosen.items() if names}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(**given: Any) -> None:
            for group, (_, names, pack) in groups.items():
                values = {name: given.pop(name) for name in names}
                given[group] = pack({name: value for name, value in values.items() if value not in (None, [])})
            command(**given)

        flat: list[inspect.Parameter] = []
        signature = inspect.signature(command, eval_str=True, locals={"RunOptions": RunOptions, "Changes": dict})
        for parameter in signature.parameters.values():
            table, names, _ = groups.get(parameter.name, ({}, (), None))
            group = [parameter.replace(name=name, annotation=table[name], default=None) for name in names]
            flat += group or [parameter]
        flat = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in flat]
        packed.__dict__["__signature__"] = signature.replace(parameters=flat)
        packed.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
        return packed

    return decorate


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    return given | {"silence": ",".join(given["silence"])} if "silence" in given else given


def _run_options(given: dict[str, Any]) -> RunOptions:
    if given.get("start") not in (None, *STARTS):
        raise ExperimentError(f"--start: got {given['start']!r}; must be one of {', '.join(map(repr, STARTS))}")
    if given.get("nvml_library") == "":
        raise ExperimentError("--nvml-library: got ''; must be the path of a library")
    read: dict[str, Callable[[Any], Any]] = {"track": tuple, "xids": _blame}
    return RunOptions(**{name: read[name](value) if name in read else value for name, value in given.items()})


def _blame(entries: Sequence[str]) -> dict[int, str]:
    """`--xid N=BLAME` → whose fault an Xid is; `--xid none` → nothing. Raises ExperimentError."""
    blame: dict[int, str] = {}
    for entry in entries if [*entries] != ["none"] else ():
        number, _, whose = entry.partition("=")
        numeric = number.isascii() and number.isdecimal() and len(number) < 10
        if not numeric or whose not in ("card", "member", "nobody"):
            raise ExperimentError(f"--xid {entry}: must be a number, =, and card, member or nobody, such as 109=member")
        if blame.setdefault(int(number), whose) != whose:
            raise ExperimentError(f"--xid {entry}: {blame[int(number)]} is blamed for it already; give only one")
    return blame


def arguments(options: RunOptions) -> dict[str, Any]:
    """Run's keyword arguments for the options that were given."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}
