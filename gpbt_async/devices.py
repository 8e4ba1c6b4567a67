"""Devices: the GPUs (or, without any, the shares of the CPU cores) a run may train on, and their leasing.

What lives here: finding GPUs through NVML, reading what the user and the environment say about them, and
handing each `Slot` to one member at a time. Not here: processes, and the engine, which counts slots and never
hears of GPUs. Three decisions carry the room:

* **A GPU is its UUID.** Indices are only how people name one: NVML counts in PCI order, CUDA by default fastest
  first, and a driver may renumber. So a member is pinned by UUID.
* **No GPU is a fact, a failing driver is an error.** Without the NVML library, or with no GPU behind it, a run
  trains on the CPU and says so once. A library that is there and fails is a `DeviceError`: a broken driver must
  not train for days on the CPU. So is one whose kernel module is not loaded, as somebody installed it to use it,
  and a CUDA_VISIBLE_DEVICES that hides everything by naming what is not there.
* **NVML is spoken to in one thread**, and stays open as long as the slots live: without a client a GPU may take
  seconds to wake up, and a call may block. What reads `--gpus` and CUDA_VISIBLE_DEVICES is pure and sees `GPU`s.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .errors import DeviceError
from .nvml import NvmlFault, NvmlThread, PyNvml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from .nvml import Backend

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: how people and batch systems say "no GPU" on purpose; anything else that matches no GPU is a mistake
NOTHING = ("", "-1", "nodevfiles", "none")


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to train one member now."""

    index: int  # its place in Slots.slots, not the GPU's index
    name: str  # "cpu0", "GPU 0 NVIDIA A100"
    device: Literal["cuda", "cpu"]
    gpu: str | None  # the UUID
    threads: int
    env: Mapping[str, str] = field(hash=False)  # what the member's environment must say


@dataclass(frozen=True, slots=True)
class GPU:
    index: int  # NVML's: PCI order, what nvidia-smi shows
    uuid: str
    name: str = ""  # empty where the driver cannot tell

    def __str__(self) -> str:
        return f"GPU {self.index} {self.name}".rstrip()


async def discover(
    *,
    gpus: str | None,
    wants_gpus: int,
    cpu_slots: int | None,
    population: int,
    cpus: int | None,
    environ: Mapping[str, str],
    nvml_library: str | None = None,
    warn: Callable[[str], None],
    backend: Backend | None = None,
) -> Slots:
    """The slots of this machine, as the experiment (`wants_gpus`, `cpus`) and the command line ask for them."""
    if cpu_slots is not None and gpus not in (None, "none"):
        raise DeviceError(f"--slots {cpu_slots} asks for CPU slots and --gpus {gpus} for GPUs: give only one")
    if cpu_slots is not None and cpu_slots < 1:
        raise DeviceError(f"--slots {cpu_slots}: at least 1 slot is needed")
    cores = usable_cores()
    if cpu_slots is not None or gpus == "none" or (gpus is None and not wants_gpus):
        return Slots(_slots_of_cpu(cores, cpu_slots, population, cpus, warn))
    value = environ.get(VISIBLE)
    if value is not None and value.split(",")[0].strip().casefold() in NOTHING:
        why = f"{VISIBLE} is {value!r}, which hides every GPU"
    else:
        nvml = NvmlThread(backend or PyNvml(nvml_library))
        try:
            present, left_out = await nvml.ask(_survey)
            for sentence in left_out:
                warn(sentence)
            if present:
                return Slots(_slots_of_gpus(choose(present, gpus, environ, warn), cores, cpus), nvml)
        except NvmlFault as fault:
            nvml.dismiss()
            raise DeviceError(f"NVML failed: {fault}. Repair it, or train on the CPU: --gpus none") from fault
        except BaseException:
            nvml.dismiss()
            raise
        await nvml.close()
        why = "there is no NVML library (libnvidia-ml.so.1)" if present is None else "NVML reports no GPU"
    if gpus is not None:
        raise DeviceError(f"--gpus {gpus} cannot be had: {why}. To train on the CPU: --gpus none")
    warn(f"{why}: training on the CPU")
    return Slots(_slots_of_cpu(cores, None, population, cpus, warn))


class Slots:
    """The machine's slots, each leased to one member at a time. Who has waited longest is served first.

    Invariant: while a slot is free nobody waits, so a newcomer never overtakes.
    """

    def __init__(self, slots: Iterable[Slot], nvml: NvmlThread | None = None) -> None:
        self.slots: tuple[Slot, ...] = tuple(slots)
        self._nvml = nvml
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
    async def lease(self) -> AsyncIterator[Slot]:
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
        """End NVML and its thread. Whoever waits for a slot gets a RuntimeError."""
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(RuntimeError("the slots were closed"))
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            await nvml.close()


def _slots_of_gpus(chosen: Sequence[GPU], cores: int, cpus: int | None) -> list[Slot]:
    threads = cpus or max(1, cores // len(chosen))
    env = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | dict.fromkeys(THREADS, str(threads))
    return [
        Slot(index, str(gpu), "cuda", gpu.uuid, threads, env | {VISIBLE: gpu.uuid}) for index, gpu in enumerate(chosen)
    ]


def _slots_of_cpu(
    cores: int, asked: int | None, population: int, cpus: int | None, warn: Callable[[str], None]
) -> list[Slot]:
    # Not more than half the population: beyond, children are born of parents compared with too few others.
    count = asked or min(max(1, cores // (cpus or 1)), max(1, population // 2))
    if count * (cpus or 1) > cores:
        warn(f"{count} CPU slots × {cpus or 1} core(s) on {cores} usable core(s): members will share cores")
    threads = cpus or max(1, cores // count)
    env = {VISIBLE: ""} | dict.fromkeys(THREADS, str(threads))
    return [Slot(index, f"cpu{index}", "cpu", None, threads, env) for index in range(count)]


def choose(
    present: Sequence[GPU], asked: str | None, environ: Mapping[str, str], warn: Callable[[str], None]
) -> list[GPU]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows, in its order, narrowed by `--gpus`, then in the latter's."""
    visible = _visible(present, environ, warn)
    if asked is None or asked == "all":
        return visible
    chosen: list[GPU] = []
    for entry in (part.strip() for part in asked.split(",")):
        matches = _match(entry, visible)
        if len(matches) == 1 and matches[0] not in chosen:
            chosen += matches
            continue
        if len(matches) == 1:
            problem = "is named twice"
        elif matches:
            problem = "may mean more than one GPU"
        elif _match(entry, present):
            problem = f"is hidden by {VISIBLE}={environ[VISIBLE]}"
        else:
            problem = "is no GPU here"
        raise DeviceError(f"--gpus {asked}: {entry!r} {problem}; to choose from: {_names(visible)}")
    return chosen


def _visible(present: Sequence[GPU], environ: Mapping[str, str], warn: Callable[[str], None]) -> list[GPU]:
    """What CUDA would show under the inherited CUDA_VISIBLE_DEVICES."""
    value = environ.get(VISIBLE)
    if value is None:
        return list(present)
    entries = [part.strip() for part in value.rstrip(", ").split(",")]
    visible: list[GPU] = []
    for place, entry in enumerate(entries):
        matches = _match(entry, present)
        if len(matches) != 1 and not visible:
            problem = f"{entry!r} is not one of {_names(present)}, and CUDA then shows no GPU"
            raise DeviceError(f"{VISIBLE}={value}: {problem}. Correct it, or train on the CPU: --gpus none")
        if len(matches) != 1:
            if entry.casefold() not in NOTHING or place + 1 < len(entries):
                problem = f"{entry!r} is not one of {_names(present)}, and CUDA hides it and all after it"
                warn(f"{VISIBLE}={value}: {problem}; left: {_names(visible)}")
            break
        if matches[0] in visible:
            raise DeviceError(f"{VISIBLE}={value}: {entry!r} is named twice, and CUDA then shows no GPU")
        visible += matches
    models = {gpu.name for gpu in present if gpu.name}
    ordered = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(models) > 1 and not ordered and any(entry.isdecimal() for entry in entries):
        how = "is read in PCI order, as nvidia-smi shows; CUDA itself would put the fastest GPU first"
        warn(f"{VISIBLE}={value} {how}, and these differ: name UUIDs, or set CUDA_DEVICE_ORDER=PCI_BUS_ID")
    return visible


def _match(entry: str, gpus: Iterable[GPU]) -> list[GPU]:
    """The GPUs that an index, a UUID or the beginning of one may mean."""
    if entry.isdecimal():
        return [gpu for gpu in gpus if gpu.index == int(entry)]
    wanted = entry.casefold()
    if wanted.startswith("mig-"):
        raise DeviceError(f"{entry!r}: MIG devices are not supported in this version; name whole GPUs")
    return [gpu for gpu in gpus if wanted.startswith("gpu-") and gpu.uuid.casefold().startswith(wanted)]


def _names(gpus: Iterable[GPU]) -> str:
    return ", ".join(f"{gpu} ({gpu.uuid})" for gpu in gpus)


def _survey(nvml: Backend) -> tuple[list[GPU] | None, list[str]]:
    """The GPUs (None: no library), and a sentence for each that fails: a lost one does not take the others along."""
    if not nvml.open():
        return None, []
    present: list[GPU] = []
    faults: dict[int, NvmlFault] = {}
    for index in range(nvml.count()):
        try:
            present.append(GPU(index, nvml.uuid(index), nvml.name(index)))
        except NvmlFault as fault:
            faults[index] = fault
    if faults and not present:
        raise next(iter(faults.values()))
    return present, [f"GPU {index} is left out, as NVML failed: {fault}" for index, fault in faults.items()]


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
