"""The command line: launch, resume, status, stop, pause, best, and the commands of replaying, telling, tools, guide.

A thin face: it reads options, opens a Run, shows it, and turns how it ended into an exit status (0 finished; 1 started
and failed; 2 nothing was started; 130 interrupted and resumable). Messages for people go to stderr, --json to stdout.
Errors of ours are one message without a traceback; a traceback means a bug of ours.

Heavy modules are imported inside the commands: `--help` should not pay for asyncio, nor `status` for the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

from ..errors import ExperimentError, GPBTError
from . import guide, options, replay, results, tools
from .options import (
    Adopt,
    Affinity,
    AsModule,
    Disk,
    Generations,
    Gpus,
    Json,
    Library,
    Moved,
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
    Stall,
    Start,
    Strict,
    Track,
    Vram,
    Wait,
    Whole,
    Xids,
    devices,
    given,
    jsonable,
    real,
    say,
    start_of,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


app = typer.Typer(
    name="gpbt-async",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Genealogical Population-Based Training on one workstation: one run gives a trained model and its schedule."
    "\n\nNew here? gpbt-async guide lists the guides, gpbt-async guide member makes your script a member.",
)


def main() -> None:
    """The command line, once it is imported; __main__.py is the entry point."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with _explained():
        app(prog_name="gpbt-async")


def _fail(message: str, status: int) -> NoReturn:
    say(message)
    raise SystemExit(status)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except GPBTError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        if error.errno != errno.EPIPE:
            say(f"cannot write the output: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(141) from None


def _version(value: bool) -> None:
    if value:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(**options.words_of("launch"))
def launch(
    script: Script,
    as_module: AsModule = False,
    population: Population = None,
    generations: Generations = None,
    ratio: Ratio = None,
    searcher: Annotated[
        str | None,
        typer.Option(
            help="local | tpe | kin | perturb | random | optuna:… | module:Name.",
            show_default=False,
            autocompletion=options.among("local", "tpe", "kin", "perturb", "random", "optuna:"),
        ),
    ] = None,
    history: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="inherit | reset | global.",
            show_default=False,
            autocompletion=options.among("inherit", "reset", "global"),
        ),
    ] = None,
    selection: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="comma | plus.", show_default=False, autocompletion=options.among("comma", "plus")),
    ] = None,
    evidence: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            parser=real("--evidence", " from 0 to 1"),
            help="Share of a generation to finish before the next opens, 0 to 1.",
            show_default=False,
        ),
    ] = None,
    schedule: Schedule = None,
    early_stop: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--early-stop", help="median, generation, or both with a comma.", show_default=False),
    ] = None,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="paper: the authors' algorithm; other options win over it.", show_default=False),
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(parser=whole("--attempts"), help="Tries of a failing member.", show_default=False)
    ] = None,
    stall_timeout: Stall = None,
    member_timeout: Whole = None,
    seed: Annotated[
        int | None,
        typer.Option(parser=whole("--seed", " of at least 0"), help="Seed of everything random.", show_default=False),
    ] = None,
    slots: SlotCount = None,
    gpus: Gpus = None,
    share: Share = None,
    vram: Vram = None,
    wait: Wait = None,
    xids: Xids = None,
    others: Others = None,
    affinity: Affinity = None,
    library: Library = None,
    disk: Disk = None,
    track: Track = None,
    silence: Silence = None,
    strict: Strict = False,
    name: Annotated[
        Optional[str], typer.Option(help="The run's name; else SCRIPT's and a number.", show_default=False)  # noqa: UP045
    ] = None,
    runs: Runs = Path("runs"),
    start: Start = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run SCRIPT's experiment. Options replace what it declares."""
    changes = given(
        population=population,
        generations=generations,
        ratio=ratio,
        searcher=searcher,
        history=history,
        selection=selection,
        evidence=evidence,
        schedule=schedule,
        early_stop=early_stop,
        preset=preset,
        attempts=attempts,
        stall_timeout=stall_timeout,
        member_timeout=member_timeout,
        seed=seed,
        silence=",".join(silence) if silence else None,
    )
    folder = None
    if name is not None:
        from ..storage.folder import check_name

        if not name:
            raise ExperimentError("--name: got ''; give a name, or leave it out for SCRIPT's and a number")
        folder = runs / check_name(name)
    from ..declaration.address import find
    from ..scheduler.run import Run
    from .launch import drive

    run = Run(
        find(script, module=as_module),
        folder,
        slots=slots,
        gpus=gpus,
        start=start_of(start),
        runs=runs,
        **devices(share, vram, wait, xids, others, affinity, library),
        disk=disk,
        track=track or None,
        strict=strict,
        changes=changes,
    )
    drive(run, quiet, as_json)


@app.command(**options.words_of("resume"))
def resume(
    run: RunName,
    script: Moved = None,
    changed: Annotated[
        bool, typer.Option("--changed-script", help="Go on though the script was edited since the run began.")
    ] = False,
    adopt: Adopt = None,
    retry: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try the members that failed last again: what made them fail is mended."),
    ] = False,
    slots: SlotCount = None,
    gpus: Gpus = None,
    share: Share = None,
    vram: Vram = None,
    wait: Wait = None,
    xids: Xids = None,
    others: Others = None,
    affinity: Affinity = None,
    library: Library = None,
    disk: Disk = None,
    track: Track = None,
    silence: Silence = None,
    strict: Strict = False,
    runs: Runs = Path("runs"),
    start: Start = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Go on with RUN where it was killed or stopped, or where it failed (--retry-failed). Twice does no harm."""
    from ..scheduler.run import Run
    from ..storage.folder import locate
    from .launch import drive

    asked = devices(share, vram, wait, xids, others, affinity, library)
    there, how = locate(run, runs), start_of(start)
    fields = tuple(",".join(adopt).replace(" ", "").split(",")) if adopt else ()
    given = {"slots": slots, "gpus": gpus, "start": how, "disk": disk, "changed_script": changed, **asked}
    given["silence"] = ",".join(silence) if silence else ()
    opened = Run(
        script, there, resume="must", adopt=fields, retry_failed=retry, track=track or None, strict=strict, **given
    )  # fmt: skip
    drive(opened, quiet, as_json)


@app.command(**options.words_of("status"))
def status(
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[RUN]", help="A run; all of them without.", autocompletion=options.runs),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the runs under --runs, or one run: members per generation, what trains, what waits and for what."""
    from ..analysis import reader
    from ..storage import folder as folder_module
    from ..ui import summaries

    if run is None:
        found = [reader.brief(folder) for folder in folder_module.runs(runs)]
        if as_json:
            print(json.dumps(jsonable(found), indent=1))
        elif not found:
            print(f"no runs under {runs}", file=sys.stderr)
        else:
            print(summaries.brief_text(found))
        return
    state = reader.detail(reader.open_run(run, runs))
    print(json.dumps(jsonable(state), indent=1) if as_json else summaries.detail_text(state))


@app.command(**options.words_of("stop"))
def stop(run: RunName, runs: Runs = Path("runs")) -> None:
    """Ask RUN to stop, and wait until it has. It can be resumed."""
    from ..analysis import reader
    from . import runs as runs_module

    say(runs_module.stop(reader.open_run(run, runs)))


@app.command(**options.words_of("pause"))
def pause(
    run: RunName,
    end: Annotated[bool, typer.Option("--end", help="End the pause: members begin again.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Have RUN begin no member until the pause is ended; those that train go on. A resume forgets it."""
    from ..analysis import reader
    from . import runs as runs_module

    say(runs_module.pause(reader.open_run(run, runs), end))


@app.command(**options.words_of("best"))
def best(
    run: RunName,
    export: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--export",
            metavar="DIR",
            help="Take it home: copy checkpoint, config, schedule and how it came about to DIR.",
            show_default=False,
        ),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show RUN's best member so far: its score, schedule and checkpoint.

    Example: gpbt-async best digits-1 --export my-model
    """
    from ..analysis import bundle, reader
    from ..ui import summaries

    folder = reader.open_run(run, runs)
    found = reader.best(folder)
    if export is not None:
        bundle.take(folder, found, export)
        say(f"exported to {export}")
    print(json.dumps(jsonable(found.to_json()), indent=1) if as_json else summaries.best_text(found))


for told in (results.report, results.serve, results.export, results.lineage):
    app.command(**options.words_of(told.__name__))(told)
for function, name in (
    (replay.replay, "replay"),
    (tools.watch, "watch"),
    (tools.gpus, "gpus"),
    (tools.clean, "clean"),
    (tools.plan, "plan"),
    (tools.doctor, "doctor"),
    (tools.track, "track"),
    (tools.try_, "try"),
    (guide.guide, "guide"),
):
    app.command(name, **options.words_of(name))(function)
