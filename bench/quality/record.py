"""What a run came to: told interval by interval in the order of their ends, kept in a row of the results.

The model a run gives is the one with the lowest validation loss of all its intervals, whatever the method; a method
that knows better than a noisy loss gives a `worth` to choose by. The model's test loss is looked at once, at the end.
The trace tells the best so far at every tenth of the budget, in intervals and in virtual time, so that the curves of
all methods can be drawn from rows of one line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tasks import Task

#: points of a trace
MARKS = 10


@dataclass(slots=True)
class Record:
    """One run. budget: intervals it may take. spent: taken so far, a stopped one in part."""

    task: Task
    budget: int
    spent: float = 0.0
    now: float = 0.0
    val: float = math.inf
    #: what the model was chosen by
    worth: float = math.inf
    state: Any = None
    #: intervals in the lineage of the model
    depth: int = 0
    #: (virtual time, best validation loss) when each tenth of the budget was spent
    trace: list[tuple[float, float]] = field(default_factory=list)

    def add(self, now: float, val: float, state: Any, depth: int, worth: float | None = None) -> None:
        """An interval has ended. worth: what the model is chosen by, less is better; the loss, if not given."""
        worth = val if worth is None else worth
        if worth < self.worth:
            self.worth, self.val, self.state, self.depth = worth, val, state, depth
        self.spend(now, 1.0)

    def spend(self, now: float, share: float) -> None:
        """A share of an interval was trained and gave no model."""
        self.now = max(self.now, now)
        self.spent += share
        while self.spent >= self.budget * (len(self.trace) + 1) / MARKS - 1e-9:
            self.trace.append((self.now, self.val))

    def row(self) -> dict[str, Any]:
        """For the file of rows; short."""
        told: dict[str, Any] = {
            "val": _short(self.val),
            "test": _short(self.task.test(self.state)),
            "spent": _short(self.spent),
            "span": _short(self.now),
            "depth": self.depth,
            "times": [_short(t) for t, _ in self.trace],
            "vals": [_short(v) for _, v in self.trace],
        }
        errors = getattr(self.task, "errors", None)
        if errors is not None:
            told["error"] = _short(errors(self.state))
        return told


def _short(value: float) -> float:
    return float(f"{value:.5g}")
