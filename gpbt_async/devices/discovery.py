"""Which devices a run gets: GPUs, or, without any, shares of the CPU cores as slots.

`discover` is the one way in for the scheduler and the doctor; what it returns is an open `Pool`. Two decisions matter:

* **No GPU is a fact, a failing driver is an error.** Without the NVML library, or with no GPU behind it, a run trains
  on the CPU and warns once. A library that is there and fails is a `DeviceError`: a broken driver must not make a run
  train for days on the CPU. The same holds for one whose kernel module is not loaded, since it was installed to be
  used, and for a CUDA_VISIBLE_DEVICES that hides everything because it names GPUs that are not there.
* **NVML is asked in one thread**, which stays as long as the pool: without a client a GPU may take seconds to wake up,
  and a call may block.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..declaration.run_options import option_text
from ..errors import DeviceError
from . import monitor
from .gpu_pool import GpuPool
from .gpu_selection import VISIBLE, choose, hides_all, usable
from .nvml import NvmlFault, NvmlThread, PyNvml
from .slots import CpuPool, Slot, environment, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .nvml import GPU, Backend
    from .request import DeviceRequest
    from .slots import Pool


#: seconds that NVML may take in addition, once the user has been warned that it hangs
PATIENCE = 50.0


async def discover(
    request: DeviceRequest,
    environ: Mapping[str, str],
    *,
    warn: Callable[[str], None],
    now: Callable[[], float] = time.monotonic,
    backend: Backend | None = None,
    period: float = monitor.PERIOD,
) -> Pool:
    """The slots of this machine, open. now: the clock of what is reported about GPUs. Raises DeviceError."""
    if request.wants_cpu:
        return _cpu_pool(request, warn)
    if hides_all(environ):
        why = f"{VISIBLE} is {environ[VISIBLE]!r}, which hides every GPU"
    else:
        pool_or_reason = await _gpu_pool(request, environ, warn, now, backend or PyNvml(request.nvml_library), period)
        if isinstance(pool_or_reason, GpuPool):
            return pool_or_reason
        why = pool_or_reason
    cpu = option_text("gpus", "none")
    if request.gpus is not None:
        raise DeviceError(f"{option_text('gpus', request.gpus)} cannot be had: {why}. To train on the CPU: {cpu}")
    if request.before:
        raise DeviceError(f"this run was begun on GPUs, and {why}. To go on on the CPU: {cpu}")
    if request.wait_for_gpus:
        wait = option_text("wait_for_gpus")
        raise DeviceError(f"{wait} waits for GPUs that are taken, and {why}. To train on the CPU: {cpu}")
    warn(f"{why if hides_all(environ) else 'no NVIDIA GPU found'}: training on the CPU")
    return _cpu_pool(request, warn)


async def _gpu_pool(
    request: DeviceRequest,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    now: Callable[[], float],
    backend: Backend,
    period: float,
) -> GpuPool | str:
    """The GPUs, open; or why there are none."""
    nvml = NvmlThread(backend)
    try:
        if gpus := await _survey(nvml, warn):

            def choose_later(gpus: Iterable[GPU]) -> list[GPU]:
                with suppress(DeviceError):  # one that was named is gone: those that are there are in use already
                    return _choose(gpus, request, environ, lambda _: None)
                return []

            pool = GpuPool(
                _choose(gpus, request, environ, warn), nvml, request,
                cores=frozenset(os.sched_getaffinity(0)), usable=usable_cores(),
                period=period, choose=choose_later, now=now, warn=warn,
            )  # fmt: skip
            await pool.open()
            await _wait_or_refuse(pool, request, warn)
            return pool
    except BaseException as error:
        nvml.dismiss()
        if not isinstance(error, NvmlFault):
            raise
        cpu = option_text("gpus", "none")
        raise DeviceError(f"NVML failed: {error}. Repair it, or train on the CPU: {cpu}") from error
    await nvml.close()
    return "there is no NVML library (libnvidia-ml.so.1)" if gpus is None else "NVML reports no GPU"


async def _survey(nvml: NvmlThread, warn: Callable[[str], None]) -> list[GPU] | None:
    """All GPUs; None without an NVML library. Raises NvmlFault."""
    answer = asyncio.ensure_future(nvml.ask(lambda nvml: nvml.survey() if nvml.open() else None))
    await asyncio.wait([answer], timeout=monitor.HANGS)
    if not answer.done():
        cpu = option_text("gpus", "none")
        warn(f"NVML has not answered for {monitor.HANGS:g} s: waiting for it; to train on the CPU: {cpu}")
        await asyncio.wait([answer], timeout=PATIENCE)
    if not answer.done():
        answer.cancel()
        raise NvmlFault(f"it has not answered for {monitor.HANGS + PATIENCE:g} s")
    return await answer


def _choose(
    gpus: Iterable[GPU], request: DeviceRequest, environ: Mapping[str, str], warn: Callable[[str], None]
) -> list[GPU]:
    good, bad = usable(gpus)
    for gpu, reason in bad.items():
        warn(f"{gpu} is left out, as {reason}")
    if not good:
        if not bad:
            return []  # a later survey may find none at all: the GPUs in use are then judged by their samples
        gpu, reason = next(iter(bad.items()))
        cpu = option_text("gpus", "none")
        raise DeviceError(f"no GPU can be used ({gpu}: {reason}). Repair it, or train on the CPU: {cpu}")
    return choose(good, request.gpus, environ, warn, bad)


async def _wait_or_refuse(pool: GpuPool, request: DeviceRequest, warn: Callable[[str], None]) -> None:
    """With no GPU free: warn if the run is to wait for one, else raise DeviceError."""
    waiting = pool.waiting()
    if waiting is None:
        return
    why = "; ".join(f"GPU {label}: {reason}" for label, reason in waiting.why.items())
    why = why or f"{pool.allocator.need} GPUs are needed"
    if not request.wait_for_gpus:
        await pool.close()
        raise DeviceError(f"no GPU is free: {why}. To wait for one: {option_text('wait_for_gpus', True)}")
    warn(f"waiting for a GPU: {why}")


def _cpu_pool(request: DeviceRequest, warn: Callable[[str], None]) -> CpuPool:
    cores, cpus = usable_cores(), request.resources.cpus
    # not more than half the population: beyond, children are born of parents that were compared with too few others
    count = request.slots or min(max(1, cores // (cpus or 1)), max(1, request.population // 2))
    if count * (cpus or 1) > cores:
        warn(f"{count} CPU slots × {cpus or 1} core(s) on {cores} usable core(s): members will share cores")
    threads = cpus or max(1, cores // count)
    return CpuPool(Slot(index, f"cpu{index}", "cpu", (), threads, environment(threads, ())) for index in range(count))
