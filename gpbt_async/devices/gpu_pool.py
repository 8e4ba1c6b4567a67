"""The GPUs of a run: leased to members, and taken back.

The monitor yields observations of NVML, and the allocator decides which member is served next. The pool connects the
two: it applies each observation to its device, and leases the GPUs that have become free. The scheduler uses two things
of the pool: `lease` gives a member a `Slot`, and the callback `on_capacity` receives the number of members that can
train at the same time, whenever it changes. The engine counts slots and knows nothing of GPUs.

If a member's process ends with the member, the pool leases the GPU again only once the GPU's memory is free. After ten
seconds, the pool sets the GPU aside as dirty. If the process is resident, it keeps its memory, and the pool leases the
GPU at once. The pool ends an idle resident process as soon as the GPU may no longer be used.

The surprise: the pool may *evict* a member from its slot, when the GPU fails or the user takes it back. It then sets
the future `Slot.evicted` to the reason, and the scheduler stops the member. This attempt does not count as a failure.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..declaration.run_options import option_text
from ..errors import DeviceError, GPBTError
from ..formatting import format_bytes
from ..processes import linux
from ..storage.gpu_report import GpuQueue
from .device import Device, Lease
from .gpu_sharing import Allocator, Packing
from .health import FAULTY, Health
from .monitor import HANGS, PERIOD, Arrival, Distances, Monitor, Retrial, Sampling
from .nvml import NvmlEvent, Sample
from .slots import Pool, Slot, environment
from .xids import blame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from ..storage.gpu_report import DeviceStatus
    from .device import Owner
    from .monitor import Observation
    from .nvml import GPU, NvmlThread
    from .request import DeviceRequest


log = logging.getLogger("gpbt_async")

#: seconds the memory of a member that has ended may take to come back
RELEASE = 10.0
#: seconds between two samples for the journal
JOURNAL_PERIOD = 10.0
MUTE = "NVML does not answer"


class GpuPool(Pool):
    """period, choose, now: as of Monitor. cores: those that this process may use; usable: how many of them it may keep
    busy, as a container may grant fewer.
    """

    def __init__(
        self,
        gpus: Iterable[GPU],
        nvml: NvmlThread,
        request: DeviceRequest,
        *,
        cores: frozenset[int] = frozenset(),
        usable: int = 1,
        period: float = PERIOD,
        choose: Callable[[Iterable[GPU]], list[GPU]] = lambda _: [],
        now: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._request, self._cores, self._usable, self._now, self._warn = request, cores, usable, now, warn
        self._distances: dict[tuple[str, str], int] = {}
        needs = request.resources
        self.allocator = Allocator(
            [self._device(gpu) for gpu in gpus],
            Packing(needs.share, needs.vram),
            max(1, needs.gpus),
            lambda one, other: self._distances.get((one, other), 50),
        )
        self.monitor = Monitor(self.allocator, nvml, period=period, choose=choose, now=now, warn=warn)
        self._stream = self.monitor.observations()
        self._task: asyncio.Task[None] | None = None
        self._turns: dict[Lease, asyncio.Future[None]] = {}
        self._leased: dict[Lease, Slot] = {}
        #: idle resident processes, by pid: their GPUs, and what ends each
        self._residents: dict[int, tuple[tuple[str, ...], Callable[[], object]]] = {}
        #: living processes that were idle once, by pid: the end of each is awaited
        self._stayed: set[int] = set()
        #: why no slot can be had any more
        self._closed: Exception | None = None
        #: NVML has listed a process of a member, so its lists are to be believed when they are empty
        self._lists_members = False
        self._journaled = now()
        self._unmeasured = False
        self._capacity = -1

    def _device(self, gpu: GPU) -> Device:
        """Not to be given out before its first sample."""
        return Device(gpu, Health(doubtful=True, others_may_use=self._request.others_may_use))

    # ---- its life

    async def open(self) -> None:
        """Sample every GPU, and go on sampling. Raises DeviceError when members need what no GPU has, NvmlFault."""
        if impossible := self.allocator.impossible():
            vram, share, gpus = map(option_text, ("vram", "share", "gpus"))
            raise DeviceError(f"{impossible}: change what a member needs ({vram}, {share}, resources), or {gpus}")
        observations: list[Observation] = []
        while not observations:  # empty: NVML hangs
            observations = await anext(self._stream)
            self._apply(observations)
        self._task = asyncio.create_task(self._follow(), name="gpbt-async gpus")

    async def _follow(self) -> None:
        try:
            async for observations in self._stream:
                self._apply(observations)
                if self._now() >= self._journaled + JOURNAL_PERIOD:
                    self._journaled = self._now()
                    self.on_sample(self.rows())
        except Exception as error:  # a bug of ours, or a full disk: members that wait for a GPU have to know
            log.exception("watching the GPUs failed")
            self._break(error)

    async def close(self) -> None:
        self._break(RuntimeError("the slots were closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._stream.aclose()
        await self.monitor.close()

    def _break(self, error: Exception) -> None:
        if self._closed is None:
            ours = isinstance(error, GPBTError)
            self._closed = error if ours else RuntimeError(f"no GPU can be given out any more: {error}")
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(self._closed)

    def __len__(self) -> int:
        return self.allocator.capacity()

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(sorted(self._leased.values(), key=lambda slot: slot.index))

    # ---- leasing

    @asynccontextmanager
    async def lease(self, alone: bool = False, need: int = 0) -> AsyncIterator[Slot]:
        """need: how many GPUs, 0 = as many as any member."""
        if self._closed is not None:
            raise self._closed
        lease = Lease(alone=alone, need=need, asked=self._now())
        self._turns[lease] = turn = asyncio.get_running_loop().create_future()
        self.allocator.ask(lease)
        self._grant()
        try:
            await turn
        except BaseException:
            if lease in self._leased:  # it was served in this very moment
                self._release(lease)
            elif lease in self.allocator.queue:
                self.allocator.withdraw(lease)
            raise
        finally:
            del self._turns[lease]
        try:
            yield self._leased[lease]
        finally:
            self._release(lease)

    def _grant(self) -> None:
        for lease in self.allocator.grant():
            if lease.alone:
                self._end_residents(lease.uuids)
            self._leased[lease] = self._slot(lease)
            if not self._turns[lease].done():  # done: it was cancelled, and releases its slot when it runs
                self._turns[lease].set_result(None)
        self._report_capacity()

    def _slot(self, lease: Lease) -> Slot:
        gpus = [self.allocator.devices[uuid].gpu for uuid in lease.uuids]
        taken = {slot.index for slot in self._leased.values()}
        near = functools.reduce(frozenset.__and__, (gpu.cpus for gpu in gpus)) & self._cores
        threads = self._request.resources.cpus or self._share_of_cores(gpus[0])
        return Slot(
            index=next(i for i in range(len(taken) + 1) if i not in taken),
            name=str(gpus[0]) if len(gpus) == 1 else "GPUs " + " + ".join(gpu.label for gpu in gpus),
            device="cuda",
            gpus=lease.uuids,
            threads=threads,
            env=environment(threads, lease.uuids),
            cpus=near if self._request.affinity and near != self._cores else frozenset(),
            evicted=asyncio.get_running_loop().create_future(),
        )

    def _share_of_cores(self, gpu: GPU) -> int:
        """The cores near a GPU, divided among the members that may train on GPUs near the same cores."""
        near = gpu.cpus & self._cores
        usable = min(len(near) or self._usable, self._usable)
        beside = [d.gpu for d in self.allocator.devices.values() if d.gpu.cpus & self._cores == near]
        members = sum(max(1, self.allocator.packing.most(other)) for other in beside) / self.allocator.need
        return max(1, int(usable / max(1.0, members)))

    def _release(self, lease: Lease) -> None:
        del self._leased[lease]
        lease.leaving, lease.ended = True, self._now()
        if lease.stays:
            self.settle()
        self.monitor.soon()
        self._report_capacity()

    def _report_capacity(self) -> None:
        capacity = self.allocator.capacity()
        if capacity != self._capacity and self._closed is None:
            self._capacity = capacity
            self.on_capacity(capacity)

    # ---- what members report

    def bind(self, slot: Slot, pid: int, member: int) -> None:
        lease = self._lease_of(slot)
        lease.pid, lease.member = pid, member
        self._forget_resident(pid)

    def stays(self, slot: Slot, pid: int, gone: asyncio.Future[Any], end: Callable[[], object]) -> None:
        self._lease_of(slot).stays = True
        self._residents[pid] = slot.gpus, end
        self._count_residents(slot.gpus)
        if pid not in self._stayed:
            self._stayed.add(pid)
            gone.add_done_callback(lambda _: self._resident_gone(pid))

    def _resident_gone(self, pid: int) -> None:
        self._stayed.discard(pid)  # another process may get this pid
        self._forget_resident(pid)

    def _forget_resident(self, pid: int) -> None:
        if pid in self._residents:
            gpus, _ = self._residents.pop(pid)
            self._count_residents(gpus)

    def _count_residents(self, gpus: Iterable[str]) -> None:
        for uuid in gpus:
            self.allocator.devices[uuid].residents = sum(uuid in held for held, _ in self._residents.values())

    def _end_residents(self, gpus: Iterable[str] | None = None) -> None:
        """End the idle processes on these GPUs, or all."""
        wanted = set(self.allocator.devices if gpus is None else gpus)
        for held, end in list(self._residents.values()):
            if wanted.intersection(held):
                end()

    def _lease_of(self, slot: Slot) -> Lease:
        return next(lease for lease, held in self._leased.items() if held is slot)

    def returned(self, slot: Slot) -> None:
        # other members will need as much memory
        lease, packing = self._lease_of(slot), self.allocator.packing
        if packing.observe(lease.peak, self.allocator.most()):
            peak, need = format_bytes(packing.peak), format_bytes(packing.need)
            self._warn(f"vram=auto: members take up to {peak}, so each is given {need}")
            self._end_residents()  # more or fewer members share a GPU now, with other numbers of threads
            self.settle()
        elif not packing.measured and not self._unmeasured:
            self._unmeasured = True
            self._warn("vram=auto: NVML did not show what a member takes (too short?), so members train alone")

    def out_of_memory(self, slot: Slot) -> bool:
        crowd = self._lease_of(slot).crowd  # those that were there then may have ended by now
        if crowd < 2:
            accounts = [self.allocator.devices[uuid].account for uuid in slot.gpus]
            return any(account.others for account in accounts if account is not None)
        if self.allocator.packing.lower(crowd):
            self._warn(f"{slot.name}: out of memory with {crowd} members on it; from now on one fewer share a GPU")
            self._end_residents()
            self.settle()
        return True

    async def verdict(self, slot: Slot, within: float = HANGS) -> str:
        """Samples the GPU once more; within: seconds."""
        silent = ""
        if not _evicted(slot):
            try:
                async with asyncio.timeout(within):
                    self._apply(await self.monitor.sample(slot.gpus))
            except TimeoutError:  # as with a driver that is losing a card
                silent = f"{slot.name}: {MUTE}"
        return _evicted(slot) or silent

    # ---- by hand

    def drain(self, uuid: str, at_once: bool = False) -> None:
        device = self.allocator.devices[uuid]
        device.health.drain(self._now())
        if at_once:
            self._evict(device, f"{device.gpu} was drained")
        self.settle()
        self.on_change()

    def give_back(self, uuid: str) -> None:
        self.allocator.devices[uuid].health.give_back(self._now())
        self.monitor.at_once()
        self.on_change()

    # ---- what NVML reports

    def _apply(self, observations: Sequence[Observation]) -> None:
        devices = self.allocator.devices
        for observation in observations:
            match observation:
                case Sampling(uuid, Sample() as sample, asked):
                    self._observe(devices[uuid], sample, asked)
                case Sampling(uuid, str() as problem):
                    self._fail(devices[uuid], problem)
                case NvmlEvent():
                    self._take_event(observation)
                case Retrial(uuid, problem):
                    self._retry(devices[uuid], problem)
                case Arrival(gpus):
                    for gpu in gpus:
                        devices[gpu.uuid] = self._device(gpu)
                        self._warn(f"{gpu} has appeared and is used from now on")
                case Distances(table):
                    self._distances = table
        self.settle()

    def _observe(self, device: Device, sample: Sample, asked: float) -> None:
        pids = [pid for pid, _ in sample.processes or ()]
        self._lists_members = self._lists_members or any(isinstance(self._owner(pid), Lease) for pid in pids)
        if not pids and not self._lists_members:  # in WSL, and in some containers, no process is ever listed
            sample = replace(sample, processes=None)
        before = device.health.state
        device.observe(sample, self._owner, asked, self._now())
        if device.health.state != before:
            self.on_change()

    def _owner(self, pid: int) -> Owner:
        """Whose process this is."""
        if pid in self._residents:
            return "resident"
        leases = {lease.pid: lease for lease in self.allocator.held if lease.pid is not None}
        if (lease := leases.get(pid)) is not None:
            return "left over" if lease.leaving else lease
        above = linux.ancestors(pid)
        for ancestor in above:
            if (lease := leases.get(ancestor)) is not None and not lease.leaving:
                return lease
        if os.getpid() in above:
            return "left over"
        if not linux.exists(pid):
            return "ghost"
        process = linux.program_and_owner(pid)
        # the server of MPS stands for all its clients, and stays when they go
        return "ghost" if process.startswith("nvidia-cuda-mps") else f"process {pid} ({process})"

    def _take_event(self, event: NvmlEvent) -> None:
        text = f"Xid {event.data}" if event.kind == "xid" else event.kind
        whose = blame(event.kind, event.data, self._request.xids)
        for device in self.allocator.devices.values():
            if event.uuid not in (device.gpu.uuid, device.gpu.card_uuid):
                continue
            if whose == "card":
                self._fail(device, text)
            elif event.kind == "xid":
                self._warn(f"{device.gpu}: {text}" + ", the fault of a member" * (whose == "member"))

    def _fail(self, device: Device, reason: str) -> None:
        if device.health.state == FAULTY:
            return
        device.fail(reason, self._now())
        seconds = device.health.retry - self._now()
        self._warn(f"{device.gpu} is set aside: {reason}; to be tried again in {seconds:.0f} s")
        self._evict(device, f"{device.gpu}: {reason}")
        self.on_change()

    def _retry(self, device: Device, problem: str) -> None:
        device.health.retried(self._now(), problem)
        if not problem:
            self._warn(f"{device.gpu} works again")
        self.on_change()

    def _evict(self, device: Device, reason: str) -> None:
        for lease in device.leases:
            slot = self._leased.get(lease)
            if slot is not None and slot.evicted is not None and not slot.evicted.done():
                slot.evicted.set_result(reason)

    def settle(self) -> None:
        """Release the GPUs of members that have ended, where memory allows it, and grant what may be granted."""
        for lease in [lease for lease in self.allocator.held if lease.leaving]:
            self._take_back(lease)
        self._end_residents(uuid for uuid, device in self.allocator.devices.items() if not device.open)
        if self.allocator.suspended != self.monitor.hangs:
            self.allocator.suspended = self.monitor.hangs
            self.on_change()
        if self._closed is None:
            self._grant()

    def _take_back(self, lease: Lease) -> None:
        devices = [self.allocator.devices[uuid] for uuid in lease.uuids]
        if lease.stays:  # no memory comes back
            self.allocator.release(lease)
            return
        if not all(device.sampled_since(lease.ended) for device in devices):
            return  # it is unknown whether the memory is free
        lingering = [device for device in devices if device.lingers]
        if lingering and self._now() < lease.ended + RELEASE:
            return
        for device in lingering:
            assert device.account is not None
            device.health.lingers(self._now(), device.account.unexplained)
            self._warn(f"{device.gpu} is set aside: {device.health.reason}")
            self.on_change()
        self.allocator.release(lease)

    # ---- for people

    def rows(self) -> list[DeviceStatus]:
        rows = [device.status() for device in self.allocator.devices.values()]
        return [replace(row, reason=MUTE) for row in rows] if self.monitor.hangs else rows

    def waiting(self) -> GpuQueue | None:
        queue, devices = self.allocator.queue, self.allocator.devices
        if not queue and self.allocator.capacity():
            return None
        why = self.allocator.shortage(queue[0].alone if queue else False)
        for uuid, device in devices.items():
            if not device.open:
                why[uuid] = device.health.reason or "another program may be using it"
        if self.monitor.hangs:
            why = dict.fromkeys(devices, MUTE)
        labelled = {devices[uuid].gpu.label: reason for uuid, reason in why.items() if reason}
        return GpuQueue(len(queue), queue[0].asked if queue else None, labelled)


def _evicted(slot: Slot) -> str:
    """Why the member in this slot has to leave it, or ""."""
    return slot.evicted.result() if slot.evicted is not None and slot.evicted.done() else ""
