"""Whole runs on drivers that are old, forbid, hang, lose GPUs and find them again, through the real binding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from gpu_machine import PLAYING, A, B, C, crowd, ended
from harness import kill_hard, start, until
from nvml_state import library

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_machine import Machine


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
def test_a_driver_that_refuses_is_reported_in_one_sentence(
    machine: Callable[..., Machine], error: int, sentence: str
) -> None:
    m = machine(A)
    m.state.set(f"init {error}")
    refused = m.launch()
    assert refused.status == 2
    assert sentence.casefold() in refused.err.casefold()
    assert refused.err.count("\n") <= 2
    assert not list((m.folder / "runs").iterdir()), "no run was begun"
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
    assert m.on(A) == 1, "the member goes on"
    m.unsay("hold")
    until(lambda: (m.notice()["waiting"] or {}).get("why") == {"0": "NVML does not answer"})
    assert m.on(A) == 0
    m.state.drop("slow")
    assert "NVML has not answered for 10 s: no GPU is given out until it does" in ended(run)
    assert m.facts("Lost") == m.facts("Failed") == []
    assert crowd(m.log()) == {A: 1}


@pytest.mark.slow
def test_a_run_ends_though_nvml_never_answers_again(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=4, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) == 1)
    m.state.set("slow 1000000")
    run.terminate()
    run.communicate(timeout=60)
    assert run.returncode == 130
    m.state.drop("slow")
    m.unsay("hold")
    assert m.cli("resume", "r").status == 0


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


def test_what_a_killed_run_left_behind_is_not_believed(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=20, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) == m.on(B) == 1)
    drain = start("gpus", "--drain", "r", "0", cwd=m.folder, env=m.env)
    until(lambda: m.row(A)["state"] == "drained")
    kill_hard(run)
    assert "r is no longer running" in drain.communicate(timeout=60)[1], "drain does not wait for a dead run"
    assert (m.folder / "runs/r/gpus.json").exists()
    inventory = m.cli("gpus", "--nvml-library", m.driver, "--json").json
    assert [row["runs"] for row in inventory["gpus"]] == [[], []]
    assert m.cli("gpus", "--drain", "r", "0").status == 2
    m.unsay("hold")
    resumed = m.cli("resume", "r")
    assert resumed.status == 0, resumed.err
    assert m.summary()["members"]["finished"] == 20
    assert set(crowd(m.log())) == {A, B}, "the library is remembered"


def test_a_run_that_was_begun_on_gpus_does_not_go_on_on_the_cpu_unasked(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=2, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) == 1)
    kill_hard(run)
    m.unsay("hold")
    m.state.drop("gpu ")
    refused = m.cli("resume", "r")
    assert refused.status == 2
    assert "this run was begun on GPUs, and NVML reports no GPU. To go on on the CPU: --gpus none" in refused.err
    assert m.cli("resume", "r", "--gpus", "none").status == 0


def test_a_gpu_that_is_returned_while_a_command_waits_for_it(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=20, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) == m.on(B) == 1)
    ambiguous = m.cli("gpus", "--drain", "r", "GPU-")
    assert ambiguous.status == 2
    assert "may mean more than one GPU" in ambiguous.err
    drain = start("gpus", "--drain", "r", "0", cwd=m.folder, env=m.env)
    until(lambda: m.row(A)["state"] == "drained")
    assert m.cli("gpus", "--return", "r", A).status == 0
    assert "another command has returned it meanwhile" in drain.communicate(timeout=60)[1]
    m.unsay("hold")
    ended(run)


def test_a_drained_gpu_is_free_when_its_memory_is(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=40, generations=1)
    m.state.set(f"linger {A} 2000", f"linger {B} 2000")
    m.say("mib", 15000)
    run = m.begin()
    until(lambda: m.on(A) == 1)
    assert m.cli("gpus", "--drain", "r", "0").status == 0
    row = m.row(A)
    assert (row["state"], row["members"], row["leaving"]) == ("drained", [], 0)
    assert row["used"] < 1 << 30
    run.terminate()
    run.communicate(timeout=60)


def test_a_desktop_may_use_what_it_is_allowed_to(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=2, generations=1)
    m.state.set(f"mem {A} 8192 1500 0")
    refused = m.launch()
    assert refused.status == 2
    assert (
        "1.5 GiB of its memory are used by other programs (if that is a desktop: --others-may-use SIZE)" in refused.err
    )
    assert m.launch("--others-may-use", "2GiB").status == 0
    bad = m.cli("launch", PLAYING, "--nvml-library", m.driver, "--others-may-use", "2")
    assert bad.status == 2
    assert "--others-may-use: got '2'; must be an amount with its unit" in bad.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vram", "6"), "--vram: got '6'; must be an amount of at least 1MiB with its unit"),
        (("--share", "0"), "gpbt-async: --share: got 0; must be a whole number of at least 1"),
        (("--slots", "2", "--share", "2"), "--share is about GPUs, and --slots 2 asks for the CPU"),
        (("--gpus", "none", "--wait-for-gpus"), "--wait-for-gpus is about GPUs, and --gpus none asks for the CPU"),
        (("--xid", "79=member", "--xid", "79=card"), "--xid 79=card: member is blamed for it already; give only one"),
    ],
)
def test_options_that_contradict_one_another_are_refused(
    machine: Callable[..., Machine], options: tuple[str, ...], message: str
) -> None:
    done = machine(A).launch(*options)
    assert done.status == 2
    assert message in done.err


MIXED = """
import asyncio, json, os, sys
from gpbt_async.devices.discovery import discover
from gpbt_async.devices.request import DeviceRequest

async def main():
    cards = await discover(DeviceRequest(population=6, nvml_library=sys.argv[1]), os.environ, warn=print)
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
