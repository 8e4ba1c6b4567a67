"""May a GPU be given out: states by hand; whose memory is whose; how amounts and failures are read."""

from __future__ import annotations

import pytest

from gpbt_async.accounts import Owner, account
from gpbt_async.health import Health, blame
from gpbt_async.ledger import Card, Lease
from gpbt_async.nvml import Sample
from gpbt_async.packing import out_of_memory
from gpbt_async.sizes import format_bytes, parse_bytes
from gpbt_async.visible import GPU

GIB = 1 << 30
TOTAL = 40 * GIB


def seen(health: Health, *others: str) -> list[str]:
    states = []
    for who in others:
        health.sampled(1.0, who, 0, TOTAL)
        states.append(health.state if health.open or health.state != "ok" else "doubtful")
    return states


def test_a_flicker_does_not_matter_and_three_clean_samples_are_needed_to_return() -> None:
    assert seen(Health(), "", "x", "", "x", "x", "", "x", "", "", "") == [
        "ok", "doubtful", "ok", "doubtful", "busy", "busy", "busy", "busy", "busy", "ok",
    ]  # fmt: skip
    assert seen(Health(), "x") == ["busy"], "the first look decides at once"


@pytest.mark.parametrize(("used", "state"), [(GIB, "ok"), (2 * GIB, "ok"), (2 * GIB + 1, "busy")])
def test_a_desktop_is_in_nobodys_way(used: int, state: str) -> None:
    health = Health()
    health.sampled(1.0, "", used, TOTAL)
    assert health.state == state


def test_a_faulty_gpu_is_tried_again_ever_more_slowly() -> None:
    health = Health()
    health.failed(0.0, "GPU is lost")
    waits = [health.retry]
    for _ in range(6):
        now = health.retry
        health.retried(now, "still lost")
        waits.append(health.retry - now)
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert (health.state, health.reason) == ("faulty", "still lost")
    health.drain(0.0)
    assert health.state == "faulty"
    health.retried(1.0, "")
    assert health.state == "drained", "it was asked for meanwhile"
    health.give_back(2.0)
    assert health.open


def test_dirty_until_its_memory_is_back() -> None:
    health = Health()
    health.lingers(1.0, 5 * GIB)
    assert (health.state, health.reason) == ("dirty", "5.0 GiB are still used though our member has ended")
    health.sampled(2.0, "", 5 * GIB, TOTAL)
    assert health.state == "dirty"
    health.sampled(3.0, "", 0, TOTAL)
    assert health.open


@pytest.mark.parametrize(
    ("kind", "data", "whose"),
    [("xid", 13, "member"), ("xid", 31, "member"), ("xid", 79, "card"), ("xid", 999, "card"), ("xid", 63, "nobody"),
     ("double-bit ECC", 0, "card"), ("single-bit ECC", 0, "nobody")],
)  # fmt: skip
def test_whose_fault(kind: str, data: int, whose: str) -> None:
    assert blame(kind, data) == whose


def test_the_table_can_be_overridden() -> None:
    assert blame("xid", 109) == "card"
    assert blame("xid", 109, {109: "member"}) == "member"


# ---- whose memory


def told(card: Card, used: int, *processes: tuple[int, int | None], owners: dict[int, Owner], listed: bool = True):
    sample = Sample(used=used * GIB, total=TOTAL, processes=tuple(processes) if listed else None)
    return account(card, sample, owners.__getitem__)


def card_with(*leases: Lease, before: int = 0) -> Card:
    return Card(GPU(0, "GPU-0", total=TOTAL), leases=list(leases), before=before * GIB)


def test_what_nobody_accounts_for_remains() -> None:
    ours = Lease()
    owners: dict[int, Owner] = {1: ours, 2: "process 2 (python)", 3: "left over"}
    found = told(card_with(ours), 20, (1, 8 * GIB), (2, 4 * GIB), (3, 5 * GIB), owners=owners)
    assert (found.others, found.theirs, found.unexplained) == ("process 2 (python)", 4 * GIB, 8 * GIB)
    assert found.measured == {ours: 8 * GIB}


def test_in_a_container_a_single_member_is_taken_to_hold_what_came_with_it() -> None:
    ours = Lease()
    ghost = told(card_with(ours, before=1), 9, (77, 8 * GIB), owners={77: "ghost"})
    unlisted = told(card_with(ours, before=1), 9, owners={}, listed=False)
    for found in (ghost, unlisted):
        assert (found.measured, found.unexplained, found.others) == ({ours: 8 * GIB}, GIB, "")


def test_in_a_container_more_than_was_promised_is_somebody_elses() -> None:
    ours = [Lease(promised=6 * GIB), Lease(promised=6 * GIB)]
    assert told(card_with(*ours), 11, owners={}, listed=False).unexplained == 0
    assert told(card_with(*ours), 30, owners={}, listed=False).unexplained == 18 * GIB
    assert told(card_with(), 9, owners={}, listed=False).unexplained == 9 * GIB


# ---- amounts and failures


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("6GiB", 6 * GIB),
        ("6.5 GB", 6_500_000_000),
        ("500MiB", 500 << 20),
        ("1000000", 1_000_000),
        (" 1 tib ", 1 << 40),
        ("8G", 8 * GIB),
    ],
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "6 elephants", "0", "1e3", "6GiB 7"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_bytes(text)


def test_amounts_are_told_as_people_compare_gpus() -> None:
    assert (format_bytes(40 * GIB), format_bytes(512 << 20)) == ("40.0 GiB", "512 MiB")


@pytest.mark.parametrize(
    ("text", "oom"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("RuntimeError: CUDA error: CUDA_ERROR_OUT_OF_MEMORY", True),
        ("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate", True),
        ("MemoryError", False),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_out_of_gpu_memory(text: str, oom: bool) -> None:
    assert out_of_memory(text) is oom
