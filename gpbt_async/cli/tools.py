"""Commands beside a run's own life: the machine's GPUs, room on the disk, a plan, a check-up, a single member."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..errors import ExperimentError
from . import options
from .options import (
    Affinity,
    AsModule,
    Generations,
    Gpus,
    Json,
    Library,
    Others,
    Population,
    Quiet,
    Ratio,
    RunName,
    Runs,
    Schedule,
    Script,
    Share,
    Silence,
    SlotCount,
    Start,
    Strict,
    Vram,
    Wait,
    Xids,
    devices,
    given,
    jsonable,
    real,
    say,
    start_of,
    whole,
)


def gpus(
    gpus: Gpus = None,
    drain: Annotated[
        Optional[tuple[str, str]],  # noqa: UP045
        typer.Option(
            "--drain", metavar="RUN GPU", help="Have RUN leave GPU, and wait until it has.", show_default=False
        ),
    ] = None,
    give_back: Annotated[
        Optional[tuple[str, str]],  # noqa: UP045
        typer.Option("--return", metavar="RUN GPU", help="Let RUN use GPU again.", show_default=False),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="With --drain: move its members at once, their interval is lost.")
    ] = False,
    library: Library = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the GPUs: who is on them, what a run would use, and why not the rest; or have a run leave one."""
    from ..analysis import reader
    from . import gpus as gpus_module

    if drain is not None or give_back is not None:
        if drain is not None and give_back is not None:
            raise ExperimentError("--drain and --return: give only one")
        if gpus is not None or as_json:
            raise ExperimentError("--gpus and --json are for the list of GPUs, which --drain and --return do not show")
        word = "return" if drain is None else "drain-now" if now else "drain"
        run, gpu = drain or give_back or ("", "")
        say(gpus_module.ask(reader.open_run(run, runs), word, gpu))
        return
    if now:
        raise ExperimentError("--now is for --drain RUN GPU")
    told = gpus_module.inventory(os.environ, runs, gpus=gpus, library=library)
    print(json.dumps(jsonable(told), indent=1) if as_json else gpus_module.text(told))


def clean(
    run: RunName,
    everything: Annotated[
        bool, typer.Option("--everything", help="Delete the whole folder: the trained model and the journal, too.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Delete what a finished RUN needs no more: logs, metrics and leftovers of all members but the best's ancestry."""
    from ..analysis import reader
    from ..formatting import format_bytes
    from .runs import clean

    folder = reader.open_run(run, runs)
    freed = clean(folder, everything)
    print(f"{folder.name}: {format_bytes(freed)} freed")


def plan(
    script: Script,
    as_module: AsModule = False,
    slots: Annotated[
        int,
        typer.Option("--slots", "--gpus", metavar="N", parser=whole("--slots"), help="Slots (or GPUs) to plan for."),
    ] = 1,
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--from",
            metavar="RUN",
            help="The durations of a run made before; this or --seconds.",
            show_default=False,
            autocompletion=options.runs,
        ),
    ] = None,
    seconds: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            parser=real("--seconds"), help="How long an interval takes, its mean; this or --from.", show_default=False
        ),
    ] = None,
    spread: Annotated[
        float, typer.Option(parser=real("--spread", ""), help="… and its standard deviation, as a share of the mean.")
    ] = 0.3,
    population: Population = None,
    generations: Generations = None,
    ratio: Ratio = None,
    evidence: Annotated[
        float | None,
        typer.Option(parser=real("--evidence", " from 0 to 1"), help="As in launch.", show_default=False),
    ] = None,
    schedule: Schedule = None,
    seed: Annotated[
        int | None, typer.Option(parser=whole("--seed", " of at least 0"), help="As in launch.", show_default=False)
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say how long SCRIPT's experiment would take, and how busy the slots would be, by simulating it.

    How long an interval takes has to be known: give --seconds, or --from RUN.
    """
    from ..declaration.address import find
    from . import plan as plan_module

    changes = given(
        population=population,
        generations=generations,
        ratio=ratio,
        evidence=evidence,
        schedule=schedule,
        seed=seed,
    )
    address = find(script, module=as_module)
    planned = plan_module.plan(address, slots, run=run, runs=runs, seconds=seconds, spread=spread, changes=changes)
    print(json.dumps(jsonable(planned), indent=1) if as_json else plan_module.text(planned))


def track(
    run: RunName,
    to: Annotated[str, typer.Option("--to", metavar="WHAT[:WHERE]", help=options.TRACKERS)],
    runs: Runs = Path("runs"),
) -> None:
    """Tell a tracker of RUN, from where it was told last, beside a live run until its end, or after it."""
    from ..analysis import reader
    from ..trackers import registry
    from ..trackers.tracker_main import foreground

    say(foreground(reader.open_run(run, runs), registry.parse(to, "--to")))


def watch(run: RunName, runs: Runs = Path("runs"), quiet: Quiet = False) -> None:
    """Show RUN while another process runs it: what `launch` shows. Ctrl-C ends the looking, not the run.

    Of a run that is over, or was killed, its last state. The exit status is the one that the run ends with.
    """
    from ..storage.folder import RunFolder, locate
    from .launch import attended, foreground, paused

    folder = RunFolder(locate(run, runs))
    try:
        raise SystemExit(foreground(attended(folder, quiet)))
    except KeyboardInterrupt:
        is_so = f"stays paused until gpbt-async pause {folder.typed} --end" if paused(folder) else "goes on"
        say(f"{folder.name} {is_so}; to stop it: gpbt-async stop {folder.typed}")
        raise SystemExit(130) from None


ConfigSeed = Annotated[
    int, typer.Option("--seed", parser=whole("--seed", " of at least 0"), help="Seed of the config and of the member.")
]
Sets = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="NAME=VALUE", help="Fix a hyperparameter; may be repeated.", show_default=False),
]


def doctor(
    script: Script,
    as_module: AsModule = False,
    repeat: Annotated[bool, typer.Option("--repeat", help="Train the member twice: is it deterministic?")] = False,
    seed: ConfigSeed = 0,
    sets: Sets = None,
    population: Population = None,
    generations: Generations = None,
    slots: SlotCount = None,
    gpus: Gpus = None,
    share: Share = None,
    vram: Vram = None,
    wait: Wait = None,
    xids: Xids = None,
    others: Others = None,
    affinity: Affinity = None,
    library: Library = None,
    start: Start = None,
    silence: Silence = None,
    strict: Strict = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train two members of SCRIPT and two children, as a run would, and say what is wrong and what a run would take.

    Does a child take up its parent's checkpoint, also with another config? Is every hyperparameter used? How long, how
    large, how much memory? Nothing is left behind. Exit status 0 healthy (warnings allowed), 1 a member failed, 2
    nothing was started, or there is a finding and --strict.
    """
    from ..declaration.address import find
    from ..processes import linux
    from . import diagnosis
    from .doctor import Examination
    from .launch import foreground

    linux.be_alone()
    try:
        examination = Examination(
            find(script, module=as_module),
            runs=runs,
            slots=slots,
            gpus=gpus,
            start=start_of(start),
            devices=devices(share, vram, wait, xids, others, affinity, library),
            changes=given(population=population, generations=generations, silence=",".join(silence or []) or None),
            sets=sets or [],
            seed=seed,
            repeat=repeat,
            tell=say,
        )
        told = foreground(examination.run())
    except KeyboardInterrupt:
        say("interrupted; nothing is left behind")
        raise SystemExit(130) from None
    print(json.dumps(jsonable(told), indent=1) if as_json else diagnosis.text(told))
    raise SystemExit(1 if "failed" in told else 2 if strict and any("code" in w for w in told["warnings"]) else 0)


def try_(
    script: Script,
    as_module: AsModule = False,
    seed: ConfigSeed = 0,
    sets: Sets = None,
    parent: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--parent", metavar="DIR", help="A checkpoint to start from.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--checkpoint", metavar="DIR", help="Where to write it; else a temporary folder.", show_default=False
        ),
    ] = None,
) -> None:
    """Train one member of SCRIPT in this very process, in the foreground: print, debug, profile at will."""
    from ..declaration.address import find
    from .try_ import attempt

    address = find(script, module=as_module)
    raise SystemExit(attempt(address, seed=seed, sets=sets or [], parent=parent, checkpoint=checkpoint))
