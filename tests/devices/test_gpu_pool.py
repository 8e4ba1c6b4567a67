"""Cards and Watch on a machine of our own making: who waits, who is put out, and what is given to whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading

import pytest

from gpbt_async.devices import monitor
from gpbt_async.devices.allocator import Packing
from gpbt_async.devices.gpu_pool import GpuPool
from gpbt_async.devices.nvml import NvmlDevice, NvmlFault, NvmlThread, Sample, Trouble
from gpbt_async.devices.selection import GPU
from gpbt_async.errors import JournalError

GIB = 1 << 30
A, B = "GPU-a", "GPU-b"


class Machine:
    """NVML as a test wants it. used: GiB by GPU; listed: (pid, GiB or None) by GPU; faults: by GPU."""

    def __init__(self, *uuids, total=40):
        self.uuids, self.total = uuids, total
        self.used = dict.fromkeys(uuids, 0.0)
        self.listed = {uuid: () for uuid in uuids}
        self.faults, self.troubles, self.needed = {}, [], ""
        self.going = threading.Event()
        self.going.set()
        self.looks = 0

    def open(self):
        return True

    def survey(self):
        return [NvmlDevice(i, uuid, total=self.total * GIB) for i, uuid in enumerate(self.uuids)]

    def sample(self, uuid):
        self.going.wait()
        self.looks += 1
        if uuid in self.faults:
            raise self.faults[uuid]
        listed = self.listed[uuid]
        told = None if listed is None else tuple((p, None if g is None else int(g * GIB)) for p, g in listed)
        return Sample(int(self.used[uuid] * GIB), self.total * GIB, told)

    def watch(self, uuids): ...

    def events(self):
        told, self.troubles = self.troubles, []
        return told

    def recovery(self, uuid):
        return self.needed

    def distance(self, one, other):
        return 10

    def close(self): ...


class Clock:
    """The loop's time, and what a test adds to it."""

    def __init__(self):
        self.more = 0.0

    def __call__(self):
        return asyncio.get_running_loop().time() + self.more


@contextlib.asynccontextmanager
async def pool(machine, *, share=None, vram=None, need=1, period=0.01):
    said, now = [], Clock()
    gpus = [GPU(i, uuid, total=machine.total * GIB) for i, uuid in enumerate(machine.uuids)]
    cards = GpuPool(
        gpus, NvmlThread(machine), Packing(share, vram), need=need, period=period, now=now, warn=said.append
    )  # fmt: skip
    await cards.open()
    cards.said, cards.clock = said, now
    try:
        yield cards
    finally:
        machine.going.set()
        await cards.close()


async def until(what, within=3.0):
    async with asyncio.timeout(within):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def looks(machine, n=6):
    """Until so many samples more have been taken."""
    seen = machine.looks
    await until(lambda: machine.looks >= seen + n)


async def leased(cards, **how):
    """A lease that is held: the slot, and what lets go of it."""
    stack = contextlib.AsyncExitStack()
    async with asyncio.timeout(3):
        slot = await stack.enter_async_context(cards.lease(**how))
    return slot, stack.aclose


def state(cards, uuid=A):
    return next(row["state"] for row in cards.rows() if row["uuid"] == uuid)


# ---- leasing


async def test_one_who_is_cancelled_as_it_is_served_costs_nobody_his_turn():
    async with pool(Machine(A), period=60) as cards:
        _, close = await leased(cards)
        gone, stays = (asyncio.create_task(leased(cards)) for _ in range(2))
        await asyncio.sleep(0.01)
        await close()
        gone.cancel()  # its future is cancelled now, it hears of it in the next turn of the loop
        cards._watch.sampled[A] = cards.clock()
        cards.settle()
        _, close = await stays
        await close()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        assert len(cards) == 1


async def test_alone_means_alone():
    async with pool(Machine(A), share=3) as cards:
        _, close = await leased(cards)
        alone = asyncio.create_task(leased(cards, alone=True))
        after = asyncio.create_task(leased(cards))
        await asyncio.sleep(0.05)
        assert not alone.done()
        await close()
        _, close = await alone
        await asyncio.sleep(0.05)
        assert not after.done()
        await close()
        await (await after)[1]()


async def test_a_slot_comes_back_when_its_memory_does():
    machine = Machine(A)
    async with pool(machine) as cards:
        _, close = await leased(cards)
        machine.used[A] = 20
        await close()
        following = asyncio.create_task(leased(cards))
        await looks(machine)
        assert not following.done()
        machine.used[A] = 0.5
        await (await following)[1]()


async def test_memory_that_never_comes_back_sets_the_gpu_aside_until_it_does():
    machine = Machine(A, B)
    async with pool(machine) as cards:
        _, close = await leased(cards)
        machine.used[A] = 20
        await close()
        cards.clock.more = 9
        await looks(machine)
        assert state(cards) == "ok"
        cards.clock.more = 11
        await until(lambda: state(cards) == "dirty")
        assert "20.0 GiB are still used though our member has ended" in cards.rows()[0]["reason"]
        assert len(cards) == 1
        machine.used[A] = 0
        await until(lambda: state(cards) == "ok")
        assert len(cards) == 2


# ---- whose memory


async def test_a_dirty_gpu_stays_dirty_while_another_member_leaves():
    machine = Machine(A)
    async with pool(machine, share=2) as cards:
        one, close_one = await leased(cards)
        two, close_two = await leased(cards)
        cards.bind(one, 10_000_001, 1)
        cards.bind(two, 10_000_002, 2)
        machine.listed[A] = ((10_000_001, 10), (10_000_002, 10))
        machine.used[A] = 20
        await looks(machine)
        await close_one()
        machine.listed[A] = ((10_000_002, 10),)
        await looks(machine)
        cards.clock.more = 11
        await until(lambda: state(cards) == "dirty")
        third = asyncio.create_task(leased(cards))
        await close_two()
        machine.listed[A] = ()
        await looks(machine, 12)
        assert state(cards) == "dirty"
        assert not third.done()
        machine.used[A] = 0
        await (await third)[1]()


async def test_a_list_that_never_names_a_member_is_not_believed():
    """In WSL, and in some containers, NVML lists nobody and says that it went well."""
    machine = Machine(A)
    async with pool(machine, share=2) as cards:
        one, close_one = await leased(cards)
        cards.bind(one, os.getpid(), 1)
        machine.used[A] = 10
        await looks(machine)
        assert state(cards) == "in use"
        two, close_two = await leased(cards)
        cards.bind(two, os.getppid(), 2)
        machine.used[A] = 20
        await looks(machine)
        assert state(cards) == "in use"
        await close_one()
        await close_two()


async def test_how_much_a_member_takes_is_learnt_though_nothing_is_listed():
    machine = Machine(A)
    machine.used[A] = 0.5
    async with pool(machine, vram="auto") as cards:
        one, close = await leased(cards)
        cards.bind(one, os.getpid(), 1)
        machine.used[A] = 10.5
        await looks(machine)
        cards.returned(one)
        assert cards.ledger.packing.peak == 10 * GIB
        machine.used[A] = 0.5
        await close()


# ---- trouble


@pytest.mark.parametrize("how", ["fault", "event"])
async def test_a_gpu_that_fails_puts_its_members_out_and_comes_back(how):
    machine = Machine(A, B)
    async with pool(machine) as cards:
        one, close_one = await leased(cards)
        two, close_two = await leased(cards)
        assert (one.gpus, two.gpus) == ((A,), (B,))
        if how == "fault":
            machine.faults[A] = NvmlFault("GPU is lost", 15)
        else:
            machine.troubles = [Trouble(A, "xid", 79)]
        async with asyncio.timeout(3):
            assert await one.evicted == "GPU 0: " + ("GPU is lost" if how == "fault" else "Xid 79")
        assert not two.evicted.done()
        await close_one()
        assert state(cards) == "faulty"
        assert len(cards) == 1
        cards.clock.more = 31
        if how == "fault":
            await asyncio.sleep(0.05)
            assert state(cards) == "faulty"
            machine.faults.clear()
            cards.clock.more = 31 + 61
        await until(lambda: state(cards) == "ok")
        await until(lambda: len(cards) == 2)
        await close_two()


async def test_while_nvml_hangs_nothing_is_given_out_whoever_stops_asking_it(monkeypatch):
    monkeypatch.setattr(monitor, "HANGS", 0.1)
    machine = Machine(A, B)
    async with pool(machine) as cards:
        slot, close = await leased(cards)
        machine.going.clear()
        await until(lambda: cards._watch.mute)
        assert "NVML does not answer" in await cards.verdict(slot, within=0.05)
        cards.settle()
        waits = asyncio.create_task(leased(cards))
        await asyncio.sleep(0.05)
        assert not waits.done()
        assert set(cards.waiting()["why"].values()) == {"NVML does not answer"}
        machine.going.set()
        await (await waits)[1]()
        await close()


async def test_a_gpu_that_was_given_back_is_looked_at_first():
    machine = Machine(A)
    async with pool(machine, period=60) as cards:
        cards.drain(A)
        machine.listed[A] = ((1, 6),)
        cards.give_back(A)
        cards.settle()
        waits = asyncio.create_task(leased(cards))
        await looks(machine, 1)
        await asyncio.sleep(0.05)
        assert not waits.done()
        assert state(cards) == "busy"
        waits.cancel()


async def test_an_error_of_whoever_is_told_reaches_those_who_wait():
    machine = Machine(A)
    async with pool(machine) as cards:
        _, close = await leased(cards)
        waits = asyncio.create_task(leased(cards))
        await asyncio.sleep(0.02)

        def full(_):
            raise JournalError("no space")

        cards.on_sample = full
        cards.clock.more = monitor.TOLD
        with pytest.raises(JournalError, match="no space"):
            await waits
        with pytest.raises(JournalError, match="no space"):
            await leased(cards)
        await close()


async def test_out_of_memory_beside_somebody_else_is_not_the_members_doing():
    machine = Machine(A)
    async with pool(machine) as cards:
        slot, close = await leased(cards)
        await looks(machine)
        assert not cards.out_of_memory(slot)
        machine.listed[A] = ((1, 30),)
        await looks(machine)
        assert cards.out_of_memory(slot)
        await close()


async def test_waiting_tells_that_nvml_does_not_answer(monkeypatch):
    monkeypatch.setattr(monitor, "HANGS", 0.05)
    machine = Machine(A)
    async with pool(machine) as cards:
        machine.going.clear()
        await until(lambda: cards._watch.mute)
        assert cards.waiting()["why"] == {"0": "NVML does not answer"}
        machine.going.set()
        await until(lambda: cards.waiting() is None)


async def test_the_server_of_mps_is_nobody_by_himself(monkeypatch):
    monkeypatch.setattr("gpbt_async.processes.linux.program_and_owner", lambda _: "nvidia-cuda-mps of root")
    machine = Machine(A)
    machine.listed[A] = ((1, 0.03),)
    async with pool(machine) as cards:
        slot, close = await leased(cards)
        cards.bind(slot, os.getpid(), 1)
        machine.listed[A], machine.used[A] = ((1, 10),), 10
        await looks(machine)
        assert state(cards) == "in use"
        assert cards.rows()[0]["ours"] == 10 * GIB
        await close()


async def test_processes_below_a_member_are_the_members():
    machine = Machine(A)
    async with pool(machine) as cards:
        slot, close = await leased(cards)
        cards.bind(slot, os.getppid(), 1)
        machine.listed[A], machine.used[A] = ((os.getpid(), 10),), 10
        await looks(machine)
        assert state(cards) == "in use"
        assert cards.rows()[0]["ours"] == 10 * GIB
        await close()


async def test_one_who_was_served_and_is_cancelled_before_it_hears_of_it_leaves_its_slot_to_the_next():
    async with pool(Machine(A), period=60) as cards:
        _, close = await leased(cards)
        served = asyncio.create_task(leased(cards))
        await asyncio.sleep(0.01)
        await close()
        cards._watch.sampled[A] = cards.clock()
        cards.settle()
        assert len(cards.slots) == 1
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served
        _, close = await leased(cards)
        await close()


async def test_one_who_is_cancelled_while_it_waits_is_waited_for_by_nobody():
    async with pool(Machine(A)) as cards:
        _, close = await leased(cards)
        waits = asyncio.create_task(leased(cards))
        await asyncio.sleep(0.01)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert cards.waiting() is None or cards.waiting()["members"] == 0
        await close()
        _, close = await leased(cards)
        await close()


async def test_a_gpu_whose_driver_asks_for_a_reset_is_not_used():
    machine = Machine(A, B)
    async with pool(machine) as cards:
        machine.troubles, machine.needed = [Trouble(A, "xid", 79)], "a reset"
        await until(lambda: state(cards) == "faulty")
        cards.clock.more = 31
        await until(lambda: "asks for a reset" in cards.rows()[0]["reason"])
        assert len(cards) == 1


async def test_a_gpu_that_appears_is_used():
    machine = Machine(A)
    async with pool(machine) as cards:
        cards._watch._choose = lambda found: [GPU(f.index, f.uuid, total=f.total) for f in found]
        machine.used[B], machine.listed[B] = 0, ()
        machine.uuids = (A, B)
        assert len(cards) == 1
        cards.clock.more = monitor.RESCAN
        await until(lambda: len(cards) == 2)


async def test_what_happens_to_a_card_happens_to_its_instances():
    machine = Machine("MIG-1", "MIG-2", B)
    async with pool(machine) as cards:
        for uuid in ("MIG-1", "MIG-2"):
            cards.ledger.cards[uuid].gpu = GPU(0, uuid, slice=0, card=A, total=40 * GIB)
        machine.troubles = [Trouble(A, "xid", 79)]
        await until(lambda: state(cards, "MIG-1") == state(cards, "MIG-2") == "faulty")
        assert state(cards, B) == "ok"


async def test_a_journal_is_told_of_the_gpus_now_and_then():
    async with pool(Machine(A)) as cards:
        told = []
        cards.on_sample = told.append
        cards.clock.more = monitor.TOLD
        await until(lambda: told)
        assert told[0][0]["gpu"] == "0"


async def test_a_bug_of_whoever_watches_is_heard_by_those_who_wait():
    machine = Machine(A)
    async with pool(machine) as cards:
        _, close = await leased(cards)
        waits = asyncio.create_task(leased(cards))
        machine.events = lambda: 1 / 0
        with pytest.raises(RuntimeError, match="division"):
            await waits
        await close()


async def test_before_the_first_has_finished_it_is_looked_often():
    machine = Machine(A)
    async with pool(machine, vram="auto", period=60):
        await looks(machine, 2)


async def test_a_pid_that_is_of_no_process_here_may_be_a_members():
    """In a container the driver tells the pids of the host."""
    machine = Machine(A)
    async with pool(machine) as cards:
        slot, close = await leased(cards)
        cards.bind(slot, os.getpid(), 1)
        machine.listed[A], machine.used[A] = ((2**22 + 1, 10),), 10
        await looks(machine)
        assert state(cards) == "in use"
        assert cards.rows()[0]["ours"] == 10 * GIB
        await close()


async def test_what_a_member_has_left_behind_is_nobody_else():
    machine = Machine(A)
    with subprocess.Popen(["sleep", "60"]) as left, contextlib.ExitStack() as stack:  # noqa: ASYNC220
        stack.callback(left.kill)
        async with pool(machine) as cards:
            machine.listed[A] = ((left.pid, 0.5),)
            await looks(machine)
            assert state(cards) == "ok"
            machine.used[A] = 5
            await until(lambda: state(cards) == "busy")
            assert "5.0 GiB of its memory are used by somebody else" in cards.rows()[0]["reason"]


async def test_how_a_gpu_was_before_a_member_ended_tells_nothing_of_its_memory():
    machine = Machine(A)
    async with pool(machine) as cards:
        _, close = await leased(cards)
        machine.going.clear()
        await asyncio.sleep(0.02)  # the look at which it hangs has begun before the end
        await close()
        waits = asyncio.create_task(leased(cards))
        await asyncio.sleep(0.02)
        cards.settle()
        await asyncio.sleep(0.02)
        assert not waits.done()
        machine.going.set()
        await (await waits)[1]()
