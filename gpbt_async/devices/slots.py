"""A slot: the right to train one member now, on some GPUs or on a share of the cores. And what gives slots out."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..processes.linux import THREADS
from .selection import VISIBLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager


@dataclass(frozen=True, slots=True)
class Slot:
    """index: its number, from 0, the lowest that is free. name: for people: "cpu0", "GPU 0 NVIDIA A100".

    gpus: UUIDs, empty on the CPU. env: what the member's environment must say. cpus: the cores it is bound to, empty =
    wherever it likes. evicted: set, with the reason, once the member must leave and is to be lost, not failed.
    """

    index: int
    name: str
    device: Literal["cuda", "cpu"]
    gpus: tuple[str, ...]
    threads: int
    env: Mapping[str, str] = field(hash=False)
    cpus: frozenset[int] = frozenset()
    evicted: asyncio.Future[str] | None = field(default=None, compare=False)


class Pool(Protocol):
    """What gives slots out: Slots of the CPU, or Cards."""

    #: told how many members may train at once, whenever that changes
    on_capacity: Callable[[int], object]
    #: told how the GPUs are, now and then, for the journal; told that something about one has changed
    on_sample: Callable[[list[dict[str, Any]]], object]
    on_change: Callable[[], object]

    def __len__(self) -> int: ...
    @property
    def slots(self) -> tuple[Slot, ...]: ...
    def lease(self, alone: bool = False) -> AbstractAsyncContextManager[Slot]: ...
    def bind(self, slot: Slot, pid: int, member: int) -> None: ...
    def returned(self, slot: Slot) -> None: ...
    def out_of_memory(self, slot: Slot) -> bool: ...
    async def verdict(self, slot: Slot) -> str: ...
    def named(self, name: str) -> list[str]: ...
    def drain(self, uuid: str, at_once: bool = False) -> None: ...
    def give_back(self, uuid: str) -> None: ...
    def rows(self) -> list[dict[str, Any]]: ...
    def waiting(self) -> dict[str, Any] | None: ...
    async def close(self) -> None: ...


def environment(threads: int, gpus: Sequence[str]) -> dict[str, str]:
    """What pins a member: to these GPUs, or, without any, away from all."""
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpus else {}
    return order | dict.fromkeys(THREADS, str(threads)) | {VISIBLE: ",".join(gpus)}


class CpuPool:
    """The machine's slots, each leased to one member at a time. Who has waited longest is served first.

    Invariant: while a slot is free nobody waits, so a newcomer never overtakes.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self.slots: tuple[Slot, ...] = tuple(slots)
        self.on_capacity: Callable[[int], object] = lambda _: None
        self.on_sample: Callable[[list[dict[str, Any]]], object] = lambda _: None
        self.on_change: Callable[[], object] = lambda: None
        self._free = list(range(len(self.slots)))  # a heap: the lowest index is leased first
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def free(self) -> int:
        """How many could be leased without waiting."""
        return len(self._free)

    @asynccontextmanager
    async def lease(self, alone: bool = False) -> AsyncIterator[Slot]:
        index = await self._take()
        try:
            yield self.slots[index]
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
            # Cancelled after a slot was given to us and before we ran: it goes to the next in the row.
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
        """Whoever waits for a slot gets a RuntimeError."""
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(RuntimeError("the slots were closed"))

    # ---- what a pool of GPUs is told; cores have no trouble of their own

    def bind(self, slot: Slot, pid: int, member: int) -> None: ...
    def returned(self, slot: Slot) -> None: ...
    def out_of_memory(self, slot: Slot) -> bool:
        return False

    async def verdict(self, slot: Slot) -> str:
        return ""

    def named(self, name: str) -> list[str]:
        return []

    def drain(self, uuid: str, at_once: bool = False) -> None: ...
    def give_back(self, uuid: str) -> None: ...
    def rows(self) -> list[dict[str, Any]]:
        return []

    def waiting(self) -> dict[str, Any] | None:
        return None


def usable_cores(root: Path = Path("/")) -> int:
    """The cores this process may keep busy: its affinity, within the CPU quota of its cgroups (v1 or v2)."""
    cores = float(len(os.sched_getaffinity(0)))
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # A quota may sit on any level; in a container the path may be the host's, and only its top is there.
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
