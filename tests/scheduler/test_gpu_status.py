"""Requests about GPUs, as they come through a run's control FIFO."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from gpbt_async.devices.slots import Pool
from gpbt_async.scheduler.gpu_status import GpuStatus
from gpbt_async.storage.control import ControlRequest
from gpbt_async.storage.gpu_report import DeviceState, DeviceStatus

if TYPE_CHECKING:
    from pathlib import Path


class OneGpu(Pool):
    """A pool that notes what it is asked to do with its GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[object] = []

    def rows(self) -> list[DeviceStatus]:
        return [DeviceStatus(gpu="0", uuid="GPU-a", name="", state=DeviceState.OK)]

    def drain(self, uuid: str, at_once: bool = False) -> None:
        self.done.append(("drain", uuid, at_once))

    def give_back(self, uuid: str) -> None:
        self.done.append(("return", uuid))


@pytest.mark.parametrize(
    ("request_", "done"),
    [
        (ControlRequest.DRAIN, ("drain", "GPU-a", False)),
        (ControlRequest.DRAIN_NOW, ("drain", "GPU-a", True)),
        (ControlRequest.RETURN, ("return", "GPU-a")),
    ],
)
def test_a_request_is_carried_out(tmp_path: Path, request_: ControlRequest, done: object) -> None:
    pool, warnings = OneGpu(), list[str]()
    GpuStatus(tmp_path / "gpus.json", pool, time.time, warnings.append).obey(request_, "GPU-a")
    assert (pool.done, warnings) == ([done], [])


def test_a_request_about_another_gpu_is_ignored_with_a_warning(tmp_path: Path) -> None:
    pool, warnings = OneGpu(), list[str]()
    GpuStatus(tmp_path / "gpus.json", pool, time.time, warnings.append).obey(ControlRequest.DRAIN, "GPU-b")
    assert (pool.done, warnings) == ([], ["request ignored: drain GPU-b, as this run uses no such GPU"])
