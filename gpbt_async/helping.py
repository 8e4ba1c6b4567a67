"""What `--help` says of each command in a line and by examples, and what the shell offers when Tab is pressed.

The first sentence of a command's docstring is for its own page; in the list of commands there is room for a few words,
which stand here. Tab completes names of runs, members and the words that an option takes; anything else that a shell
completes is a file, which it knows best itself, so there nothing is offered.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer  # noqa: TC002 — Typer reads the annotations

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
    from .folder import runs as found

    return [run.name for run in found(_runs_dir(ctx)) if run.name.startswith(incomplete)]


def members(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the run that was named: best, and the numbers of members."""
    from .folder import Folder

    where = Folder(_runs_dir(ctx) / str(ctx.params.get("run", "")))
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
