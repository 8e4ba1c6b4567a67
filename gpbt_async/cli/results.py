"""Commands that read results from a run's journal, during the run or after it: best, report, serve, export, lineage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ExperimentError
from .completion import among, files, members
from .options import AnyRun, Changed, Json, Moved, RunName, Runs, arguments, option, takes, whole
from .output import emit, open_browser, say

if TYPE_CHECKING:
    from ..analysis.combination import Combination, How, Step
    from ..declaration.run_options import RunOptions
    from ..storage.folder import RunFolder

Out = Annotated[Path | None, option("--out", metavar="FILE", help="Write to this file.", autocompletion=files)]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


@takes(options=("gpus",))
def best(
    run: RunName,
    *,
    export: Annotated[
        Path | None,
        option("--export", metavar="DIR", help="Copy the member's checkpoint, config, schedule and ancestry to DIR."),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Average the weights of the run's best members, as far as validation improves."),
    ] = False,
    ensemble: Annotated[
        int | None,
        option(
            "--ensemble",
            metavar="K",
            parser=whole("--ensemble", "from 2 to 1000"),
            help="Choose up to K members whose average prediction validates best.",
        ),
    ] = None,
    script: Moved = None,
    changed: Changed = False,
    options: RunOptions,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the best member so far; export or merge it.

    It prints the member's score, its schedule, and the path of its checkpoint, and how the score compares with metrics
    on other data. If the experiment has choose_by, the best of a finished run is the member that was chosen by it.

    --merge and --ensemble train nothing. RUN must have ended, and its script must declare Experiment(...,
    validate=...); see `gpbt-async guide member`. Beginning with the best member, each command adds one other member
    after the other, and keeps those that improve the validated score. The result is a new folder in RUN, merged or
    ensemble; the best member stays what it is. --script, --changed-script and --gpus are only for these two.

    Examples:
      gpbt-async best train-1
      gpbt-async best train-1 --export my-model  # its checkpoint and schedule
      gpbt-async best train-1 --merge  # one model: the average of several
      gpbt-async best train-1 --ensemble 3 --gpus 0
    """
    from ..analysis import bundle, reader
    from ..ui import summaries

    folder = reader.open_run(run, runs)
    if merge or ensemble is not None:
        if export is not None or (merge and ensemble is not None):
            raise ExperimentError("--merge, --ensemble, --export: give only one of them")
        combination = _combined(folder, ensemble, options, script, changed)
        emit(combination, summaries.combination_text, as_json)
        return
    if script is not None or changed or arguments(options):
        raise ExperimentError("--script, --changed-script and --gpus need --merge or --ensemble")
    member = reader.best(folder)
    if export is not None:
        bundle.take(folder, member, export)
        say(f"exported to {export}")
    emit(member, summaries.best_text, as_json)


def _combined(
    folder: RunFolder, most: int | None, options: RunOptions, script: str | None, changed: bool
) -> Combination:
    """Merge members, or (most) choose an ensemble. Raises GPBTError."""
    from ..declaration.address import find
    from ..processes import linux
    from ..scheduler.combining import combine
    from ..ui.summaries import step_text
    from .foreground import foreground

    linux.be_alone()
    address = find(script) if script is not None else None
    how: How = "merge" if most is None else "ensemble"

    def told(step: Step) -> None:
        say(step_text(step))

    work = combine(folder, how, most, options, script=address, changed=changed, warn=say, told=told)
    return foreground(work)


def report(
    run: RunName,
    out: Out = None,
    show: Open = False,
    traced: Annotated[bool, typer.Option("--trace/--no-trace", help="Write trace.json, too.")] = True,
    runs: Runs = Path("runs"),
) -> None:
    """Write a run's report: one HTML file that works offline.

    The report shows the family tree, scores, schedules, slots, the importance of hyperparameters, failures, and the
    ends of members' logs. Its default path is report.html in the run's folder. It needs the extra `report`.

    The command also writes trace.json beside the report, or FILE.trace.json with --out FILE.html. This trace shows the
    work of the slots and the searcher over time. Open it in ui.perfetto.dev or chrome://tracing.

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
        typer.Option(
            "--port",
            metavar="N",
            parser=whole("--port", "from 0 to 65535"),
            help="The port to listen at. 0: any free port.",
        ),
    ] = 0,
    show: Open = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show runs live in a browser on this machine.

    The pages show the report of each run, up to date. They have buttons that stop or pause a run, or take a GPU from
    it. The command prints the address and serves until Ctrl-C. The address contains a secret token: everyone who knows
    it can view and control the runs. This needs the extra `web`.

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
            help="The format. Default: that of FILE's suffix, else csv. parquet needs the extra `parquet`.",
            autocompletion=among("csv", "parquet", "json"),
        ),
    ] = None,
    out: Out = None,
    runs: Runs = Path("runs"),
) -> None:
    """Export a run's members as a table.

    The table has one row per member, with its config, metrics, score and times. Without --out, it goes to stdout.

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
        typer.Argument(
            metavar="MEMBER",
            help="A member: its number, its path in the family tree such as 0/3/1, or best.",
            autocompletion=members,
        ),
    ],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show why a member exists.

    It lists MEMBER and its ancestors. For each it shows why its parent was chosen, and how its config differs from the
    parent's.

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
