"""Who holds which GPU, who waits, and who is next: the books, without a clock, NVML or a process.

A member asks for a number of GPUs and is given all of them at once, or waits: nobody ever holds one GPU while waiting
for another, so members cannot deadlock one another. Those who wait are served strictly in the order in which they
came: a member that needs four GPUs is never overtaken for ever by those that need one. The price is that a free GPU
stands idle while the first in the row waits for a second one. Only one that waits to be alone is overtaken, as that
may take an interval: the emptiest GPUs are kept back for it, and the others are given to those behind it.

Memory is granted on two accounts at once: what was promised to those already there and what was seen to be used, the
greater for each. Promises alone know nothing of other people, measurements alone come seconds after a program began.

How many members fit on a GPU, and how much of its memory each is given.

Pure. `share` is the most members at a time, `vram` what each may take of the memory: a number of bytes, or "auto",
and then it is measured: as long as nobody has finished, members train alone on their GPUs; from then on each is given
the greatest peak seen so far and a margin. The margin is not only caution: peaks are seen by sampling, and memory
that is allocated for moments only is missed. When a member runs out of memory all the same, fewer share from then on.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import TYPE_CHECKING

from ..formatting import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .selection import GPU


#: of so many GPUs at most, the best ones by load, sets are compared by how near they are to one another
_COMPARED = 12


@dataclass(slots=True, eq=False)
class Lease:
    """What one member holds, or waits for. need: how many GPUs, 0 = as many as the ledger says.

    measured: bytes by GPU, as last seen; peak: the most ever seen on one of them. promised: bytes on each.
    crowd: the most members, itself included, that were on one of its GPUs with it.
    leaving: the member has ended, its memory has not been seen to come back yet.
    """

    alone: bool = False
    need: int = 0
    uuids: tuple[str, ...] = ()
    promised: int = 0
    measured: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    crowd: int = 0
    leaving: bool = False


@dataclass(slots=True)
class Device:
    """A GPU's page. open: it may be given out. others: bytes that are used and not ours, as last seen; before: as seen
    when no member of ours was on it.
    """

    gpu: GPU
    open: bool = True
    others: int = 0
    before: int = 0
    leases: list[Lease] = field(default_factory=list)

    def staying(self) -> list[Lease]:
        return [lease for lease in self.leases if not lease.leaving]


class Allocator:
    """gpus: how many each member needs. near: how far two GPUs are from one another, by UUID (0 to 50)."""

    def __init__(
        self, gpus: Iterable[GPU], packing: Packing, need: int = 1, near: Callable[[str, str], int] = lambda *_: 0
    ) -> None:
        self.cards: dict[str, Device] = {gpu.uuid: Device(gpu) for gpu in gpus}
        self.packing = packing
        self.need = need
        self.near = near
        self.queue: deque[Lease] = deque()
        self.held: list[Lease] = []

    # ---- what may be asked

    def impossible(self) -> str:
        """Why a member could not even be served if all GPUs were free; empty if it could."""
        whole = [card.gpu for card in self.cards.values() if self.need == 1 or card.gpu.slice is None]
        fitting = [gpu for gpu in whole if self.packing.most(gpu)]
        if len(fitting) >= self.need:
            return ""
        if self.need > 1 and len(whole) < self.need:
            mig = ", as a process can use only one MIG instance" if len(whole) < len(self.cards) else ""
            return f"a member needs {self.need} GPUs and there are {len(whole)} to choose from{mig}"
        if fitting:
            each = format_bytes(self.packing.need)
            return f"a member needs {self.need} GPUs with {each} each and there are {len(fitting)}"
        most = max((gpu.total for gpu in whole), default=0)
        return f"a member needs {format_bytes(self.packing.need)} and the largest GPU has {format_bytes(most)}"

    def most(self) -> int:
        """The most bytes a member may take on each of its GPUs, if all were free; 0 if not known."""
        totals = sorted(c.gpu.total for c in self.cards.values() if self.need == 1 or c.gpu.slice is None)
        return totals[-self.need] if len(totals) >= self.need and totals[0] else 0

    def capacity(self) -> int:
        """How many members could train at this moment, those that do included."""
        rooms = [self._room(card, card.staying()) for card in self._eligible(self.need)]
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
        """Serve the first in the row, and so on, until one must wait; those served."""
        granted: list[Lease] = []
        kept: list[Device] = []  # for those that wait to be alone: members on these only become fewer
        for lease in list(self.queue):
            chosen = self._choose(lease, kept)
            if chosen is None and lease.alone:
                need = lease.need or self.need
                kept += sorted((c for c in self._eligible(need) if c not in kept), key=lambda c: len(c.leases))[:need]
                continue
            if chosen is None:
                break
            self.queue.remove(lease)
            lease.uuids = tuple(card.gpu.uuid for card in chosen)
            lease.promised = self.packing.need
            for card in chosen:
                card.leases.append(lease)
                for each in card.leases:
                    each.crowd = max(each.crowd, len(card.leases))
            self.held.append(lease)
            granted.append(lease)
        return granted

    def release(self, lease: Lease) -> None:
        self.held.remove(lease)
        for uuid in lease.uuids:
            self.cards[uuid].leases.remove(lease)

    # ---- who fits where

    def _eligible(self, need: int) -> list[Device]:
        return [c for c in self.cards.values() if c.open and (need == 1 or c.gpu.slice is None)]

    def _room(self, card: Device, leases: Sequence[Lease]) -> int:
        """How many more members this card takes, if it holds these."""
        if any(lease.alone for lease in leases):
            return 0
        room = self.packing.most(card.gpu) - len(leases)
        need = self.packing.need
        if need and card.gpu.total:
            free = card.gpu.total - self._used(card, leases)
            # alone on a card, what was measured will do, without the margin
            room = min(room, free // need or int(not leases and (self.packing.peak or need) <= free))
        return max(0, room)

    def _used(self, card: Device, leases: Sequence[Lease]) -> int:
        uuid, least = card.gpu.uuid, self.packing.need if self.packing.auto else 0  # a peak may have risen since
        return card.others + sum(max(each.promised, least, each.measured.get(uuid, 0)) for each in leases)

    def _choose(self, lease: Lease, kept: Sequence[Device]) -> tuple[Device, ...] | None:
        need = lease.need or self.need
        free = [c for c in self._eligible(need) if c not in kept and self._room(c, c.leases)]
        free = [c for c in free if not (lease.alone and c.leases)]
        if len(free) < need:
            return None
        # spread before packing; of equals the one with the most memory left, then the first
        free.sort(key=lambda c: (len(c.leases), self._used(c, c.leases) - c.gpu.total))
        if need == 1:
            return (free[0],)
        sets = combinations(islice(free, max(_COMPARED, need)), need)
        return min(sets, key=lambda cards: (sum(len(c.leases) for c in cards), self._apart(cards)))

    def _apart(self, cards: Sequence[Device]) -> int:
        return sum(self.near(one.gpu.uuid, other.gpu.uuid) for one, other in combinations(cards, 2))

    # ---- for people, and for tests

    def shortage(self, alone: bool = False) -> dict[str, str]:
        """By UUID, why an open card is not given to who waits; empty for one that could be."""
        told: dict[str, str] = {}
        for uuid, card in self.cards.items():
            leases = card.leases
            if not card.open:
                continue
            if self.need > 1 and card.gpu.slice is not None:
                told[uuid] = "a process can use only one MIG instance"
            elif self._room(card, leases) and not (alone and leases):
                told[uuid] = ""
            elif any(lease.leaving for lease in leases):
                told[uuid] = "the memory of a member that has ended is coming back"
            elif (alone and leases) or any(lease.alone for lease in leases):
                told[uuid] = "a member that ran out of memory is to train alone"
            elif leases and len(leases) >= self.packing.most(card.gpu):
                told[uuid] = f"it holds {len(leases)} of {self.packing.most(card.gpu)} member(s)"
            elif not self._room(card, leases):
                free = card.gpu.total - self._used(card, leases)
                told[uuid] = f"{format_bytes(max(0, free))} are free, {format_bytes(self.packing.need)} are needed"
            else:
                told[uuid] = ""
        return told

    def check(self) -> None:
        """Assert what holds at any moment."""
        for uuid, card in self.cards.items():
            assert all(uuid in lease.uuids and lease in self.held for lease in card.leases)
            assert not any(lease.alone for lease in card.leases) or len(card.leases) == 1
        for lease in self.held:
            assert len(lease.uuids) == len(set(lease.uuids)) == (lease.need or self.need)
            assert len(lease.uuids) == 1 or all(self.cards[u].gpu.slice is None for u in lease.uuids)
            assert lease not in self.queue


#: what is added to a measured peak
MARGIN = 0.1
#: how PyTorch, the CUDA runtime and driver, TensorFlow and JAX say it
_OOM = re.compile(r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|"
                  r"cudaErrorMemoryAllocation|CUDNN_STATUS_ALLOC_FAILED|"
                  r"RESOURCE_EXHAUSTED|ResourceExhaustedError|CUBLAS_STATUS_ALLOC_FAILED")  # fmt: skip


def out_of_memory(text: str) -> bool:
    """Does an error, or the end of a log, tell that a GPU's memory was used up?"""
    return _OOM.search(text) is not None


class Packing:
    """share: most members a GPU, None = 1, or with vram as many as fit. vram: bytes a member, "auto", or None."""

    def __init__(self, share: int | None = None, vram: str | None = None) -> None:
        self.auto = vram == "auto"
        self.vram = parse_bytes(vram) if vram is not None and vram != "auto" else None
        self._most = share or (None if vram is not None else 1)
        #: the greatest memory a finished member held on a GPU, 0 = not known yet
        self.peak = 0

    def observe(self, peak: int, most: int = 0) -> bool:
        """A member has finished that held so many bytes at most; True if this changes how many fit.

        most: what can be had at all, 0 = not known. A member that holds much on one of its GPUs and little on the
        others would else be thought to fit on no others than the largest.
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
        """Is it known what a member takes, as far as it is to be?"""
        return not self.auto or self.peak > 0

    @property
    def need(self) -> int:
        """Bytes a member is given on each of its GPUs; 0 = not limited."""
        if self.auto:
            return int(self.peak * (1 + MARGIN))
        return self.vram or 0

    def most(self, gpu: GPU) -> int:
        """How many members may share this GPU if it is free but for them; 0 if it is too small for one."""
        most = 1 if gpu.exclusive or not self.measured else self._most
        if self.need and gpu.total:
            # what was measured on a GPU of this machine fits on it alone, whatever the margin says
            fit = gpu.total // self.need or int(self.auto and self.peak <= gpu.total)
            return fit if most is None else min(most, fit)
        return most or 1
