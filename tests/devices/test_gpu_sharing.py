"""The allocator: which member is served, in which order, on which GPUs, whatever happens meanwhile; and its reasons."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpbt_async.devices.device import Device, Lease
from gpbt_async.devices.gpu_sharing import Allocator, Packing
from gpbt_async.devices.nvml import GPU

GIB = 1 << 30


def gpus(*totals, slices=()):
    """Devices of so many GiB; those at the places in `slices` are MIG instances, all of one card."""
    made = []
    for i, total in enumerate(totals):
        mig = {"slice": i, "card": "GPU-split"} if i in slices else {}
        gpu = GPU(i, f"MIG-{i}" if mig else f"GPU-{i}", "NVIDIA A100", total=int(total * GIB), **mig)
        made.append(Device(gpu))
    return made


def close(device):
    device.health.doubtful = True


def asked(allocator, *leases):
    for lease in leases:
        allocator.ask(lease)
    return allocator.grant()


def places(leases):
    """By lease, the places of its GPUs."""
    return [tuple(int(uuid[4:]) for uuid in lease.uuids) for lease in leases]


def capable(allocator, lease):
    """Could this one be served if all GPUs were open and free?"""
    need = lease.need or allocator.need
    devices = [c for c in allocator.devices.values() if need == 1 or c.gpu.slice is None]
    return sum(allocator.packing.most(device.gpu) > 0 for device in devices) >= need


# --- any order of events -----------------------------------------------------------------------------------


class AllocatorMachine(RuleBasedStateMachine):
    """An allocator, and beside it the order in which members asked, and the rules once more, from their description."""

    @initialize(
        need=st.integers(1, 3),
        totals=st.lists(st.sampled_from([0, 8, 24, 24, 40, 80]), min_size=1, max_size=5),
        slices=st.sets(st.integers(0, 4), max_size=3),
        share=st.sampled_from([None, 1, 2, 3]),
        vram=st.sampled_from([None, None, "8GiB", "13GiB", "auto", "auto"]),
        across=st.integers(0, 50),
    )
    def begin(self, need, totals, slices, share, vram, across):
        def near(one, other):  # those from the third on are on another board
            return across * ((one < "GPU-2") ^ (other < "GPU-2"))

        self.allocator = Allocator(gpus(*totals, slices=slices), Packing(share, vram), need, near)
        self.devices = list(self.allocator.devices.values())
        self.waiting = []

    # ---- what happens

    @rule(alone=st.sampled_from([False, False, False, True]), need=st.sampled_from([0, 0, 0, 1, 2]))
    def ask(self, alone, need):
        lease = Lease(alone=alone, need=need)
        self.allocator.ask(lease)
        self.waiting.append(lease)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data):
        lease = data.draw(st.sampled_from(self.waiting))
        self.allocator.withdraw(lease)
        self.waiting.remove(lease)

    @rule()
    def grant(self):
        self.granted()

    @precondition(lambda self: self.allocator.held)
    @rule(data=st.data())
    def release(self, data):
        self.allocator.release(data.draw(st.sampled_from(self.allocator.held)))

    @precondition(lambda self: self.allocator.held)
    @rule(data=st.data())
    def leave(self, data):
        data.draw(st.sampled_from(self.allocator.held)).leaving = True

    @rule(data=st.data())
    def open_or_close(self, data):
        device = data.draw(st.sampled_from(self.devices))
        device.health.doubtful = device.open

    @rule(data=st.data(), gib=st.integers(0, 90))
    def others(self, data, gib):
        data.draw(st.sampled_from(self.devices)).others = gib * GIB

    @precondition(lambda self: self.allocator.held)
    @rule(data=st.data(), gib=st.integers(0, 45))
    def measured(self, data, gib):
        lease = data.draw(st.sampled_from(self.allocator.held))
        lease.measured[data.draw(st.sampled_from(lease.uuids))] = gib * GIB
        lease.peak = max(lease.peak, gib * GIB)

    @rule(gib=st.sampled_from([1, 5, 10, 20, 38]))
    def finished(self, gib):
        before = self.allocator.packing.peak
        changed = self.allocator.packing.observe(gib * GIB)
        assert changed is (self.allocator.packing.peak > before)

    @rule(members=st.integers(2, 4))
    def lowered(self, members):
        self.allocator.packing.lower(members)

    # ---- what holds

    def used(self, device):
        uuid, need = device.gpu.uuid, self.allocator.packing.need
        return device.others + sum(max(x.promised or need, x.measured.get(uuid, 0)) for x in device.leases)

    def takes(self, device, lease):
        """May this lease have this GPU, by the rules in the guide?"""
        packing, total = self.allocator.packing, device.gpu.total
        if not device.open or ((lease.need or self.allocator.need) > 1 and device.gpu.slice is not None):
            return False
        if any(other.alone for other in device.leases) or (lease.alone and device.leases):
            return False
        if len(device.leases) + 1 > packing.most(device.gpu):
            return False
        if not packing.need or not total:
            return True
        fits = self.used(device) + packing.need <= total
        return fits or (packing.auto and not device.leases and device.others + packing.peak <= total)

    def granted(self):
        """Grant, and check what was granted against the rules."""
        allocator = self.allocator
        before = {id(device): list(device.leases) for device in self.devices}
        first = self.waiting[0] if self.waiting else None
        served = allocator.grant()
        for lease in served:
            overtaken = [other for other in self.waiting[: self.waiting.index(lease)] if other not in served]
            assert all(other.alone for other in overtaken), "in the order asked"
        assert [x for x in self.waiting if x in served] == served
        self.waiting = [lease for lease in self.waiting if lease not in served]
        for device in self.devices:
            new = [lease for lease in device.leases if lease not in before[id(device)]]
            if not new:
                continue
            assert device.open
            assert device.leases == before[id(device)] + new
            assert len(device.leases) <= allocator.packing.most(device.gpu)
            if allocator.packing.need and device.gpu.total:
                alone = allocator.packing.auto and device.leases == new and len(new) == 1
                assert (device.others + allocator.packing.peak if alone else self.used(device)) <= device.gpu.total
        for lease in served:
            assert lease.promised == allocator.packing.need
        if self.waiting:
            head = self.waiting[0]
            need = head.need or allocator.need
            assert sum(self.takes(device, head) for device in self.devices) < need
            may = [device for device in self.devices if device.open and (need == 1 or device.gpu.slice is None)]
            if head.alone and head is first:  # it has come no farther from being served
                on = [
                    sorted(map(len, leases))[:need]
                    for leases in ([before[id(c)] for c in may], [c.leases for c in may])
                ]
                assert sum(on[1]) <= sum(on[0])
        allocator.check()
        return served

    @invariant()
    def invariants_hold(self):
        allocator = self.allocator
        allocator.check()
        assert list(allocator.queue) == self.waiting
        assert all(not lease.uuids for lease in allocator.queue), "a member that waits holds nothing"
        for lease in allocator.held:
            assert len(lease.uuids) == len(set(lease.uuids)) == (lease.need or allocator.need), "all or nothing"
            assert all(lease in allocator.devices[uuid].leases for uuid in lease.uuids)
            slices = [uuid for uuid in lease.uuids if allocator.devices[uuid].gpu.slice is not None]
            assert not slices or len(lease.uuids) == 1, "a process can use one MIG instance"
        assert sum(len(device.leases) for device in self.devices) == sum(len(lease.uuids) for lease in allocator.held)

    @invariant()
    def capacity_counts_those_who_train(self):
        assert self.allocator.capacity() >= sum(not lease.leaving for lease in self.allocator.held)

    @invariant()
    def every_open_gpu_has_a_reason(self):
        for alone in (False, True):
            assert set(self.allocator.shortage(alone)) == {device.gpu.uuid for device in self.devices if device.open}

    def teardown(self):
        """Every member is served in the end: all GPUs are open, no other program is there, and members end."""
        if not hasattr(self, "allocator"):
            return
        for device in self.devices:
            device.health.doubtful, device.others = False, 0
        for lease in [lease for lease in self.waiting if not capable(self.allocator, lease)]:
            self.allocator.withdraw(lease)
            self.waiting.remove(lease)
        hoped = list(self.waiting)
        served = self.granted()
        while self.allocator.held:
            self.allocator.release(self.allocator.held[0])
            served += self.granted()
        assert set(served) == set(hoped)
        assert not self.allocator.queue


TestAllocator = pytest.mark.slow(AllocatorMachine.TestCase)
TestAllocator.settings = settings(max_examples=200, stateful_step_count=40)


# --- no member waits for ever --------------------------------------------------------------------------------


def every_end(needs, devices):
    """Play every order in which the members that train may end; returns the number of orders."""
    orders = 0

    def play(ended):
        nonlocal orders
        allocator, members = Allocator(gpus(*[0] * devices), Packing(1)), [Lease(need=need) for need in needs]
        asked(allocator, *members)
        for which in ended:
            allocator.release(members[which])
            allocator.grant()
            allocator.check()
        train = [i for i, lease in enumerate(members) if lease in allocator.held]
        if not train:
            assert not allocator.queue, (needs, ended)
            orders += 1
        for i in train:
            play((*ended, i))

    play(())
    return orders


@pytest.mark.slow
def test_two_with_two_gpus_and_four_with_one_on_three_gpus_never_deadlock():
    """Every order in which they may ask, and every one in which they may end."""
    assert all(every_end(needs, 3) for needs in set(permutations((2, 2, 1, 1, 1, 1))))


@given(
    needs=st.permutations((2, 2, 1, 1, 1, 1)),
    share=st.integers(1, 2),
    alone=st.sets(st.integers(0, 5)),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=30),
)
def test_mixed_needs_are_all_served_whenever_they_ask_and_end(needs, share, alone, steps):
    allocator = Allocator(gpus(24, 24, 24), Packing(share), need=1)
    members = [Lease(need=need, alone=i in alone) for i, need in enumerate(needs)]
    to_come, served = list(members), []
    for ask, which in steps + [(True, 0)] * 6:
        if ask and to_come:
            allocator.ask(to_come.pop(0))
        elif allocator.held:
            allocator.release(allocator.held[which % len(allocator.held)])
        served += allocator.grant()
        allocator.check()
    while allocator.held:
        allocator.release(allocator.held[-1])
        served += allocator.grant()
        allocator.check()
    assert set(served) == set(members)
    assert [m for m in served if not m.alone] == [m for m in members if not m.alone], (
        "only a member that waits to train alone is overtaken"
    )


def test_one_that_needs_two_is_not_overtaken_by_those_that_need_one():
    allocator = Allocator(gpus(0, 0), Packing(1))
    first, wide, late = Lease(), Lease(need=2), Lease()
    assert asked(allocator, first, wide, late) == [first], "a free GPU stands idle meanwhile"
    allocator.release(first)
    assert allocator.grant() == [wide]
    allocator.release(wide)
    assert allocator.grant() == [late]


def test_a_lease_that_is_withdrawn_makes_way_for_the_next():
    allocator = Allocator(gpus(0, 0), Packing(1))
    first, wide, late = Lease(), Lease(need=2), Lease()
    asked(allocator, first, wide, late)
    allocator.withdraw(wide)
    assert allocator.grant() == [late]


def test_a_member_that_is_to_train_alone_waits_for_an_empty_gpu_and_keeps_others_away():
    allocator = Allocator(gpus(0), Packing(3))
    a, b, alone, late = Lease(), Lease(), Lease(alone=True), Lease()
    assert asked(allocator, a, b, alone, late) == [a, b]
    allocator.release(a)
    assert allocator.grant() == []
    allocator.release(b)
    assert allocator.grant() == [alone]
    allocator.release(alone)
    assert allocator.grant() == [late]


def test_one_gpu_is_reserved_for_a_member_that_is_to_train_alone():
    allocator = Allocator(gpus(40, 40, 40), Packing(2))
    asked(allocator, *(Lease() for _ in range(4)))
    lonely, *others = Lease(alone=True), Lease(), Lease(), Lease()
    assert asked(allocator, lonely, *others) == others[:1], "on the other GPU with room"
    (kept,) = [
        device for device in allocator.devices.values() if len(device.leases) == 1 and device.leases[0] not in others
    ]
    allocator.release(kept.leases[0])
    assert allocator.grant() == [lonely]
    assert lonely.uuids == (kept.gpu.uuid,)


def test_a_gpu_is_not_empty_while_a_member_leaves_it():
    allocator = Allocator(gpus(0), Packing(1))
    gone, late = Lease(), Lease()
    asked(allocator, gone, late)
    gone.leaving = True
    assert allocator.grant() == []
    assert allocator.capacity() == 1
    allocator.release(gone)
    assert allocator.grant() == [late]


# --- which GPUs --------------------------------------------------------------------------------------------


def test_spread_before_pack():
    allocator = Allocator(gpus(40, 40, 40), Packing(2))
    assert places(asked(allocator, *(Lease() for _ in range(7)))) == [(0,), (1,), (2,), (0,), (1,), (2,)]


def test_of_equally_loaded_gpus_the_one_with_the_most_memory_left():
    allocator = Allocator(gpus(24, 80, 40), Packing(3, "8GiB"))
    allocator.devices["GPU-1"].others = 50 * GIB
    assert places(asked(allocator, *(Lease() for _ in range(4)))) == [(2,), (1,), (0,), (2,)]


def test_pairs_are_spread_before_packed():
    allocator = Allocator(gpus(0, 0, 0, 0), Packing(2), need=2)
    assert [set(pair) for pair in places(asked(allocator, *(Lease() for _ in range(4))))] == [{0, 1}, {2, 3}] * 2


def test_two_gpus_that_are_near_are_chosen():
    def near(one, other):
        return 10 if {one, other} in ({"GPU-0", "GPU-3"}, {"GPU-1", "GPU-2"}) else 50

    allocator = Allocator(gpus(0, 0, 0, 0), Packing(1), need=2, distance=near)
    assert [set(pair) for pair in places(asked(allocator, Lease(), Lease()))] == [{0, 3}, {1, 2}]


def test_two_empty_gpus_are_chosen_before_two_near_ones():
    allocator = Allocator(
        gpus(0, 0, 0), Packing(2), distance=lambda *pair: 0 if set(pair) == {"GPU-0", "GPU-1"} else 50
    )
    one, two = Lease(), Lease(need=2)
    assert [set(each) for each in places(asked(allocator, one, two))] == [{0}, {1, 2}]


def test_three_gpus_that_are_nearest_together_are_chosen():
    island = {"GPU-1", "GPU-3", "GPU-4"}
    allocator = Allocator(gpus(*[0] * 6), Packing(1), 3, lambda a, b: 10 if {a, b} <= island else 30)
    assert set(places(asked(allocator, Lease()))[0]) == {1, 3, 4}


def test_more_gpus_than_sets_are_compared_of():
    allocator = Allocator(gpus(*[0] * 16), Packing(1), need=14)
    (lease,) = asked(allocator, Lease(), Lease())
    assert len(set(lease.uuids)) == 14


def test_two_slices_are_never_given_to_one_member():
    allocator = Allocator(gpus(20, 20, 40, 40, slices=(0, 1)), Packing(1))
    wide, one, other = Lease(need=2), Lease(), Lease()
    assert [set(each) for each in places(asked(allocator, wide, one, other))] == [{2, 3}, {0}, {1}]
    assert asked(Allocator(gpus(20, 20, 40, slices=(0, 1)), Packing(1), need=2), Lease()) == []


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "vram", "others", "members"),
    [
        (None, None, 0, 1),
        (3, None, 39, 3),  # without vram the memory of others does not count
        (None, "10GiB", 0, 4),
        (3, "10GiB", 0, 3),
        (None, "10GiB", 1, 3),
        (None, "10GiB", 30, 1),
        (None, "10GiB", 31, 0),
        (None, "10GiB", 60, 0),  # more than there is
        (None, "40GiB", 0, 1),
    ],
)
def test_as_many_as_fit_beside_others(share, vram, others, members):
    allocator = Allocator(gpus(40), Packing(share, vram))
    allocator.devices["GPU-0"].others = others * GIB
    assert allocator.capacity() == members
    assert len(asked(allocator, *(Lease() for _ in range(9)))) == members
    assert allocator.capacity() == members


@pytest.mark.parametrize(("measured", "free"), [(0, 3), (9, 3), (10, 3), (11, 2), (20, 2), (30, 1), (40, 0)])
def test_the_greater_of_promised_and_measured_memory_counts(measured, free):
    allocator = Allocator(gpus(40), Packing(None, "10GiB"))
    (lease,) = asked(allocator, Lease())
    lease.measured["GPU-0"] = measured * GIB
    assert len(asked(allocator, *(Lease() for _ in range(9)))) == free


def test_auto_measures_one_member_alone_and_then_promises_its_peak_and_a_margin():
    allocator = Allocator(gpus(40), Packing(None, "auto"))
    first, *more = (Lease() for _ in range(6))
    assert asked(allocator, first, *more) == [first]
    assert allocator.packing.observe(10 * GIB)
    assert len(allocator.grant()) == 2, "one was there, and 11 GiB fit three times into 40"
    assert allocator.capacity() == 3
    assert allocator.packing.lower(3)
    assert allocator.capacity() == 3, "no member is sent away"
    allocator.release(allocator.held[0])
    assert [allocator.capacity(), allocator.grant()] == [2, []]
    allocator.release(allocator.held[0])
    assert [len(allocator.grant()), allocator.capacity()] == [1, 2]


def test_auto_without_room_for_the_margin_trains_one_at_a_time():
    allocator = Allocator(gpus(40), Packing(None, "auto"))
    assert allocator.packing.observe(39 * GIB)
    assert len(asked(allocator, Lease(), Lease())) == 1
    allocator.release(allocator.held[0])
    allocator.devices["GPU-0"].others = 2 * GIB
    assert allocator.grant() == []


def test_a_peak_on_the_larger_of_two_gpus_does_not_keep_the_next_member_out():
    allocator = Allocator(gpus(24, 12), Packing(None, "auto"), 2)
    (first,) = asked(allocator, Lease())
    assert allocator.packing.observe(20 * GIB, allocator.most())
    allocator.release(first)
    assert allocator.impossible() == ""
    assert len(asked(allocator, Lease())) == 1


@pytest.mark.parametrize(
    ("totals", "need", "most"), [((24, 12), 1, 24), ((24, 12), 2, 12), ((24, 12), 3, 0), ((0, 24), 1, 0)]
)
def test_the_most_a_member_may_take(totals, need, most):
    assert Allocator(gpus(*totals), Packing(), need).most() == most * GIB


# --- how many could train ----------------------------------------------------------------------------------

TOTALS = st.lists(st.sampled_from([8, 24, 40]), min_size=1, max_size=5)


@given(totals=TOTALS, others=st.lists(st.integers(0, 40), min_size=5, max_size=5), share=st.sampled_from([None, 1, 3]))
def test_capacity_is_reached_by_members_with_one_gpu(totals, others, share):
    allocator = Allocator(gpus(*totals), Packing(share, "7GiB"))
    for device, amount in zip(allocator.devices.values(), others, strict=False):
        device.others = amount * GIB
    capacity = allocator.capacity()
    assert len(asked(allocator, *(Lease() for _ in range(40)))) == capacity == allocator.capacity()


@given(count=st.integers(1, 7), need=st.integers(1, 4), share=st.integers(1, 3))
def test_capacity_is_reached_on_equal_gpus(count, need, share):
    allocator = Allocator(gpus(*[0] * count), Packing(share), need)
    capacity = allocator.capacity()
    assert capacity == (count * share // need if count >= need else 0)
    assert len(asked(allocator, *(Lease() for _ in range(30)))) == capacity == allocator.capacity()


@given(totals=TOTALS, need=st.integers(1, 3))
@example(totals=[24, 8, 8], need=2)
def test_capacity_is_never_exceeded(totals, need):
    allocator = Allocator(gpus(*totals), Packing(None, "8GiB"), need)
    assert len(asked(allocator, *(Lease() for _ in range(30)))) <= allocator.capacity()


def test_capacity_leaves_out_closed_gpus_but_not_the_members_on_them():
    allocator = Allocator(gpus(0, 0), Packing(1))
    asked(allocator, Lease())
    close(allocator.devices["GPU-0"])
    assert allocator.capacity() == 2
    close(allocator.devices["GPU-1"])
    assert allocator.capacity() == 1


# --- reasons, for people -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "packing", "need", "reason"),
    [
        (gpus(0), Packing(1), 1, ""),
        (gpus(0, 0), Packing(None, "8GiB"), 2, ""),  # unknown is no reason
        (gpus(40, 40), Packing(1), 3, "a member needs 3 GPUs and there are 2 to choose from"),
        (
            gpus(40, 20, 20, slices=(1, 2)),
            Packing(1),
            2,
            "a member needs 2 GPUs and there are 1 to choose from, as a process can use only one MIG instance",
        ),
        (gpus(40, 40, 20, slices=(2,)), Packing(1), 2, ""),
        (gpus(20, slices=(0,)), Packing(1), 1, ""),
        (gpus(24, 40), Packing(None, "41GiB"), 1, "a member needs 41.0 GiB and the largest GPU has 40.0 GiB"),
        (gpus(24, 40), Packing(None, "40GiB"), 1, ""),
        (gpus(24, 40), Packing(None, "41GiB"), 2, "a member needs 41.0 GiB and the largest GPU has 40.0 GiB"),
    ],
)
def test_a_member_that_could_never_be_served(devices, packing, need, reason):
    assert Allocator(devices, packing, need).impossible() == reason


def test_too_few_of_the_gpus_are_large_enough():
    """One of 40 GiB is large enough, and two are needed: to call it too small would be wrong."""
    reason = Allocator(gpus(40, 24), Packing(None, "30GiB"), need=2).impossible()
    assert reason
    assert "the largest GPU has 40.0 GiB" not in reason


def test_why_a_gpu_is_not_given():
    allocator = Allocator(gpus(40, 40, 40, 40, 40), Packing(3, "10GiB"))
    full, leaving, alone, little, closed = allocator.devices.values()
    for device, leases in (
        (full, [Lease(uuids=("GPU-0",), promised=10 * GIB) for _ in range(3)]),
        (leaving, [Lease(uuids=("GPU-1",), promised=10 * GIB, leaving=i == 0) for i in range(3)]),
        (alone, [Lease(uuids=("GPU-2",), promised=10 * GIB, alone=True)]),
    ):
        device.leases += leases
        allocator.held += leases
    little.others = 31 * GIB
    close(closed)
    allocator.check()
    assert asked(allocator, Lease()) == []
    assert allocator.shortage() == {
        "GPU-0": "it holds 3 of 3 member(s)",
        "GPU-1": "the memory of a member that has ended is coming back",
        "GPU-2": "a member that ran out of memory is to train alone",
        "GPU-3": "9.0 GiB are free, 10.0 GiB are needed",
    }
    little.others = 41 * GIB
    assert allocator.shortage()["GPU-3"] == "0 MiB are free, 10.0 GiB are needed"
    little.others = 30 * GIB
    assert allocator.shortage()["GPU-3"] == ""


def test_why_a_gpu_is_not_given_to_one_that_is_to_train_alone():
    allocator = Allocator(gpus(40, 40), Packing(3))
    asked(allocator, Lease())
    assert allocator.shortage() == {"GPU-0": "", "GPU-1": ""}
    assert allocator.shortage(alone=True) == {
        "GPU-0": "a member that ran out of memory is to train alone",
        "GPU-1": "",
    }


def test_a_gpu_that_a_member_leaves_and_that_has_room_left_could_be_given():
    """As grant() shows; so the memory here is not the reason why a member waits."""
    allocator = Allocator(gpus(40), Packing(3))
    (gone,) = asked(allocator, Lease())
    gone.leaving = True
    reasons = allocator.shortage()
    assert asked(allocator, Lease()), "it could be given"
    assert reasons == {"GPU-0": ""}


def test_an_instance_is_not_called_free_for_a_member_that_needs_two_gpus():
    allocator = Allocator(gpus(40, 40, 20, slices=(2,)), Packing(1), need=2)
    asked(allocator, Lease(), Lease())
    reasons = allocator.shortage()
    assert reasons["GPU-0"] == reasons["GPU-1"] == "it holds 1 of 1 member(s)"
    assert reasons["MIG-2"] != "", "it can never be given to this member"


def test_a_gpu_that_is_too_small_is_called_that():
    allocator = Allocator(gpus(40, 24), Packing(None, "30GiB"))
    asked(allocator, Lease(), Lease())
    reasons = allocator.shortage()
    assert reasons["GPU-0"] == "it holds 1 of 1 member(s)"
    assert reasons["GPU-1"] == "24.0 GiB are free, 30.0 GiB are needed"


@pytest.mark.parametrize("broken", ["not held", "alone and not", "twice one GPU", "two slices", "waits and holds"])
def test_check_notices(broken):
    allocator = Allocator(gpus(0, 0, slices=(0, 1)), Packing(2))
    (lease,) = asked(allocator, Lease())
    allocator.check()
    device = allocator.devices[lease.uuids[0]]
    if broken == "not held":
        device.leases.append(Lease(uuids=lease.uuids))
    elif broken == "alone and not":
        other = Lease(uuids=lease.uuids, alone=True)
        device.leases.append(other)
        allocator.held.append(other)
    elif broken == "twice one GPU":
        lease.need, lease.uuids = 2, lease.uuids * 2
    elif broken == "two slices":
        lease.need, lease.uuids = 2, ("MIG-0", "MIG-1")
    else:
        allocator.queue.append(lease)
    with pytest.raises(AssertionError):
        allocator.check()


def test_leases_that_stay_are_those_that_do_not_leave():
    gone, there = Lease(leaving=True), Lease()
    assert Device(GPU(0, "GPU-0"), leases=[gone, there]).staying() == [there]
