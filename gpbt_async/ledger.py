"""Who holds which GPU, who waits, and who is next: the books, without a clock, NVML or a process.

A member asks for a number of GPUs and is given all of them at once, or waits: nobody ever holds one GPU while waiting
for another, so members cannot deadlock one another. Those who wait are served strictly in the order in which they
came: a member that needs four GPUs is never overtaken for ever by those that need one. The price is that a free GPU
stands idle while the first in the row waits for a second one. Only one that waits to be alone is overtaken, as that
may take an interval: the emptiest GPUs are kept back for it, and the others are given to those behind it.

Memory is granted on two accounts at once: what was promised to those already there and what was seen to be used, the
greater for each. Promises alone know nothing of other people, measurements alone come seconds after a program began.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import TYPE_CHECKING

from .sizes import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .packing import Packing
    from .visible import GPU

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
class Card:
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


class Ledger:
    """gpus: how many each member needs. near: how far two GPUs are from one another, by UUID (0 to 50)."""

    def __init__(
        self, gpus: Iterable[GPU], packing: Packing, need: int = 1, near: Callable[[str, str], int] = lambda *_: 0
    ) -> None:
        self.cards: dict[str, Card] = {gpu.uuid: Card(gpu) for gpu in gpus}
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
        kept: list[Card] = []  # for those that wait to be alone: members on these only become fewer
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

    def _eligible(self, need: int) -> list[Card]:
        return [c for c in self.cards.values() if c.open and (need == 1 or c.gpu.slice is None)]

    def _room(self, card: Card, leases: Sequence[Lease]) -> int:
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

    def _used(self, card: Card, leases: Sequence[Lease]) -> int:
        uuid, least = card.gpu.uuid, self.packing.need if self.packing.auto else 0  # a peak may have risen since
        return card.others + sum(max(each.promised, least, each.measured.get(uuid, 0)) for each in leases)

    def _choose(self, lease: Lease, kept: Sequence[Card]) -> tuple[Card, ...] | None:
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

    def _apart(self, cards: Sequence[Card]) -> int:
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
