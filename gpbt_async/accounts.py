"""Whose is the memory of a GPU? One sample of NVML's, set against the books.

Pure. A process that computes on a GPU is a member's of ours, a left-over of one that has ended, somebody else's, or a
ghost: a pid that does not exist here, as the driver tells the pids of the host to whoever asks in a container. Where
all is listed, what remains of the memory in use after everybody's share is unexplained: the driver's and the
desktop's, or of a program that NVML does not list. Where there are ghosts, or processes whose memory NVML does not
tell, members of ours are *blind*: known to be there, and nobody says what they hold. Then what was there before they
came stays on the books, and one that is blind and alone is taken to hold all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .ledger import Lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from .ledger import Card
    from .nvml import Sample

#: a member's lease, "left over" of one that has ended, "ghost", or who else, in words for people
Owner = Lease | Literal["left over", "ghost"] | str


@dataclass(slots=True)
class Account:
    """others: who else computes here, in words, empty if nobody. theirs: bytes they are known to hold.

    unexplained: bytes nobody accounts for. measured: bytes by lease, where that is known.
    """

    others: str = ""
    theirs: int = 0
    unexplained: int = 0
    measured: dict[Lease, int] = field(default_factory=dict)


def account(card: Card, sample: Sample, owner: Callable[[int], Owner]) -> Account:
    """Divide what is used on a card among those who use it."""
    told = Account()
    others: list[str] = []
    blind = sample.processes is None
    partly = False
    for pid, amount in sample.processes or ():
        whose = owner(pid)
        if isinstance(whose, Lease):
            if amount is None:
                partly = True
                blind = True
            else:
                told.measured[whose] = told.measured.get(whose, 0) + amount
        elif whose == "left over" or pid in sample.drawing:
            pass  # unexplained: until it is gone, or as far as a desktop may
        elif whose == "ghost":
            blind = True
        else:
            others.append(whose)
            told.theirs += amount or 0
    told.others = ", ".join(others)
    used = sample.used or 0
    rest = max(0, used - sum(told.measured.values()) - told.theirs)
    unseen = [lease for lease in card.staying() if lease not in told.measured] if blind else []
    if not unseen:
        told.unexplained = min(rest, card.before) if partly else rest
        return told
    promised = [lease.promised for lease in unseen]
    told.unexplained = min(rest, card.before)
    if all(promised) and len(unseen) > 1:
        told.unexplained = max(told.unexplained, rest - sum(promised))
    if len(unseen) == 1:
        told.measured[unseen[0]] = max(0, rest - card.before)
    return told
