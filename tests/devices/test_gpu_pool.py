"""The pool of GPUs on an NVML that the test plays: which member waits, which is evicted, and who gets which GPU."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading

import pytest

from gpbt_async.declaration.resources import Resources
from gpbt_async.devices import gpu_pool, monitor
from gpbt_async.devices.gpu_pool import GpuPool
from gpbt_async.devices.monitor import Arrival, Retrial, Sampling
from gpbt_async.devices.nvml import GPU, NvmlEvent, NvmlFault, NvmlThread, Sample
from gpbt_async.devices.request import DeviceRequest
from gpbt_async.errors import JournalError

GIB = 1 << 30
A, B = "GPU-a", "GPU-b"


class Machine:
    """An NVML that a test plays. used: GiB by GPU; listed: (pid, GiB or None) by GPU; faults: by GPU."""

    def __init__(self, *uuids, total=40):
        self.uuids, self.total = uuids, total
        self.used = dict.fromkeys(uuids, 0.0)
        self.listed = {uuid: () for uuid in uuids}
        self.faults, self.pending, self.needed = {}, [], ""
        self.going = threading.Event()
        self.going.set()
        self.looks = 0

    def open(self):
        return True

    def survey(self):
        return [GPU(i, uuid, total=self.total * GIB) for i, uuid in enumerate(self.uuids)]

    def sample(self, uuid):
        self.going.wait()
        self.looks += 1
        if uuid in self.faults:
            raise self.faults[uuid]
        listed = self.listed[uuid]
        processes = None if listed is None else tuple((p, None if g is None else int(g * GIB)) for p, g in listed)
        return Sample(int(self.used[uuid] * GIB), self.total * GIB, processes)

    def watch(self, uuids): ...

    def events(self):
        events, self.pending = self.pending, []
        return events

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
async def opened(machine, *, share=None, vram=None, need=1, period=0.01):
    warnings, now = [], Clock()
    gpus = [GPU(i, uuid, total=machine.total * GIB) for i, uuid in enumerate(machine.uuids)]
    request = DeviceRequest(resources=Resources(need, share, vram), population=25)
    pool = GpuPool(gpus, NvmlThread(machine), request, period=period, now=now, warn=warnings.append)
    await pool.open()
    pool.warnings, pool.clock = warnings, now
    try:
        yield pool
    finally:
        machine.going.set()
        await pool.close()


async def until(what, within=3.0):
    async with asyncio.timeout(within):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def looks(machine, n=6):
    """Until `n` more samples have been taken."""
    seen = machine.looks
    await until(lambda: machine.looks >= seen + n)


async def leased(pool, **how):
    """A lease that is held: the slot, and a function that releases it."""
    stack = contextlib.AsyncExitStack()
    async with asyncio.timeout(3):
        slot = await stack.enter_async_context(pool.lease(**how))
    return slot, stack.aclose


def state(pool, uuid=A):
    return next(row.state for row in pool.rows() if row.uuid == uuid)


# ---- without NVML: the pool applies observations, wherever they are from


@contextlib.asynccontextmanager
async def applying(*uuids):
    """A pool that asks nothing any more: each GPU has had one clean sample."""
    async with opened(Machine(*uuids), period=3600) as pool:
        pool._task.cancel()
        await asyncio.wait([pool._task])
        yield pool


async def test_a_fault_evicts_the_members_of_its_gpu_only():
    async with applying(A, B) as pool:
        (one, close_one), (two, close_two) = await leased(pool), await leased(pool)
        pool._apply([Sampling(A, "GPU is lost", pool.clock())])
        assert one.evicted.result() == "GPU 0: GPU is lost"
        assert not two.evicted.done()
        await close_one()
        assert len(pool) == 1
        pool._apply([Retrial(A, ""), Sampling(A, Sample(0, 40 * GIB, ()), pool.clock())])
        assert (state(pool), len(pool)) == ("ok", 2)
        await close_two()


async def test_a_gpu_that_works_again_is_not_given_out_before_its_first_sample():
    async with applying(A) as pool:
        pool._apply([NvmlEvent(A, "xid", 79)])
        pool._apply([Retrial(A, "")])
        assert (state(pool), len(pool)) == ("ok", 0)
        pool._apply([Sampling(A, Sample(30 * GIB, 40 * GIB, ()), pool.clock())])
        assert (state(pool), len(pool)) == ("busy", 0)


async def test_a_gpu_that_has_appeared_is_not_given_out_before_its_first_sample():
    async with applying(A) as pool:
        pool._apply([Arrival([GPU(1, B, total=40 * GIB)])])
        assert len(pool) == 1
        pool._apply([Sampling(B, Sample(0, 40 * GIB, ()), pool.clock())])
        assert len(pool) == 2


async def test_while_nvml_hangs_the_capacity_is_what_trains():
    async with applying(A, B) as pool:
        counts = []
        pool.on_capacity = counts.append
        _, close = await leased(pool)
        pool.monitor.hangs = True
        pool._apply([])
        assert (len(pool), counts[-1]) == (1, 1)
        pool.monitor.hangs = False
        pool._apply([])
        assert (len(pool), counts[-1]) == (2, 2)
        await close()


async def test_a_gpu_is_released_by_a_sample_that_was_asked_for_after_the_end():
    async with applying(A) as pool:
        _, close = await leased(pool)
        before = pool.clock()
        pool.clock.more = 1
        await close()
        pool._apply([Sampling(A, Sample(0, 40 * GIB, ()), before)])
        assert pool.rows()[0].leaving == 1
        pool._apply([Sampling(A, Sample(0, 40 * GIB, ()), pool.clock())])
        assert pool.rows()[0].leaving == 0


# ---- leasing


async def test_a_member_that_is_cancelled_as_it_is_served_costs_no_other_its_turn():
    async with opened(Machine(A), period=60) as pool:
        _, close = await leased(pool)
        gone, stays = (asyncio.create_task(leased(pool)) for _ in range(2))
        await asyncio.sleep(0.01)
        await close()
        gone.cancel()  # its future is cancelled now, its task in the next turn of the loop
        pool.allocator.devices[A].sampled = pool.clock()
        pool.settle()
        _, close = await stays
        await close()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        assert len(pool) == 1


async def test_a_member_that_is_to_train_alone_does():
    async with opened(Machine(A), share=3) as pool:
        _, close = await leased(pool)
        alone = asyncio.create_task(leased(pool, alone=True))
        after = asyncio.create_task(leased(pool))
        await asyncio.sleep(0.05)
        assert not alone.done()
        await close()
        _, close = await alone
        await asyncio.sleep(0.05)
        assert not after.done()
        await close()
        await (await after)[1]()


async def test_a_gpu_is_given_out_again_when_its_memory_is_free():
    machine = Machine(A)
    async with opened(machine) as pool:
        _, close = await leased(pool)
        machine.used[A] = 20
        await close()
        following = asyncio.create_task(leased(pool))
        await looks(machine)
        assert not following.done()
        machine.used[A] = 0.5
        await (await following)[1]()


async def test_memory_that_never_comes_back_sets_the_gpu_aside_until_it_does():
    machine = Machine(A, B)
    async with opened(machine) as pool:
        _, close = await leased(pool)
        machine.used[A] = 20
        await close()
        pool.clock.more = 9
        await looks(machine)
        assert state(pool) == "ok"
        pool.clock.more = 11
        await until(lambda: state(pool) == "dirty")
        assert "20.0 GiB are still used though our member has ended" in pool.rows()[0].reason
        assert len(pool) == 1
        machine.used[A] = 0
        await until(lambda: state(pool) == "ok")
        assert len(pool) == 2


# ---- whose memory


async def test_a_dirty_gpu_stays_dirty_while_another_member_leaves():
    machine = Machine(A)
    async with opened(machine, share=2) as pool:
        one, close_one = await leased(pool)
        two, close_two = await leased(pool)
        pool.bind(one, 10_000_001, 1)
        pool.bind(two, 10_000_002, 2)
        machine.listed[A] = ((10_000_001, 10), (10_000_002, 10))
        machine.used[A] = 20
        await looks(machine)
        await close_one()
        machine.listed[A] = ((10_000_002, 10),)
        await looks(machine)
        pool.clock.more = 11
        await until(lambda: state(pool) == "dirty")
        third = asyncio.create_task(leased(pool))
        await close_two()
        machine.listed[A] = ()
        await looks(machine, 12)
        assert state(pool) == "dirty"
        assert not third.done()
        machine.used[A] = 0
        await (await third)[1]()


async def test_a_list_that_never_has_a_member_is_not_believed():
    """In WSL, and in some containers, NVML lists no process and reports success."""
    machine = Machine(A)
    async with opened(machine, share=2) as pool:
        one, close_one = await leased(pool)
        pool.bind(one, os.getpid(), 1)
        machine.used[A] = 10
        await looks(machine)
        assert state(pool) == "in use"
        two, close_two = await leased(pool)
        pool.bind(two, os.getppid(), 2)
        machine.used[A] = 20
        await looks(machine)
        assert state(pool) == "in use"
        await close_one()
        await close_two()


async def test_what_a_member_takes_is_measured_though_no_process_is_listed():
    machine = Machine(A)
    machine.used[A] = 0.5
    async with opened(machine, vram="auto") as pool:
        one, close = await leased(pool)
        pool.bind(one, os.getpid(), 1)
        machine.used[A] = 10.5
        await looks(machine)
        pool.returned(one)
        assert pool.allocator.packing.peak == 10 * GIB
        machine.used[A] = 0.5
        await close()


# ---- trouble


@pytest.mark.parametrize("how", ["fault", "event"])
async def test_a_gpu_that_fails_evicts_its_members_and_comes_back(how):
    machine = Machine(A, B)
    async with opened(machine) as pool:
        one, close_one = await leased(pool)
        two, close_two = await leased(pool)
        assert (one.gpus, two.gpus) == ((A,), (B,))
        if how == "fault":
            machine.faults[A] = NvmlFault("GPU is lost", 15)
        else:
            machine.pending = [NvmlEvent(A, "xid", 79)]
        async with asyncio.timeout(3):
            assert await one.evicted == "GPU 0: " + ("GPU is lost" if how == "fault" else "Xid 79")
        assert not two.evicted.done()
        await close_one()
        assert state(pool) == "faulty"
        assert len(pool) == 1
        pool.clock.more = 31
        if how == "fault":
            await asyncio.sleep(0.05)
            assert state(pool) == "faulty"
            machine.faults.clear()
            pool.clock.more = 31 + 61
        await until(lambda: state(pool) == "ok")
        await until(lambda: len(pool) == 2)
        await close_two()


async def test_while_nvml_hangs_no_gpu_is_given_out_even_if_a_verdict_stops_waiting(monkeypatch):
    monkeypatch.setattr(monitor, "HANGS", 0.1)
    machine = Machine(A, B)
    async with opened(machine) as pool:
        slot, close = await leased(pool)
        machine.going.clear()
        await until(lambda: pool.monitor.hangs)
        assert "NVML does not answer" in await pool.verdict(slot, within=0.05)
        pool.settle()
        waits = asyncio.create_task(leased(pool))
        await asyncio.sleep(0.05)
        assert not waits.done()
        assert set(pool.waiting().why.values()) == {"NVML does not answer"}
        machine.going.set()
        await (await waits)[1]()
        await close()


async def test_a_gpu_that_was_given_back_is_sampled_first():
    machine = Machine(A)
    async with opened(machine, period=60) as pool:
        pool.drain(A)
        machine.listed[A] = ((1, 6),)
        pool.give_back(A)
        pool.settle()
        waits = asyncio.create_task(leased(pool))
        await looks(machine, 1)
        await asyncio.sleep(0.05)
        assert not waits.done()
        assert state(pool) == "busy"
        waits.cancel()


async def test_an_error_of_the_journal_reaches_members_that_wait():
    machine = Machine(A)
    async with opened(machine) as pool:
        _, close = await leased(pool)
        waits = asyncio.create_task(leased(pool))
        await asyncio.sleep(0.02)

        def full(_):
            raise JournalError("no space")

        pool.on_sample = full
        pool.clock.more = gpu_pool.JOURNAL_PERIOD
        with pytest.raises(JournalError, match="no space"):
            await waits
        with pytest.raises(JournalError, match="no space"):
            await leased(pool)
        await close()


async def test_out_of_memory_beside_another_program_is_not_the_members_fault():
    machine = Machine(A)
    async with opened(machine) as pool:
        slot, close = await leased(pool)
        await looks(machine)
        assert not pool.out_of_memory(slot)
        machine.listed[A] = ((1, 30),)
        await looks(machine)
        assert pool.out_of_memory(slot)
        await close()


async def test_the_reason_for_waiting_is_that_nvml_does_not_answer(monkeypatch):
    monkeypatch.setattr(monitor, "HANGS", 0.05)
    machine = Machine(A)
    async with opened(machine) as pool:
        machine.going.clear()
        await until(lambda: pool.monitor.hangs)
        assert pool.waiting().why == {"0": "NVML does not answer"}
        machine.going.set()
        await until(lambda: pool.waiting() is None)


async def test_the_server_of_mps_is_not_another_program(monkeypatch):
    monkeypatch.setattr("gpbt_async.processes.linux.program_and_owner", lambda _: "nvidia-cuda-mps of root")
    machine = Machine(A)
    machine.listed[A] = ((1, 0.03),)
    async with opened(machine) as pool:
        slot, close = await leased(pool)
        pool.bind(slot, os.getpid(), 1)
        machine.listed[A], machine.used[A] = ((1, 10),), 10
        await looks(machine)
        assert state(pool) == "in use"
        assert pool.rows()[0].ours == 10 * GIB
        await close()


async def test_processes_below_a_member_belong_to_it():
    machine = Machine(A)
    async with opened(machine) as pool:
        slot, close = await leased(pool)
        pool.bind(slot, os.getppid(), 1)
        machine.listed[A], machine.used[A] = ((os.getpid(), 10),), 10
        await looks(machine)
        assert state(pool) == "in use"
        assert pool.rows()[0].ours == 10 * GIB
        await close()


async def test_a_member_that_is_cancelled_before_it_can_use_its_slot_leaves_it_to_the_next():
    async with opened(Machine(A), period=60) as pool:
        _, close = await leased(pool)
        served = asyncio.create_task(leased(pool))
        await asyncio.sleep(0.01)
        await close()
        pool.allocator.devices[A].sampled = pool.clock()
        pool.settle()
        assert len(pool.slots) == 1
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served
        _, close = await leased(pool)
        await close()


async def test_a_member_that_is_cancelled_while_it_waits_leaves_the_queue():
    async with opened(Machine(A)) as pool:
        _, close = await leased(pool)
        waits = asyncio.create_task(leased(pool))
        await asyncio.sleep(0.01)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert pool.waiting() is None or pool.waiting().members == 0
        await close()
        _, close = await leased(pool)
        await close()


async def test_a_gpu_whose_driver_asks_for_a_reset_is_not_used():
    machine = Machine(A, B)
    async with opened(machine) as pool:
        machine.pending, machine.needed = [NvmlEvent(A, "xid", 79)], "a reset"
        await until(lambda: state(pool) == "faulty")
        pool.clock.more = 31
        await until(lambda: "asks for a reset" in pool.rows()[0].reason)
        assert len(pool) == 1


async def test_a_gpu_that_appears_is_used():
    machine = Machine(A)
    async with opened(machine) as pool:
        pool.monitor._choose = list
        machine.used[B], machine.listed[B] = 0, ()
        machine.uuids = (A, B)
        assert len(pool) == 1
        pool.clock.more = monitor.RESCAN
        await until(lambda: len(pool) == 2)


async def test_a_card_that_fails_takes_its_instances_with_it():
    machine = Machine("MIG-1", "MIG-2", B)
    async with opened(machine) as pool:
        for uuid in ("MIG-1", "MIG-2"):
            pool.allocator.devices[uuid].gpu = GPU(0, uuid, slice=0, card=A, total=40 * GIB)
        machine.pending = [NvmlEvent(A, "xid", 79)]
        await until(lambda: state(pool, "MIG-1") == state(pool, "MIG-2") == "faulty")
        assert state(pool, B) == "ok"


async def test_the_journal_gets_a_sample_of_the_gpus_from_time_to_time():
    async with opened(Machine(A)) as pool:
        samples = []
        pool.on_sample = samples.append
        pool.clock.more = gpu_pool.JOURNAL_PERIOD
        await until(lambda: samples)
        assert samples[0][0].gpu == "0"


async def test_a_bug_in_the_monitor_reaches_members_that_wait():
    machine = Machine(A)
    async with opened(machine) as pool:
        _, close = await leased(pool)
        waits = asyncio.create_task(leased(pool))
        machine.events = lambda: 1 / 0
        with pytest.raises(RuntimeError, match="division"):
            await waits
        await close()


async def test_until_the_first_member_has_finished_samples_are_frequent():
    machine = Machine(A)
    async with opened(machine, vram="auto", period=60):
        await looks(machine, 2)


async def test_a_pid_of_no_process_here_may_belong_to_a_member():
    """In a container the driver gives the pids of the host."""
    machine = Machine(A)
    async with opened(machine) as pool:
        slot, close = await leased(pool)
        pool.bind(slot, os.getpid(), 1)
        machine.listed[A], machine.used[A] = ((2**22 + 1, 10),), 10
        await looks(machine)
        assert state(pool) == "in use"
        assert pool.rows()[0].ours == 10 * GIB
        await close()


async def test_a_process_that_a_member_has_left_behind_is_not_another_program():
    machine = Machine(A)
    with subprocess.Popen(["sleep", "60"]) as left, contextlib.ExitStack() as stack:  # noqa: ASYNC220
        stack.callback(left.kill)
        async with opened(machine) as pool:
            machine.listed[A] = ((left.pid, 0.5),)
            await looks(machine)
            assert state(pool) == "ok"
            machine.used[A] = 5
            await until(lambda: state(pool) == "busy")
            assert "5.0 GiB of its memory are used by other programs" in pool.rows()[0].reason


async def test_a_sample_from_before_a_member_ended_says_nothing_of_its_memory():
    machine = Machine(A)
    async with opened(machine) as pool:
        _, close = await leased(pool)
        machine.going.clear()
        await asyncio.sleep(0.02)  # the sample that hangs was asked for before the end
        await close()
        waits = asyncio.create_task(leased(pool))
        await asyncio.sleep(0.02)
        pool.settle()
        await asyncio.sleep(0.02)
        assert not waits.done()
        machine.going.set()
        await (await waits)[1]()


# a resident process keeps its memory between two members


@contextlib.asynccontextmanager
async def resident(machine, pool, pid=4242, listed=True):
    """A process whose member has ended, and that waits for the next: the list of the times it was told to end."""
    ended, gone = [], asyncio.get_running_loop().create_future()
    slot, release = await leased(pool)
    pool.bind(slot, pid, 0)
    machine.used[A] = 10
    machine.listed[A] = ((pid, 10),) if listed else None
    await looks(machine)
    pool.stays(slot, pid, gone, lambda: ended.append(pid))
    await release()
    yield ended, gone


@pytest.mark.parametrize("listed", [True, False])
async def test_the_gpu_of_a_process_that_stays_is_free_at_once_and_its_memory_is_the_next_members(listed):
    machine = Machine(A)
    async with opened(machine) as pool, resident(machine, pool, listed=listed) as (ended, _):
        for _ in range(2):
            slot, release = await leased(pool)
            await looks(machine)
            pool.bind(slot, 4242, 1)
            await looks(machine)
            pool.stays(slot, 4242, asyncio.get_running_loop().create_future(), lambda: None)
            await release()
        pool.clock.more += 60  # long after memory would have had to come back
        await looks(machine)
        assert (state(pool), len(pool), ended, pool.warnings) == ("ok", 1, [], [])


async def test_an_idle_process_does_not_count_as_memory_of_others():
    machine = Machine(A)
    async with opened(machine, vram="30GiB") as pool, resident(machine, pool):
        await looks(machine)
        assert len(pool) == 1, "10 GiB are held by the process that the next member will use"
        assert pool.rows()[0].others == 0


@pytest.mark.parametrize("how", ["drained", "fails", "another program"])
async def test_an_idle_process_ends_when_its_gpu_may_not_be_used(how):
    machine = Machine(A)
    async with opened(machine) as pool, resident(machine, pool) as (ended, gone):
        if how == "drained":
            pool.drain(A)
        elif how == "fails":
            machine.faults[A] = NvmlFault("GPU is lost", 15)
        else:
            machine.listed[A] = ((4242, 10), (1, 20))
            machine.used[A] = 30
        await until(lambda: ended)
        gone.set_result(None)
        await asyncio.sleep(0)
        assert pool.allocator.devices[A].residents == 0
