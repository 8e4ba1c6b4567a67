"""Which member gets which GPUs, and how many members share one.

Pure: no clock, no NVML, no process. A member that needs several GPUs gets all of them together. It holds none while it
waits, so members cannot deadlock. The allocator serves members in the order of their requests, so a member that needs
four GPUs does not wait for ever behind members that need one. The price is that a free GPU may be idle while the first
member in the queue waits for a second one. There is one exception: a member that must train alone may wait for a whole
interval. The allocator reserves the emptiest GPUs for it, and serves the members behind it with the others.

`Packing` limits the members on a GPU: at most `share` of them, each with `vram` bytes. For each member the allocator
counts its reserved memory or its measured memory, whichever is greater. Both are needed: a reservation may be too
small, and a measurement comes seconds after a program began.

The surprise: with vram "auto", members train alone until the first has finished. After that, each member reserves the
greatest peak so far and a margin. The margin is needed because peaks are sampled, so short ones are missed. If a member
runs out of memory all the same, fewer members share a GPU from then on.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import combinations, islice
from typing import TYPE_CHECKING

from ..formatting import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .device import Device, Lease
    from .nvml import GPU


#: of so many GPUs at most, the best ones by load, sets are compared by how near their GPUs are to one another
_COMPARED = 12
#: what is added to a measured peak
MARGIN = 0.1
#: how PyTorch, the CUDA runtime and driver, TensorFlow and JAX say it
_OOM = re.compile(r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|"
                  r"cudaErrorMemoryAllocation|CUDNN_STATUS_ALLOC_FAILED|"
                  r"RESOURCE_EXHAUSTED|ResourceExhaustedError|CUBLAS_STATUS_ALLOC_FAILED")  # fmt: skip


def out_of_memory(text: str) -> bool:
    """Does an error, or the end of a log, say that a GPU's memory was used up?"""
    return _OOM.search(text) is not None


class Packing:
    """share: most members on a GPU, None = 1, or with vram as many as fit. vram: bytes a member, "auto", or None."""

    def __init__(self, share: int | None = None, vram: str | None = None) -> None:
        self.auto = vram == "auto"
        self.vram = parse_bytes(vram) if vram is not None and vram != "auto" else None
        self._most = share or (None if vram is not None else 1)
        #: the most memory that a finished member held on a GPU, 0 = not known yet
        self.peak = 0

    def observe(self, peak: int, most: int = 0) -> bool:
        """A member that held at most `peak` bytes has finished; True if this changes how many fit.

        most: the most that any member can have, 0 = unknown. Without it, a member that holds much on one of its GPUs
        and little on the others would seem to fit on the largest GPUs only.
        """
        peak = min(peak, most or peak)
        if not self.auto or peak <= self.peak:
            return False
        self.peak = peak
        return True

    def lower(self, members: int) -> bool:
        """One of so many members on a GPU ran out of its memory; True if fewer fit from now on."""
        fewer = max(1, members - 1)
        if self._most is not None and self._most <= fewer:
            return False
        self._most = fewer
        return True

    @property
    def measured(self) -> bool:
        """Is it known what a member takes, as far as it will be?"""
        return not self.auto or self.peak > 0

    @property
    def need(self) -> int:
        """Bytes that a member is promised on each of its GPUs; 0 = not limited."""
        if self.auto:
            return int(self.peak * (1 + MARGIN))
        return self.vram or 0

    def most(self, gpu: GPU) -> int:
        """How many members may share this GPU if nothing else is on it; 0 if it is too small for one."""
        most = 1 if gpu.mode == "exclusive" or not self.measured else self._most
        if self.need and gpu.total:
            # a peak that was measured on a GPU of this machine fits on it alone, whatever the margin says
            fit = gpu.total // self.need or int(self.auto and self.peak <= gpu.total)
            return fit if most is None else min(most, fit)
        return most or 1


class Allocator:
    """need: GPUs of each member. distance: of two GPUs, by UUID, from 0 to 50. suspended: no GPU may be given out."""

    def __init__(
        self,
        devices: Iterable[Device],
        packing: Packing,
        need: int = 1,
        distance: Callable[[str, str], int] = lambda *_: 0,
    ) -> None:
        self.devices = {device.gpu.uuid: device for device in devices}
        self.packing = packing
        self.need = need
        self.distance = distance
        self.suspended = False
        self.queue: deque[Lease] = deque()
        self.held: list[Lease] = []

    # ---- what can be asked for

    def impossible(self) -> str:
        """Why a member could not be served even if all GPUs were free; "" if it could."""
        gpus = [device.gpu for device in self.devices.values() if self._suits(device, self.need)]
        fitting = [gpu for gpu in gpus if self.packing.most(gpu)]
        if len(fitting) >= self.need:
            return ""
        if self.need > 1 and len(gpus) < self.need:
            mig = ", as a process can use only one MIG instance" if len(gpus) < len(self.devices) else ""
            return f"a member needs {self.need} GPUs and there are {len(gpus)} to choose from{mig}"
        amount = format_bytes(self.packing.need)
        if fitting:
            return f"a member needs {self.need} GPUs with {amount} each and there are {len(fitting)}"
        most = max((gpu.total for gpu in gpus), default=0)
        return f"a member needs {amount} and the largest GPU has {format_bytes(most)}"

    def most(self) -> int:
        """The most bytes a member may take on each of its GPUs, if all were free; 0 if unknown."""
        totals = sorted(d.gpu.total for d in self.devices.values() if self._suits(d, self.need))
        return totals[-self.need] if len(totals) >= self.need and totals[0] else 0

    def capacity(self) -> int:
        """How many members could train at this moment, including those that do."""
        rooms = [self._room(device, device.staying()) for device in self._eligible(self.need)]
        more = 0
        while sum(min(room, more + 1) for room in rooms) >= self.need * (more + 1):
            more += 1
        return sum(not lease.leaving for lease in self.held) + more

    # ---- what happens

    def ask(self, lease: Lease) -> None:
        self.queue.append(lease)

    def withdraw(self, lease: Lease) -> None:
        self.queue.remove(lease)

    def grant(self) -> list[Lease]:
        """Serve the first in the queue, and so on, until one must wait; the leases that were served."""
        granted: list[Lease] = []
        reserved: list[Device] = []  # for members that wait to train alone: no new member goes there
        for lease in list(self.queue):
            chosen = self._choose(lease, reserved)
            if chosen is None and lease.alone:
                need = lease.need or self.need
                free = (device for device in self._eligible(need) if device not in reserved)
                reserved += sorted(free, key=lambda device: len(device.leases))[:need]
                continue
            if chosen is None:
                break
            self.queue.remove(lease)
            lease.uuids = tuple(device.gpu.uuid for device in chosen)
            lease.promised = self.packing.need
            for device in chosen:
                device.leases.append(lease)
                for other in device.leases:
                    other.crowd = max(other.crowd, len(device.leases))
            self.held.append(lease)
            granted.append(lease)
        return granted

    def release(self, lease: Lease) -> None:
        self.held.remove(lease)
        for uuid in lease.uuids:
            self.devices[uuid].leases.remove(lease)

    # ---- which GPUs suit a member

    def _suits(self, device: Device, need: int) -> bool:
        """A process can use only one MIG instance."""
        return need == 1 or device.gpu.slice is None

    def _eligible(self, need: int) -> list[Device]:
        if self.suspended:
            return []
        return [device for device in self.devices.values() if device.open and self._suits(device, need)]

    def _room(self, device: Device, leases: Sequence[Lease]) -> int:
        """How many more members this GPU takes beside these leases."""
        if any(lease.alone for lease in leases):
            return 0
        room = self.packing.most(device.gpu) - len(leases)
        need = self.packing.need
        if need and device.gpu.total:
            free = device.gpu.total - self._used(device, leases)
            # alone on a GPU, a member may have what was measured, without the margin
            room = min(room, free // need or int(not leases and (self.packing.peak or need) <= free))
        return max(0, room)

    def _used(self, device: Device, leases: Sequence[Lease]) -> int:
        least = self.packing.need if self.packing.auto else 0  # the peak may have risen since the promise
        uuid = device.gpu.uuid
        return device.others + sum(max(lease.promised, least, lease.measured.get(uuid, 0)) for lease in leases)

    def _choose(self, lease: Lease, reserved: Sequence[Device]) -> tuple[Device, ...] | None:
        need = lease.need or self.need
        free = [d for d in self._eligible(need) if d not in reserved and self._room(d, d.leases)]
        free = [d for d in free if not (lease.alone and d.leases)]
        if len(free) < need:
            return None
        # spread before packing; of equally loaded GPUs the one with the most memory left, then the first
        free.sort(key=lambda d: (len(d.leases), self._used(d, d.leases) - d.gpu.total))
        if need == 1:
            return (free[0],)
        sets = combinations(islice(free, max(_COMPARED, need)), need)
        return min(sets, key=lambda devices: (sum(len(d.leases) for d in devices), self._spread(devices)))

    def _spread(self, devices: Sequence[Device]) -> int:
        return sum(self.distance(one.gpu.uuid, other.gpu.uuid) for one, other in combinations(devices, 2))

    # ---- for people, and for tests

    def shortage(self, alone: bool = False) -> dict[str, str]:
        """By UUID, why an open GPU is not given to the first in the queue; "" for one that could be."""
        return {uuid: self._why_not(device, alone) for uuid, device in self.devices.items() if device.open}

    def _why_not(self, device: Device, alone: bool) -> str:
        leases = device.leases
        if not self._suits(device, self.need):
            return "a process can use only one MIG instance"
        crowded = alone and leases
        if self._room(device, leases) and not crowded:
            return ""
        if any(lease.leaving for lease in leases):
            return "the memory of a member that has ended is coming back"
        if crowded or any(lease.alone for lease in leases):
            return "a member that ran out of memory is to train alone"
        most = self.packing.most(device.gpu)
        if leases and len(leases) >= most:
            return f"it holds {len(leases)} of {most} member(s)"
        free = max(0, device.gpu.total - self._used(device, leases))
        return f"{format_bytes(free)} are free, {format_bytes(self.packing.need)} are needed"

    def check(self) -> None:
        """Assert what holds at any moment."""
        for uuid, device in self.devices.items():
            assert all(uuid in lease.uuids and lease in self.held for lease in device.leases)
            assert not any(lease.alone for lease in device.leases) or len(device.leases) == 1
        for lease in self.held:
            assert len(lease.uuids) == len(set(lease.uuids)) == (lease.need or self.need)
            assert len(lease.uuids) == 1 or all(self.devices[u].gpu.slice is None for u in lease.uuids)
            assert lease not in self.queue
