"""Discovery: which devices a run gets under which circumstances, and what the real binding reports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from nvml_state import library

from gpbt_async.declaration.resources import Resources
from gpbt_async.devices import discovery, monitor
from gpbt_async.devices.discovery import discover
from gpbt_async.devices.nvml import GPU, NvmlFault, NvmlThread, Sample
from gpbt_async.devices.request import DeviceRequest
from gpbt_async.devices.slots import Slot
from gpbt_async.errors import DeviceError
from gpbt_async.processes.linux import THREADS

A, B, C = (
    GPU(0, "GPU-aaaa1111-0000", "NVIDIA A100"),
    GPU(1, "GPU-aaaa2222-0000", "NVIDIA A100"),
    GPU(2, "GPU-bbbb3333-0000", "NVIDIA A100"),
)
CORES = 4


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(discovery, "usable_cores", lambda: CORES)


class FakeNvml:
    """A machine with these GPUs; an NvmlFault in place of one, or of the library, is raised."""

    def __init__(self, gpus, library=True):
        self.gpus, self.library, self.calls = gpus, library, []

    def _note(self, call):
        self.calls.append((call, threading.current_thread().name))

    def open(self):
        self._note("open")
        if isinstance(self.library, NvmlFault):
            raise self.library
        return self.library

    def survey(self):
        self._note("survey")
        return [
            GPU(index, "", fault=str(gpu)) if isinstance(gpu, NvmlFault) else GPU(gpu.index, gpu.uuid, gpu.name)
            for index, gpu in enumerate(self.gpus)
        ]

    def sample(self, uuid):
        self._note("sample")
        return Sample(used=0, total=40 << 30, processes=())

    def watch(self, uuids):
        self._note("watch")

    def events(self):
        return []

    def close(self):
        self._note("close")


async def find(nvml=None, **changed):
    warnings = []
    environ = changed.pop("environ", {})
    resources = Resources(gpus=changed.pop("need", 1), cpus=changed.pop("cpus", None))
    request = DeviceRequest(**{"resources": resources, "population": 25, **changed})
    slots = await discover(request, environ, warn=warnings.append, backend=nvml)
    held = [] if nvml is None else slots.rows()
    if held:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(len(slots)):
                await stack.enter_async_context(slots.lease())
            slots.leased = slots.slots
    await slots.close()
    return slots, warnings


# --- discover ----------------------------------------------------------------------------------------------


async def test_a_gpu_slot_pins_by_uuid():
    slots, warnings = await find(FakeNvml([A, B]))
    assert warnings == []
    threads = dict.fromkeys(THREADS, "2")
    assert slots.leased[1] == Slot(
        1, "GPU 1 NVIDIA A100", "cuda", (B.uuid,), 2,
        {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": B.uuid, **threads},
    )  # fmt: skip
    assert len({*slots.leased}) == len(slots.leased) == 2


async def test_a_cpu_slot_hides_the_gpus():
    slots, warnings = await find(need=0, slots=2)
    threads = dict.fromkeys(THREADS, "2")
    assert warnings == []
    assert slots.slots[1] == Slot(1, "cpu1", "cpu", (), 2, {"CUDA_VISIBLE_DEVICES": "", **threads})


@pytest.mark.parametrize(
    ("slots", "population", "cpus", "count", "threads", "warned"),
    [
        (None, 25, None, 4, 1, False),
        (None, 4, None, 2, 2, False),
        (None, 1, None, 1, 4, False),
        (None, 25, 2, 2, 2, False),
        (None, 25, 8, 1, 8, True),
        (1, 25, None, 1, 4, False),
        (3, 2, None, 3, 1, False),
        (8, 25, None, 8, 1, True),
        (4, 25, 2, 4, 2, True),
    ],
)
async def test_slots_and_their_threads(slots, population, cpus, count, threads, warned):
    slots, warnings = await find(need=0, slots=slots, population=population, cpus=cpus)
    assert [slot.threads for slot in slots.slots] == [threads] * count
    assert len(warnings) == warned


async def test_cpus_per_member_holds_beside_a_gpu_too():
    slots, _ = await find(FakeNvml([A]), cpus=3)
    assert slots.leased[0].threads == 3


@pytest.mark.parametrize(
    "asked",
    [{"gpus": "none"}, {"slots": 2}, {"need": 0}, {"gpus": "none", "slots": 2}],
)
async def test_nvml_is_left_alone_when_no_gpu_is_wanted(asked):
    nvml = FakeNvml([A])
    slots, warnings = await find(nvml, **asked)
    assert {slot.device for slot in slots.slots} == {"cpu"}
    assert (nvml.calls, warnings) == ([], [])


@pytest.mark.parametrize(
    ("nvml", "environ", "warnings", "word"),
    [
        (FakeNvml([], library=False), {}, "no NVIDIA GPU found", "no NVML library"),
        (FakeNvml([]), {}, "no NVIDIA GPU found", "no GPU"),
        (FakeNvml([A]), {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is '', which hides every GPU", "hides"),
        (
            FakeNvml([A]),
            {"CUDA_VISIBLE_DEVICES": "-1,0"},
            "CUDA_VISIBLE_DEVICES is '-1,0', which hides every GPU",
            "-1",
        ),
        (FakeNvml([A]), {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "CUDA_VISIBLE_DEVICES", "NoDevFiles"),
    ],
)
async def test_without_a_gpu_there_is_one_warning_and_an_error_if_gpus_were_asked_for(nvml, environ, warnings, word):
    slots, (sentence,) = await find(nvml, environ=environ)
    assert sentence.startswith(warnings)
    assert sentence.endswith(": training on the CPU")
    assert {slot.device for slot in slots.slots} == {"cpu"}
    with pytest.raises(DeviceError, match=word):
        await find(nvml, environ=environ, gpus="all")


async def test_a_library_that_fails_is_an_error():
    with pytest.raises(DeviceError, match=r"version mismatch.*gpus='none'"):
        await find(FakeNvml([A], library=NvmlFault("version mismatch")))


async def test_a_driver_that_hangs_from_the_start_is_warned_of(monkeypatch):
    monkeypatch.setattr(monitor, "HANGS", 0.02)
    nvml, going = FakeNvml([A]), threading.Event()
    nvml.open = lambda: going.wait() or True
    threading.Timer(0.2, going.set).start()
    _, warnings = await find(nvml)
    assert "NVML has not answered" in warnings[0]


async def test_one_lost_gpu_is_left_out_and_all_lost_are_an_error():
    slots, (sentence,) = await find(FakeNvml([NvmlFault("GPU is lost"), B]))
    assert [slot.gpus for slot in slots.leased] == [(B.uuid,)]
    assert "GPU 0 is left out" in sentence
    with pytest.raises(DeviceError, match="GPU is lost"):
        await find(FakeNvml([NvmlFault("GPU is lost")]))


@pytest.mark.parametrize(
    "asked", [{"slots": 2, "gpus": "all"}, {"slots": 0}, {"slots": -1}, {"slots": 1.5}, {"slots": True}]
)
async def test_contradictions_are_refused(asked):
    with pytest.raises(DeviceError, match=f"slots={asked['slots']}"):
        await find(FakeNvml([A]), **asked)


@pytest.mark.parametrize(
    ("nvml", "asked"),
    [
        (FakeNvml([A]), {}),
        (FakeNvml([A]), {"gpus": "7"}),
        (FakeNvml([]), {}),
        (FakeNvml([], library=NvmlFault("no permission")), {}),
    ],
)
async def test_nvml_lives_in_one_thread_and_is_closed(nvml, asked):
    before = set(threading.enumerate())  # a thread of an earlier test may still be ending
    try:
        await find(nvml, **asked)
    except DeviceError:  # the pool does not wait for its thread, but the thread has to close NVML and end
        for thread in threading.enumerate():
            if thread.name.startswith("gpbt-nvml"):
                thread.join(timeout=10)
    assert set(threading.enumerate()) <= before
    assert [call for call, _ in nvml.calls][:: len(nvml.calls) - 1] == ["open", "close"]
    assert {thread for _, thread in nvml.calls} == {"gpbt-nvml_0"}


# --- the real binding on a stub of the driver's library --------------------------------------------------------------

ASK = """
import asyncio, json, os, sys
from gpbt_async.devices.discovery import discover
from gpbt_async.devices.request import DeviceRequest
from gpbt_async.errors import DeviceError

async def main(asked):
    assert "pynvml" not in sys.modules
    warnings = []
    try:
        slots = await discover(DeviceRequest(population=4, **asked), os.environ, warn=warnings.append)
    except DeviceError as error:
        return {"error": str(error)}
    await slots.close()
    rows = slots.rows()
    names = [f"GPU {row.gpu} {row.name}".rstrip() for row in rows] or [slot.name for slot in slots.slots]
    return {"slots": names, "gpus": [row.uuid for row in rows], "warnings": warnings}

print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
"""


@pytest.fixture(scope="session")
def stub():
    """Gives the path of the stub, compiled with some flags."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return library


@pytest.fixture
def ask(tmp_path):
    """Asks discover in a process of its own, as a process loads NVML's library once and for good."""

    def run(state="", visible=None, path=None, **asked):
        (tmp_path / "state").write_text(state)
        hidden = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH", "LD_PRELOAD")
        environ = {key: value for key, value in os.environ.items() if key not in hidden}
        environ |= {"NVML_STUB_STATE": str(tmp_path / "state"), "PYTHONWARNINGS": "error"}
        if visible is not None:
            environ["CUDA_VISIBLE_DEVICES"] = visible
        if path is not None:
            environ["LD_LIBRARY_PATH"] = str(path)
        call = [sys.executable, "-c", ASK, json.dumps({"gpus": None} | asked)]
        done = subprocess.run(call, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


def machine(*gpus):
    return "".join(f"gpu {0} {gpu.uuid} {gpu.name}\n" for gpu in gpus)


EIGHT = [GPU(index, f"GPU-{index}000", "NVIDIA A100") for index in range(8)]


@pytest.mark.parametrize("gpus", [[A], [A, B], EIGHT], ids=len)
@pytest.mark.parametrize("by", ["nvml_library", "LD_LIBRARY_PATH"])
def test_the_binding_finds_gpus(stub, ask, gpus, by):
    how = {"nvml_library": str(stub())} if by == "nvml_library" else {"path": stub().parent}
    expected = {"slots": [str(gpu) for gpu in gpus], "gpus": [gpu.uuid for gpu in gpus], "warnings": []}
    assert ask(machine(*gpus), **how) == expected


@pytest.mark.parametrize(
    ("visible", "expected", "warned"),
    [
        ("2,0", [C, A], 0),
        (f"{B.uuid}", [B], 0),
        ("GPU-b,GPU-aaaa2", [C, B], 0),
        ("1,9,0", [B], 1),
        ("", [], 1),
    ],
)
def test_the_binding_under_cuda_visible_devices(stub, ask, visible, expected, warned):
    answer = ask(machine(A, B, C), visible, nvml_library=str(stub()))
    assert answer["gpus"] == [gpu.uuid for gpu in expected]
    assert len(answer["warnings"]) == warned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "word"),
    [(18, "version mismatch (an updated driver"), (9, "Driver Not Loaded (is the"), (4, "Permission"), (77, "")],
)
def test_a_failing_driver_is_an_error(stub, ask, error, word):
    answer = ask(f"init {error}\n{machine(A)}", nvml_library=str(stub()))
    assert word in answer["error"]
    assert "gpus='none'" in answer["error"]
    assert ask(f"init {error}\n", nvml_library=str(stub()), gpus="none")["warnings"] == []


@pytest.mark.slow
def test_no_gpu_and_no_library_train_on_the_cpu(stub, ask):
    for answer in (ask("", nvml_library=str(stub())), ask()):
        assert (answer["gpus"], answer["slots"][0]) == ([], "cpu0")
        assert len(answer["warnings"]) == 1
    assert "no NVML library" in ask(gpus="0")["error"]


def test_a_lost_gpu_is_left_out(stub, ask):
    answer = ask(f"{machine(A)}gpu 15 {B.uuid} lost\n{machine(C)}", nvml_library=str(stub()))
    assert answer["gpus"] == [A.uuid, C.uuid]
    assert "GPU 1 is left out" in answer["warnings"][0]


def test_an_old_driver_without_names(stub, ask):
    assert ask(machine(A, B), nvml_library=str(stub("-DOLD")))["slots"] == ["GPU 0", "GPU 1"]


@pytest.mark.slow
def test_a_library_that_is_there_and_cannot_be_loaded_is_an_error(stub, ask, tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    assert "cannot be loaded" in ask(path=tmp_path)["error"]
    assert "cannot be loaded" in ask(nvml_library=str(tmp_path / "absent.so"))["error"]
    assert "SONAME" in ask(machine(A), nvml_library=str(stub("-DNO_SONAME")))["error"]


@pytest.mark.slow
def test_the_deprecated_shim_of_the_binding_does_not_disturb(stub, ask, tmp_path, monkeypatch):
    shim = "import warnings\nwarnings.warn('The pynvml package is deprecated. Please …', FutureWarning)\n"
    real = subprocess.run(
        [sys.executable, "-c", "import pynvml; print(pynvml.__file__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (tmp_path / "pynvml.py").write_text(shim + Path(real).read_text())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert ask(machine(A), nvml_library=str(stub()))["gpus"] == [A.uuid]


async def test_a_survey_that_finds_no_gpu_any_more_is_no_error():
    """As after a hot-unplug, or while a driver is loaded again: the GPUs in use are judged by their samples."""
    assert discovery._choose([], DeviceRequest(population=4), {}, pytest.fail) == []
    nvml = NvmlThread(FakeNvml([]))
    with pytest.raises(RuntimeError, match="StopIteration"):  # and not a future that never ends
        await asyncio.wait_for(nvml.ask(lambda _: next(iter(()))), 10)
    nvml.dismiss()
