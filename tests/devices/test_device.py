"""A device: whose the memory of a GPU is, sample by sample, and what a sample changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async.devices.device import Device, Lease, account
from gpbt_async.devices.nvml import GPU, Sample

GIB = 1 << 30
ELSE = "python (pid 77)"


class Scene:
    """A GPU with so many members, and whose each process is: a member's number, or an owner in words."""

    def __init__(self, members=0, before=0, promised=0):
        self.leases = [Lease(uuids=("GPU-0",), promised=promised * GIB) for _ in range(members)]
        self.device = Device(GPU(0, "GPU-0", total=40 * GIB), before=before * GIB, leases=list(self.leases))

    def account(self, used, *processes, listed=True):
        """processes: (whose, GiB). Returns others, theirs, unexplained, and measured by the member's number."""
        owners = {
            pid: self.leases[whose] if isinstance(whose, int) else whose for pid, (whose, _) in enumerate(processes)
        }
        listed_processes = tuple((pid, None if gib is None else gib * GIB) for pid, (_, gib) in enumerate(processes))
        sample = Sample(None if used is None else used * GIB, 40 * GIB, listed_processes if listed else None)
        out = account(self.device, sample, owners.__getitem__)
        measured = {self.leases.index(lease): amount / GIB for lease, amount in out.measured.items()}
        return out.others, out.theirs / GIB, out.unexplained / GIB, measured


# --- all processes are listed -----------------------------------------------------------------------------------------


def test_an_empty_gpu():
    assert Scene().account(0) == ("", 0, 0, {})


def test_memory_of_no_listed_process_is_unexplained():
    assert Scene().account(2) == ("", 0, 2, {})


def test_memory_of_members():
    assert Scene(2).account(12, (0, 5), (1, 6)) == ("", 0, 1, {0: 5, 1: 6})


def test_a_member_with_several_processes():
    assert Scene(1).account(12, (0, 5), (0, 6)) == ("", 0, 1, {0: 11})


def test_a_member_that_has_not_begun():
    """All processes are listed, so the memory in use does not belong to the member that is not on the list."""
    assert Scene(2, promised=10).account(12, (0, 5)) == ("", 0, 7, {0: 5})


def test_another_program():
    assert Scene(1).account(20, (0, 5), (ELSE, 12)) == (ELSE, 12, 3, {0: 5})


def test_two_other_programs():
    others, theirs, unexplained, _ = Scene().account(20, (ELSE, 12), ("java (pid 8)", 4))
    assert others == "python (pid 77), java (pid 8)"
    assert [theirs, unexplained] == [16, 4]


def test_another_program_whose_memory_is_unknown():
    """It is in the way, however much it holds, and what it holds is unexplained."""
    assert Scene().account(9, (ELSE, None)) == (ELSE, 0, 9, {})


def test_memory_that_was_left_over_is_unexplained_until_it_is_gone():
    scene = Scene(1)
    assert scene.account(9, (0, 5), ("left over", 3)) == ("", 0, 4, {0: 5})
    assert scene.account(6, (0, 5)) == ("", 0, 1, {0: 5})


def test_a_member_that_leaves_is_not_blind():
    scene = Scene(1, before=1)
    scene.leases[0].leaving = True
    assert scene.account(9, listed=False) == ("", 0, 9, {})
    assert scene.account(9, ("left over", None)) == ("", 0, 9, {})


def test_more_listed_than_in_use():
    """The list and the memory in use are not read at the same moment."""
    assert Scene(1).account(4, (0, 5), (ELSE, 3)) == (ELSE, 3, 0, {0: 5})


def test_the_memory_in_use_is_unknown():
    assert Scene(1).account(None, (0, 5)) == ("", 0, 0, {0: 5})
    assert Scene(1, before=1).account(None, listed=False) == ("", 0, 0, {0: 0})


def test_a_member_that_draws_too_is_a_member():
    """A simulation that renders on the GPU it trains on. The processes of a desktop are in no member's way."""
    lease = Lease(uuids=("GPU-0",))
    device = Device(GPU(0, "GPU-0", total=40 * GIB), leases=[lease])
    sample = Sample(12 * GIB, 40 * GIB, ((1, 10 * GIB), (2, GIB)), drawing=frozenset((1, 2, 3)))
    shares = account(device, sample, {1: lease, 2: ELSE}.__getitem__)
    assert (shares.others, shares.theirs, shares.unexplained, shares.measured) == ("", 0, 2 * GIB, {lease: 10 * GIB})


# --- blind -------------------------------------------------------------------------------------------------

#: ways in which NVML does not say what the member with the number 0 holds
BLIND = {
    "no list": {"listed": False},
    "ghost": {"processes": [("ghost", None)]},
    "ghost with bytes": {"processes": [("ghost", 7)]},
    "no bytes": {"processes": [(0, None)]},
}


def blindly(scene, used, how):
    way = BLIND[how]
    return scene.account(used, *way.get("processes", ()), listed=way.get("listed", True))


@pytest.mark.parametrize("how", BLIND)
def test_a_blind_member_alone_holds_all_that_was_not_there_before(how):
    assert blindly(Scene(1, before=1), 8, how) == ("", 0, 1, {0: 7})


@pytest.mark.parametrize("how", BLIND)
def test_before_it_has_begun_it_holds_nothing(how):
    assert blindly(Scene(1, before=2), 2, how) == ("", 0, 2, {0: 0})
    assert blindly(Scene(1, before=2), 1, how) == ("", 0, 1, {0: 0}), "another program has freed what was there before"


@pytest.mark.parametrize("how", BLIND)
def test_a_blind_member_that_takes_less_than_promised(how):
    assert blindly(Scene(1, before=1, promised=10), 8, how) == ("", 0, 1, {0: 7})


@pytest.mark.parametrize("how", BLIND)
def test_a_blind_member_alone_that_takes_more_than_promised_is_still_taken_to_hold_all(how):
    """Otherwise the same bytes are counted twice, and the GPU is called busy because of our own member."""
    assert blindly(Scene(1, before=1, promised=10), 25, how) == ("", 0, 1, {0: 24})


@pytest.mark.parametrize("how", BLIND)
def test_several_blind_members_without_a_promise(how):
    """It is unknown which of them holds how much; what was there before stays unexplained."""
    scene = Scene(2, before=1)
    if how == "no bytes":
        assert scene.account(30, (0, None), (1, None)) == ("", 0, 1, {})
    else:
        assert blindly(scene, 30, how) == ("", 0, 1, {})


@pytest.mark.parametrize(("used", "unexplained"), [(0, 0), (1, 1), (8, 1), (21, 1), (22, 2), (30, 10)])
def test_several_blind_members_hold_what_was_promised_to_them(used, unexplained):
    assert Scene(2, before=1, promised=10).account(used, listed=False) == ("", 0, unexplained, {})


def test_one_blind_member_among_others():
    scene = Scene(2, before=1)
    assert scene.account(12, (0, 5), (1, None)) == ("", 0, 1, {0: 5, 1: 6})
    assert scene.account(12, (0, 5), ("ghost", 3)) == ("", 0, 1, {0: 5, 1: 6})


def test_another_program_beside_a_blind_member():
    assert Scene(1, before=1).account(20, ("ghost", None), (ELSE, 8)) == (ELSE, 8, 1, {0: 11})


def test_a_ghost_where_no_member_is_blind_belongs_to_another_program():
    assert Scene().account(9, ("ghost", 9)) == ("", 0, 9, {})
    assert Scene(1).account(14, (0, 5), ("ghost", 9)) == ("", 0, 9, {0: 5})


def test_unknown_memory_of_a_member_is_not_that_of_another_program():
    """A member with two processes; NVML gives the bytes of one."""
    _, theirs, unexplained, _ = Scene(1).account(10, (0, 4), (0, None))
    assert [theirs, unexplained] == [0, 0]


# --- what a sample changes ---------------------------------------------------------------------------------


def observed(device, used, *processes, now=1.0):
    """processes: (lease, GiB) each."""
    owners = dict(enumerate(lease for lease, _ in processes))
    listed = tuple((pid, gib * GIB) for pid, (_, gib) in enumerate(processes))
    device.observe(Sample(used * GIB, 40 * GIB, listed, 93, 61), owners.__getitem__, now - 0.5, now)
    return device.status()


def test_what_was_used_before_the_first_member_is_remembered():
    device = Device(GPU(0, "GPU-0", total=40 * GIB))
    observed(device, 1)
    lease = Lease(uuids=("GPU-0",))
    device.leases.append(lease)
    status = observed(device, 12, (lease, 9))
    assert (device.before, device.others) == (GIB, 3 * GIB)
    assert (status.ours, status.others, status.used, status.total) == (9 * GIB, 3 * GIB, 12 * GIB, 40 * GIB)
    assert (status.utilisation, status.temperature, device.sampled) == (93, 61, 0.5)


def test_the_greatest_amount_of_a_member_is_kept():
    lease = Lease(uuids=("GPU-0",))
    device = Device(GPU(0, "GPU-0", total=40 * GIB), leases=[lease])
    for gib in (5, 9, 7):
        observed(device, gib, (lease, gib))
    assert (lease.peak, lease.measured) == (9 * GIB, {"GPU-0": 7 * GIB})


def test_memory_that_may_be_coming_back_makes_no_gpu_busy():
    lease = Lease(uuids=("GPU-0",), leaving=True)
    device = Device(GPU(0, "GPU-0", total=40 * GIB), leases=[lease])
    for second in range(5):
        status = observed(device, 20, now=second)
    assert device.lingers
    assert (device.open, status.state, status.others, status.leaving) == (True, "ok", 0, 1)
    device.leases.clear()
    observed(device, 20)
    assert not device.open, "now that the member has gone, other programs use it"


def test_a_gpu_that_fails_has_no_figures_any_more():
    device = Device(GPU(0, "GPU-0", total=40 * GIB))
    observed(device, 20)
    device.fail("GPU is lost", 3.0)
    status = device.status()
    assert (status.state, status.reason, status.retry) == ("faulty", "GPU is lost", 33.0)
    assert (status.used, status.ours, status.others, status.total) == (None, None, None, 40 * GIB)
    assert device.sampled_since(99.0), "it will not be sampled again soon"


def test_the_status_names_the_members_that_train_and_counts_those_that_leave():
    leases = [Lease(member=7), Lease(member=3), Lease(member=5, leaving=True), Lease()]
    status = Device(GPU(0, "GPU-0"), leases=leases).status()
    assert (status.state, status.members, status.leaving) == ("in use", (3, 7), 1)


# --- whatever is seen --------------------------------------------------------------------------------------


@given(
    members=st.integers(0, 3),
    before=st.integers(0, 5),
    promised=st.sampled_from([0, 5, 10]),
    used=st.integers(0, 40),
    processes=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, "ghost", "left over", ELSE]), st.none() | st.integers(0, 20)), max_size=5
    ),
    listed=st.booleans(),
)
def test_the_memory_in_use_is_divided_and_no_byte_is_counted_twice(members, before, promised, used, processes, listed):
    processes = [(whose, gib) for whose, gib in processes if not isinstance(whose, int) or whose < members]
    others, theirs, unexplained, measured = Scene(members, before, promised).account(used, *processes, listed=listed)
    amounts = [(whose, gib or 0) for whose, gib in processes] if listed else []
    assert bool(others) is any(whose == ELSE for whose, _ in amounts)
    assert theirs == sum(gib for whose, gib in amounts if whose == ELSE)
    assert min([unexplained, *measured.values()], default=0) >= 0
    listed_bytes = theirs + sum(gib for whose, gib in amounts if isinstance(whose, int))
    assert theirs + unexplained + sum(measured.values()) <= max(used, listed_bytes)
