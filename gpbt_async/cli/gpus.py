"""`gpbt-async gpus`: the GPUs of this machine, or one of them taken from a run and returned to it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DeviceError, ExperimentError
from .options import LIBRARY, Json, Runs, option
from .output import emit, say

if TYPE_CHECKING:
    from ..devices.nvml import GPU
    from ..storage.control import ControlRequest
    from ..storage.folder import RunFolder
    from ..storage.gpu_report import DeviceStatus

RunAndGpu = tuple[str, str] | None


def gpus(
    gpus: Annotated[
        str | None,
        option(
            "--gpus", metavar="LIST", help="Show what a run with `--gpus LIST` would use, such as 0,2, all or none."
        ),
    ] = None,
    drain: Annotated[
        RunAndGpu,
        option("--drain", metavar="RUN GPU", help="Take GPU from RUN, and wait until it is free."),
    ] = None,
    give_back: Annotated[
        RunAndGpu, option("--return", metavar="RUN GPU", help="Let RUN use a drained GPU again.")
    ] = None,
    now: Annotated[
        bool,
        typer.Option(
            "--now",
            help="With --drain: stop the GPU's members now. They start their interval again elsewhere.",
        ),
    ] = False,
    library: Annotated[str | None, option("--nvml-library", metavar="PATH", help=LIBRARY)] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the GPUs, or take one from a run.

    It shows which processes and runs use each GPU, and whether a new run would use it. If not, it shows why.

    Examples:
      gpbt-async gpus
      gpbt-async gpus --drain train-1 2  # take GPU 2 from train-1, and wait until it is free
      gpbt-async gpus --return train-1 2
    """
    from ..analysis.reader import open_run
    from ..storage.control import ControlRequest
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
    taking = ControlRequest.DRAIN_NOW if now else ControlRequest.DRAIN
    say(ask(open_run(run, runs), ControlRequest.RETURN if drain is None else taking, gpu))


def ask(folder: RunFolder, request: ControlRequest, gpu: str) -> str:
    """Ask a run to leave a GPU, or to use it again, and wait until it has.

    Returns a sentence for the user. Raises DeviceError when the run has no such GPU, FolderError when it does not run.
    """
    from ..storage.control import ControlRequest, send
    from ..storage.gpu_report import DeviceState, read_gpus

    wanted = _matching(folder, gpu)
    for uuid in wanted:
        send(folder, request, uuid)
    drained_before = False
    while (report := read_gpus(folder)) is not None:
        asked = [status for status in report.gpus if status.uuid in wanted]
        drained = all(status.state in (DeviceState.DRAINED, DeviceState.FAULTY) for status in asked)
        if request is ControlRequest.RETURN:
            if not any(status.state == DeviceState.DRAINED for status in asked):
                return f"{folder.name} uses GPU {gpu} again"
        elif drained and not any(status.members or status.leaving for status in asked):
            return f"GPU {gpu} is free: {folder.name} has left it"
        elif drained_before and not drained:
            raise DeviceError(f"{folder.name} uses GPU {gpu} again: another command has returned it meanwhile")
        drained_before = drained
        time.sleep(0.1)
    return f"{folder.name} is no longer running"


def _matching(folder: RunFolder, gpu: str) -> list[str]:
    """The UUIDs of the run's GPUs that `gpu` names. Raises DeviceError."""
    from ..devices.gpu_selection import clear, match, names
    from ..storage.gpu_report import read_gpus

    report = read_gpus(folder)
    if report is None:
        raise DeviceError(f"{folder.name} uses no GPU now: it is not running, or trains on the CPU")
    present = [_gpu(status) for status in report.gpus]
    matches = match(gpu, present)
    if not clear(gpu, matches):
        problem = f"GPU {gpu!r} may mean more than one GPU" if matches else f"{folder.name} does not use GPU {gpu!r}"
        raise DeviceError(f"{problem}; it uses {names(present)}")
    return [match.uuid for match in matches]


def _gpu(status: DeviceStatus) -> GPU:
    from ..devices.nvml import GPU

    index, _, place = status.gpu.partition(":")
    return GPU(int(index), status.uuid, status.name, int(place) if place else None)
