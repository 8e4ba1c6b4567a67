"""May a GPU be given to a member? The state of one GPU, from what NVML reports of it.

Pure: samples, events and times are arguments. A GPU is

* ok: it may be given out;
* busy: another program computes on it, or more of its memory is used than by our members and a desktop. A list of
  processes alone is not enough, since in a container it may be empty or have the pids of another namespace, so memory
  counts as well. Two samples in a row make a GPU busy and three clean ones make it ok again, so a flicker is ignored;
* dirty: a member has ended and its memory has not been freed in time;
* faulty: it is lost, it fails, or an Xid blames the card (xids.py). It is tried again after longer and longer pauses,
  and only once the driver wants nothing done to it first. A GPU is never reset by us;
* drained: the user has asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..formatting import format_bytes
from ..storage.gpu_report import DeviceState

#: samples in a row
TO_BUSY, TO_OK = 2, 3
#: seconds until a faulty GPU is tried again: at first, and at most
FIRST_RETRY, LAST_RETRY = 30.0, 600.0

OK, BUSY, DIRTY, FAULTY, DRAINED = (
    DeviceState.OK, DeviceState.BUSY, DeviceState.DIRTY, DeviceState.FAULTY, DeviceState.DRAINED,
)  # fmt: skip


def tolerance(total: int, others_may_use: int | None = None) -> int:
    """Bytes that a desktop and the driver may use on a GPU of `total` bytes. others_may_use: the user's own limit."""
    return max(1 << 30, total // 20) if others_may_use is None else others_may_use


@dataclass(slots=True)
class Health:
    """The state of one GPU, and since when. retry: when a faulty one is tried again. others_may_use: in bytes."""

    state: DeviceState = OK
    reason: str = ""
    since: float = 0.0
    retry: float = 0.0
    #: the state is ok, but the last sample was not clean, or there is none yet: nothing is given out before a clean one
    doubtful: bool = False
    others_may_use: int | None = None
    _drain_wanted: bool = False
    _faults: int = 0
    _streak: int = 0
    _sampled: bool = False

    @property
    def open(self) -> bool:
        """May the GPU be given out?"""
        return self.state == OK and not self.doubtful

    def _become(self, state: DeviceState, reason: str, now: float) -> None:
        if self._drain_wanted and state in (OK, BUSY, DIRTY):
            state, reason = DRAINED, "drained by hand"
        if state != self.state:
            self.state, self.since = state, now
        self.reason, self._streak, self.doubtful = reason, 0, False

    def sampled(self, now: float, others: str, unexplained: int, total: int) -> None:
        """Take in a sample. others: the other programs that compute there, or ""; unexplained: bytes of no process."""
        in_the_way = others
        if not others and unexplained > tolerance(total, self.others_may_use):
            whose = "other programs (if that is a desktop: --others-may-use SIZE)"
            in_the_way = f"{format_bytes(unexplained)} of its memory are used by {whose}"
        first, self._sampled = not self._sampled, True
        if self.state in (FAULTY, DRAINED):
            return
        if self.state == OK:
            self._streak = self._streak + 1 if in_the_way else 0
            self.doubtful = self._streak > 0
            if self._streak >= TO_BUSY or (first and in_the_way):
                self._become(BUSY, in_the_way, now)
        elif in_the_way:
            self._streak = 0
            if self.state == BUSY:
                self.reason = in_the_way
        else:
            self._streak += 1
            if self._streak >= (TO_OK if self.state == BUSY else 1):
                self._become(OK, "", now)

    def lingers(self, now: float, amount: int) -> None:
        """A member has ended, and so many bytes of its memory have not been freed in time."""
        if self.state in (OK, BUSY):
            self._become(DIRTY, f"{format_bytes(amount)} are still used though our member has ended", now)

    def failed(self, now: float, reason: str) -> None:
        """The GPU is lost, or fails, or an event blames it."""
        if self.state != FAULTY:
            recovered = self.state == OK and now - self.since > LAST_RETRY
            self._faults = 1 if recovered else self._faults + 1
            self._become(FAULTY, reason, now)
            self._postpone(now)

    def retried(self, now: float, problem: str) -> None:
        """A faulty GPU was tried again. problem: "" if it works."""
        if problem:
            self._faults += 1
            self.reason = problem
            self._postpone(now)
        else:
            self._reopen(now)

    def _reopen(self, now: float) -> None:
        """Use the GPU again, but not before the next sample, which decides at once whether it is busy."""
        self._sampled = False
        self._become(OK, "", now)
        self.doubtful = self.state == OK

    def _postpone(self, now: float) -> None:
        self.retry = now + min(LAST_RETRY, FIRST_RETRY * 2 ** min(10, self._faults - 1))

    def drain(self, now: float) -> None:
        self._drain_wanted = True
        if self.state != FAULTY:
            self._become(DRAINED, "drained by hand", now)

    def give_back(self, now: float) -> None:
        self._drain_wanted = False
        if self.state == DRAINED:
            self._reopen(now)
