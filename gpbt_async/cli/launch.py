"""`gpbt-async launch` and `gpbt-async resume`: options become a Run, which foreground.py drives to its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ExperimentError
from .options import (
    CHANGES,
    MACHINE,
    AsModule,
    Changed,
    Json,
    Moved,
    Name,
    Quiet,
    RunName,
    Runs,
    Script,
    Silence,
    Strict,
    arguments,
    option,
    takes,
)

if TYPE_CHECKING:
    from ..declaration.run_options import RunOptions
    from ..experiment import Changes


@takes(changes=CHANGES, options=MACHINE)
def launch(
    script: Script,
    *,
    as_module: AsModule = False,
    changes: Changes,
    options: RunOptions,
    strict: Strict = False,
    name: Name = None,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a script's experiment.

    The experiment trains members, generation by generation; a member is one model, trained for one interval. Options
    override what SCRIPT declares. Ctrl-C stops the run, and `gpbt-async resume` continues it.

    Exit status: 0: the run finished. 1: it started and failed. 2: it did not start, or --strict stopped it. 130: it was
    interrupted.

    Examples:
      gpbt-async launch train.py
      gpbt-async launch train.py --population 25 --generations 10 --name first
      gpbt-async launch -m pkg.train  # a module, as for python -m
      gpbt-async launch train.py:second  # one of several experiments in a file
      gpbt-async launch train.py --gpus 0,1 --share 2  # two members on each of two GPUs
      gpbt-async launch train.py --slots 4 --disk 50GiB  # on the CPU, four members at a time
    """
    from ..declaration.address import find
    from ..scheduler.run import Run
    from .foreground import drive

    folder = new_folder(name, runs)
    address = find(script, module=as_module)
    drive(Run(address, folder, runs=runs, strict=strict, changes=changes, **arguments(options)), quiet, as_json)


def new_folder(name: str | None, runs: Path) -> Path | None:
    """The folder of a new run called `name`; None lets the run choose. Raises ExperimentError and FolderError."""
    from ..storage.folder import check_name

    if name == "":
        raise ExperimentError("--name: got ''; give a name, or leave it out for the next free one")
    return runs / check_name(name) if name is not None else None


Adopt = Annotated[
    list[str] | None,
    option(
        "--adopt",
        metavar="FIELD",
        help="Take over FIELD, such as space, from the edited script. Separate several with commas.",
    ),
]
Retry = Annotated[
    bool,
    typer.Option(
        "--retry-failed", help="Try again the members that failed in the last two generations. Fix the cause first."
    ),
]


@takes(options=MACHINE)
def resume(
    run: RunName,
    *,
    script: Moved = None,
    changed: Changed = False,
    adopt: Adopt = None,
    retry: Retry = False,
    options: RunOptions,
    silence: Silence = None,
    strict: Strict = False,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Continue a run that was stopped, killed or failed.

    RUN continues from its journal and checkpoints. A failed run needs --retry-failed. If RUN has finished already,
    nothing changes.

    Options such as --gpus and --disk keep the values that they had before. An option that you give again replaces its
    value, and the word none resets most of them. `gpbt-async status RUN` shows the values.

    Examples:
      gpbt-async resume train-1
      gpbt-async resume train-1 --retry-failed --changed-script  # after fixing the script
      gpbt-async resume train-1 --changed-script --adopt space  # with the bounds that the script has now
      gpbt-async resume /other/disk/train-1 --script train.py --gpus none
    """
    from ..scheduler.run import Run
    from ..storage.folder import locate
    from .foreground import drive

    resumed = Run(
        script,
        locate(run, runs),
        resume="must",
        changed_script=changed,
        adopt=tuple(",".join(adopt).replace(" ", "").split(",")) if adopt else (),
        retry_failed=retry,
        silence=",".join(silence) if silence else (),
        strict=strict,
        **arguments(options),
    )
    drive(resumed, quiet, as_json)
