"""Whole runs on drivers that are old, forbid, hang, lose GPUs and find them again; all through the real binding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from harness import until
from nvml_state import library
from workstation import A, B, C, crowd, ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from workstation import Machine


def test_an_old_driver_trains_all_the_same(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=8, generations=1)
    m.driver = library("-DOLD")
    m.state.add(f"proc {B} 1 6000")
    done = m.launch("--share", 2)
    assert done.status == 0, done.err
    assert crowd(m.log()) == {A: 2}
    shown = m.cli("gpus", "--nvml-library", m.driver)
    assert shown.status == 0, shown.err
    assert "process 1 " in shown.out


@pytest.mark.parametrize(
    ("error", "sentence"), [(4, "Insufficient Permissions"), (18, "version mismatch"), (9, "Driver Not")]
)
def test_a_driver_that_refuses_is_told_in_one_sentence(
    machine: Callable[..., Machine], error: int, sentence: str
) -> None:
    m = machine(A)
    m.state.set(f"init {error}")
    refused = m.launch()
    assert refused.status == 2
    assert sentence.casefold() in refused.err.casefold()
    assert refused.err.count("\n") <= 2
    assert not list((m.folder / "runs").iterdir()), "nothing was begun"
    shown = m.cli("gpus", "--nvml-library", m.driver)
    assert sentence.casefold() in shown.out.casefold()
    assert "Traceback" not in shown.out + shown.err
    done = m.launch("--gpus", "none", "--slots", 2)
    assert done.status == 0, done.err


def test_a_gpu_we_may_not_use_is_left_out(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=4, generations=1)
    m.state.set(f"gpu 4 {A} NVIDIA A100")
    done = m.launch()
    assert done.status == 0, done.err
    assert crowd(m.log()) == {B: 1}
    assert "GPU 0 is left out, as " in done.err
    assert "Permission" in done.err


@pytest.mark.slow
def test_while_nvml_hangs_nothing_is_given_out(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=4, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) == 1)
    m.state.set("slow 14000")
    until(lambda: m.row(A).get("reason") == "NVML does not answer")
    assert m.on(A) == 1, "who trains goes on"
    m.unsay("hold")
    until(lambda: (m.notice()["waiting"] or {}).get("why") == {"0": "NVML does not answer"})
    assert m.on(A) == 0
    m.state.drop("slow")
    assert "NVML has not answered for 10 s: no GPU is given out until it does" in ended(run)
    assert m.facts("Lost") == m.facts("Failed") == []
    assert crowd(m.log()) == {A: 1}


@pytest.mark.slow
def test_a_gpu_that_comes_back_and_one_that_appears_are_used(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=6, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) == m.on(B) == 1)
    m.state.set(f"gpu 15 {A} NVIDIA A100")
    until(lambda: m.row(A)["state"] == "faulty" and m.on(A) == 0)
    m.state.set(f"gpu 0 {A} NVIDIA A100", f"gpu 0 {C} NVIDIA A100")
    until(lambda: m.on(A) == m.on(B) == m.on(C) == 1, timeout=60)
    m.unsay("hold")
    err = ended(run)
    assert "GPU 0 NVIDIA A100 works again" in err
    assert "GPU 2 NVIDIA A100 has appeared and is used from now on" in err
    assert len(m.facts("Lost")) == 1
    assert m.summary()["slots"] == 3


MIXED = """
import asyncio, json, os, sys
from gpbt_async.devices import Wanted, discover

async def main():
    cards = await discover(Wanted(population=6, nvml_library=sys.argv[1]), os.environ, warn=print)
    log = []

    async def member(name, need):
        for _ in range(5):
            async with cards.lease(need=need) as slot:
                log.append(("in", name, slot.gpus))
                await asyncio.sleep(0)
                log.append(("out", name, slot.gpus))

    async with asyncio.timeout(30):
        await asyncio.gather(*(member(f"{need}.{i}", need) for need, many in ((2, 2), (1, 4)) for i in range(many)))
    await cards.close()
    print(json.dumps(log))

asyncio.run(main())
"""


def test_two_with_two_gpus_and_four_with_one_on_three_gpus_never_deadlock(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, C)
    done = subprocess.run(
        [sys.executable, "-c", MIXED, m.driver], env=os.environ | m.env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    log = json.loads(done.stdout)
    assert Counter(name for what, name, _ in log if what == "in") == dict.fromkeys(
        ("2.0", "2.1", "1.0", "1.1", "1.2", "1.3"), 5
    )
    held: Counter[str] = Counter()
    for what, name, gpus in log:
        assert len(gpus) == int(name[0])
        for gpu in gpus:
            held[gpu] += 1 if what == "in" else -1
        assert max(held.values()) <= 1
