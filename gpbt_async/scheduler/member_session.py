"""One attempt of one member: its process's messages come in, and the fact that ends the attempt comes out.

It collects scores and metrics and keeps the deadlines. It knows neither the journal nor the engine:

    with MemberSession(settings, member.id, attempt, end=...) as session:
        async for message in worker:
            session.hear(message)

When a member misses a deadline, the session calls `end` once, with the reason, and the attempt has failed. It counts as
the member's own fault, so that a member which always hangs is not tried for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import events
from ..processes import wire
from ..processes.outcome import reason
from .clock import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..events import Failed, Lost, StoppedEarly, Trained
    from ..experiment import Settings
    from ..processes.outcome import Outcome
    from ..processes.worker import Heard


#: what a member's process measures of its own start (wire.End.start)
STARTS = ("imports", "parent", "first_report")


class MemberSession:
    """member, attempt: of which this is one, attempts from 1. Leaving its block ends its deadlines.

    asked: when its process was requested, on the monotonic clock.
    """

    def __init__(
        self, settings: Settings, member: int, attempt: int, *, asked: float, end: Callable[[str], object]
    ) -> None:
        self.member, self.attempt = member, attempt
        self._score = settings.score
        self._deadlines = Deadlines(settings.stall_timeout, settings.member_timeout, end)
        self._asked = asked
        #: seconds before its first report (events.Trained.start)
        self.start: dict[str, float] = {}
        #: when it entered `train`, on the monotonic clock
        self.entered: float | None = None
        #: the last report; the last value of each metric; the last score, and how many there were
        self.report: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.score: float | None = None
        self.scores = 0

    def __enter__(self) -> MemberSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._deadlines.close()

    @property
    def overdue(self) -> str:
        """The deadline it missed, as a reason; empty if it missed none."""
        return self._deadlines.overdue

    def hear(self, message: Heard) -> None:
        match message:
            case wire.Enter(at):
                self.entered = at
                self.start["process"] = max(0.0, at - self._asked)
                self._deadlines.entered()
            case wire.Report(metrics):
                self._deadlines.heard()
                self.report = {name: wire.real(value) for name, value in metrics.items()}
                self.metrics |= self.report
                if self._score in self.report:
                    self.score = self.report[self._score]
                    self.scores += 1
            case wire.End(start=start):
                self._deadlines.close()
                self.start |= {name: round(wire.real(start[name]), 6) for name in STARTS if name in start}

    def why(self, outcome: Outcome) -> str:
        """Why an attempt that did not return failed."""
        return self.overdue or reason(outcome)

    def ended(
        self, t: float, outcome: Outcome, *, blame: str = "", certain: bool = False, unread: int = 0
    ) -> Trained | Lost | StoppedEarly | Failed:
        """The fact that the attempt is over, at time t.

        blame: what else than the member made it fail, if something did. certain: another attempt would fail in the same
        way. unread: as of Trained.
        """
        seconds = max(0.0, outcome.at - self.entered) if self.entered is not None else 0.0
        member, attempt = self.member, self.attempt
        if outcome.how is wire.Exit.RETURNED:
            return events.Trained(
                t=t, member=member, attempt=attempt, seconds=seconds,
                score=self.score, metrics=self.metrics, unread=unread, start=self.start,
            )  # fmt: skip
        if blame or outcome.how is wire.Exit.LOST:
            return events.Lost(t=t, member=member, attempt=attempt, seconds=seconds, reason=blame or reason(outcome))
        if outcome.how is wire.Exit.STOPPED and not self.overdue:
            return events.StoppedEarly(
                t=t, member=member, attempt=attempt, seconds=seconds, score=self.score, metrics=self.metrics
            )
        return events.Failed(
            t=t, member=member, attempt=attempt, seconds=seconds, reason=self.why(outcome), certain=certain
        )
