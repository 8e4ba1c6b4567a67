"""The inventory of the machine's GPUs for `gpbt-async gpus`: would a new run use a GPU, and if not, why?

It opens NVML, samples once, and closes it. The runs' gpus.json show the GPUs that runs hold. If the driver fails,
the command reports that in one sentence, as its result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from ..declaration.run_options import NONE
from ..devices.device import Device
from ..devices.gpu_selection import VISIBLE, check, choose, hides_all, usable
from ..devices.monitor import Sampling, observe
from ..devices.nvml import GPU, NvmlFault, NvmlThread, PyNvml
from ..errors import DeviceError
from ..processes import linux
from ..storage.folder import runs as runs_in
from ..storage.gpu_report import DeviceState, DeviceStatus, read_gpus
from ..ui.text import gpu_lines, unstyled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..devices.nvml import Backend, Sample

    #: a run's name, and a GPU's status in it
    Held = tuple[str, DeviceStatus]


#: seconds that NVML may take
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that computes on a GPU. bytes: of its memory, None if unknown. what: in words."""

    pid: int
    bytes: int | None
    what: str


@dataclass(frozen=True, slots=True)
class MachineGpu:
    """A GPU of the machine. would_use: by a run that is launched now. runs: those that use it."""

    status: DeviceStatus
    would_use: bool
    runs: Sequence[Held]
    processes: Sequence[Process]

    def to_json(self) -> dict[str, object]:
        status = {f.name: getattr(self.status, f.name) for f in fields(DeviceStatus)}
        del status["members"], status["leaving"]
        runs = [{"run": name, "state": held.state, "members": held.members} for name, held in self.runs]
        return {**status, "would_use": self.would_use, "runs": runs, "processes": self.processes}


@dataclass(slots=True)
class Inventory:
    """problem: why a run would not train on a GPU, one sentence, or "". notes: warnings that a run would give."""

    gpus: list[MachineGpu]
    problem: str
    notes: list[str]

    def to_json(self) -> dict[str, object]:
        return {"gpus": [gpu.to_json() for gpu in self.gpus], "problem": self.problem, "notes": self.notes}


def inventory(
    environ: Mapping[str, str], runs: Path, *, gpus: str | None = None, library: str | None = None
) -> Inventory:
    """gpus: what `--gpus` would be. library: the path of NVML's. Raises DeviceError for a GPU that there is not."""
    check(gpus)
    nvml = NvmlThread(PyNvml(None if library == NONE else library))
    try:
        answer = nvml.wait(_look, PATIENCE)
    except NvmlFault as fault:
        return Inventory(
            [], f"NVML failed: {fault}. A run is refused until that is repaired, except with --gpus none", []
        )
    finally:
        nvml.dismiss()
    _refuse_unknown(gpus, answer[0] if answer is not None else [])
    if answer is None:
        reason = "no NVIDIA driver is installed, or it is not where the loader looks (--nvml-library PATH)"
        return Inventory([], f"there is no NVML library (libnvidia-ml.so.1): {reason}; a run trains on the CPU", [])
    present, samples = answer
    notes: list[str] = []
    reasons, problem = _reasons(present, gpus, environ, notes)
    if not present:
        problem = "NVML reports no GPU; a run trains on the CPU"
    held = _held(runs)
    found = [_machine_gpu(gpu, samples.get(gpu.uuid), reasons[gpu.uuid], held.get(gpu.uuid, [])) for gpu in present]
    return Inventory(found, problem, notes)


def _refuse_unknown(asked: str | None, present: Sequence[GPU]) -> None:
    """Raise DeviceError unless each entry of `--gpus` is one GPU of the machine, whether a run can use it or not."""
    if asked not in (None, "all", "none"):
        choose(present, asked, {}, lambda _: None)


def _look(nvml: Backend) -> tuple[list[GPU], dict[str, Sample | str]] | None:
    """The GPUs, and a sample of each, or NVML's words where it fails; None without an NVML library."""
    if not nvml.open():
        return None
    gpus = nvml.survey()
    samplings = observe([gpu.uuid for gpu in gpus if gpu.uuid], 0.0, nvml)
    return gpus, {each.uuid: each.sample for each in samplings if isinstance(each, Sampling)}


def _reasons(
    gpus: list[GPU], asked: str | None, environ: Mapping[str, str], notes: list[str]
) -> tuple[dict[str, str], str]:
    """By UUID, why a run would not use the GPU, "" if it would; and what would refuse a run altogether."""
    good, bad = usable(gpus)
    why = {gpu.uuid: bad.get(gpu, "" if gpu in good else "its card cannot be used") for gpu in gpus}
    why |= {gpu.uuid: "it is split: its MIG instances are used" for gpu in gpus if gpu.split and gpu not in bad}
    if asked == "none":
        return {uuid: reason or "not wanted, by --gpus none" for uuid, reason in why.items()}, ""
    if hides_all(environ):
        return {uuid: reason or f"hidden by {VISIBLE}={environ[VISIBLE]}" for uuid, reason in why.items()}, ""
    try:
        chosen = choose(good, asked, environ, notes.append, bad)
    except DeviceError as error:
        return {uuid: reason or "a run is refused" for uuid, reason in why.items()}, str(error)
    among = f"--gpus {asked}" if asked not in (None, "all") else f"{VISIBLE}={environ.get(VISIBLE)}"
    return why | {gpu.uuid: f"not among {among}" for gpu in good if gpu not in chosen}, ""


def _machine_gpu(gpu: GPU, sample: Sample | str | None, reason: str, runs: Sequence[Held]) -> MachineGpu:
    """sample: or NVML's words where it fails. reason: why a run would not use the GPU, or ""."""
    device, processes = Device(gpu), list[Process]()
    if isinstance(sample, str):
        reason = reason or sample
    elif sample is not None:
        device.observe(sample, lambda pid: f"process {pid} ({_what(pid)})", 0.0, 0.0)
        listed = (entry for entry in sample.processes or () if entry[0] not in sample.drawing)
        processes = [Process(pid, amount, _what(pid)) for pid, amount in listed]
    status = device.status()
    ours = sum(held.ours or 0 for _, held in runs)
    others = max(0, status.used - ours) if status.used is not None else None
    status = replace(status, ours=ours or None, others=others)
    if reason:
        status = replace(status, state=DeviceState.LEFT_OUT, reason=reason)
    elif runs:  # a run that uses it knows best; one that trains there before one that waits
        _, known = max(runs, key=lambda held: bool(held[1].members))
        status = replace(status, state=known.state, reason=known.reason, since=known.since, retry=known.retry)
    return MachineGpu(status, not reason, runs, processes)


def _what(pid: int) -> str:
    return linux.program_and_owner(pid) if linux.exists(pid) else "not of this pid namespace"


def text(inventory: Inventory) -> str:
    lines: list[str] = []
    statuses = [gpu.status for gpu in inventory.gpus]
    for gpu, line in zip(inventory.gpus, gpu_lines(statuses, time.time()), strict=True):
        lines += [unstyled(line).rstrip(), *([f"    {gpu.status.uuid}"] if gpu.status.uuid else [])]
        for name, held in gpu.runs:
            members = ", ".join(map(str, held.members)) or "none"
            lines.append(f"    run {name}: {held.state}, members {members}")
    return "\n".join([*lines, *inventory.notes, *([inventory.problem] if inventory.problem else [])])


def _held(runs: Path) -> dict[str, list[Held]]:
    """By UUID, the runs that use a GPU."""
    held: dict[str, list[Held]] = {}
    for folder in runs_in(runs):
        report = read_gpus(folder)
        for status in report.gpus if report is not None else ():
            held.setdefault(status.uuid, []).append((folder.name, status))
    return held
