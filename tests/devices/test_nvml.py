"""The real binding on the stub: lost GPUs, drawing processes, destroyed instances, drivers that hang."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from nvml_state import State, library

ASK = """
import asyncio, json, sys, time
from gpbt_async.devices.nvml import NvmlFault, NvmlThread, PyNvml

state = sys.argv[2]
def answer(question):
    try:
        return question()
    except NvmlFault as fault:
        return f"fault: {fault}"

def rewrite(old, new):
    text = open(state).read()
    assert old in text
    open(state, "w").write(text.replace(old, new))

nvml = PyNvml(sys.argv[1])
nvml.open()
out = {}
"""


@pytest.fixture
def run(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")

    def go(code, *gpus, lines=(), timeout=20, flags=()):
        state = State(tmp_path / "state", *gpus)
        state.set(*lines)
        call = [sys.executable, "-c", ASK + code + "\nprint(json.dumps(out))", str(library(*flags)), str(state.path)]
        env = {**os.environ, **state.environ}
        done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return go


def test_a_destroyed_instance_is_a_fault_and_not_an_idle_gpu(run):
    out = run(
        """
nvml.survey()
nvml.sample("MIG-1")
rewrite("mig GPU-a MIG-1", "mig GPU-a -")
out["sample"] = answer(lambda: repr(nvml.sample("MIG-1")))
""",
        "GPU-a",
        lines=["mig GPU-a MIG-1"],
    )
    assert out["sample"].startswith("fault: ")


def test_a_process_that_computes_and_draws_is_listed_as_both(run):
    out = run(
        """
sample = nvml.sample("GPU-a")
out = [sample.processes, sorted(sample.drawing)]
""",
        "GPU-a",
        lines=["ghost GPU-a 77 3000", "draw GPU-a 77", "draw GPU-a 78"],
    )
    assert out == [[[77, 3000 << 20]], [77, 78]]


@pytest.mark.parametrize("newer", [True, False])
def test_an_older_binding_also_reports_what_the_driver_wants(run, newer):
    forget = "" if newer else "del nvml._binding.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"
    code = f"{forget}\nout = nvml.recovery('GPU-a')"
    assert run(code, "GPU-a", lines=["recovery GPU-a 1"]) == "a reset"


def test_a_driver_that_hangs_does_not_keep_python_from_ending(run):
    out = run(
        """
class Hanging:
    def close(self): ...

async def main():
    thread = NvmlThread(Hanging())
    asked = asyncio.ensure_future(thread.ask(lambda _: time.sleep(60)))
    await asyncio.sleep(0.1)
    asked.cancel()
    await thread.close(within=0.1)

asyncio.run(main())
out = "ended"
""",
        "GPU-a",
        timeout=20,
    )
    assert out == "ended"


def test_a_lost_gpu_does_not_hide_the_events_of_others(run):
    out = run(
        """
nvml.watch(["GPU-a", "GPU-b"])
rewrite("gpu 0 GPU-a", "gpu 15 GPU-a")
out["at first"] = len(nvml.events())
open(state, "a").write("event GPU-b 8 79\\n")
out = [out["at first"], [[t.uuid, t.kind, t.data] for t in nvml.events()]]
""",
        "GPU-a",
        "GPU-b",
    )
    assert out == [0, [["GPU-b", "xid", 79]]]
