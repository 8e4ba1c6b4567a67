"""`gpbt-async gpus`: the GPUs of this machine, or one of them taken from a run and returned to it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DeviceError, ExperimentError
from .options import GPUS, LIBRARY, Json, Runs, option
from .output import emit, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..devices.selection import GPU
    from ..storage.folder import RunFolder

RunAndGpu = tuple[str, str] | None


def gpus(
    gpus: Annotated[str | None, option("--gpus", metavar="LIST", help=GPUS)] = None,
    drain: Annotated[
        RunAndGpu, option("--drain", metavar="RUN GPU", help="Take GPU from RUN, and wait until RUN has left it.")
    ] = None,
    give_back: Annotated[RunAndGpu, option("--return", metavar="RUN GPU", help="Let RUN use GPU again.")] = None,
    now: Annotated[
        bool,
        typer.Option("--now", help="With --drain: move its members at once. Their unfinished intervals start again."),
    ] = False,
    library: Annotated[str | None, option("--nvml-library", metavar="PATH", help=LIBRARY)] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the GPUs, or take one from a run.

    Shows which processes and runs use each GPU, which GPUs a run would use, and why not the rest.

    Examples:
      gpbt-async gpus
      gpbt-async gpus --drain train-1 2  # take GPU 2 from train-1, and wait until it is free
      gpbt-async gpus --return train-1 2
    """
    from ..analysis.reader import open_run
    from . import inventory

    if drain is None and give_back is None:
        if now:
            raise ExperimentError("--now needs --drain RUN GPU")
        emit(inventory.inventory(os.environ, runs, gpus=gpus, library=library), inventory.text, as_json)
        return
    if drain is not None and give_back is not None:
        raise ExperimentError("--drain and --return: give only one")
    if gpus is not None or as_json:
        raise ExperimentError("--gpus and --json belong to the list of GPUs, which --drain and --return do not show")
    run, gpu = drain or give_back or ("", "")
    say(ask(open_run(run, runs), "return" if drain is None else "drain-now" if now else "drain", gpu))


def ask(folder: RunFolder, word: str, gpu: str) -> str:
    """Ask a run to leave a GPU ("drain", "drain-now") or to use it again ("return"), and wait until it has.

    Returns what happened. Raises DeviceError when the run has no such GPU, or does not go on.
    """
    from ..storage.control import notice

    wanted = _matching(folder, gpu)
    for uuid in wanted:
        if not folder.tell(f"{word} {uuid}"):
            raise DeviceError(f"{folder.name} does not listen: it has just ended")
    obeyed = False
    while (report := notice(folder)) is not None:
        rows = [row for row in report["gpus"] if row["uuid"] in wanted]
        drained = [row["state"] in ("drained", "faulty") for row in rows]
        if word == "return" and not any(row["state"] == "drained" for row in rows):
            return f"{folder.name} uses GPU {gpu} again"
        if word != "return" and all(drained) and not any(row["members"] or row["leaving"] for row in rows):
            return f"GPU {gpu} is free: {folder.name} has left it"
        if word != "return" and obeyed and not all(drained):
            raise DeviceError(f"{folder.name} uses GPU {gpu} again: another command has returned it meanwhile")
        obeyed = all(drained)
        time.sleep(0.1)
    return f"{folder.name} is no longer running"


def _matching(folder: RunFolder, gpu: str) -> list[str]:
    """The UUIDs of the run's GPUs that `gpu` names. Raises DeviceError."""
    from ..devices.selection import clear, match, names
    from ..storage.control import notice

    report = notice(folder)
    if report is None:
        raise DeviceError(f"{folder.name} uses no GPU now: it is not running, or trains on the CPU")
    present = [_gpu(row) for row in report["gpus"]]
    matches = match(gpu, present)
    if not clear(gpu, matches):
        problem = f"GPU {gpu!r} may mean more than one GPU" if matches else f"{folder.name} does not use GPU {gpu!r}"
        raise DeviceError(f"{problem}; it uses {names(present)}")
    return [match.uuid for match in matches]


def _gpu(row: Mapping[str, Any]) -> GPU:
    from ..devices.selection import GPU

    index, _, slice = str(row["gpu"]).partition(":")
    return GPU(int(index), row["uuid"], row["name"], int(slice) if slice else None)
