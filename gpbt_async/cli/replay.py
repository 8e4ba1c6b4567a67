"""`gpbt-async replay RUN`: one fresh model along the winning schedule, or several, and does it reproduce the score?

A replay is a run like any other, with the original's script, settings and slots, but as many roots as replays, each
with one child a generation whose config the schedule says. So it has a folder of its own, is watched, stopped, killed
and resumed as any run is, and `best` gives its model. What it came to is told at its end, and stands in its
summary.json; the comparison itself is replays.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..analysis import results
from ..engine.tree import key
from ..errors import ExperimentError, FolderError
from .options import (
    Affinity,
    Disk,
    Gpus,
    Json,
    Library,
    Moved,
    Others,
    Quiet,
    RunName,
    Runs,
    SlotCount,
    Start,
    Track,
    Wait,
    Xids,
    devices,
    say,
    start_of,
    whole,
)

if TYPE_CHECKING:
    from ..analysis.reader import RunReader
    from ..experiment import Settings


#: more replays than this are a slip of the finger
MOST = 1000


def replay(
    run: RunName,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="K",
            parser=whole("--seeds", f" from 1 to {MOST}"),
            help="How many replays, each with its own seed.",
        ),
    ] = 1,
    same: Annotated[
        bool, typer.Option("--same-seeds", help="One replay more, with the very seeds that the original had.")
    ] = False,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            parser=whole("--seed", " of at least 0"),
            help="Seed of the replays; else one made of RUN's, the same each time.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        Optional[str], typer.Option(help="The replay's name; else RUN-replay-1, -2, …", show_default=False)  # noqa: UP045
    ] = None,
    script: Moved = None,
    changed: Annotated[
        bool, typer.Option("--changed-script", help="Replay though the script was edited since RUN began.")
    ] = False,
    slots: SlotCount = None,
    gpus: Gpus = None,
    wait: Wait = None,
    xids: Xids = None,
    others: Others = None,
    affinity: Affinity = None,
    library: Library = None,
    disk: Disk = None,
    track: Track = None,
    runs: Runs = Path("runs"),
    start: Start = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a fresh model along RUN's winning schedule, and tell whether it reproduces the score.

    From nothing, then interval after interval, each from the one before, in a run of its own, with RUN's script and
    settings, slots, GPUs and trackers unless others are given. With several --seeds the score is held against the noise
    among them.
    """
    from ..analysis.reader import RunReader, open_run
    from ..scheduler.run import Run
    from ..storage.folder import check_name
    from .launch import drive

    original = RunReader(open_run(run, runs))
    folder = runs / check_name(name) if name is not None else None
    if original.state == "running" and original.engine.best is not None:
        said = f"{original.folder.name} goes on: what is replayed is its best so far, member {original.engine.best.id}"
        say(f"{said}; a better one may come")
    if not track and original.record.options.track:
        told = ", ".join(original.record.options.track)
        say(f"the replay is told to {told}, as {original.folder.name} is; --track none: to nobody")
    drive(
        Run(
            script,
            folder,
            slots=slots,
            gpus=gpus,
            start=start_of(start),
            runs=runs,
            **devices(None, None, wait, xids, others, affinity, library),
            disk=disk,
            track=track or None,
            changed_script=changed,
            changes=changes(original, seeds, same=same, seed=seed),
            again=original.record,
        ),
        quiet,
        as_json,
    )


def changes(original: RunReader, seeds: int = 1, *, same: bool = False, seed: int | None = None) -> dict[str, Any]:
    """What a replay's settings have instead of the original's. Raises ExperimentError, FolderError."""
    if not (not same) <= seeds <= MOST:
        raise ExperimentError(f"--seeds: got {seeds}; must be from 1 to {MOST}: how many models to train")
    folder = original.folder
    schedule = results.winning(original.engine, folder.name)
    if schedule is None:
        raise FolderError(f"{folder.name} has no finished member yet: see gpbt-async status {folder.typed}")
    s: Settings = original.settings
    best = original.engine.best
    assert best is not None
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
        "searcher": "random",  # which nobody asks
        "early_stop": (),
        "preset": None,
        "seed": seed if seed is not None else key(s.seed, "replay", best.path, 31),
    }
