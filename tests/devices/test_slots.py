"""CPU slots: a slot is never leased twice, and how many cores there are."""

from __future__ import annotations

import asyncio
import os
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpbt_async.devices.slots import CpuPool, Slot, usable_cores

# --- usable cores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/host/only\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_usable_cores(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == expected


# --- leasing -----------------------------------------------------------------------------------------------


def some_slots(count):
    return CpuPool(Slot(index, f"cpu{index}", "cpu", (), 1, {}) for index in range(count))


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


class Renters:
    """Tasks that lease a slot and keep it until their gate is opened."""

    def __init__(self, slots):
        self.slots, self.held, self.order, self.gates, self.tasks = slots, {}, [], [], []

    def start(self):
        number = len(self.tasks)
        self.gates.append(asyncio.Event())
        self.tasks.append(asyncio.create_task(self._rent(number)))
        return number

    async def _rent(self, number):
        async with self.slots.lease() as slot:
            assert slot.index not in self.held.values(), "a slot leased twice"
            self.held[number] = slot.index
            self.order.append(number)
            try:
                await self.gates[number].wait()
            finally:
                del self.held[number]


async def test_lowest_first_then_first_come_first_served():
    slots = some_slots(2)
    renters = Renters(slots)
    for _ in range(4):
        renters.start()
    await turns()
    assert (renters.held, slots.free) == ({0: 0, 1: 1}, 0)
    renters.gates[1].set()
    await turns()
    assert renters.held == {0: 0, 2: 1}
    for gate in renters.gates:
        gate.set()
    await asyncio.gather(*renters.tasks)
    assert (renters.order, slots.free) == ([0, 1, 2, 3], 2)
    async with slots.lease() as slot:
        assert slot.index == 0


async def test_a_newcomer_does_not_overtake_and_waking_takes_one_turn():
    slots = some_slots(1)
    renters = Renters(slots)
    lease = slots.lease()
    await lease.__aenter__()
    renters.start()
    await turns()
    await lease.__aexit__(None, None, None)
    assert slots.free == 0  # the waiter's already, though it has not run
    renters.start()
    await asyncio.sleep(0)
    assert renters.held == {0: 0}
    for gate in renters.gates:
        gate.set()
    await asyncio.gather(*renters.tasks)


async def test_cancelled_while_waiting_and_when_just_served():
    slots = some_slots(1)
    renters = Renters(slots)
    lease = slots.lease()
    await lease.__aenter__()
    for _ in range(3):
        renters.start()
    await turns()
    renters.tasks[0].cancel()  # waiting
    await lease.__aexit__(None, None, None)  # served: 1, as 0 is gone
    renters.tasks[1].cancel()  # before it could run
    await turns()
    assert renters.held == {2: 0}
    renters.gates[2].set()
    await asyncio.gather(*renters.tasks, return_exceptions=True)
    assert slots.free == 1


async def test_an_error_in_the_block_hands_the_slot_back():
    slots = some_slots(1)
    with pytest.raises(ZeroDivisionError):
        async with slots.lease():
            raise ZeroDivisionError
    assert slots.free == 1


async def test_closing_ends_the_waiting():
    slots = some_slots(1)
    renters = Renters(slots)
    async with slots.lease():
        renters.start()
        await turns()
        await slots.close()
        await slots.close()
        with pytest.raises(RuntimeError, match="closed"):
            await renters.tasks[0]
    with pytest.raises(RuntimeError, match="closed"):
        async with slots.lease():
            pass


ACTIONS = st.sampled_from(["start", "release", "cancel a waiter", "cancel a holder", "one turn", "settle"])


@settings(deadline=None)  # the machine may be busy
@given(count=st.integers(1, 3), actions=st.lists(st.tuples(ACTIONS, st.integers(0, 9)), max_size=40))
def test_leases_under_any_order_of_events(count, actions):
    """Against a model: a row of waiters, and a set of holders; `Renters` asserts that no slot is held twice."""

    async def run():
        slots = some_slots(count)
        renters = Renters(slots)
        row, holders, expected = deque(), [], []
        for action, which in actions:
            if action == "start":
                await turns()  # a newcomer that finds a free slot may run before one that was given its slot just now
                row.append(renters.start())
                await turns(1)  # it has asked: the row's order is that of asking
            elif action == "release" and holders:
                renters.gates[holders.pop(which % len(holders))].set()
            elif action == "cancel a waiter" and row:
                number = row[which % len(row)]
                row.remove(number)
                renters.tasks[number].cancel()
            elif action == "cancel a holder" and holders:
                renters.tasks[holders.pop(which % len(holders))].cancel()
            else:
                await turns(1 if action == "one turn" else 5)
            while row and len(holders) < count:
                holders.append(row.popleft())
                expected.append(holders[-1])
            if action != "settle":
                continue
            assert (sorted(renters.held), slots.free) == (sorted(holders), count - len(holders))
        await turns()
        assert sorted(renters.held) == sorted(holders)
        for task in renters.tasks:
            task.cancel()
        await asyncio.gather(*renters.tasks, return_exceptions=True)
        assert slots.free == count
        served = [number for number in expected if number in renters.order]
        assert renters.order == served

    asyncio.run(run())
