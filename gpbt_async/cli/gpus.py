"""`gpbt-async gpus`: what NVML sees on this machine, what a run would use of it, and why not the rest.

A face of its own: it opens NVML, looks once, and closes it; runs that go on tell on their notice boards what they
hold. Nothing here fails because a driver does: that is exactly what it is there to tell, in one sentence.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..devices.health import tolerance
from ..devices.nvml import NvmlFault, NvmlThread, PyNvml, figures
from ..devices.selection import GPU, VISIBLE, choose, clear, hides_all, label, match, names, usable
from ..errors import DeviceError
from ..formatting import format_bytes
from ..processes import linux
from ..storage.control import notice
from ..storage.folder import runs as runs_in
from ..ui.text import gpu_lines, unstyled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..devices.nvml import Backend, NvmlDevice, Sample
    from ..storage.folder import RunFolder


#: seconds that NVML may take
PATIENCE = 30.0


def inventory(
    environ: Mapping[str, str], runs: Path, *, gpus: str | None = None, library: str | None = None
) -> dict[str, Any]:
    """{gpus, problem: one sentence or "", notes}; of each GPU what Pool.rows tells, who is on it, and which runs."""
    told: dict[str, Any] = {"gpus": [], "problem": "", "notes": []}
    nvml = NvmlThread(PyNvml(library))
    try:
        seen = nvml.wait(_look, PATIENCE)
        if seen is None:
            told["problem"] = "there is no NVML library (libnvidia-ml.so.1): no NVIDIA driver is installed, or it is \
not where the loader looks (--nvml-library PATH); a run trains on the CPU"
            return told
        found, samples = seen
        if not found:
            told["problem"] = "NVML reports no GPU; a run trains on the CPU"
    except NvmlFault as fault:
        told["problem"] = f"NVML failed: {fault}. A run is refused until that is repaired, but for --gpus none"
        return told
    finally:
        nvml.dismiss()
    used, problem = _used(found, gpus, environ, told["notes"])
    told["problem"] = told["problem"] or problem
    boards = _boards(runs)
    for each in found:
        told["gpus"].append(_row(each, samples.get(each.uuid), used, boards))
    return told


def _look(nvml: Backend) -> tuple[list[NvmlDevice], dict[str, Sample | str]] | None:
    """What there is and how it is; None: there is no NVML library."""
    if not nvml.open():
        return None
    found = nvml.survey()
    return found, {each.uuid: _sample(nvml, each.uuid) for each in found if each.uuid}


def _sample(nvml: Backend, uuid: str) -> Sample | str:
    try:
        return nvml.sample(uuid)
    except NvmlFault as fault:
        return str(fault)


def _used(
    found: list[NvmlDevice], gpus: str | None, environ: Mapping[str, str], notes: list[str]
) -> tuple[dict[str, str], str]:
    """By UUID why a GPU would not be used, empty if it would; and what would refuse a run altogether."""
    present, out = usable(found)
    reasons = {(gpu.index, gpu.uuid): reason for gpu, reason in out.items()}
    why = {each.uuid: reasons.get((each.index, each.uuid), "") for each in found}
    why |= {each.uuid: "it is split: its MIG instances are used" for each in found if each.split and not why[each.uuid]}
    if gpus == "none":
        return {uuid: text or "not wanted, by --gpus none" for uuid, text in why.items()}, ""
    if hides_all(environ):
        return {uuid: text or f"hidden by {VISIBLE}={environ[VISIBLE]}" for uuid, text in why.items()}, ""
    try:
        chosen = {gpu.uuid for gpu in choose(present, gpus, environ, notes.append, out)}
    except DeviceError as error:
        return {uuid: text or "a run is refused" for uuid, text in why.items()}, str(error)
    for gpu in present:
        if gpu.uuid not in chosen:
            named = f"--gpus {gpus}" if gpus not in (None, "all") else f"{VISIBLE}={environ.get(VISIBLE)}"
            why[gpu.uuid] = f"not among {named}"
    return why, ""


def _row(
    each: NvmlDevice, sample: Sample | str | None, used: Mapping[str, str], boards: Mapping[str, list[tuple[str, Any]]]
) -> dict[str, Any]:
    reason = used.get(each.uuid, "") or (sample if isinstance(sample, str) else "")
    seen = None if isinstance(sample, str) else sample
    held = boards.get(each.uuid, [])
    ours = sum(row["ours"] or 0 for _, row in held)
    who = [
        {
            "pid": pid,
            "bytes": amount,
            "what": linux.program_and_owner(pid) if linux.exists(pid) else "not of this pid namespace",
        }
        for pid, amount in (seen.processes if seen is not None else None) or ()
        if seen is not None and pid not in seen.drawing
    ]
    numbers = figures(seen, each.total)
    others = max(0, seen.used - ours) if seen is not None and seen.used is not None else None
    state, since, retry = "left out" if reason else "ok", None, None
    if not reason and held:  # the run that uses it knows best; one that trains there before one that waits
        _, known = max(held, key=lambda named: bool(named[1]["members"]))
        state, reason, since, retry = (known[name] for name in ("state", "reason", "since", "retry"))
    elif not reason and (who or (others or 0) > tolerance(numbers["total"] or 0)):
        state = "busy"
        reason = ", ".join(f"process {p['pid']} ({p['what']})" for p in who) or f"{format_bytes(others or 0)} are used"
    return {
        "gpu": label(each.index, each.slice),
        "uuid": each.uuid,
        "name": each.name,
        "state": state,
        "would_use": not used.get(each.uuid, "") and not isinstance(sample, str),
        "reason": reason,
        "since": since,
        "retry": retry,
        "runs": [{"run": run, "state": row["state"], "members": row["members"]} for run, row in held],
        "ours": ours or None,
        "others": others,
        **numbers,
        "processes": who,
    }


def text(told: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for row, line in zip(told["gpus"], gpu_lines(told["gpus"], time.time()), strict=True):
        lines += [unstyled(line).rstrip(), *([f"    {row['uuid']}"] if row["uuid"] else [])]
        for held in row["runs"]:
            members = ", ".join(map(str, held["members"])) or "none"
            lines.append(f"    run {held['run']}: {held['state']}, members {members}")
    return "\n".join([*lines, *told["notes"], *([told["problem"]] if told["problem"] else [])])


# ---- the runs that go on


def _boards(runs: Path) -> dict[str, list[tuple[str, Any]]]:
    """By UUID, the rows of the runs that use a GPU."""
    boards: dict[str, list[tuple[str, Any]]] = {}
    for folder in runs_in(runs):
        for row in (notice(folder) or {"gpus": []})["gpus"]:
            boards.setdefault(row["uuid"], []).append((folder.name, row))
    return boards


def _gpu(row: Mapping[str, Any]) -> GPU:
    index, _, slice = str(row["gpu"]).partition(":")
    return GPU(int(index), row["uuid"], row["name"], int(slice) if slice else None)


def ask(folder: RunFolder, word: str, gpu: str) -> str:
    """Ask a run to drain a GPU ("drain", "drain-now") or to take it back ("return"), and wait until that is so.

    Returns what has come of it. Raises DeviceError when the run has no such GPU or does not go on.
    """
    told = notice(folder)
    if told is None:
        raise DeviceError(f"{folder.name} uses no GPU now: it does not go on, or trains on the CPU")
    there = [_gpu(row) for row in told["gpus"]]
    matches = match(gpu, there)
    if not clear(gpu, matches):
        problem = f"GPU {gpu!r} may mean more than one GPU" if matches else f"{folder.name} does not use GPU {gpu!r}"
        raise DeviceError(f"{problem}; it uses {names(there)}")
    wanted = [each.uuid for each in matches]
    for uuid in wanted:
        if not folder.tell(f"{word} {uuid}"):
            raise DeviceError(f"{folder.name} does not listen: it has just ended")
    obeyed = False
    while True:
        told = notice(folder)
        if told is None:
            return f"{folder.name} goes on no more"
        rows = [row for row in told["gpus"] if row["uuid"] in wanted]
        drained = [row["state"] in ("drained", "faulty") for row in rows]
        if word == "return" and not any(row["state"] == "drained" for row in rows):
            return f"GPU {gpu} is used by {folder.name} again"
        if word != "return" and all(drained) and not any(row["members"] or row["leaving"] for row in rows):
            return f"GPU {gpu} is free: {folder.name} has left it"
        if word != "return" and obeyed and not all(drained):
            raise DeviceError(f"GPU {gpu} is used by {folder.name} again: somebody has returned it meanwhile")
        obeyed = all(drained)
        time.sleep(0.1)
