"""The monitor without a pool: what it asks NVML, in which order, and what its stream yields."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from gpbt_async.devices import monitor
from gpbt_async.devices.device import Device, Lease
from gpbt_async.devices.gpu_sharing import Allocator, Packing
from gpbt_async.devices.monitor import Arrival, Distances, Monitor, Retrial, Sampling, begin, observe, rescan, retry
from gpbt_async.devices.nvml import GPU, NvmlEvent, NvmlFault, NvmlThread, Sample

A, B, C = (GPU(index, f"GPU-{letter}") for index, letter in enumerate("abc"))
FREE = Sample(0, 40 << 30, ())


class Nvml:
    """A backend that notes what it is asked. faults: by UUID; answers: cleared while it hangs."""

    def __init__(self, *gpus):
        self.gpus, self.calls = gpus, []
        self.faults, self.pending, self.wanted = {}, [], ""
        self.answers = threading.Event()
        self.answers.set()

    def survey(self):
        if "survey" in self.faults:
            raise self.faults["survey"]
        return list(self.gpus)

    def sample(self, uuid):
        self.answers.wait()
        self.calls.append(uuid)
        if uuid in self.faults:
            raise self.faults[uuid]
        return FREE

    def watch(self, uuids):
        self.calls.append(("watch", *uuids))

    def events(self):
        events, self.pending = self.pending, []
        return events

    def recovery(self, uuid):
        return self.wanted

    def distance(self, one, other):
        return 10

    def close(self): ...


# ---- questions


def test_an_event_comes_before_the_sample_that_fails_for_the_same_reason():
    nvml = Nvml(A, B)
    nvml.faults[A.uuid], nvml.pending = NvmlFault("GPU is lost", 15), [NvmlEvent(A.uuid, "xid", 79)]
    assert observe([A.uuid, B.uuid], 3.0, nvml) == [
        NvmlEvent(A.uuid, "xid", 79),
        Sampling(A.uuid, "GPU is lost", 3.0),
        Sampling(B.uuid, FREE, 3.0),
    ]


def test_instances_of_one_card_share_its_events():
    nvml = Nvml()
    begin([GPU(0, "MIG-1", slice=0, card=A.uuid), GPU(0, "MIG-2", slice=1, card=A.uuid), B], (), 0.0, nvml)
    assert nvml.calls[0] == ("watch", A.uuid, B.uuid)


def test_distances_are_of_whole_cards_only():
    instance = GPU(2, "MIG-1", slice=0, card=C.uuid)
    distances, *_ = begin([A], [A, B, instance], 0.0, Nvml())
    assert distances == Distances(
        {(A.uuid, A.uuid): 0, (A.uuid, B.uuid): 10, (B.uuid, A.uuid): 10, (B.uuid, B.uuid): 0}
    )


@pytest.mark.parametrize(
    ("fault", "wanted", "problem"),
    [("GPU is lost", "", "GPU is lost"), ("", "a reset", "its driver asks for a reset first"), ("", "", "")],
)
def test_a_faulty_gpu_is_tried_again(fault, wanted, problem):
    nvml = Nvml(A)
    nvml.wanted = wanted
    if fault:
        nvml.faults[A.uuid] = NvmlFault(fault, 15)
    retrial, *more = retry(A, 3.0, nvml)
    assert retrial == Retrial(A.uuid, problem)
    assert more == ([] if problem else [Sampling(A.uuid, FREE, 3.0)]), "its members may be on it again: sample it first"
    assert (("watch", A.uuid) in nvml.calls) is (not problem), "a lost GPU has lost its registration, too"


def test_only_gpus_that_were_not_there_appear():
    nvml = Nvml(A, B)
    assert rescan(list, [A], False, 3.0, nvml) == [Arrival([B]), Sampling(B.uuid, FREE, 3.0)]
    assert rescan(list, [A, B], False, 3.0, nvml) == []
    assert rescan(lambda gpus: [], [A], False, 3.0, nvml) == [], "one that the run may not use"
    assert isinstance(rescan(list, [A], True, 3.0, nvml)[1], Distances)
    nvml.faults["survey"] = NvmlFault("driver is being updated")
    assert rescan(list, [A], False, 3.0, nvml) == []


# ---- the stream


@contextlib.asynccontextmanager
async def watched(nvml, *gpus, period=60.0):
    """A monitor of these GPUs, its stream, and what it warns of; nothing applies the observations."""
    warnings, now = [], asyncio.get_running_loop().time
    allocator = Allocator([Device(gpu) for gpu in gpus], Packing(1))
    watching = Monitor(allocator, NvmlThread(nvml), period=period, choose=list, now=now, warn=warnings.append)
    stream = watching.observations()
    try:
        yield watching, allocator, stream, warnings
    finally:
        nvml.answers.set()
        await stream.aclose()
        await watching.close()


async def test_the_first_observations_are_of_all_gpus():
    async with watched(Nvml(A, B), A, B) as (_, _, stream, _):
        assert [observation.uuid for observation in await anext(stream)] == [A.uuid, B.uuid]


async def test_only_gpus_that_members_leave_are_sampled_in_quick_succession():
    async with watched(Nvml(A, B), A, B) as (watching, allocator, stream, _):
        await anext(stream)
        allocator.held.append(Lease(uuids=(B.uuid,), leaving=True))
        watching.soon()
        async with asyncio.timeout(3):
            for _ in range(3):
                assert [observation.uuid for observation in await anext(stream)] == [B.uuid]


async def test_all_gpus_can_be_sampled_at_once():
    async with watched(Nvml(A, B), A, B) as (watching, _, stream, _):
        await anext(stream)
        watching.at_once()
        async with asyncio.timeout(3):
            assert [observation.uuid for observation in await anext(stream)] == [A.uuid, B.uuid]


async def test_a_faulty_gpu_is_not_sampled_and_tried_again_when_its_time_has_come():
    nvml = Nvml(A, B)
    async with watched(nvml, A, B) as (watching, allocator, stream, _):
        await anext(stream)
        health = allocator.devices[A.uuid].health
        health.failed(0.0, "lost")
        health.retry = asyncio.get_running_loop().time() + 60
        watching.at_once()
        assert [observation.uuid for observation in await anext(stream)] == [B.uuid]
        health.retry = 0.0
        watching.at_once()
        assert [observation.uuid for observation in await anext(stream)] == [B.uuid]
        assert (await anext(stream))[0] == Retrial(A.uuid, "")


async def test_an_nvml_that_hangs_is_reported_at_once_and_its_answer_is_awaited(monkeypatch):
    monkeypatch.setattr(monitor, "HANGS", 0.02)
    nvml = Nvml(A)
    async with watched(nvml, A) as (watching, _, stream, warnings):
        nvml.answers.clear()
        assert await anext(stream) == []
        assert watching.hangs
        assert warnings == ["NVML has not answered for 0.02 s: no GPU is given out until it does"]
        nvml.answers.set()
        assert [observation.uuid for observation in await anext(stream)] == [A.uuid]
        assert not watching.hangs


async def test_a_sample_beside_the_stream_does_not_end_what_hangs(monkeypatch):
    monkeypatch.setattr(monitor, "HANGS", 0.02)
    nvml = Nvml(A)
    async with watched(nvml, A) as (watching, _, stream, _):
        nvml.answers.clear()
        assert await anext(stream) == []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await watching.sample([A.uuid])
        assert watching.hangs
