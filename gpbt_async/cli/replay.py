"""`gpbt-async replay`: does the winning schedule reproduce its score in a fresh model?

A replay is an ordinary run, with the original's script, settings and slots: it has its own folder, and can be watched,
stopped and resumed. It has one root for each seed. Each member has one child, with the config that the schedule gives
for its generation. analysis/run_summary.py compares the scores, which are also in summary.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ExperimentError, FolderError
from .launch import new_folder
from .options import MACHINE, Changed, Json, Moved, Name, Quiet, RunName, Runs, arguments, option, takes, whole
from .output import say

if TYPE_CHECKING:
    from ..analysis.reader import RunReader
    from ..declaration.run_options import RunOptions
    from ..experiment import Changes


#: more replays than this are a typing error
MOST = 1000

Seeds = Annotated[
    int,
    typer.Option(
        "--seeds",
        metavar="K",
        parser=whole("--seeds", f"from 1 to {MOST}"),
        help="Number of replays, each with its own seed.",
    ),
]
SameSeeds = Annotated[
    bool, typer.Option("--same-seeds", help="Add one replay that uses the seeds of the original members.")
]
ReplaySeed = Annotated[
    int | None,
    option(
        "--seed",
        parser=whole("--seed", "of at least 0"),
        help="Seed of the replays. Default: computed from RUN's seed, so it is always the same.",
    ),
]


@takes(options=[name for name in MACHINE if name not in ("share", "vram")])
def replay(
    run: RunName,
    *,
    seeds: Seeds = 1,
    same: SameSeeds = False,
    seed: ReplaySeed = None,
    name: Name = None,
    script: Moved = None,
    changed: Changed = False,
    options: RunOptions,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train new models with a run's best schedule.

    Each new model starts from nothing and follows the schedule of RUN's best member, interval by interval. All of them
    train in one new run, called RUN-replay-1 by default. It has the script, settings and options of RUN; an option that
    you give here replaces RUN's. With several --seeds, the result shows whether the original score differs from the
    new ones by more than chance explains.

    Examples:
      gpbt-async replay train-1
      gpbt-async replay train-1 --seeds 5  # the spread over five seeds
      gpbt-async replay train-1 --same-seeds  # with the original's seeds
    """
    from ..analysis.reader import RunReader, open_run
    from ..scheduler.run import Run
    from .foreground import drive

    original = RunReader(open_run(run, runs))
    _announce(original, options)
    replayed = Run(
        script,
        new_folder(name, runs),
        runs=runs,
        changed_script=changed,
        changes=changes(original, seeds, same=same, seed=seed),
        again=original.record,
        **arguments(options),
    )
    drive(replayed, quiet, as_json)


def _announce(original: RunReader, options: RunOptions) -> None:
    """Say what a person may not expect."""
    name = original.folder.name
    if original.state == "running" and original.engine.best is not None:
        best = f"the replay follows its best member so far, {original.engine.best.id}"
        say(f"{name} is still running: {best}; a better one may follow")
    if options.track is None and original.record.options.track:
        trackers = ", ".join(original.record.options.track)
        say(f"the replay reports to {trackers}, as {name} does; --track none prevents that")


def changes(original: RunReader, seeds: int = 1, *, same: bool = False, seed: int | None = None) -> Changes:
    """The settings in which a replay differs from the original. Raises ExperimentError, FolderError."""
    from ..analysis import run_summary
    from ..engine.tree import key

    if not (not same) <= seeds <= MOST:
        raise ExperimentError(f"--seeds: got {seeds}; must be from 1 to {MOST}, the number of models to train")
    folder, best = original.folder, original.engine.best
    schedule = run_summary.winning(original.engine, folder.name)
    if schedule is None or best is None:
        raise FolderError(f"{folder.name} has no finished member yet: see gpbt-async status {folder.shell_name}")
    count = seeds + same
    return {
        "space": original.engine.adoption.hull,  # the schedule may go through several
        "replay": schedule if same else schedule.seedless(),
        "population": count,
        "generations": len(schedule),
        "ratio": 1 / count,  # as many parents as members: one child each
        "evidence": 1.0,
        "schedule": "async",
        "selection": "comma",
        "searcher": "random",  # it is never asked
        "early_stop": (),
        "preset": None,
        "choose_by": None,
        "fold_seed": original.settings.seed_of_folds,
        "seed": seed if seed is not None else key(original.settings.seed, "replay", best.path, 31),
    }
