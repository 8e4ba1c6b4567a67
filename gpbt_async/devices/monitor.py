"""The monitor: it asks NVML and yields the answers as a stream of observations. The pool of GPUs applies them.

Every few seconds it samples all GPUs and collects their events. At longer intervals it tries failed GPUs again and
looks for new ones. When a member has ended, it samples the member's GPUs often until their memory is free.

It reads the allocator's devices to know what to ask, and changes nothing. The questions are plain functions of a
`Backend`, and observations can be applied without NVML, so each half is tested without the other.

The surprise: NVML may hang, for example while the driver loses a card. Then the stream sets `hangs` and yields an empty
list, so that the pool immediately stops leasing GPUs. The stream continues when the answer comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from .health import FAULTY
from .nvml import GPU, NvmlEvent, NvmlFault, Sample

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from .gpu_sharing import Allocator
    from .nvml import Backend, NvmlThread


#: seconds between two samples of all GPUs; … while a member's peak is still to be measured
PERIOD, MEASURING = 2.0, 0.25
#: seconds between the first samples for memory to come back
QUICK = 0.005
#: seconds between two searches for GPUs that have appeared
RESCAN = 30.0
#: seconds after which an NVML that does not answer is taken to hang
HANGS = 10.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """A sample, or NVML's words where the GPU fails. asked: when it was asked for."""

    uuid: str
    sample: Sample | str
    asked: float


@dataclass(frozen=True, slots=True)
class Retrial:
    """A faulty GPU was tried again. problem: what still keeps it from working, or ""."""

    uuid: str
    problem: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """GPUs that may be used from now on."""

    gpus: Sequence[GPU]


@dataclass(frozen=True, slots=True)
class Distances:
    """By the UUIDs of two whole cards, how far they are from one another."""

    table: dict[tuple[str, str], int]


Observation: TypeAlias = Sampling | NvmlEvent | Retrial | Arrival | Distances
Question: TypeAlias = "Callable[[Backend], list[Observation]]"


# ---- the questions, asked in NVML's thread; asked: when


def observe(uuids: Iterable[str], asked: float, nvml: Backend) -> list[Observation]:
    """Events before samples, since the event of a lost GPU says more than the failure of its sample."""
    samples = [Sampling(uuid, _sample(uuid, nvml), asked) for uuid in uuids]
    return [*nvml.events(), *samples]


def _sample(uuid: str, nvml: Backend) -> Sample | str:
    try:
        return nvml.sample(uuid)
    except NvmlFault as fault:
        return str(fault)


def begin(gpus: Sequence[GPU], among: Iterable[GPU], asked: float, nvml: Backend) -> list[Observation]:
    """Have the events of these GPUs' cards reported, and observe them. among: measure distances among these."""
    nvml.watch(list(dict.fromkeys(gpu.card_uuid for gpu in gpus)))
    cards = [gpu.uuid for gpu in among if gpu.slice is None]
    table: dict[tuple[str, str], int] = {}
    for one in cards:
        for other in cards:
            with contextlib.suppress(NvmlFault):
                table[one, other] = nvml.distance(one, other) if one != other else 0
    distances = [Distances(table)] if table else []
    return [*distances, *observe([gpu.uuid for gpu in gpus], asked, nvml)]


def retry(gpu: GPU, asked: float, nvml: Backend) -> list[Observation]:
    """Does a faulty GPU answer again, and does its driver want nothing done to it first?"""
    try:
        nvml.sample(gpu.uuid)
        recovery = nvml.recovery(gpu.uuid)
    except NvmlFault as fault:
        return [Retrial(gpu.uuid, str(fault))]
    if recovery:
        return [Retrial(gpu.uuid, f"its driver asks for {recovery} first")]
    return [Retrial(gpu.uuid, ""), *begin([gpu], (), asked, nvml)]


def rescan(
    choose: Callable[[Iterable[GPU]], list[GPU]], there: Sequence[GPU], together: bool, asked: float, nvml: Backend
) -> list[Observation]:
    """Observe the GPUs that were not there before. together: members need several, so distances count."""
    try:
        gpus = choose(nvml.survey())
    except NvmlFault:
        return []
    uuids = {gpu.uuid for gpu in there}
    new = [gpu for gpu in gpus if gpu.uuid not in uuids]
    return [Arrival(new), *begin(new, [*there, *new] if together else (), asked, nvml)] if new else []


class Monitor:
    """choose: which of the GPUs that NVML lists later may be used as well. Times: on the scale of `now`."""

    def __init__(
        self,
        allocator: Allocator,
        nvml: NvmlThread,
        *,
        period: float,
        choose: Callable[[Iterable[GPU]], list[GPU]],
        now: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        self._allocator, self._nvml, self._period, self._choose = allocator, nvml, period, choose
        self._now, self._warn = now, warn
        #: NVML does not answer the question that was asked last
        self.hangs = False
        self._wake = asyncio.Event()
        self._quick = QUICK
        self._all_wanted = False
        #: when all GPUs were sampled, and when others were looked for
        self._sampled, self._scanned = 0.0, now()

    async def close(self) -> None:
        await self._nvml.close()

    def soon(self) -> None:
        """A member has ended: sample its GPUs at once, and again and again."""
        self._quick = 0.0
        self._wake.set()

    def at_once(self) -> None:
        """Sample all GPUs now."""
        self._all_wanted = True
        self._wake.set()

    async def sample(self, uuids: Iterable[str]) -> list[Observation]:
        """Sample these GPUs now, beside the stream."""
        return await self._nvml.ask(partial(observe, self._working(uuids), self._now()))

    async def observations(self) -> AsyncGenerator[list[Observation], None]:
        """The stream, without an end. The first list that is not empty is of all GPUs."""
        gpus, everything = self._gpus(), True
        questions: list[Question] = [partial(begin, gpus, gpus if self._allocator.need > 1 else (), self._now())]
        while True:
            for question in questions:
                answer = asyncio.ensure_future(self._nvml.ask(question))
                try:
                    await asyncio.wait([answer], timeout=HANGS)
                    if not answer.done():
                        self._warn(f"NVML has not answered for {HANGS:g} s: no GPU is given out until it does")
                        self.hangs = True
                        yield []
                    observations = await answer
                finally:
                    answer.cancel()
                self.hangs = False
                yield observations
            if everything:
                self._sampled = self._now()
            everything = await self._rest()
            questions = self._questions(everything)

    async def _rest(self) -> bool:
        """Wait until it is time to ask. True if all GPUs are to be sampled, False if those that members leave."""
        period = self._period if self._allocator.packing.measured else min(self._period, MEASURING)
        wait = self._sampled + period - self._now()
        if self._leaving():
            wait, self._quick = min(wait, self._quick), max(QUICK, self._quick * 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait)):
                await self._wake.wait()
        self._wake.clear()
        everything = self._all_wanted or self._now() >= self._sampled + period
        self._all_wanted = False
        return everything

    def _questions(self, everything: bool) -> list[Question]:
        now, devices = self._now(), self._allocator.devices
        if not everything:
            return [partial(observe, self._working(self._leaving()), now)]
        questions: list[Question] = [partial(observe, self._working(devices), now)]
        for device in devices.values():
            if device.health.state == FAULTY and now >= device.health.retry:
                questions.append(partial(retry, device.gpu, now))
        if now >= self._scanned + RESCAN:
            self._scanned = now
            questions.append(partial(rescan, self._choose, self._gpus(), self._allocator.need > 1, now))
        return questions

    def _gpus(self) -> list[GPU]:
        return [device.gpu for device in self._allocator.devices.values()]

    def _working(self, uuids: Iterable[str]) -> list[str]:
        return [uuid for uuid in uuids if self._allocator.devices[uuid].health.state != FAULTY]

    def _leaving(self) -> list[str]:
        """GPUs whose memory is to come back."""
        leases = [lease for lease in self._allocator.held if lease.leaving]
        return list(dict.fromkeys(uuid for lease in leases for uuid in lease.uuids))
