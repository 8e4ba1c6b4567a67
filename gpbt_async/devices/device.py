"""One GPU of a run: its identity, its health, its last sample, its leases, and the owners of its memory.

Pure: a sample, a time and a function that looks up the owner of a process are arguments. `Device.observe` takes in each
sample: it divides the memory in use among its owners (`account`), and derives the health (health.py).

A process that computes on a GPU belongs to a member, was left behind by a member that has ended, is another program,
or is a *ghost*: a pid that does not exist here, since a driver gives a container the pids of the host. If all processes
are listed, the memory that none of them holds is *unexplained*: the driver's, a desktop's, or that of a program which
NVML does not list.

The surprise: members can be *blind*, where there are ghosts or where NVML does not tell what a process holds. They are
known to be there, but not how much they hold. Then the memory that was used before they came stays unexplained, and a
blind member that is alone is taken to hold all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..storage.gpu_report import DeviceState, DeviceStatus
from .health import FAULTY, OK, Health, tolerance
from .nvml import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from .nvml import GPU


@dataclass(slots=True, eq=False)
class Lease:
    """What one member holds or waits for. alone: nothing else of ours may be on its GPUs. need: how many GPUs, 0 = as
    many as any member. asked: when the member began to wait.

    uuids: its GPUs. promised: bytes on each. measured: bytes by GPU, as last seen; peak: the most ever seen on one.
    crowd: the most members that were on one of its GPUs together, itself included. pid, member: of the process that
    trains. leaving: the member has ended, at `ended`, and its memory has not been seen to be free yet. stays: its
    process is a resident one, which keeps memory for the next member.
    """

    alone: bool = False
    need: int = 0
    asked: float = 0.0
    uuids: tuple[str, ...] = ()
    promised: int = 0
    measured: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    crowd: int = 0
    pid: int | None = None
    member: int | None = None
    leaving: bool = False
    stays: bool = False
    ended: float = 0.0


#: a process belongs to a member (its lease), waits for its next one ("resident"), was "left over" by one, is a "ghost",
#: or another program, in words
Owner = Lease | Literal["resident", "left over", "ghost"] | str


@dataclass(slots=True)
class Account:
    """Whose the memory of a GPU is. others: the other programs that compute there, in words, "" if none. theirs: the
    bytes they are known to hold. unexplained: bytes of no known process. measured: bytes by lease, where known. idle:
    bytes of resident processes that wait for their next member, which will use the same bytes.
    """

    others: str = ""
    theirs: int = 0
    unexplained: int = 0
    idle: int = 0
    measured: dict[Lease, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Device:
    """sampled: when the last sample was asked for. others: bytes that are used and not by our members, as last seen;
    before: the same, as seen when no member was on the GPU. residents: idle processes of ours on it.
    """

    gpu: GPU
    health: Health = field(default_factory=Health)
    sample: Sample | None = None
    account: Account | None = None
    sampled: float = 0.0
    others: int = 0
    before: int = 0
    residents: int = 0
    leases: list[Lease] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """May it be given out?"""
        return self.health.open

    @property
    def lingers(self) -> bool:
        """Is memory in use that may be of a member that has ended?"""
        limit = tolerance(self.gpu.total, self.health.others_may_use)
        return self.account is not None and self.account.unexplained > limit

    def staying(self) -> list[Lease]:
        return [lease for lease in self.leases if not lease.leaving]

    def sampled_since(self, time: float) -> bool:
        """Was it sampled since then? True of a faulty GPU, which is not sampled."""
        return self.sampled >= time or self.health.state == FAULTY

    def observe(self, sample: Sample, owner: Callable[[int], Owner], asked: float, now: float) -> None:
        """Take in a sample that was asked for at `asked`. owner: whose process a pid is."""
        self.sample, self.sampled = sample, asked
        self.account = shares = account(self, sample, owner)
        for lease, amount in shares.measured.items():
            lease.measured[self.gpu.uuid] = amount
            lease.peak = max(lease.peak, amount)
        self.others = shares.unexplained + shares.theirs
        if not self.leases:
            self.before = self.others
        total = sample.total or 0
        # while the memory of an ended member may be coming back, unexplained memory says nothing of other programs
        ended = any(lease.leaving for lease in self.leases)
        if shares.others or not ended or shares.unexplained <= tolerance(total, self.health.others_may_use):
            self.health.sampled(now, shares.others, shares.unexplained, total)

    def fail(self, reason: str, now: float) -> None:
        """Set it aside. Its last sample is no longer true."""
        self.health.failed(now, reason)
        self.sample = self.account = None

    def status(self) -> DeviceStatus:
        health, staying, sample = self.health, self.staying(), self.sample or Sample(None, None)
        # what may be coming back of a member that has ended is not the memory of others
        others = min(self.others, self.before) if len(staying) < len(self.leases) else self.others
        return DeviceStatus(
            gpu=self.gpu.label,
            uuid=self.gpu.uuid,
            name=self.gpu.name,
            state=DeviceState.IN_USE if health.state == OK and staying else health.state,
            reason=health.reason,
            since=health.since or None,
            retry=health.retry if health.state == FAULTY else None,
            members=tuple(sorted(lease.member for lease in staying if lease.member is not None)),
            ours=sum(self.account.measured.values()) if self.account is not None else None,
            leaving=len(self.leases) - len(staying),
            others=others if self.sample is not None else None,
            used=sample.used,
            total=sample.total or self.gpu.total or None,
            utilisation=sample.utilisation,
            temperature=sample.temperature,
        )


def account(device: Device, sample: Sample, owner: Callable[[int], Owner]) -> Account:
    """Divide the memory in use on a GPU among those who use it."""
    shares, blind, partly = _listed(sample, owner)
    rest = max(0, (sample.used or 0) - sum(shares.measured.values()) - shares.theirs - shares.idle)
    unseen = [lease for lease in device.staying() if lease not in shares.measured] if blind else []
    if not unseen:
        shares.unexplained = min(rest, device.before) if partly or (blind and device.residents) else rest
        return shares
    shares.unexplained = min(rest, device.before)
    promised = [lease.promised for lease in unseen]
    if all(promised) and len(unseen) > 1:
        shares.unexplained = max(shares.unexplained, rest - sum(promised))
    if len(unseen) == 1:
        shares.measured[unseen[0]] = max(0, rest - device.before)
    return shares


def _listed(sample: Sample, owner: Callable[[int], Owner]) -> tuple[Account, bool, bool]:
    """What the list of processes shows; may members be missing from it; does it lack bytes of a member?"""
    shares, others = Account(), list[str]()
    blind, partly = sample.processes is None, False
    for pid, amount in sample.processes or ():
        whose = owner(pid)
        if isinstance(whose, Lease):
            if amount is None:
                blind = partly = True
            else:
                shares.measured[whose] = shares.measured.get(whose, 0) + amount
        elif whose == "resident":
            blind |= amount is None
            shares.idle += amount or 0
        elif whose == "left over" or pid in sample.drawing:
            pass  # unexplained: the one until it is gone, the other as far as a desktop may
        elif whose == "ghost":
            blind = True
        else:
            others.append(whose)
            shares.theirs += amount or 0
    shares.others = ", ".join(others)
    return shares, blind, partly
