"""Commands that read results from a run's journal, during the run or after it: best, report, serve, export, lineage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .completion import among, files, members
from .options import AnyRun, Json, RunName, Runs, option, whole
from .output import emit, open_browser, say

Out = Annotated[Path | None, option("--out", metavar="FILE", help="Write to this file.", autocompletion=files)]
Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]


def best(
    run: RunName,
    export: Annotated[
        Path | None,
        option("--export", metavar="DIR", help="Copy its checkpoint, config, schedule and history to DIR."),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the best member so far, or export it.

    Prints its score, its schedule, and where its checkpoint is.

    Examples:
      gpbt-async best train-1
      gpbt-async best train-1 --export my-model  # its checkpoint and schedule
    """
    from ..analysis import bundle, reader
    from ..ui import summaries

    folder = reader.open_run(run, runs)
    member = reader.best(folder)
    if export is not None:
        bundle.take(folder, member, export)
        say(f"exported to {export}")
    emit(member, summaries.best_text, as_json)


def report(
    run: RunName,
    out: Out = None,
    show: Open = False,
    traced: Annotated[bool, typer.Option("--trace/--no-trace", help="Write trace.json, too.")] = True,
    runs: Runs = Path("runs"),
) -> None:
    """Write a run's report: one HTML file that works offline.

    It shows the family tree, scores, schedules, slots, importance, failures, and the ends of members' logs. By default
    it is report.html in the run's folder. Needs the extra `report`.

    trace.json beside it shows what each slot and the searcher did at which time, and when checkpoints were published.
    Open it in ui.perfetto.dev or chrome://tracing. With --out FILE.html, it is FILE.trace.json.

    Examples:
      gpbt-async report train-1 --open
      gpbt-async report train-1 --out /tmp/run.html --no-trace
    """
    from ..analysis import reader, trace
    from ..ui.html_report import write

    folder = reader.open_run(run, runs)
    history = reader.RunReader(folder, history=True)
    path = write(folder, out, history)
    print(path)
    if traced:
        beside = folder.trace if out is None else out.with_suffix(".trace.json")
        trace.write(history, beside)
        say(f"wrote {beside}, too, for ui.perfetto.dev")
    if show and not open_browser(path.resolve().as_uri(), str(path)):
        raise SystemExit(1)


def serve(
    run: AnyRun = None,
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", parser=whole("--port", "from 0 to 65535"), help="The port; 0: a free one."),
    ] = 0,
    show: Open = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show runs live in a browser on this machine.

    Serves pages until Ctrl-C. They show what the report shows, follow the runs, and can pause, stop and drain. The
    address that is printed holds a token: everyone who has it can do the same. Needs the extra `web`.

    Examples:
      gpbt-async serve
      gpbt-async serve train-1 --open
    """
    from ..errors import FolderError
    from ..storage.folder import RunFolder, locate
    from ..ui import web_server

    if run is None and runs != Path("runs") and not runs.is_dir():  # the first launch makes the default folder
        raise FolderError(f"--runs {runs}: there is no such folder; give the one that holds the runs")
    folder = runs if run is None else RunFolder.open(locate(run, runs)).path

    def opened(address: str) -> None:
        print(address, flush=True)
        say(f"serving {folder} until Ctrl-C, which does not affect the runs")
        if show:
            open_browser(address, "the address")

    web_server.serve(folder, port, opened)


def export(
    run: RunName,
    format: Annotated[
        str | None,
        option(
            "--format",
            metavar="csv|parquet|json",
            help="Default: as FILE's suffix says, or csv. parquet needs the extra `parquet`.",
            autocompletion=among("csv", "parquet", "json"),
        ),
    ] = None,
    out: Out = None,
    runs: Runs = Path("runs"),
) -> None:
    """Export a run's members as a table.

    One row per member: config, metrics, score, times. Without --out, the table goes to stdout.

    Examples:
      gpbt-async export train-1 --out members.csv
      gpbt-async export train-1 --format json | jq '.[0]'
    """
    from ..analysis import reader, table

    format = table.check(format, out, sys.stdout.isatty())
    history = reader.RunReader(reader.open_run(run, runs), history=True)
    if out is not None:
        table.write(history, format, out)
        print(out)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(table.export(history, format))
    sys.stdout.buffer.flush()


def lineage(
    run: RunName,
    member: Annotated[
        str,
        typer.Argument(metavar="MEMBER", help="A number, a path such as 0/3/1, or best.", autocompletion=members),
    ],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show why a member exists.

    Lists MEMBER's ancestors, why each was chosen as a parent, and what was changed in its config.

    Examples:
      gpbt-async lineage train-1 best
      gpbt-async lineage train-1 0/3/1
    """
    from ..analysis import reader
    from ..analysis.ancestry import descent, wanted
    from ..ui.summaries import descent_text

    history = reader.RunReader(reader.open_run(run, runs), history=True)
    ancestry = descent(history, wanted(history, member))
    emit(ancestry, lambda ancestry: descent_text(ancestry, history.history.sessions[0].begin), as_json)
