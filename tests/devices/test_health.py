"""Health: a GPU's state from its samples and events, by tables written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async.devices.health import Health, tolerance
from gpbt_async.devices.xids import XIDS, blame

GIB = 1 << 30
TOTAL = 24 * GIB
LETTERS = {"ok": "o", "busy": "b", "dirty": "d", "faulty": "f", "drained": "r"}


def shown(health):
    """One letter: its state, or ? if it is ok and doubtful."""
    return "?" if health.doubtful else LETTERS[health.state]


def play(health, samples, now=0.0):
    """x: another program computes there; m: only its memory is seen; a dot: none."""
    letters = ""
    for i, sample in enumerate(samples):
        others, unexplained = "python (pid 7)" if sample == "x" else "", 5 * GIB if sample == "m" else GIB
        health.sampled(now + i, others, unexplained, TOTAL)
        letters += shown(health)
        assert health.open is (letters[-1] == "o")
    return letters


def clean(**changes):
    health = Health(**changes)
    health.sampled(0.0, "", 0, TOTAL)
    return health


# --- busy and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "states"),
    [
        (".", "o"),
        ("x", "b"),  # the first sample decides at once
        ("m", "b"),
        (".x", "o?"),
        (".x.", "o?o"),
        (".xx", "o?b"),
        (".xm", "o?b"),  # by process or by memory
        (".mx", "o?b"),
        (".x.x.xx", "o?o?o?b"),
        (".xx..", "o?bbb"),
        (".xx...", "o?bbbo"),
        (".xx..x...", "o?bbbbbbo"),
        (".xx..m..", "o?bbbbbb"),
        (".xx...x", "o?bbbo?"),  # the second time is not the first
        ("x...x.", "bbbo?o"),
        ("..........", "o" * 10),
    ],
)
def test_two_samples_to_busy_and_three_to_return(samples, states):
    assert play(Health(), samples) == states


@pytest.mark.parametrize(
    ("total", "allowed"),
    [
        (0, 1.0),
        (8 * GIB, 1.0),
        (20 * GIB, 1.0),
        (40 * GIB, 2.0),
        (80 * GIB, 4.0),
    ],
)
def test_a_desktop_does_not_make_a_gpu_busy(total, allowed):
    allowed = int(allowed * GIB)
    assert tolerance(total) == allowed
    within, beyond = Health(), Health()
    for second in range(5):
        within.sampled(second, "", allowed, total)
        beyond.sampled(second, "", allowed + 1, total)
    assert [within.state, beyond.state] == ["ok", "busy"]


def test_the_reason_names_the_other_program():
    health = Health()
    health.sampled(3.0, "python (pid 7)", 20 * GIB, TOTAL)
    assert [health.reason, health.since] == ["python (pid 7)", 3.0]
    health.sampled(4.0, "", 5 * GIB, TOTAL)
    assert [health.reason, health.since] == [
        "5.0 GiB of its memory are used by other programs (if that is a desktop: --others-may-use SIZE)",
        3.0,
    ]
    health.sampled(5.0, "", 0, TOTAL)
    assert health.reason.startswith("5.0 GiB of its memory are used by other programs"), "not clean for long enough"
    health.sampled(6.0, "", 0, TOTAL)
    health.sampled(7.0, "", 0, TOTAL)
    assert [health.state, health.reason, health.since] == ["ok", "", 7.0]


# --- dirty -------------------------------------------------------------------------------------------------


def test_dirty_until_one_clean_sample():
    health = clean()
    health.lingers(5.0, 3 * GIB)
    assert not health.open
    assert [health.state, health.since] == ["dirty", 5.0]
    assert health.reason == "3.0 GiB are still used though our member has ended"
    assert play(health, "mxm.x", 6.0) == "dddo?"
    assert health.since == 9.0


def test_dirty_from_busy_and_from_doubt():
    for samples in (".xx", ".x"):
        health = Health()
        play(health, samples)
        health.lingers(5.0, GIB)
        assert [health.state, health.doubtful] == ["dirty", False]


@pytest.mark.parametrize("state", ["faulty", "drained"])
def test_memory_that_lingers_does_not_change_a_worse_state(state):
    health = clean()
    if state == "faulty":
        health.failed(1.0, "lost")
    else:
        health.drain(1.0)
    reason = health.reason
    health.lingers(2.0, GIB)
    assert [health.state, health.reason, health.since] == [state, reason, 1.0]


# --- faulty ------------------------------------------------------------------------------------------------


def test_a_faulty_gpu_is_tried_again_after_longer_and_longer_pauses():
    health = clean()
    now = 100.0
    health.failed(now, "GPU is lost")
    assert [health.state, health.reason, health.since] == ["faulty", "GPU is lost", 100.0]
    waits = []
    for attempt in range(8):
        waits.append(health.retry - now)
        now = health.retry
        health.retried(now, f"lost, {attempt}")
        assert [health.state, health.reason, health.since] == ["faulty", f"lost, {attempt}", 100.0]
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]
    for _ in range(2000):
        health.retried(now, "lost")
    assert health.retry == now + 600.0


def test_a_gpu_that_works_again_is_sampled_before_it_is_given_out():
    health = clean()
    health.failed(1.0, "lost")
    health.retried(31.0, "")
    assert [health.state, health.reason, health.since, health.open] == ["ok", "", 31.0, False]
    assert play(health, "x") == "b", "another program that came meanwhile counts at once"
    health.failed(40.0, "lost")
    health.retried(71.0, "")
    assert play(health, ".") == "o"


def test_the_first_fault_is_kept_and_no_sample_ends_it():
    health = clean()
    health.failed(1.0, "Xid 79")
    health.failed(2.0, "GPU is lost")
    assert [health.reason, health.since, health.retry] == ["Xid 79", 1.0, 31.0]
    assert play(health, "....x...") == "f" * 8


@pytest.mark.parametrize("samples", [".", ".x", "x"])
def test_a_fault_comes_before_every_other_state(samples):
    health = Health()
    play(health, samples)
    health.failed(9.0, "lost")
    assert [health.state, health.doubtful, health.open] == ["faulty", False, False]


# --- drained -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [".", ".x", "x", "x.."])
def test_drained_until_given_back(before):
    health = Health()
    play(health, before)
    health.drain(10.0)
    assert [health.state, health.reason, health.since] == ["drained", "drained by hand", 10.0]
    assert play(health, "...xx....", 11.0) == "r" * 9
    health.give_back(30.0)
    assert [health.state, health.reason, health.since] == ["ok", "", 30.0]
    assert play(health, "x") == "b", "another program that came meanwhile counts at once"


def test_drained_while_dirty():
    health = clean()
    health.lingers(1.0, GIB)
    health.drain(2.0)
    assert play(health, "..") == "rr"


def test_drained_while_faulty_stays_faulty_and_is_drained_once_it_works():
    health = clean()
    health.failed(1.0, "lost")
    health.drain(2.0)
    assert [health.state, health.reason, health.retry] == ["faulty", "lost", 31.0]
    health.retried(31.0, "lost")
    assert health.state == "faulty"
    health.retried(91.0, "")
    assert [health.state, health.reason, health.since] == ["drained", "drained by hand", 91.0]
    health.give_back(100.0)
    assert health.state == "ok"


def test_given_back_while_faulty():
    health = clean()
    health.failed(1.0, "lost")
    health.drain(2.0)
    health.give_back(3.0)
    assert [health.state, health.reason] == ["faulty", "lost"]
    health.retried(31.0, "")
    assert play(health, ".") == "o"


def test_faulty_while_drained_and_drained_after():
    health = clean()
    health.drain(1.0)
    health.failed(2.0, "lost")
    assert health.state == "faulty"
    health.retried(32.0, "")
    assert health.state == "drained"


@pytest.mark.parametrize("samples", [".", "x", ".x"])
def test_giving_back_what_was_not_drained_changes_nothing(samples):
    health = Health()
    states = play(health, samples)
    health.give_back(9.0)
    assert shown(health) == states[-1]


@given(st.lists(st.sampled_from([".", "x", "m", "lingers", "failed", "retried", "problem", "drain", "give_back"])))
def test_never_open_while_drained_or_faulty_or_just_seen_in_use(actions):
    health, drained, faulty = Health(), False, False
    for now, action in enumerate(actions):
        if action in (".", "x", "m"):
            play(health, action, now)
            assert not (health.open and action != ".")
        elif action == "lingers":
            health.lingers(now, GIB)
            assert not health.open
        elif action == "failed":
            health.failed(now, "lost")
            faulty = True
        elif action in ("retried", "problem"):
            if health.state != "faulty":
                continue
            health.retried(now, "lost" if action == "problem" else "")
            faulty = action == "problem"
        elif action == "drain":
            health.drain(now)
            drained = True
        else:
            health.give_back(now)
            drained = False
        assert (health.state == "faulty") is faulty
        assert not (drained and not faulty) or health.state == "drained"
        assert drained or health.state != "drained"
        assert health.open is (health.state == "ok" and not health.doubtful)
        assert bool(health.reason) is (health.state != "ok")
        assert health.since <= now
        assert not faulty or health.retry - health.since >= 30.0


# --- whose fault -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xid", "whose"),
    [
        (13, "member"),
        (31, "member"),
        (43, "member"),
        (45, "member"),
        (68, "member"),
        (69, "member"),
        (94, "member"),
        (63, "nobody"),
        (92, "nobody"),
        (48, "card"),  # double-bit ECC
        (62, "card"),
        (64, "card"),  # a row could not be remapped
        (74, "card"),  # NVLink
        (79, "card"),  # fallen off the bus
        (95, "card"),  # an uncontained ECC error
        (119, "card"),
        (140, "card"),
        (99999, "card"),  # unknown
    ],
)
def test_whose_fault_an_xid_is(xid, whose):
    assert blame("xid", xid) == whose


def test_the_table_can_be_overridden_entry_by_entry():
    mine = {13: "card", 79: "member", 63: "card", 99999: "nobody"}
    assert [blame("xid", xid, mine) for xid in (13, 79, 63, 99999)] == ["card", "member", "card", "nobody"]
    assert blame("xid", 31, mine) == "member", "what is not named stays as it is"
    assert blame("xid", 48, mine) == "card"
    assert XIDS[13] == "member", "the table itself is left alone"


@pytest.mark.parametrize(("kind", "whose"), [("double-bit ECC", "card"), ("single-bit ECC", "nobody")])
def test_whose_fault_an_ecc_error_is(kind, whose):
    assert blame(kind, 0) == whose
    assert blame(kind, 13, {13: "member"}) == whose, "its data is no Xid"
