"""The GPUs of a run: leased to members, and taken back.

Watch tells how the GPUs are, the ledger who holds which and who is next; here both are made true for members that
come, wait, train and end. Two things flow out. `lease` gives a member a `Slot`, and `on_capacity` is told how many
members could train at once whenever that changes: the engine counts slots and never hears of GPUs.

Two surprises. A slot is let go of in no time, but its GPU is not given out again before its memory has come back; one
that keeps some back for too long is set aside as dirty. And a slot may be *evicted* while it is held, when its GPU
fails or is wanted back: its future is set with the reason, and whoever trains there is to stop, and lost, not failed.
"""

from __future__ import annotations

import asyncio
import functools
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError, GPBTError
from ..formatting import format_bytes
from ..processes import linux
from .allocator import Allocator, Lease
from .health import tolerance
from .monitor import HANGS, PERIOD, Monitor
from .nvml import figures
from .selection import match
from .slots import Slot, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from .allocator import Device, Packing
    from .health import Blame, Owner
    from .nvml import NvmlDevice, NvmlThread
    from .selection import GPU


#: seconds the memory of a member that has ended may take to come back
RELEASE = 10.0
MUTE = "NVML does not answer"
#: what the journal keeps of `rows`
JOURNALED = ("gpu", "state", "members", "ours", "used", "utilisation", "temperature")


class GpuPool:
    """A pool of slots on GPUs; arguments as of Watch and Ledger.

    threads: of a member, None = its GPU's share of the cores. affinity: bind members to the cores near their GPUs.
    """

    def __init__(
        self,
        gpus: Sequence[GPU],
        nvml: NvmlThread,
        packing: Packing,
        *,
        need: int = 1,
        threads: int | None = None,
        cores: frozenset[int] = frozenset(),
        usable: int = 1,
        xids: Mapping[int, Blame] | None = None,
        allowed: int | None = None,
        affinity: bool = True,
        period: float = PERIOD,
        choose: Callable[[Iterable[NvmlDevice]], list[GPU]] = lambda _: [],
        now: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        self.ledger = Allocator(gpus, packing, need, lambda a, b: self._watch.distances.get((a, b), 50))
        self._watch = Monitor(
            self,
            self.ledger,
            nvml,
            xids=xids or {},
            allowed=allowed,
            period=period,
            choose=choose,
            now=now,
            warn=warn,
        )
        self._threads, self._cores, self._usable, self._affinity = threads, cores, usable, affinity
        self._now, self._warn = now, warn
        self._turns: dict[Lease, asyncio.Future[None]] = {}
        self._asked_at: dict[Lease, float] = {}
        self._slots: dict[Lease, Slot] = {}
        self._pids: dict[int, Lease] = {}
        self._members: dict[Lease, int] = {}
        #: leases whose member has ended, since when; and the pids they had
        self._leaving: dict[Lease, float] = {}
        self._past: dict[int, Lease] = {}
        #: why no slot can be had any more
        self._closed: Exception | None = None
        self._unmeasured = False
        self._capacity = -1
        self.on_capacity: Callable[[int], object] = lambda _: None
        self.on_sample: Callable[[list[dict[str, Any]]], object] = lambda _: None
        self.on_change: Callable[[], object] = lambda: None

    # ---- its life

    async def open(self) -> None:
        """Look at every GPU, and go on looking. Raises DeviceError when members need what no GPU has, NvmlFault."""
        impossible = self.ledger.impossible()
        if impossible:
            raise DeviceError(f"{impossible}: change what a member needs (--vram, --share, resources), or --gpus")
        await self._watch.open()

    async def close(self) -> None:
        """End NVML and its thread. Whoever waits for a slot gets a RuntimeError."""
        self.broken(RuntimeError("the slots were closed"))
        await self._watch.close()

    def broken(self, error: Exception) -> None:
        told = error if isinstance(error, GPBTError) else RuntimeError(f"no GPU can be given out any more: {error}")
        self._closed = self._closed or told
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(self._closed)

    def __len__(self) -> int:
        """How many members may train at once."""
        return self.ledger.capacity()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Those that are leased now, by index."""
        return tuple(sorted(self._slots.values(), key=lambda slot: slot.index))

    # ---- leasing

    @asynccontextmanager
    async def lease(self, alone: bool = False, need: int = 0) -> AsyncIterator[Slot]:
        """Wait for a slot, hold it, let go of it. alone: nobody else is to train on its GPUs meanwhile. need: how many
        GPUs, 0 = as many as any member.
        """
        if self._closed is not None:
            raise self._closed
        lease = Lease(alone=alone, need=need)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[lease], self._asked_at[lease] = turn, self._now()
        self.ledger.ask(lease)
        self._grant()
        try:
            await turn
        except BaseException:
            if lease in self._slots:  # it was our turn in the very moment
                self._let_go(lease)
            elif lease in self.ledger.queue:
                self.ledger.withdraw(lease)
            raise
        finally:
            del self._turns[lease], self._asked_at[lease]
        try:
            yield self._slots[lease]
        finally:
            self._let_go(lease)

    def _grant(self) -> None:
        for lease in self.ledger.grant():
            cards = [self.ledger.cards[uuid] for uuid in lease.uuids]
            taken = {slot.index for slot in self._slots.values()}
            index = next(i for i in range(len(taken) + 1) if i not in taken)
            near = functools.reduce(frozenset.__and__, (card.gpu.cpus for card in cards)) & self._cores
            near = near if self._affinity and near != self._cores else frozenset()
            self._slots[lease] = Slot(
                index=index,
                name=str(cards[0].gpu) if len(cards) == 1 else "GPUs " + " + ".join(c.gpu.label for c in cards),
                device="cuda",
                gpus=lease.uuids,
                threads=(threads := self._threads or self._share_of_cores(cards[0].gpu)),
                env=environment(threads, lease.uuids),
                cpus=near,
                evicted=asyncio.get_running_loop().create_future(),
            )
            if not self._turns[lease].done():  # done: it was cancelled, and lets go of its slot as it hears of that
                self._turns[lease].set_result(None)
        self._tell_capacity()

    def _share_of_cores(self, gpu: GPU) -> int:
        """The cores near a GPU, divided among the members that may train on those near the same ones."""
        near = gpu.cpus & self._cores
        usable = min(len(near) or self._usable, self._usable)  # a container may be granted less than it sees
        beside = [card.gpu for card in self.ledger.cards.values() if card.gpu.cpus & self._cores == near]
        members = sum(max(1, self.ledger.packing.most(each)) for each in beside) / self.ledger.need
        return max(1, int(usable / max(1.0, members)))

    def _let_go(self, lease: Lease) -> None:
        del self._slots[lease]
        self._members.pop(lease, None)
        for pid in [pid for pid, held in self._pids.items() if held is lease]:
            self._past[pid] = self._pids.pop(pid)
        lease.leaving = True
        self._leaving[lease] = self._now()
        self._watch.soon()
        self._tell_capacity()

    def _tell_capacity(self) -> None:
        capacity = self.ledger.capacity()
        if capacity != self._capacity and self._closed is None:
            self._capacity = capacity
            self.on_capacity(capacity)

    # ---- what those who train tell

    def bind(self, slot: Slot, pid: int, member: int) -> None:
        """The member in this slot is this process."""
        lease = self._lease_of(slot)
        self._pids[pid], self._members[lease] = lease, member

    def _lease_of(self, slot: Slot) -> Lease:
        return next(lease for lease, held in self._slots.items() if held is slot)

    def returned(self, slot: Slot) -> None:
        """The member in this slot has trained to its end: what it took, others will take."""
        lease = self._lease_of(slot)
        if self.ledger.packing.observe(lease.peak, self.ledger.most()):
            need = format_bytes(self.ledger.packing.need)
            self._warn(
                f"vram=auto: members take up to {format_bytes(self.ledger.packing.peak)}, so each is given {need}"
            )
            self.settle()
        elif not self.ledger.packing.measured and not self._unmeasured:
            self._unmeasured = True
            self._warn("vram=auto: NVML did not tell what a member takes (too short?), so members train alone")

    def out_of_memory(self, slot: Slot) -> bool:
        """The member in this slot ran out of GPU memory. True if others were there too: alone it may do better."""
        crowd = self._lease_of(slot).crowd  # who was there then may have ended by now
        if crowd < 2:
            told = [self._watch.accounts[uuid] for uuid in slot.gpus if uuid in self._watch.accounts]
            return any(each.others for each in told)
        if self.ledger.packing.lower(crowd):
            self._warn(f"{slot.name}: out of memory with {crowd} members on it; from now on one fewer share a GPU")
            self.settle()
        return True

    async def verdict(self, slot: Slot, within: float = HANGS) -> str:
        """A member in this slot has failed: empty, or why that is the doing of its GPU. Looks at it anew."""
        if slot.evicted is not None and slot.evicted.done():
            return slot.evicted.result()
        silent = ""
        try:
            async with asyncio.timeout(within):
                await self._watch.look(list(slot.gpus))
        except TimeoutError:  # as a driver does that is losing a card
            silent = f"{slot.name}: NVML does not answer"
        return slot.evicted.result() if slot.evicted is not None and slot.evicted.done() else silent

    # ---- by hand

    def named(self, name: str) -> list[str]:
        """The UUIDs of the GPUs that an index, `index:instance`, UUID or beginning of one may mean."""
        return [gpu.uuid for gpu in match(name, [card.gpu for card in self.ledger.cards.values()])]

    def drain(self, uuid: str, at_once: bool = False) -> None:
        """Give no more members to a GPU; those on it end their interval, or are moved at once."""
        self._watch.health[uuid].drain(self._now())
        if at_once:
            self.evict(uuid, f"{self.ledger.cards[uuid].gpu} was drained")
        self.settle()
        self.on_change()

    def give_back(self, uuid: str) -> None:
        """A GPU that was drained may be used again."""
        self._watch.health[uuid].give_back(self._now())
        self._watch.at_once()
        self.on_change()

    # ---- what Watch wants done

    def evict(self, uuid: str, reason: str) -> None:
        for lease in self.ledger.cards[uuid].leases:
            slot = self._slots.get(lease)
            if slot is not None and slot.evicted is not None and not slot.evicted.done():
                slot.evicted.set_result(reason)

    def owner(self, pid: int) -> Owner:
        """Whose process this is."""
        if pid in self._pids or pid in self._past:
            return self._pids.get(pid, "left over")
        above = linux.ancestors(pid)
        for each in above:
            if each in self._pids:
                return self._pids[each]
        if os.getpid() in above:
            return "left over"
        if not linux.exists(pid):
            return "ghost"
        told = linux.program_and_owner(pid)
        # the server of MPS stands for all its clients, and stays when they go
        return "ghost" if told.startswith("nvidia-cuda-mps") else f"process {pid} ({told})"

    def leaving(self) -> list[str]:
        return [uuid for lease in self._leaving for uuid in lease.uuids]

    def changed(self) -> None:
        self.on_change()

    def told(self) -> None:
        self.on_sample([{name: row[name] for name in JOURNALED} for row in self.rows()])

    def settle(self) -> None:
        """Take back what has come back, give out what may be given out."""
        for lease, since in list(self._leaving.items()):
            if any(not self._watch.seen(uuid, since) for uuid in lease.uuids):
                continue  # nobody can tell
            still = {uuid: self._lingering(uuid) for uuid in lease.uuids}
            if any(still.values()) and self._now() < since + RELEASE:
                continue
            for uuid in (uuid for uuid, lingers in still.items() if lingers):
                self._watch.health[uuid].lingers(self._now(), self._watch.accounts[uuid].unexplained)
                self._warn(f"{self.ledger.cards[uuid].gpu} is set aside: {self._watch.health[uuid].reason}")
                self.on_change()
            del self._leaving[lease]
            self._past = {pid: held for pid, held in self._past.items() if held is not lease}
            self.ledger.release(lease)
        for uuid, card in self.ledger.cards.items():
            card.open = self._watch.health[uuid].open and not self._watch.mute
        if self._closed is None:
            self._grant()

    def _lingering(self, uuid: str) -> bool:
        """Is memory still used that may be of a member that has ended?"""
        if uuid not in self._watch.accounts:
            return False
        total = self.ledger.cards[uuid].gpu.total
        return self._watch.accounts[uuid].unexplained > tolerance(total, self._watch.allowed)

    # ---- for people

    def rows(self) -> list[dict[str, Any]]:
        """Each GPU: who and what it is, its state, its members, and bytes, percent and °C; None where unknown."""
        rows: list[dict[str, Any]] = []
        for uuid, card in self.ledger.cards.items():
            health, sample, told = (
                self._watch.health[uuid],
                self._watch.samples.get(uuid),
                self._watch.accounts.get(uuid),
            )
            staying = card.staying()
            rows.append(
                {
                    "gpu": card.gpu.label,
                    "uuid": uuid,
                    "name": card.gpu.name,
                    "state": "in use" if health.state == "ok" and staying else health.state,
                    "reason": MUTE if self._watch.mute else health.reason,
                    "since": health.since or None,
                    "retry": health.retry if health.state == "faulty" else None,
                    "members": sorted(self._members[lease] for lease in staying if lease in self._members),
                    "ours": sum(told.measured.values()) if told is not None else None,
                    "leaving": len(card.leases) - len(staying),
                    "others": self._others(card) if sample is not None else None,
                    **figures(sample, card.gpu.total),
                }
            )
        return rows

    def _others(self, card: Device) -> int:
        """Bytes of others; what may be coming back of a member that has ended is nobody's."""
        if any(lease.leaving for lease in card.leases):
            return min(card.others, card.before)
        return card.others

    def waiting(self) -> dict[str, Any] | None:
        """How many wait for a GPU, since when, and by GPU why it is not given to the first of them; None if none."""
        queue = self.ledger.queue
        if not queue and self.ledger.capacity():
            return None
        since = self._asked_at[queue[0]] if queue else None
        why = self.ledger.shortage(queue[0].alone if queue else False)
        why |= {
            uuid: h.reason or "somebody else may be using it" for uuid, h in self._watch.health.items() if not h.open
        }
        if self._watch.mute:
            why = dict.fromkeys(self.ledger.cards, MUTE)
        labels = {uuid: self.ledger.cards[uuid].gpu.label for uuid in why}
        return {"members": len(queue), "since": since, "why": {labels[u]: text for u, text in why.items() if text}}
