"""Who holds which GPU and who is next: never too many on a card, never out of turn, never for ever."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpbt_async.ledger import Lease, Ledger
from gpbt_async.packing import Packing
from gpbt_async.visible import GPU

GIB = 1 << 30


def gpus(count: int, total: int = 40) -> list[GPU]:
    return [GPU(index, f"GPU-{index}", total=total * GIB) for index in range(count)]


class Books(RuleBasedStateMachine):
    """Members that need one GPU or several come and go, GPUs close and open, other people's memory rises and falls."""

    @initialize(
        count=st.integers(1, 4),
        share=st.sampled_from([None, 1, 2, 3]),
        vram=st.sampled_from([None, "12GiB", "auto"]),
    )
    def begin(self, count: int, share: int | None, vram: str | None) -> None:
        self.packing = Packing(share, vram)
        self.ledger = Ledger(gpus(count), self.packing)
        self.order: list[Lease] = []

    def granted(self) -> None:
        for lease in self.ledger.grant():
            assert lease is self.order.pop(0), "out of turn"
            for uuid in lease.uuids:
                card = self.ledger.cards[uuid]
                assert card.open
                assert len(card.leases) <= self.packing.most(card.gpu)
                taken = sum(max(each.promised, each.measured.get(uuid, 0)) for each in card.leases) + card.others
                alone = len(card.leases) == 1 and self.packing.auto
                assert not self.packing.need or alone or taken <= card.gpu.total

    @rule(need=st.integers(1, 3), alone=st.booleans())
    def ask(self, need: int, alone: bool) -> None:
        lease = Lease(alone=alone, need=min(need, len(self.ledger.cards)))
        self.order.append(lease)
        self.ledger.ask(lease)
        self.granted()

    @precondition(lambda self: self.order)
    @rule(which=st.integers(0, 9))
    def withdraw(self, which: int) -> None:
        self.ledger.withdraw(self.order.pop(which % len(self.order)))
        self.granted()

    @precondition(lambda self: self.ledger.held)
    @rule(which=st.integers(0, 9), gone=st.booleans())
    def end(self, which: int, gone: bool) -> None:
        lease = self.ledger.held[which % len(self.ledger.held)]
        lease.leaving = True
        if gone:
            self.ledger.release(lease)
        self.granted()

    @rule(which=st.integers(0, 9), open=st.booleans(), others=st.integers(0, 40))
    def happens(self, which: int, open: bool, others: int) -> None:
        card = list(self.ledger.cards.values())[which % len(self.ledger.cards)]
        card.open, card.others = open, others * GIB
        self.granted()

    @precondition(lambda self: self.ledger.held)
    @rule(which=st.integers(0, 9), amount=st.integers(0, 30))
    def measured(self, which: int, amount: int) -> None:
        lease = self.ledger.held[which % len(self.ledger.held)]
        lease.measured[lease.uuids[0]] = amount * GIB
        self.packing.observe(amount * GIB)
        self.granted()

    @rule(members=st.integers(1, 4))
    def out_of_memory(self, members: int) -> None:
        self.packing.lower(members)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.check()
            assert list(self.ledger.queue) == self.order
            assert self.ledger.capacity() >= sum(not lease.leaving for lease in self.ledger.held)

    def teardown(self) -> None:
        """With all GPUs open and nobody else there, whoever has asked is served in the end."""
        if not hasattr(self, "ledger"):
            return
        for card in self.ledger.cards.values():
            card.open, card.others = True, 0
        while self.order:
            self.granted()
            if not self.order:
                break
            assert self.ledger.held, "everything is free, and somebody waits"
            self.ledger.release(self.ledger.held[0])


TestBooks = Books.TestCase
TestBooks.settings = settings(deadline=None, max_examples=150, stateful_step_count=30)


def test_two_that_need_two_and_four_that_need_one_share_three_gpus() -> None:
    ledger = Ledger(gpus(3), Packing())
    leases = [Lease(need=need) for need in (2, 1, 2, 1, 1, 1)]
    for lease in leases:
        ledger.ask(lease)
    served: list[Lease] = []
    while len(served) < len(leases):
        granted = ledger.grant()
        served += granted
        assert granted or ledger.held, "nobody can ever go on"
        if not granted:
            ledger.release(ledger.held[0])
    assert served == leases


def test_spread_before_pack_then_the_emptiest() -> None:
    ledger = Ledger(gpus(3), Packing(2))
    ledger.cards["GPU-0"].others = 5 * GIB
    leases = [Lease() for _ in range(7)]
    for lease in leases:
        ledger.ask(lease)
    assert [lease.uuids[0] for lease in ledger.grant()] == ["GPU-1", "GPU-2", "GPU-0"] * 2
    assert leases[6] in ledger.queue
    assert ledger.shortage() == dict.fromkeys(("GPU-0", "GPU-1", "GPU-2"), "it holds 2 of 2 member(s)")


def test_several_gpus_are_the_nearest_and_never_two_mig_instances() -> None:
    near = {frozenset(("GPU-1", "GPU-3")): 10}
    ledger = Ledger(gpus(4), Packing(), 2, lambda a, b: near.get(frozenset((a, b)), 50))
    ledger.ask(lease := Lease())
    ledger.grant()
    assert set(lease.uuids) == {"GPU-1", "GPU-3"}
    slices = [GPU(0, f"MIG-{i}", slice=i, card="GPU-0", total=5 * GIB) for i in range(3)]
    assert "only one MIG instance" in Ledger([*slices, *gpus(1)], Packing(), 2).impossible()
    assert Ledger([*slices, *gpus(1)], Packing(), 1).impossible() == ""


@pytest.mark.parametrize(("others", "fit"), [(0, 3), (4, 3), (8, 2), (31, 0)])
def test_memory_decides_how_many_fit(others: int, fit: int) -> None:
    ledger = Ledger(gpus(1), Packing(vram="12GiB"))
    ledger.cards["GPU-0"].others = others * GIB
    assert ledger.capacity() == fit


def test_a_measured_peak_decides_and_an_oom_lowers_it() -> None:
    packing = Packing(vram="auto")
    (gpu,) = gpus(1)
    assert packing.most(gpu) == 1
    assert packing.observe(10 * GIB)
    assert packing.most(gpu) == 3
    assert packing.lower(3)
    assert packing.most(gpu) == 2
    assert not packing.observe(9 * GIB)
    assert packing.observe(39 * GIB)
    assert packing.most(gpu) == 1, "what was measured on a GPU fits on it alone"


def test_what_cannot_be_is_said() -> None:
    assert Ledger(gpus(2), Packing(), 3).impossible() == "a member needs 3 GPUs and there are 2 to choose from"
    text = Ledger(gpus(2), Packing(vram="41GiB")).impossible()
    assert text == "a member needs 41.0 GiB and the largest GPU has 40.0 GiB"
