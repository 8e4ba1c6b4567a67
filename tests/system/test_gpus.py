"""Whole runs on a stub of the driver's library (nvml_stub.c), through the real binding: sharing, faults, draining."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from gpu_machine import EIGHT, PLAYING, A, B, C, crowd, ended
from harness import until
from nvml_state import library

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_machine import Machine


# ---- sharing


def test_64_members_on_8_gpus_two_at_a_time(machine: Callable[..., Machine]) -> None:
    m = machine(*EIGHT, population=32, generations=2)
    done = m.launch("--share", 2)
    assert done.status == 0, done.err
    log = m.log()
    assert Counter(entry.what for entry in log) == {"in": 64, "out": 64}
    assert {len(entry.gpus) for entry in log} == {1}
    most = crowd(log)
    assert set(most) == set(EIGHT)
    assert max(most.values()) == 2
    assert {entry.rest[0] for entry in log if entry.what == "in"} == {"cuda"}
    assert m.summary()["slots"] == 16


def test_members_that_need_two_gpus_get_the_nearest_and_never_block_one_another(
    machine: Callable[..., Machine],
) -> None:
    m = machine(*EIGHT[:5], population=8, generations=2, gpus=2)
    m.state.set(f"near {A} {EIGHT[3]} 10", f"near {B} {C} 20")
    done = m.launch()
    assert done.status == 0, done.err
    log = m.log()
    pairs = {frozenset(entry.gpus) for entry in log}
    assert all(len(pair) == 2 for pair in pairs)
    assert frozenset((A, EIGHT[3])) in pairs
    assert set(crowd(log).values()) == {1}
    refused = m.cli("launch", PLAYING, "--nvml-library", library(), "--gpus", "0")
    assert refused.status == 2
    assert "needs 2 GPUs and there are 1" in refused.err


def test_the_first_members_peak_decides_how_many_share_and_an_oom_lowers_it(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=6, generations=3)
    m.say("mib", 10240)
    m.say("seconds", 0.6)
    run = m.begin("--vram", "auto")
    until(lambda: m.on(A) == 3)
    assert m.on(A) == 3
    m.say("total", 20480)  # from now on a third one does not fit
    err = ended(run)
    log = m.log()
    assert [entry.what for entry in log[:2]] == ["in", "out"], "the first trains alone"
    assert crowd(log)[A] == 3
    assert "members take up to 10.0 GiB, so each is given 11.0 GiB" in err
    assert "out of memory with 3 members" in err
    lost = m.facts("Lost")
    assert lost
    assert all("out of GPU memory beside other members" in fact["reason"] for fact in lost)
    assert m.facts("Failed") == []
    after = [entry for entry in log if entry.attempt > 1]
    assert after, "the members that ran out of memory were tried again"
    last = max(i for i, entry in enumerate(log) if entry.attempt > 1)
    assert crowd(log[last + 1 :]).get(A, 0) <= 2


def test_the_memory_that_a_member_needs_must_be_free(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=6, generations=1)
    m.state.set(f"mem {A} 40960 700 300")
    done = m.launch("--vram", "12GiB")
    assert done.status == 0, done.err
    assert m.facts("Opened")[0]["slots"] == 3
    assert crowd(m.log())[A] <= 3, "fewer, where processes start slowly"
    refused = m.cli("launch", PLAYING, "--nvml-library", library(), "--vram", "41GiB")
    assert refused.status == 2
    assert "41.0 GiB" in refused.err
    bad = m.cli("launch", PLAYING, "--nvml-library", library(), "--vram", "lots")
    assert bad.status == 2
    assert "--vram" in bad.err
    assert "'lots'" in bad.err


# ---- other programs


def test_a_gpu_that_is_taken_is_refused_or_waited_for(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=2, generations=1)
    m.state.add(f"proc {A} 1 6000")
    refused = m.launch()
    assert refused.status == 2
    assert "no GPU is free: GPU 0: process 1 (" in refused.err
    assert "--wait-for-gpus" in refused.err
    run = m.begin("--wait-for-gpus")
    until(lambda: m.notice()["waiting"])
    assert "process 1" in m.notice()["waiting"]["why"]["0"]
    assert "process 1" in m.cli("status", "r").out
    m.state.drop("proc")
    m.state.set(f"mem {A} 40960 9000 0")  # gone, but its memory is not
    until(lambda: "8.8 GiB of its memory are used by other programs" in m.row(A).get("reason", ""))
    assert m.log() == []
    m.state.set(f"mem {A} 40960 500 0")
    ended(run)
    assert crowd(m.log()) == {A: 1}
    m.state.set(f"mem {A} 40960 9000 0")  # a desktop's
    again = m.cli("replay", "r", "-q", "--nvml-library", m.driver, "--others-may-use", "12GiB", "--xid", "109=member")
    assert again.status == 0, again.err


def test_a_program_that_comes_later_gets_the_gpu(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=4, generations=2)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) and m.on(B))
    m.state.add(f"proc {A} 1 6000")
    until(lambda: m.row(A)["state"] == "busy")
    assert m.on(A) == 1, "the member there goes on"
    shown = m.cli("gpus", "--nvml-library", library()).out
    assert "GPU 0 A100  busy" in shown, "the list of the machine shows what the run knows"
    assert "process 1 (" in shown
    before = len(m.log())
    m.unsay("hold")
    ended(run)
    assert {entry.gpus for entry in m.log()[before:] if entry.what == "in"} == {(B,)}
    assert m.summary()["idle_s"]["device"] > 0


def test_memory_that_comes_back_late_is_waited_for(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=2, generations=1)
    m.state.set(f"linger {A} 3000")
    m.say("mib", 20000)
    done = m.launch()
    assert done.status == 0, done.err
    times = {(f["fact"], f["member"]): f["t"] for f in m.facts() if f["fact"] in ("Started", "Trained")}
    assert times["Started", 1] - times["Trained", 0] >= 2.9


# ---- faults


def test_a_lost_gpu_costs_its_members_nothing_but_time(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=8, generations=2)
    m.say("hold")
    run = m.begin("--share", 2)
    until(lambda: m.on(A) == 2 and m.on(B) == 2)
    lost = {entry.member for entry in m.inside() if A in entry.gpus}
    m.state.set(f"gpu 15 {A} NVIDIA A100")
    until(lambda: len(m.facts("Lost")) == 2)
    m.unsay("hold")
    err = ended(run)
    assert "GPU 0 NVIDIA A100 is set aside: GPU is lost" in err
    assert {fact["member"] for fact in m.facts("Lost")} == lost
    assert m.facts("Failed") == []
    assert m.summary()["members"]["finished"] == 16
    again = [entry for entry in m.log() if entry.member in lost and entry.attempt == 2 and entry.what == "in"]
    assert [entry.gpus for entry in again] == [(B,), (B,)]


@pytest.mark.parametrize(
    ("xid", "option", "whose"), [(13, (), "member"), (79, (), "card"), (79, ("--xid", "79=member"), "member")]
)
def test_an_xid_is_the_members_fault_or_the_cards(
    machine: Callable[..., Machine], xid: int, option: tuple[str, ...], whose: str
) -> None:
    m = machine(A, B, population=4, generations=1)
    m.say("hold")
    run = m.begin(*option)
    until(lambda: m.on(A) and m.on(B))
    m.state.add(f"event {A} 8 {xid}")
    m.say("fail")
    until(lambda: m.facts("Failed") or m.facts("Lost"))
    until(lambda: len(m.facts("Failed")) + len(m.facts("Lost")) >= 2)
    m.unsay("hold")
    err = ended(run)
    on_a = {fact["member"] for fact in m.facts("Started") if fact["attempt"] == 1 and fact["slot"] == 0}
    lost = {fact["member"] for fact in m.facts("Lost")}
    if whose == "card":
        assert lost <= on_a
        assert lost
        assert f"set aside: Xid {xid}" in err
    else:
        assert not lost
        assert f"GPU 0 NVIDIA A100: Xid {xid}, the fault of a member" in err
    assert m.summary()["members"]["finished"] == 4


# ---- by hand


def test_drain_and_return(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=2000, generations=1)  # more than there is time for
    m.say("seconds", 0.2)
    run = m.begin()
    until(lambda: m.on(A) and m.on(B) and m.row(A)["state"] == "in use")
    drained = m.cli("gpus", "--drain", "r", "0")
    assert drained.status == 0, drained.err
    assert "GPU 0 is free" in drained.err
    before = len(m.log())
    until(lambda: len(m.log()) > before + 6)
    assert {entry.gpus for entry in m.log()[before:]} == {(B,)}
    assert m.cli("gpus", "--drain", "r", "7").status == 2
    returned = m.cli("gpus", "--return", "r", "0")
    assert returned.status == 0, returned.err
    until(lambda: m.on(A))
    shown = m.cli("gpus", "--nvml-library", library(), "--json").json
    assert [row["runs"][0]["run"] for row in shown["gpus"]] == ["r", "r"]
    run.terminate()
    run.communicate(timeout=60)
    assert m.facts("Lost") == []


def test_drained_at_once_its_members_move(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=4, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: m.on(A) and m.on(B) and m.row(A)["state"] == "in use")
    assert m.cli("gpus", "--drain", "r", A, "--now").status == 0
    assert m.on(A) == 0
    m.unsay("hold")
    ended(run)
    (lost,) = m.facts("Lost")
    assert "was drained" in lost["reason"]


# ---- what `gpus` shows


def test_gpus_shows_what_is_there_and_why_not(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, C)
    m.state.set(f"now {A} 93 61", f"mode {B} 2", f"gpu 15 {C} x")
    inventory = m.cli("gpus", "--nvml-library", library(), "--json").json
    a, b, c = inventory["gpus"]
    assert (a["utilisation"], a["temperature"], a["would_use"]) == (93, 61, True)
    assert "PROHIBITED" in b["reason"]
    assert "GPU is lost" in c["reason"]
    assert not b["would_use"]
    unknown = m.cli("gpus", "--nvml-library", library(), "--gpus", "0,7")
    assert unknown.status == 2
    assert "'7' is no GPU here; to choose from: GPU 0" in unknown.err
    text = m.cli("gpus", "--nvml-library", library()).out
    assert "GPU 0 A100" in text
    assert "93 %, 61 °C" in text
    m.state.set("init 18")
    assert "version mismatch" in m.cli("gpus", "--nvml-library", library()).out.casefold()
    assert "no NVML library" in m.cli("gpus").out


def test_mig_instances_are_gpus_and_their_card_is_none(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=8, generations=1)
    m.state.set(f"mig {A} MIG-1111", f"mig {A} MIG-2222")
    done = m.launch()
    assert done.status == 0, done.err
    assert set(crowd(m.log())) == {"MIG-1111", "MIG-2222", B}
    assert set(crowd(m.log()).values()) == {1}


def test_members_run_on_the_cores_near_their_gpu(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=4, generations=1)
    m.state.set(f"cpus {A} 1", f"cpus {B} 2")
    assert m.launch().status == 0
    cores = {(entry.gpus[0], entry.rest[2]) for entry in m.log() if entry.what == "in"}
    assert cores <= {(A, "0"), (B, "1")}
    assert {entry.rest[1] for entry in m.log() if entry.what == "in"} == {"1"}
