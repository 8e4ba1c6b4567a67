"""gpus.json: what a run writes of its GPUs is what another process reads, and a damaged file is no report."""

from __future__ import annotations

import contextlib
import json

import pytest

from gpbt_async.storage.files import write_json
from gpbt_async.storage.folder import RunFolder
from gpbt_async.storage.gpu_report import DeviceState, DeviceStatus, GpuQueue, GpuReport, read_gpus

STATUS = DeviceStatus(gpu="0:1", uuid="MIG-1", name="A100", state=DeviceState.IN_USE, members=(3, 7), used=5, total=9)
REPORT = GpuReport(12.5, (STATUS,), GpuQueue(2, 10.0, {"0:1": "it holds 2 of 2 member(s)"}))


@contextlib.asynccontextmanager
async def running(path):
    folder = RunFolder.create(path)
    lock = await folder.lock(1.0)
    try:
        yield folder
    finally:
        lock.release()


async def test_a_report_is_read_while_the_run_is_locked(tmp_path):
    async with running(tmp_path / "r") as folder:
        await write_json(folder.gpus, REPORT, durable=False)
        assert read_gpus(folder) == REPORT
    assert read_gpus(folder) is None, "a killed scheduler leaves the file behind"


async def test_the_names_in_the_file_stay_what_programs_know(tmp_path):
    folder = RunFolder.create(tmp_path / "r")
    await write_json(folder.gpus, REPORT, durable=False)
    flat = json.loads(folder.gpus.read_text())
    assert list(flat) == ["t", "gpus", "waiting"]
    assert list(flat["gpus"][0]) == [
        "gpu", "uuid", "name", "state", "reason", "since", "retry", "members", "ours", "leaving", "others", "used",
        "total", "utilisation", "temperature",
    ]  # fmt: skip
    assert (flat["gpus"][0]["state"], flat["gpus"][0]["members"]) == ("in use", [3, 7])
    assert flat["waiting"] == {"members": 2, "since": 10.0, "why": {"0:1": "it holds 2 of 2 member(s)"}}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"t": 1, "gpus": [{"gpu": "0"}], "waiting": null}', "null"])
async def test_a_damaged_file_is_no_report(tmp_path, text):
    async with running(tmp_path / "r") as folder:
        folder.gpus.write_text(text)
        assert read_gpus(folder) is None
