"""Commands that tell a run from its journal, while it goes on or afterwards: report, export, lineage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from . import helping
from .options import Json, RunName, Runs, jsonable, say

Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--out", metavar="FILE", help="Write it there.", show_default=False, autocompletion=helping.files),
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
    from . import reading, trace
    from .report import write

    folder = reading.open_run(run, runs)
    read = reading.Reading(folder, history=True)
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


def export(
    run: RunName,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="csv|parquet|json",
            help="parquet needs the extra `parquet`.",
            autocompletion=helping.among("csv", "parquet", "json"),
        ),
    ] = "csv",
    out: Out = None,
    runs: Runs = Path("runs"),
) -> None:
    """Export RUN's members, one row each: config, metrics, score, times; to stdout without --out."""
    from . import reading
    from .export import check, export, write

    check(format, out, sys.stdout.isatty())
    found = reading.Reading(reading.open_run(run, runs), history=True)
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
            metavar="MEMBER", help="A number, a path such as 0/3/1, or best.", autocompletion=helping.members
        ),
    ],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say why MEMBER of RUN exists: its ancestry, why each parent was chosen, and what was changed."""
    from . import reading
    from .descent import descent, descent_text, wanted

    found = reading.Reading(reading.open_run(run, runs), history=True)
    told = descent(found, wanted(found, member))
    sessions = found.history.sessions
    print(json.dumps(jsonable(told), indent=1) if as_json else descent_text(told, sessions[0].begin))
