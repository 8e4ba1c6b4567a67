"""The command line: launch, resume, status, stop, pause, best, report, serve, export, lineage, gpus, plan, try.

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

from . import telling, tools
from .errors import GPBTError
from .options import (
    Affinity,
    Disk,
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
    SlotCount,
    Stall,
    Start,
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

    from .run import Run

app = typer.Typer(
    name="gpbt-async",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Genealogical Population-Based Training on one workstation: one run gives a trained model and its schedule.",
)


def main() -> None:
    """The command line, once it is imported; __main__.py is the entry point."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with _explained():
        app()


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
        from . import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def launch(
    script: Script,
    population: Population = None,
    generations: Generations = None,
    ratio: Ratio = None,
    searcher: Annotated[
        str | None,
        typer.Option(help="local | tpe | kin | perturb | random | optuna:… | module:Name.", show_default=False),
    ] = None,
    history: Annotated[Optional[str], typer.Option(help="inherit | reset | global.", show_default=False)] = None,  # noqa: UP045
    selection: Annotated[Optional[str], typer.Option(help="comma | plus.", show_default=False)] = None,  # noqa: UP045
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
    wait: Wait = False,
    xids: Xids = None,
    others: Others = None,
    affinity: Affinity = True,
    library: Library = None,
    disk: Disk = None,
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
    )
    folder = None
    if name is not None:
        from .folder import check_name

        folder = runs / check_name(name)
    from .run import Run

    run = Run(
        script,
        folder,
        slots=slots,
        gpus=gpus,
        start=start_of(start),
        runs=runs,
        **devices(share, vram, wait, xids, others, affinity, library),
        disk=disk,
        changes=changes,
    )
    _drive(run, quiet, as_json)


@app.command()
def resume(
    run: RunName,
    script: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--script", metavar="PATH", help="Where the script is now, if it was moved.", show_default=False),
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed-script", help="Go on though the script was edited since the run began.")
    ] = False,
    retry: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try the members that failed last again: what made them fail is mended."),
    ] = False,
    slots: SlotCount = None,
    gpus: Gpus = None,
    share: Share = None,
    vram: Vram = None,
    wait: Wait = False,
    xids: Xids = None,
    others: Others = None,
    affinity: Affinity = True,
    library: Library = None,
    disk: Disk = None,
    runs: Runs = Path("runs"),
    start: Start = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Go on with RUN where it was killed or stopped, or where it failed (--retry-failed). Twice does no harm."""
    from .folder import locate
    from .run import Run

    asked = devices(share, vram, wait, xids, others, affinity, library)
    there, how = locate(run, runs), start_of(start)
    given = {"slots": slots, "gpus": gpus, "start": how, "disk": disk, "changed_script": changed, **asked}
    opened = Run(script, there, resume="must", retry_failed=retry, **given)
    _drive(opened, quiet, as_json)


def _drive(run: Run, quiet: bool, as_json: bool) -> NoReturn:
    """Run it to its end, with a view on stderr, and exit with its status."""
    import asyncio
    import logging

    from . import processes
    from .driving import driven

    processes.be_alone()
    logging.getLogger("gpbt_async").addHandler(logging.NullHandler())
    status = asyncio.run(driven(run, quiet))
    if as_json and run.how is not None:
        print(json.dumps(jsonable(run.summary()), indent=1))
    raise SystemExit(status)


@app.command()
def status(
    run: Annotated[Optional[str], typer.Argument(metavar="[RUN]", help="A run; all of them without.")] = None,  # noqa: UP045
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the runs under --runs, or one run: members per generation, what trains, what waits and for what."""
    from . import reading

    if run is None:
        found = [reading.brief(folder) for folder in reading.all_runs(runs)]
        if as_json:
            print(json.dumps(jsonable(found), indent=1))
        elif not found:
            print(f"no runs under {runs}", file=sys.stderr)
        else:
            print(reading.brief_text(found))
        return
    state = reading.detail(reading.open_run(run, runs))
    print(json.dumps(jsonable(state), indent=1) if as_json else reading.detail_text(state))


@app.command()
def stop(run: RunName, runs: Runs = Path("runs")) -> None:
    """Ask RUN to stop, and wait until it has. It can be resumed."""
    from . import reading, steering

    say(steering.stop(reading.open_run(run, runs)))


@app.command()
def pause(
    run: RunName,
    end: Annotated[bool, typer.Option("--end", help="End the pause: members begin again.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Have RUN begin no member until the pause is ended; those that train go on. A resume forgets it.

    Example: gpbt-async pause digits-1; gpbt-async pause digits-1 --end
    """
    from . import reading, steering

    say(steering.pause(reading.open_run(run, runs), end))


@app.command()
def best(
    run: RunName,
    export: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--export", metavar="DIR", help="Copy checkpoint and schedule to DIR.", show_default=False),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show RUN's best member so far: its score, schedule and checkpoint."""
    from . import reading

    found = reading.best(reading.open_run(run, runs))
    if export is not None:
        reading.export(found, export)
        say(f"exported to {export}")
    print(json.dumps(jsonable(found.to_json()), indent=1) if as_json else reading.best_text(found))


for told in (telling.report, telling.serve, telling.export, telling.lineage):
    app.command()(told)
for function, name in ((tools.gpus, "gpus"), (tools.clean, "clean"), (tools.plan, "plan"), (tools.try_, "try")):
    app.command(name)(function)
