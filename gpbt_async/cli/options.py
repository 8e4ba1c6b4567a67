"""What `--help` says of each command in a line and by examples, and what the shell offers when Tab is pressed.

The first sentence of a command's docstring is for its own page; in the list of commands there is room for a few words,
which stand here. Tab completes names of runs, members and the words that an option takes; anything else that a shell
completes is a file, which it knows best itself, so there nothing is offered.

The options that several commands of the command line share: their names, and what `--help` says.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from ..errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Callable


#: how many members Tab offers at most
MOST = 200

#: by command: what it does, in a few words; and examples, line by line, what they do behind two blanks
_COMMANDS: dict[str, tuple[str, str]] = {
    "launch": (
        "Run a script's experiment.",
        """
        gpbt-async launch train.py
        gpbt-async launch train.py --population 25 --generations 10 --name first
        gpbt-async launch -m pkg.train  a module of a package, as for python -m
        gpbt-async launch train.py:second  one of several experiments in a file
        gpbt-async launch train.py --gpus 0,1 --share 2   two members on each of two GPUs
        gpbt-async launch train.py --slots 4 --disk 50GiB  on the CPU, four at a time
        """,
    ),
    "resume": (
        "Go on with a run that was stopped, killed or failed.",
        """
        gpbt-async resume train-1
        gpbt-async resume train-1 --retry-failed --changed-script  after mending the script
        gpbt-async resume train-1 --changed-script --adopt space  with the bounds the script has now
        gpbt-async resume /other/disk/train-1 --script train.py --gpus none
        """,
    ),
    "status": (
        "Show all runs, or one: what trains, what waits for what.",
        """
        gpbt-async status
        gpbt-async status train-1
        gpbt-async status train-1 --json | jq .score
        """,
    ),
    "watch": (
        "The live view of a run that was started elsewhere.",
        """
        gpbt-async watch train-1
        gpbt-async watch train-1 --quiet 2> log  warnings and failures only
        """,
    ),
    "stop": (
        "Ask a run to stop; it can be resumed.",
        """
        gpbt-async stop train-1
        """,
    ),
    "best": (
        "Show the best member so far, or export it.",
        """
        gpbt-async best train-1
        gpbt-async best train-1 --export my-model  its checkpoint and schedule
        """,
    ),
    "report": (
        "Write a run's report, and its trace.",
        """
        gpbt-async report train-1 --open
        gpbt-async report train-1 --out /tmp/run.html --no-trace
        """,
    ),
    "export": (
        "Export a run's members as a table.",
        """
        gpbt-async export train-1 --out members.csv
        gpbt-async export train-1 --format json | jq '.[0]'
        """,
    ),
    "lineage": (
        "Say why a member exists.",
        """
        gpbt-async lineage train-1 best
        gpbt-async lineage train-1 0/3/1
        """,
    ),
    "gpus": (
        "Show the GPUs, or have a run leave one.",
        """
        gpbt-async gpus
        gpbt-async gpus --drain train-1 2  have a run leave GPU 2, and wait until it has
        gpbt-async gpus --return train-1 2
        """,
    ),
    "clean": (
        "Delete what a finished run needs no more.",
        """
        gpbt-async clean train-1
        gpbt-async clean train-1 --everything  the whole run
        """,
    ),
    "plan": (
        "Say how long a run would take, by simulating it.",
        """
        gpbt-async plan train.py --gpus 4 --seconds 600 --spread 0.5
        gpbt-async plan train.py --slots 8 --from train-1 --population 50
        """,
    ),
    "doctor": (
        "Train two members and two children, and say what is wrong.",
        """
        gpbt-async doctor train.py
        gpbt-async doctor train.py --repeat --set lr=0.01  is it deterministic?
        """,
    ),
    "replay": (
        "Train fresh models along a run's schedule.",
        """
        gpbt-async replay train-1
        gpbt-async replay train-1 --seeds 5     the spread over five seeds
        gpbt-async replay train-1 --same-seeds  with the original's seeds
        """,
    ),
    "track": (
        "Tell a tracker of a run, beside it or after it.",
        """
        gpbt-async track train-1 --to tensorboard
        gpbt-async track train-1 --to mlflow:mlruns
        """,
    ),
    "pause": (
        "Have a run begin no member for a while.",
        """
        gpbt-async pause train-1
        gpbt-async pause train-1 --end
        """,
    ),
    "serve": (
        "Show runs live in a browser on this machine.",
        """
        gpbt-async serve
        gpbt-async serve train-1 --open
        """,
    ),
    "guide": (
        "Print a guide, or list them.",
        """
        gpbt-async guide
        gpbt-async guide member
        """,
    ),
    "try": (
        "Train one member in the foreground, for debuggers.",
        """
        gpbt-async try train.py --set lr=0.01
        python -m pdb -m gpbt_async try train.py
        """,
    ),
}


def words_of(command: str) -> dict[str, Any]:
    """What Typer is to be told of a command beside its function; nothing of one that has no words here."""
    if command not in _COMMANDS:
        return {}
    short, examples = _COMMANDS[command]
    lines = [line.strip() for line in examples.strip().splitlines()]
    return {"short_help": short, "epilog": "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)}


# ---- Tab


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of runs; of a path nothing, as the shell knows those."""
    if os.sep in incomplete:
        return []
    from ..storage.folder import runs as found

    return [run.name for run in found(_runs_dir(ctx)) if run.name.startswith(incomplete)]


def members(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the run that was named: best, and the numbers of members."""
    from ..storage.folder import RunFolder

    where = RunFolder(_runs_dir(ctx) / str(ctx.params.get("run", "")))
    try:
        names = [str(int(name)) for name in sorted(os.listdir(where.members)) if name.isdecimal()]
    except OSError:
        names = []
    return [name for name in ["best", *names] if name.startswith(incomplete)][:MOST]


def _runs_dir(ctx: typer.Context) -> Path:
    given = ctx.params.get("runs")
    return given if isinstance(given, Path) else Path("runs")


def among(*words: str) -> Callable[[str], list[str]]:
    """Offers these words."""

    def offered(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return offered


def files(incomplete: str) -> list[str]:
    """Leaves it to the shell."""
    return []


T = TypeVar("T")


def whole(option: str, more: str = " of at least 1") -> Callable[[Any], int]:
    """A parser whose error names the option, what it was given and what it takes; Typer's own names only the first."""
    return _parser(option, int, "integer", f"a whole number{more}")


def real(option: str, more: str = " of seconds above 0") -> Callable[[Any], float]:
    return _parser(option, float, "float", f"a number{more}")


def _parser(option: str, kind: Callable[[Any], T], name: str, must: str) -> Callable[[Any], T]:
    def parse(text: Any) -> T:
        try:
            return kind(text)
        except ValueError:
            raise ExperimentError(f"{option}: got {text!r}; must be {must}") from None

    parse.__name__ = name  # which --help shows
    return parse


TRACKERS = (
    "Tell a tracker: jsonl[:FILE], csv[:DIR], tensorboard[:DIR], mlflow[:DIR or URI], wandb[:DIR], or module:Name. "
    "Without a place it is told in the run's folder."
)
Runs = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="The folder that holds the runs.", autocompletion=files)
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and failures only.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A name under --runs, or a path.", autocompletion=runs)]
Script = Annotated[
    str,
    typer.Argument(
        metavar="SCRIPT",
        help="A Python file that declares a gpbt.Experiment, or a module, as pkg.train; of several, FILE:NAME.",
        autocompletion=files,
    ),
]
AsModule = Annotated[bool, typer.Option("-m", "--module", help="SCRIPT is a module, as for python -m.")]
Moved = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--script", metavar="PATH", help="Where the script is now, if it was moved; or a module.", show_default=False
    ),
]
Adopt = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--adopt",
        metavar="FIELD",
        help="Take over this field as the edited script declares it, as space; may be repeated, or with commas.",
        show_default=False,
    ),
]
SlotCount = Annotated[
    int | None,
    typer.Option("--slots", metavar="N", parser=whole("--slots"), help="Train on N CPU slots.", show_default=False),
]
Gpus = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--gpus", metavar="LIST", help="GPUs: 0,2 | UUID,… | all | none.", show_default=False),
]
Start = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--start",
        metavar="zygote|exec",
        help="A member is a fork of a warm process (forks even where threads make that unsafe), or a fresh one.",
        autocompletion=among("zygote", "exec"),
        show_default=False,
    ),
]
Share = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--share",
        metavar="N",
        parser=whole("--share"),
        help="Members that may be on one GPU at a time.",
        show_default=False,
    ),
]
Vram = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--vram", metavar="SIZE|auto", help="GPU memory a member takes: 6GiB, or auto.", show_default=False),
]
Wait = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--wait-for-gpus/--no-wait-for-gpus", help="Wait when every GPU is taken; else refuse.", show_default=False
    ),
]
Xids = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--xid",
        metavar="N=card|member|nobody",
        help="Whose fault an Xid is; may be repeated. none: the table that comes with gpbt-async.",
        show_default=False,
    ),
]
Others = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--others-may-use",
        metavar="SIZE",
        help="GPU memory that a desktop may use on a GPU we train on; else (or none) 1GiB, or 5 % if that is more.",
        show_default=False,
    ),
]
Population = Annotated[
    int | None, typer.Option(parser=whole("--population"), help="Members a generation.", show_default=False)
]
Generations = Annotated[
    int | None, typer.Option(parser=whole("--generations"), help="Generations.", show_default=False)
]
Ratio = Annotated[
    float | None,
    typer.Option(
        parser=real("--ratio", " greater than 0"), help="Children per parent / number of parents.", show_default=False
    ),
]
Schedule = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="async | sync.", show_default=False, autocompletion=among("async", "sync")),
]
Stall = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        metavar="S",
        parser=real("--stall-timeout"),
        help="Seconds without a report after which a member has failed.",
        show_default=False,
    ),
]
Whole = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        metavar="S",
        parser=real("--member-timeout"),
        help="Seconds in training after which a member has failed.",
        show_default=False,
    ),
]
Silence = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--silence",
        metavar="CODE",
        help="Do not tell this finding of the pre-flight, as GPBT009; may be repeated, or with commas.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="End with exit status 2 at the first finding of the pre-flight.")
]
Disk = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--disk",
        metavar="SIZE",
        help="The most that the checkpoints a run keeps may take; members wait when it is reached. none: no limit.",
        show_default=False,
    ),
]
Track = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--track",
        metavar="WHAT[:WHERE]",
        help=f"{TRACKERS} May be repeated; none: no tracker.",
        show_default=False,
    ),
]
Affinity = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--affinity/--no-affinity", help="Bind members to the cores near their GPU; the default.", show_default=False
    ),
]
Library = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--nvml-library", metavar="PATH", help="libnvidia-ml.so.1, if not where the loader looks.", show_default=False
    ),
]


def devices(
    share: int | None,
    vram: str | None,
    wait: bool | None,
    xids: list[str] | None,
    others: str | None,
    affinity: bool | None,
    library: str | None,
) -> dict[str, Any]:
    """Run's keyword arguments for them. Raises ExperimentError."""
    table: dict[int, str] = {}
    for entry in xids or () if xids != ["none"] else ():
        number, _, whose = entry.partition("=")
        if not (number.isascii() and number.isdecimal() and len(number) < 10) or whose not in (
            "card",
            "member",
            "nobody",
        ):
            raise ExperimentError(f"--xid {entry}: must be a number, =, and card, member or nobody, as in 109=member")
        if table.get(int(number), whose) != whose:
            raise ExperimentError(f"--xid {entry}: it was said to be the doing of {table[int(number)]}, too")
        table[int(number)] = whose
    if library == "":
        raise ExperimentError("--nvml-library '': must be the path of a library")
    return {
        "share": share,
        "vram": vram,
        "wait_for_gpus": wait,
        "xids": table if xids else None,
        "others_may_use": others,
        "affinity": affinity,
        "nvml_library": library,
    }


def given(**options: Any) -> dict[str, Any]:
    """Those that were given, by name."""
    return {name: value for name, value in options.items() if value is not None}


def start_of(start: str | None) -> Any:
    if start not in (None, "zygote", "exec"):
        raise ExperimentError(f"--start: got {start!r}; must be 'zygote' or 'exec'")
    return start


def say(message: str) -> None:
    """A message for people, on stderr."""
    # an exception's text is the user's, and may hold anything: it is not to steer the terminal
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)
    print(f"gpbt-async: {text}", file=sys.stderr)


def jsonable(value: Any) -> Any:
    """Strict JSON has no NaN: such numbers are spelled out, as in the run's files."""
    from ..storage.files import spelled

    return spelled(value)
