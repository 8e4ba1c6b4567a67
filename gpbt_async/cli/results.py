"""Commands that tell a run from its journal, while it goes on or afterwards: report, serve, export, lineage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from . import options
from .options import Json, RunName, Runs, jsonable, say, whole

Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--out", metavar="FILE", help="Write it there.", show_default=False, autocompletion=options.files),
]


def report(
    run: RunName,
    out: Out = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    traced: Annotated[bool, typer.Option("--trace/--no-trace", help="Write trace.json, too, for Perfetto.")] = True,
    runs: Runs = Path("runs"),
) -> None:
    """Write RUN's report: one HTML file that works offline, by default report.html in its folder.

    Beside it, trace.json: what every slot, the searcher and the publishing of checkpoints did when, to be opened in
    ui.perfetto.dev or chrome://tracing (FILE.trace.json, where --out FILE.html says where).

    The report shows the family tree, scores, schedules, slots, importance and failures, and holds the ends of members'
    logs. Needs the extra `report`.
    """
    from ..analysis import reader, trace
    from ..ui.html_report import write

    folder = reader.open_run(run, runs)
    read = reader.RunReader(folder, history=True)
    path = write(folder, out, read)
    print(path)
    if traced:
        beside = folder.trace if out is None else out.with_suffix(".trace.json")
        trace.write(read, beside)
        say(f"and {beside}, for ui.perfetto.dev")
    if show:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            say(f"--open: no browser could be started here; open {path} in one")
            raise SystemExit(1)


def serve(
    run: Annotated[Optional[str], typer.Argument(metavar="[RUN]", help="A run; all of them without.")] = None,  # noqa: UP045
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            parser=whole("--port", " from 0 to 65535"),
            help="The port to listen at; 0: a free one.",
        ),
    ] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Serve live pages of the runs under --runs, or of RUN, to browsers on this machine, until Ctrl-C.

    They show what the report shows, follow what goes on, and can pause, stop and drain. The address, printed to stdout,
    holds a token: whoever has it can do so. Needs the extra `web`.
    """
    from ..errors import FolderError
    from ..storage.folder import RunFolder, locate
    from ..ui.web_server import serve

    if run is None and runs != Path("runs") and not runs.is_dir():  # the usual one is made by the first launch
        raise FolderError(f"--runs {runs}: there is no such folder; give the one that holds the runs")
    folder = runs if run is None else RunFolder.open(locate(run, runs)).path

    def opened(address: str) -> None:
        print(address, flush=True)
        say(f"serving {folder} until Ctrl-C; the runs know nothing of it")
        if show:
            import webbrowser

            if not webbrowser.open(address):
                say("--open: no browser could be started here; open the address in one")

    serve(folder, port, opened)


def export(
    run: RunName,
    format: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--format",
            metavar="csv|parquet|json",
            help="Else as FILE's suffix says, or csv. parquet needs the extra `parquet`.",
            show_default=False,
            autocompletion=options.among("csv", "parquet", "json"),
        ),
    ] = None,
    out: Out = None,
    runs: Runs = Path("runs"),
) -> None:
    """Export RUN's members, one row each: config, metrics, score, times; to stdout without --out."""
    from ..analysis import reader
    from ..analysis.table import check, export, write

    format = check(format, out, sys.stdout.isatty())
    found = reader.RunReader(reader.open_run(run, runs), history=True)
    if out is not None:
        write(found, format, out)
        print(out)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(export(found, format))
    sys.stdout.buffer.flush()


def lineage(
    run: RunName,
    member: Annotated[
        str,
        typer.Argument(
            metavar="MEMBER", help="A number, a path such as 0/3/1, or best.", autocompletion=options.members
        ),
    ],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say why MEMBER of RUN exists: its ancestry, why each parent was chosen, and what was changed."""
    from ..analysis import reader
    from ..analysis.ancestry import descent, wanted
    from ..ui.summaries import descent_text

    found = reader.RunReader(reader.open_run(run, runs), history=True)
    told = descent(found, wanted(found, member))
    sessions = found.history.sessions
    print(json.dumps(jsonable(told), indent=1) if as_json else descent_text(told, sessions[0].begin))
