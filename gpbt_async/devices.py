"""Devices: what a run may train on: GPUs, or, without any, shares of the CPU cores.

What lives here: what to make of what is asked for and of what is there (`discover`), and the slots of the CPU. Those
of GPUs are in cards.py. Not here: processes, and the engine, which counts slots and never hears of GPUs. Two
decisions carry the room:

* **No GPU is a fact, a failing driver is an error.** Without the NVML library, or with no GPU behind it, a run
  trains on the CPU and says so once. A library that is there and fails is a `DeviceError`: a broken driver must
  not train for days on the CPU. So is one whose kernel module is not loaded, as somebody installed it to use it,
  and a CUDA_VISIBLE_DEVICES that hides everything by naming what is not there.
* **NVML is spoken to in one thread**, and stays open as long as the slots live: without a client a GPU may take
  seconds to wake up, and a call may block.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards import Cards
from .errors import DeviceError
from .events import MOST_SLOTS
from .nvml import NvmlFault, NvmlThread, PyNvml
from .packing import Packing
from .slot import Slot, environment
from .visible import VISIBLE, check, choose, hides_all, usable
from .watch import HANGS, PERIOD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from .health import Blame
    from .nvml import Backend, Found
    from .slot import Pool
    from .visible import GPU

#: seconds that NVML may take on, once it has been told that it hangs
PATIENCE = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for: by the experiment (need, share, vram, cpus: its Resources) and on the command line.

    gpus: `--gpus`. slots: `--slots`. wait: wait when every GPU is taken, instead of refusing. xids: whose fault an Xid
    is, over health.XIDS. others: bytes that others may use on a GPU, None = as health.tolerance says. affinity: bind
    members to the cores near their GPU. nvml_library: the path of NVML's. before: the run has trained on GPUs before.
    """

    gpus: str | None = None
    slots: int | None = None
    need: int = 1
    share: int | None = None
    vram: str | None = None
    cpus: int | None = None
    population: int
    wait: bool = False
    xids: Mapping[int, Blame] = field(default_factory=dict)
    others: int | None = None
    affinity: bool = True
    nvml_library: str | None = None
    before: bool = False


async def discover(
    wanted: Wanted,
    environ: Mapping[str, str],
    *,
    warn: Callable[[str], None],
    now: Callable[[], float] = time.monotonic,
    backend: Backend | None = None,
    period: float = PERIOD,
) -> Pool:
    """The slots of this machine, open. Raises DeviceError. now: the clock that what is told of GPUs goes by."""
    gpus, slots = wanted.gpus, wanted.slots
    check(gpus)
    if slots is not None and gpus not in (None, "none"):
        raise DeviceError(f"--slots {slots} asks for CPU slots and --gpus {gpus} for GPUs: give only one")
    if slots is not None and (isinstance(slots, bool) or not isinstance(slots, int)):
        raise DeviceError(f"--slots {slots!r:.80}: must be a whole number")
    if slots is not None and slots < 1:
        raise DeviceError(f"--slots {slots}: at least 1 slot is needed")
    if slots is not None and slots > MOST_SLOTS:
        raise DeviceError(f"--slots {slots}: at most {MOST_SLOTS} are possible")
    cores = usable_cores()
    if slots is not None or gpus == "none" or (gpus is None and not wanted.need):
        return Slots(_slots_of_cpu(cores, wanted, warn))
    if hides_all(environ):
        why = f"{VISIBLE} is {environ[VISIBLE]!r}, which hides every GPU"
    else:
        nvml = NvmlThread(backend or PyNvml(wanted.nvml_library))
        try:
            asked = asyncio.ensure_future(nvml.ask(lambda nvml: nvml.survey() if nvml.open() else None))
            await asyncio.wait([asked], timeout=HANGS)
            if not asked.done():
                warn(f"NVML has not answered for {HANGS:g} s: waiting for it; to train on the CPU: --gpus none")
                await asyncio.wait([asked], timeout=PATIENCE)
            if not asked.done():
                asked.cancel()
                raise NvmlFault(f"it has not answered for {HANGS + PATIENCE:g} s")
            found = await asked
            if found:
                return await _cards(nvml, found, wanted, environ, cores, period, warn, now)
        except NvmlFault as fault:
            nvml.dismiss()
            raise DeviceError(f"NVML failed: {fault}. Repair it, or train on the CPU: --gpus none") from fault
        except BaseException:
            nvml.dismiss()
            raise
        await nvml.close()
        why = "there is no NVML library (libnvidia-ml.so.1)" if found is None else "NVML reports no GPU"
    if gpus is not None:
        raise DeviceError(f"--gpus {gpus} cannot be had: {why}. To train on the CPU: --gpus none")
    if wanted.wait:
        raise DeviceError(f"--wait-for-gpus waits for GPUs that are taken, and {why}. To train on the CPU: --gpus none")
    if wanted.before:
        raise DeviceError(f"this run was begun on GPUs, and {why}. To go on on the CPU: --gpus none")
    warn(f"{why if hides_all(environ) else 'no NVIDIA GPU found'}: training on the CPU")
    return Slots(_slots_of_cpu(cores, wanted, warn))


async def _cards(
    nvml: NvmlThread,
    found: list[Found],
    wanted: Wanted,
    environ: Mapping[str, str],
    cores: int,
    period: float,
    warn: Callable[[str], None],
    now: Callable[[], float],
) -> Cards:
    present, left_out = usable(found)
    for gpu, reason in left_out.items():
        warn(f"{gpu} is left out, as {reason}")
    if not present:
        gpu, reason = next(iter(left_out.items()))
        raise DeviceError(f"no GPU can be used ({gpu}: {reason}). Repair it, or train on the CPU: --gpus none")

    def later(found: Iterable[Found]) -> list[GPU]:
        try:
            present, out = usable(found)
            return choose(present, wanted.gpus, environ, lambda _: None, out)
        except DeviceError:
            return []  # one that was named is gone: those that are there are in use already

    need = max(1, wanted.need)
    cards = Cards(
        choose(present, wanted.gpus, environ, warn, left_out),
        nvml,
        Packing(wanted.share, wanted.vram),
        need=need,
        threads=wanted.cpus,
        cores=frozenset(os.sched_getaffinity(0)),
        usable=cores,
        xids=wanted.xids,
        allowed=wanted.others,
        affinity=wanted.affinity,
        period=period,
        choose=later,
        now=now,
        warn=warn,
    )
    await cards.open()
    waiting = cards.waiting()
    if waiting is not None:
        why = "; ".join(f"GPU {label}: {text}" for label, text in waiting["why"].items()) or f"{need} GPUs are needed"
        if not wanted.wait:
            await cards.close()
            raise DeviceError(f"no GPU is free: {why}. To wait for one: --wait-for-gpus")
        warn(f"waiting for a GPU: {why}")
    return cards


class Slots:
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


def _slots_of_cpu(cores: int, wanted: Wanted, warn: Callable[[str], None]) -> list[Slot]:
    # Not more than half the population: beyond, children are born of parents compared with too few others.
    cpus = wanted.cpus or 1
    count = wanted.slots or min(max(1, cores // cpus), max(1, wanted.population // 2))
    if count * cpus > cores:
        warn(f"{count} CPU slots × {cpus} core(s) on {cores} usable core(s): members will share cores")
    threads = wanted.cpus or max(1, cores // count)
    return [Slot(index, f"cpu{index}", "cpu", (), threads, environment(threads, ())) for index in range(count)]


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
