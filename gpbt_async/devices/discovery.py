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

What a run is asked of devices, in the words of the person who asks: checked here, granted in devices.py.

Kept apart from the experiment, which says what a member needs wherever it runs: this is about the machine at hand, of
this session; only share and vram of a new run are written down with it.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..declaration.options import RunOptions
from ..declaration.resources import Resources
from ..errors import DeviceError, ExperimentError
from ..events import MOST_SLOTS
from .allocator import Packing
from .gpu_pool import GpuPool
from .monitor import HANGS, PERIOD
from .nvml import NvmlFault, NvmlThread, PyNvml
from .selection import VISIBLE, check, choose, hides_all, usable
from .slots import CpuPool, Slot, environment, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .health import Blame
    from .nvml import Backend, NvmlDevice
    from .selection import GPU
    from .slots import Pool


#: seconds that NVML may take on, once it has been told that it hangs
PATIENCE = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
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
    wanted: DeviceRequest,
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
        return CpuPool(_slots_of_cpu(cores, wanted, warn))
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
    return CpuPool(_slots_of_cpu(cores, wanted, warn))


async def _cards(
    nvml: NvmlThread,
    found: list[NvmlDevice],
    wanted: DeviceRequest,
    environ: Mapping[str, str],
    cores: int,
    period: float,
    warn: Callable[[str], None],
    now: Callable[[], float],
) -> GpuPool:
    present, left_out = usable(found)
    for gpu, reason in left_out.items():
        warn(f"{gpu} is left out, as {reason}")
    if not present:
        gpu, reason = next(iter(left_out.items()))
        raise DeviceError(f"no GPU can be used ({gpu}: {reason}). Repair it, or train on the CPU: --gpus none")

    def later(found: Iterable[NvmlDevice]) -> list[GPU]:
        try:
            present, out = usable(found)
            return choose(present, wanted.gpus, environ, lambda _: None, out)
        except DeviceError:
            return []  # one that was named is gone: those that are there are in use already

    need = max(1, wanted.need)
    cards = GpuPool(
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


def _slots_of_cpu(cores: int, wanted: DeviceRequest, warn: Callable[[str], None]) -> list[Slot]:
    # Not more than half the population: beyond, children are born of parents compared with too few others.
    cpus = wanted.cpus or 1
    count = wanted.slots or min(max(1, cores // cpus), max(1, wanted.population // 2))
    if count * cpus > cores:
        warn(f"{count} CPU slots × {cpus} core(s) on {cores} usable core(s): members will share cores")
    threads = wanted.cpus or max(1, cores // count)
    return [Slot(index, f"cpu{index}", "cpu", (), threads, environment(threads, ())) for index in range(count)]


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What Run is asked of devices, as it says, for this session; share and vram of a new run are for good."""

    share: int | None = None
    vram: str | None = None
    wait_for_gpus: bool = False
    xids: Mapping[int, Blame] = field(default_factory=dict)
    others_may_use: str | None = None
    affinity: bool = True
    nvml_library: str | None = None

    @classmethod
    def of(cls, options: RunOptions) -> DeviceOptions:
        return cls(
            share=options.share,
            vram=options.vram,
            wait_for_gpus=bool(options.wait_for_gpus),
            xids=dict(options.xids or {}),
            others_may_use=options.others_may_use,
            affinity=options.affinity is not False,
            nvml_library=options.nvml_library,
        )

    @property
    def others(self) -> int | None:
        """Bytes. Raises ExperimentError."""
        return RunOptions(others_may_use=self.others_may_use).others_bytes

    def over(self, needs: Resources) -> Resources:
        """An experiment's resources, with what is asked for instead. Raises ExperimentError."""
        try:
            share = needs.share if self.share is None else self.share
            vram = needs.vram if self.vram is None else self.vram
            return Resources(needs.gpus, share, vram, needs.cpus)
        except ExperimentError as error:
            raise ExperimentError(
                error.said.replace("resources.", "--", 1)
            ) from None  # no line of a script is to blame

    def wanted(
        self,
        resources: Resources,
        population: int,
        *,
        gpus: str | None,
        slots: int | None,
        nvml_library: str | None,
        before: bool = False,
    ) -> DeviceRequest:
        """What the options, the experiment and the run's configuration ask for together. Raises GPBTError's."""
        if self.share or self.vram or self.wait_for_gpus:
            for name, value in (("slots", slots), ("gpus", gpus)):
                if value is not None and (name == "slots" or value == "none"):
                    given = "--share" if self.share else "--vram" if self.vram else "--wait-for-gpus"
                    raise DeviceError(f"{given} is about GPUs, and --{name} {value} asks for the CPU: give only one")
        needs = self.over(resources)
        return DeviceRequest(
            gpus=gpus,
            slots=slots,
            need=needs.gpus,
            share=needs.share,
            vram=needs.vram,
            cpus=needs.cpus,
            population=population,
            wait=self.wait_for_gpus,
            xids=self.xids,
            others=self.others,
            affinity=self.affinity,
            nvml_library=nvml_library,
            before=before,
        )
