"""Commands about a run that exists: status, watch, stop, pause, clean, track.

None of them runs it. They read its journal, or ask the process that runs it through the run's control pipe, and wait
until the journal shows the answer. `clean` alone changes the folder, and holds the run's lock while it does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FolderError
from .options import TRACKERS, AnyRun, Json, Quiet, RunName, Runs
from .output import emit, print_json, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..storage.folder import RunFolder


#: seconds to wait until a scheduler has stopped, or has written that it is paused; and between two looks
STOP_TIMEOUT, LOOK = 30.0, 0.02


def status(run: AnyRun = None, runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Show all runs, or one: what trains, and what waits.

    Given a RUN, it shows the members of each generation: those that train, and why the others wait.

    Examples:
      gpbt-async status
      gpbt-async status train-1
      gpbt-async status train-1 --json | jq .score
    """
    from ..analysis.reader import open_run
    from ..analysis.status import brief, detail
    from ..storage.folder import runs as folders
    from ..ui import summaries

    if run is not None:
        emit(detail(open_run(run, runs)), summaries.detail_text, as_json)
        return
    lines = [brief(folder) for folder in folders(runs)]
    if as_json:
        print_json([line.to_json() for line in lines])
    elif lines:
        print(summaries.brief_text(lines))
    else:
        print(f"no runs under {runs}", file=sys.stderr)


def watch(run: RunName, runs: Runs = Path("runs"), quiet: Quiet = False) -> None:
    """Show the live view of a run that was started elsewhere.

    The view is that of `launch`. Ctrl-C ends the view, and the run continues. If RUN is over, its last state is
    shown. The exit status is that of the run.

    Examples:
      gpbt-async watch train-1
      gpbt-async watch train-1 --quiet 2> log  # only warnings and failures
    """
    from ..storage.folder import RunFolder, locate
    from .foreground import attended, foreground, paused

    folder = RunFolder(locate(run, runs))
    try:
        raise SystemExit(foreground(attended(folder, quiet)))
    except KeyboardInterrupt:
        state = f"stays paused until gpbt-async pause {folder.shell_name} --end" if paused(folder) else "continues"
        say(f"{folder.name} {state}; to stop it: gpbt-async stop {folder.shell_name}")
        raise SystemExit(130) from None


def stop(run: RunName, runs: Runs = Path("runs")) -> None:
    """Stop a run; it can be resumed.

    The command returns once RUN has stopped.

    Examples:
      gpbt-async stop train-1
    """
    from ..analysis.reader import open_run
    from ..storage.control import ControlRequest, send

    folder = open_run(run, runs)
    if folder.locked() is None:
        say(f"{folder.name} is not running")
        return
    send(folder, ControlRequest.STOP)
    for _ in _until_timeout(folder, "stop", "kill -9 it: the run can be resumed, and nothing is lost"):
        if folder.locked() is None:
            break
    say(f"{folder.name} has stopped; to continue: gpbt-async resume {folder.shell_name}")


def _until_timeout(folder: RunFolder, word: str, remedy: str) -> Iterator[None]:
    """Yields until the run must have obeyed. Raises FolderError then."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while time.monotonic() < deadline:
        yield
        time.sleep(LOOK)
    holder = folder.locked()
    pid = holder.get("pid") if holder is not None else None
    raise FolderError(
        f"{folder.name} was asked to {word} {STOP_TIMEOUT:g} s ago and has not: look at what its process {pid} waits "
        f"for, or {remedy}"
    )


def pause(
    run: RunName,
    end: Annotated[bool, typer.Option("--end", help="End the pause: new members start again.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Start no new members of a run until the pause is ended.

    Members that train continue. `gpbt-async resume` also ends the pause.

    Examples:
      gpbt-async pause train-1
      gpbt-async pause train-1 --end
    """
    from ..analysis.reader import RunReader, open_run
    from ..storage.control import ControlRequest, send

    folder = open_run(run, runs)
    request = ControlRequest.GO_ON if end else ControlRequest.PAUSE
    send(folder, request)
    reader = RunReader(folder)
    for _ in _until_timeout(folder, request, "try again"):
        reader.more()
        if bool(reader.usage.by_hand) != end:
            break
        if folder.locked() is None:
            raise FolderError(f"{folder.name} has just ended; see gpbt-async status {folder.shell_name}")
    if end:
        say(f"{folder.name} continues")
        return
    training = sum(member.slot is not None for member in reader.engine.training)
    rest = f"{training} in training continue" if training else "none is in training"
    say(f"{folder.name} is paused: no new members start, {rest}; to go on: gpbt-async pause {folder.shell_name} --end")


def clean(
    run: RunName,
    everything: Annotated[
        bool,
        typer.Option("--everything", help="Delete the whole folder, with the trained model and the journal."),
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Delete what a finished run no longer needs.

    It deletes the logs, metrics and leftover files of all members, except those of the best member and its ancestors;
    and all checkpoints but the best. What best --merge and best --ensemble have made stays.

    Examples:
      gpbt-async clean train-1
      gpbt-async clean train-1 --everything  # the whole run
    """
    import asyncio
    import shutil

    from ..analysis.reader import open_run
    from ..formatting import format_bytes
    from ..storage.files import bytes_below, explained

    folder = open_run(run, runs)
    before, after = bytes_below(folder.path), 0
    lock = asyncio.run(folder.lock(0.0))
    try:
        if everything:
            with explained("cannot delete", folder.path):
                shutil.rmtree(folder.path)
        else:
            kept = _needed(folder)
            with explained("cannot clean", folder.members):
                for place in folder.members.iterdir():
                    if place not in kept and place.is_dir() and not place.is_symlink():
                        shutil.rmtree(place)
                for ancestor in kept[:-1]:  # a run that can validate has kept parents of its last generation
                    shutil.rmtree(ancestor / "checkpoint", ignore_errors=True)
            after = bytes_below(folder.path)
    finally:
        lock.release()
    print(f"{folder.name}: {format_bytes(max(0, before - after))} freed")


def _needed(folder: RunFolder) -> list[Path]:
    """The folders of the best member, the last, and its ancestors. Raises FolderError if the run may still continue."""
    from ..analysis.reader import RunReader

    engine = RunReader(folder).engine
    resume, rest = f"gpbt-async resume {folder.shell_name}", "or delete all of it: --everything"
    if engine.ended is None:
        raise FolderError(f"{folder.name} has not finished: continue it ({resume}), {rest}")
    if engine.ended.reason and engine.reopens:
        retry = f"fix the cause ({resume} --retry-failed)"
        raise FolderError(f"{folder.name} has failed, but can continue: {retry}, {rest}")
    return [folder.member(m.id).path for m in (engine.best.ancestry if engine.best is not None else ())]


def track(
    run: RunName,
    to: Annotated[str, typer.Option("--to", metavar="WHAT[:WHERE]", help=f"The tracker: {TRACKERS}")],
    runs: Runs = Path("runs"),
) -> None:
    """Report a run to a tracker, during the run or after it.

    It continues where the tracker's last report of RUN ended. If RUN still trains, it follows RUN to the end.

    Examples:
      gpbt-async track train-1 --to tensorboard
      gpbt-async track train-1 --to mlflow:mlruns
    """
    from ..analysis.reader import open_run
    from ..trackers import registry
    from ..trackers.tracker_main import foreground

    say(foreground(open_run(run, runs), registry.parse(to, "--to")))
