"""May a GPU be given out? One GPU's state, from what NVML says of it.

Pure: samples, events and times come in. A GPU is

* ok: it may be given out;
* busy: somebody else computes on it, or more of its memory is used than ours and a desktop's. Not given out while
  that is so. A process list alone does not do, as in a container it may be empty or name pids of another namespace,
  so memory counts as well, and hysteresis keeps a flicker from mattering: two samples in a row, and three to return;
* dirty: a member of ours has ended and its memory has not come back in time;
* faulty: it is lost, it fails, or an Xid says that it is the card and not the program. Tried again slowly, and only
  once the driver wants nothing done to it first. We never reset a GPU;
* drained: a person has asked for it.

An **Xid** is the driver's number for what went wrong (NVIDIA's catalogue: "XID Errors"). Some tell of a program that
read past its memory: the member's doing, and no reason to lose a card. The rest sets the card aside, as going on with
a card that returns wrong numbers costs more than going on without it. The table can be overridden.

Whose is the memory of a GPU? One sample of NVML's, set against the books.

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

from ..formatting import format_bytes
from .allocator import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .allocator import Device
    from .nvml import Sample


State = Literal["ok", "busy", "dirty", "faulty", "drained"]
Blame = Literal["member", "card", "nobody"]

#: whose fault an Xid is; what is not listed is the card's
XIDS: dict[int, Blame] = {
    13: "member",  # graphics engine exception: mostly an access out of bounds
    31: "member",  # memory page fault
    43: "member",  # the GPU stopped processing: a reset of the channel, the program ends
    45: "member",  # clean-up after a program that was killed
    68: "member",  # video processor exception
    69: "member",  # graphics engine class error
    94: "member",  # a contained ECC error: the program is to be started again
    63: "nobody",  # a row was remapped: recorded, takes effect at the next reset
    92: "nobody",  # many single-bit errors: all corrected
}
#: samples in a row
TO_BUSY, TO_OK = 2, 3
#: seconds until a faulty card is tried again: at first, and at most
FIRST_RETRY, LAST_RETRY = 30.0, 600.0


def tolerance(total: int, allowed: int | None = None) -> int:
    """Bytes that a desktop and the driver may use without anybody being in our way; allowed: said by the user."""
    return max(1 << 30, total // 20) if allowed is None else allowed


def blame(kind: str, data: int, xids: Mapping[int, Blame] = XIDS) -> Blame:
    """Whose fault an event (nvml.Trouble) is."""
    if kind == "xid":
        return xids.get(data, XIDS.get(data, "card"))
    return "card" if kind == "double-bit ECC" else "nobody"


@dataclass(slots=True)
class Health:
    """One GPU's. since: when the present state began. retry: when a faulty one is tried again."""

    state: State = "ok"
    reason: str = ""
    since: float = 0.0
    retry: float = 0.0
    #: the state is ok, but the last sample was not clean, or is still to come: nothing is given out until it is
    doubtful: bool = False
    #: as of `tolerance`
    allowed: int | None = None
    _asked_for: bool = False
    _faults: int = 0
    _streak: int = 0
    _seen: bool = False

    @property
    def open(self) -> bool:
        return self.state == "ok" and not self.doubtful

    def _become(self, state: State, reason: str, now: float) -> None:
        if self._asked_for and state in ("ok", "busy", "dirty"):
            state, reason = "drained", "drained by hand"
        if state != self.state:
            self.state, self.since = state, now
        self.reason, self._streak, self.doubtful = reason, 0, False

    def sampled(self, now: float, others: str, unexplained: int, total: int) -> None:
        """A sample came. others: who else computes there, empty if nobody; unexplained: bytes nobody accounts for."""
        in_the_way = others
        if not others and unexplained > tolerance(total, self.allowed):
            whose = "somebody else (if that is a desktop: --others-may-use SIZE)"
            in_the_way = f"{format_bytes(unexplained)} of its memory are used by {whose}"
        first, self._seen = not self._seen, True
        if self.state in ("faulty", "drained"):
            return
        if self.state == "ok":
            self._streak = self._streak + 1 if in_the_way else 0
            self.doubtful = self._streak > 0
            if self._streak >= TO_BUSY or (first and in_the_way):
                self._become("busy", in_the_way, now)
        elif in_the_way:
            self._streak = 0
            if self.state == "busy":
                self.reason = in_the_way
        else:
            self._streak += 1
            if self._streak >= (TO_OK if self.state == "busy" else 1):
                self._become("ok", "", now)

    def lingers(self, now: float, amount: int) -> None:
        """Our member is gone, its memory is not."""
        if self.state in ("ok", "busy"):
            self._become("dirty", f"{format_bytes(amount)} are still used though our member has ended", now)

    def failed(self, now: float, reason: str) -> None:
        """It is lost, or fails, or says so itself."""
        if self.state != "faulty":
            well = self.state == "ok" and now - self.since > LAST_RETRY
            self._faults = 1 if well else self._faults + 1
            self._become("faulty", reason, now)
            self._put_off(now)

    def retried(self, now: float, problem: str) -> None:
        """A faulty card was tried again: empty if it works."""
        if problem:
            self._faults += 1
            self.reason = problem
            self._put_off(now)
        else:
            self._unknown(now)

    def _unknown(self, now: float) -> None:
        """It may be used again: who is on it now decides at once, and until that is seen it is not given out."""
        self._seen = False
        self._become("ok", "", now)
        self.doubtful = self.state == "ok"

    def _put_off(self, now: float) -> None:
        self.retry = now + min(LAST_RETRY, FIRST_RETRY * 2 ** min(10, self._faults - 1))

    def drain(self, now: float) -> None:
        self._asked_for = True
        if self.state != "faulty":
            self._become("drained", "drained by hand", now)

    def give_back(self, now: float) -> None:
        self._asked_for = False
        if self.state == "drained":
            self._unknown(now)


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


def account(card: Device, sample: Sample, owner: Callable[[int], Owner]) -> Account:
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
