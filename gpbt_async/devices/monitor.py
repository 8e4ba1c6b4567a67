"""Watching the GPUs: the one task that asks NVML how they are, and what each answer makes of them.

It looks at all of them every few seconds, and, when a member has ended and its memory must come back, at its GPUs in
quick succession. A look is a sample of each GPU and the events since the last one; whose memory is whose is divided
(accounts.py), the GPU's health follows (health.py), and then whoever keeps the books is to settle (`Keeper`). Beside
that, slowly: GPUs that failed are tried again, GPUs that have appeared are found.

NVML may hang, as drivers do that lose a card. Then nothing is given out until it answers, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from .allocator import Allocator, Device, Lease
from .health import Health, account, blame, tolerance
from .nvml import NvmlFault, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .health import Account, Blame, Owner
    from .nvml import Backend, NvmlDevice, NvmlThread, Trouble
    from .selection import GPU


log = logging.getLogger("gpbt_async")

#: seconds between two looks at all GPUs; … while a member's peak is still to be measured
PERIOD, MEASURING = 2.0, 0.25
#: seconds between the first looks for memory to come back
QUICK = 0.005
#: seconds between two searches for GPUs that have appeared; between two samples told for the journal
RESCAN, TOLD = 30.0, 10.0
#: seconds after which an NVML that does not answer hangs
HANGS = 10.0


class Keeper(Protocol):
    """Who keeps the books of the GPUs that are watched."""

    def owner(self, pid: int) -> Owner: ...
    def leaving(self) -> list[str]: ...  # UUIDs of GPUs whose memory is waited for
    def evict(self, uuid: str, reason: str) -> None: ...
    def settle(self) -> None: ...
    def changed(self) -> None: ...
    def told(self) -> None: ...  # it is time for a sample for the journal
    def broken(self, error: Exception) -> None: ...  # nobody watches any more


class Monitor:
    """choose: which of the GPUs that NVML finds later may be used as well. Times: on the scale of `now`."""

    def __init__(
        self,
        keeper: Keeper,
        ledger: Allocator,
        nvml: NvmlThread,
        *,
        xids: Mapping[int, Blame],
        allowed: int | None = None,
        period: float,
        choose: Callable[[Iterable[NvmlDevice]], list[GPU]],
        now: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        self._keeper, self.ledger, self._nvml = keeper, ledger, nvml
        self._xids, self._period, self._choose, self._now, self._warn = xids, period, choose, now, warn
        #: bytes that others may use, None = as `health.tolerance` says
        self.allowed = allowed
        self.health = {uuid: Health(allowed=allowed) for uuid in ledger.cards}
        self.samples: dict[str, Sample] = {}
        self.accounts: dict[str, Account] = {}
        #: when the last sample of a GPU was asked for
        self.sampled: dict[str, float] = {}
        self.distances: dict[tuple[str, str], int] = {}
        #: questions that NVML has not answered for too long
        self._hanging = 0
        #: a member of ours has been seen in a list of processes: so they are to be believed when they are empty
        self._listing = False
        self._wake = asyncio.Event()
        self._quick = QUICK
        self._looked, self._told, self._scanned = 0.0, now(), now()
        self._task: asyncio.Task[None] | None = None

    # ---- its life

    async def open(self) -> None:
        """Look at every GPU once, and go on looking."""
        await self._register(card.gpu for card in self.ledger.cards.values())
        await self._measure_distances()
        await self.look(list(self.ledger.cards), full=True)
        self._task = asyncio.create_task(self._watch(), name="gpbt-async gpus")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._nvml.close()

    @property
    def mute(self) -> bool:
        """NVML hangs."""
        return self._hanging > 0

    def seen(self, uuid: str, since: float) -> bool:
        """Has this GPU been looked at since then? One that has failed tells no more than it does."""
        return self.sampled.get(uuid, 0.0) >= since or self.health[uuid].state == "faulty"

    def soon(self) -> None:
        """A member has ended: look at once, and again and again."""
        self._quick = 0.0
        self._wake.set()

    def at_once(self) -> None:
        """Look at all GPUs now."""
        self._looked = 0.0
        self._wake.set()

    async def _watch(self) -> None:
        try:
            while True:
                period = self._period if self.ledger.packing.measured else min(self._period, MEASURING)
                wait = self._looked + period - self._now()
                leaving = self._keeper.leaving()
                if leaving:
                    wait, self._quick = min(wait, self._quick), max(QUICK, self._quick * 2)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, wait)):
                        await self._wake.wait()
                self._wake.clear()
                full = self._now() >= self._looked + period
                await self.look(list(self.ledger.cards if full else dict.fromkeys(self._keeper.leaving())), full)
                if full:
                    await self._retry()
                    await self._rescan()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a bug of ours: whoever waits for a GPU is to hear of it
            log.exception("watching the GPUs failed")
            self._keeper.broken(error)

    # ---- looking

    async def _ask(self, question: Callable[[Backend], Any]) -> Any:
        """Ask NVML. While it hangs nothing is given out; the answer is waited for all the same."""
        asked = asyncio.ensure_future(self._nvml.ask(question))
        hangs = False
        try:
            await asyncio.wait([asked], timeout=HANGS)
            if not asked.done():
                hangs = True
                self._warn(f"NVML has not answered for {HANGS:g} s: no GPU is given out until it does")
                self._hang(1)
            return await asked
        finally:
            if hangs:
                self._hang(-1)
            if not asked.done():
                asked.cancel()

    def _hang(self, more: int) -> None:
        self._hanging += more
        if self.mute:  # once it answers, what it says is settled
            self._keeper.settle()
        self._keeper.changed()

    async def look(self, uuids: list[str], full: bool = False) -> None:
        """Take a sample of these GPUs, hear what has happened to any, and settle what follows."""
        uuids = [uuid for uuid in uuids if self.health[uuid].state != "faulty"]
        begun = self._now()

        def sample(nvml: Backend) -> tuple[dict[str, Sample | NvmlFault], list[Trouble]]:
            seen: dict[str, Sample | NvmlFault] = {}
            for uuid in uuids:
                try:
                    seen[uuid] = nvml.sample(uuid)
                except NvmlFault as fault:
                    seen[uuid] = fault
            return seen, nvml.events()

        seen, troubles = await self._ask(sample)
        for trouble in troubles:
            self._hear(trouble)
        for uuid, told in seen.items():
            if isinstance(told, NvmlFault):
                self._fail(uuid, str(told))
            else:
                self.sampled[uuid] = begun
                self._see(uuid, told)
        self._keeper.settle()
        if full:
            self._looked = self._now()
        if full and self._now() >= self._told + TOLD:
            self._told = self._now()
            self._keeper.told()

    def _see(self, uuid: str, sample: Sample) -> None:
        card, health, now = self.ledger.cards[uuid], self.health[uuid], self._now()
        self.samples[uuid] = sample
        self._listing = self._listing or any(
            isinstance(self._keeper.owner(p), Lease) for p, _ in sample.processes or ()
        )
        if not sample.processes and not self._listing:  # in WSL, and in some containers, nobody is ever listed
            sample = replace(sample, processes=None)
        self.accounts[uuid] = told = account(card, sample, self._keeper.owner)
        for lease, amount in told.measured.items():
            lease.measured[uuid] = amount
            lease.peak = max(lease.peak, amount)
        card.others = told.unexplained + told.theirs
        # while our own memory may be coming back, much that is unexplained tells nothing about anybody else
        ours_leaving = any(lease.leaving for lease in card.leases)
        if not card.leases:
            card.before = card.others
        before = health.state
        if told.others or not ours_leaving or told.unexplained <= tolerance(sample.total or 0, self.allowed):
            health.sampled(now, told.others, told.unexplained, sample.total or 0)
        if health.state != before:
            self._keeper.changed()

    def _hear(self, trouble: Trouble) -> None:
        words = f"Xid {trouble.data}" if trouble.kind == "xid" else trouble.kind
        whose = blame(trouble.kind, trouble.data, self._xids)
        for uuid, card in self.ledger.cards.items():
            if trouble.uuid in (uuid, card.gpu.whole):
                if whose == "card":
                    self._fail(uuid, words)
                elif trouble.kind == "xid":
                    self._warn(f"{card.gpu}: {words}" + ", the doing of a member" * (whose == "member"))

    def _fail(self, uuid: str, reason: str) -> None:
        health, card = self.health[uuid], self.ledger.cards[uuid]
        if health.state == "faulty":
            return
        health.failed(self._now(), reason)
        self.samples.pop(uuid, None)
        self.accounts.pop(uuid, None)
        seconds = health.retry - self._now()
        self._warn(f"{card.gpu} is set aside: {reason}; to be tried again in {seconds:.0f} s")
        self._keeper.evict(uuid, f"{card.gpu}: {reason}")
        self._keeper.changed()

    async def _retry(self) -> None:
        for uuid, health in self.health.items():
            if health.state != "faulty" or self._now() < health.retry:
                continue

            def try_again(nvml: Backend, uuid: str = uuid) -> str:
                try:
                    nvml.sample(uuid)
                    wanted = nvml.recovery(uuid)
                except NvmlFault as fault:
                    return str(fault)
                return f"its driver asks for {wanted} first" if wanted else ""

            problem = await self._ask(try_again)
            health.retried(self._now(), problem)
            if not problem:
                await self._register([self.ledger.cards[uuid].gpu])
                self._warn(f"{self.ledger.cards[uuid].gpu} works again")
                await self.look([uuid])
            self._keeper.changed()

    async def _rescan(self) -> None:
        """Use GPUs that have appeared."""
        if self._now() < self._scanned + RESCAN:
            return
        self._scanned = self._now()

        def survey(nvml: Backend) -> list[NvmlDevice]:
            with contextlib.suppress(NvmlFault):
                return nvml.survey()
            return []

        new = [gpu for gpu in self._choose(await self._ask(survey)) if gpu.uuid not in self.ledger.cards]
        for gpu in new:
            self.ledger.cards[gpu.uuid] = Device(gpu, open=False)
            self.health[gpu.uuid] = Health(allowed=self.allowed)
            self._warn(f"{gpu} has appeared and is used from now on")
        if new:
            await self._register(new)
            await self._measure_distances()
            await self.look([gpu.uuid for gpu in new])

    async def _measure_distances(self) -> None:
        whole = [uuid for uuid, card in self.ledger.cards.items() if card.gpu.slice is None]

        def measure(nvml: Backend) -> dict[tuple[str, str], int]:
            told: dict[tuple[str, str], int] = {}
            for one in whole:
                for other in whole:
                    with contextlib.suppress(NvmlFault):
                        told[one, other] = nvml.distance(one, other) if one != other else 0
            return told

        if self.ledger.need > 1:
            self.distances = await self._ask(measure)

    async def _register(self, gpus: Iterable[GPU]) -> None:
        """Hear of what happens to their cards."""
        cards = list(dict.fromkeys(gpu.whole for gpu in gpus))
        await self._ask(lambda nvml: nvml.watch(cards))
