"""Slots: the right to train one member now, on some GPUs or on a share of the CPU cores.

`Pool` is what leases them: a GpuPool (gpu_pool.py), or the `CpuPool` here, whose slots are fixed and never fail. The
surprise is how many cores there are (`usable_cores`): a container may grant less than the kernel shows.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..processes.linux import THREADS
from .gpu_selection import VISIBLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..storage.gpu_report import DeviceStatus, GpuQueue


@dataclass(frozen=True, slots=True)
class Slot:
    """index: the lowest free number, from 0. name: for people: "cpu0", "GPU 0 NVIDIA A100".

    gpus: UUIDs, empty on the CPU. env: what the member's environment must contain. cpus: the cores that the member is
    bound to, empty = any. evicted: set to the reason once the member must leave, and is lost, not failed.
    """

    index: int
    name: str
    device: Literal["cuda", "cpu"]
    gpus: tuple[str, ...]
    threads: int
    env: Mapping[str, str] = field(hash=False)
    cpus: frozenset[int] = frozenset()
    evicted: asyncio.Future[str] | None = field(default=None, compare=False)


class Pool:
    """What leases slots: a GpuPool (gpu_pool.py), or a CpuPool, for which the answers here are the right ones."""

    def __init__(self) -> None:
        #: called with how many members may train at once, whenever that changes
        self.on_capacity: Callable[[int], object] = lambda _: None
        #: called with the status of all GPUs from time to time, for the journal
        self.on_sample: Callable[[list[DeviceStatus]], object] = lambda _: None
        #: called when the status of a GPU has changed
        self.on_change: Callable[[], object] = lambda: None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """By index: all slots of the CPU, or those of GPUs that are leased now."""
        raise NotImplementedError

    def __len__(self) -> int:
        """How many members may train at once."""
        raise NotImplementedError

    def lease(self, alone: bool = False) -> AbstractAsyncContextManager[Slot]:
        """Wait for a slot, hold it, release it. alone: no other member of the run is on its GPUs meanwhile."""
        raise NotImplementedError

    async def close(self) -> None:
        """A member that waits for a slot gets a RuntimeError."""
        raise NotImplementedError

    def bind(self, slot: Slot, pid: int, member: int) -> None:
        """The member in this slot is this process."""

    def stays(self, slot: Slot, pid: int, gone: asyncio.Future[Any], end: Callable[[], object]) -> None:
        """The process of the member that has trained in this slot waits for another one. gone: done when it is dead.

        end: called if its GPU must be free, so that it ends.
        """

    def returned(self, slot: Slot) -> None:
        """The member in this slot has trained to its end."""

    def out_of_memory(self, slot: Slot) -> bool:
        """The member in this slot ran out of GPU memory. True if others were there too: alone it may do better."""
        return False

    async def verdict(self, slot: Slot) -> str:
        """A member in this slot has failed: why its GPU is to blame, or ""."""
        return ""

    def drain(self, uuid: str, at_once: bool = False) -> None:
        """Give no more members to a GPU; those on it end their interval, or are moved at once."""

    def give_back(self, uuid: str) -> None:
        """A GPU that was drained may be used again."""

    def rows(self) -> list[DeviceStatus]:
        """How the GPUs are."""
        return []

    def waiting(self) -> GpuQueue | None:
        """The members that wait for a GPU, or an empty queue when none could be served; else None."""
        return None


def environment(threads: int, gpus: Sequence[str]) -> dict[str, str]:
    """The variables that show a member these GPUs and no others; without any, none."""
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpus else {}
    return order | dict.fromkeys(THREADS, str(threads)) | {VISIBLE: ",".join(gpus)}


class CpuPool(Pool):
    """CPU slots, each leased to one member at a time. The member that has waited longest is served first.

    Invariant: while a slot is free no member waits, so none is overtaken.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        super().__init__()
        self._slots = tuple(slots)
        self._free = list(range(len(self._slots)))  # a heap: the lowest index is leased first
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._closed = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self._slots

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def free(self) -> int:
        """How many could be leased without waiting."""
        return len(self._free)

    @asynccontextmanager
    async def lease(self, alone: bool = False) -> AsyncIterator[Slot]:
        index = await self._take()
        try:
            yield self._slots[index]
        finally:
            self._hand_back(index)

    async def _take(self) -> int:
        if self._closed:
            raise RuntimeError("these slots are closed")
        if self._free:
            return heapq.heappop(self._free)
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            # cancelled after the slot was given and before this task ran: it goes to the next in the queue
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._hand_back(turn.result())
            raise

    def _hand_back(self, index: int) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # done: it was cancelled
                turn.set_result(index)
                return
        heapq.heappush(self._free, index)

    async def close(self) -> None:
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(RuntimeError("the slots were closed"))


def usable_cores(root: Path = Path("/")) -> int:
    """The cores this process may keep busy: its affinity, within the CPU quota of its cgroups (v1 or v2)."""
    cores = float(len(os.sched_getaffinity(0)))
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # a quota may be on any level; in a container the path may be the host's, of which only the top is there
        for level in ("", *path.strip("/").split("/")):
            folder = folder / level
            v1 = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
            match (_read(folder / "cpu.max") or v1).split():
                case [quota, period] if quota.isdecimal() and period.isdecimal():  # neither "max" nor "-1"
                    cores = min(cores, int(quota) / max(1, int(period)))
    return max(1, int(cores))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
