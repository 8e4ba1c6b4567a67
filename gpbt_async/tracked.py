"""The contract of trackers: the plain data that they get, and the protocol that they implement.

A **tracker** sends the events of a run to a program that shows them: TensorBoard, MLflow, Weights & Biases, or to a
file. Members become the tracker's own runs, one to one: hyperparameters change along a lineage, while a tracker's run
has fixed parameters, as a *member* has; tags say whose child a member is.

A lineage is still one curve, because every report has two steps: `step` counts the member's own reports from 0, and
`lineage_step` goes on where the parent's ended: `member.offset + step`, where the offset is the number of reports that
all ancestors made. Drawn over `lineage_step`, a child's curve begins right behind its parent's, and a hyperparameter,
drawn the same way, is the lineage's schedule.

A user's own tracker is a class that is made without arguments, a `Tracker` or one with its methods, named
`module:Name`. It is imported and called in a process of its own (trackers/tracker_main.py), one call at a time. It may
be slow, raise or die: the run never waits for it. A call that raised is repeated, and after a crash of the tracker's
process the last calls may be repeated: (member, attempt, step) identifies a report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .space import Scalar


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run, as a tracker gets it.

    id: in hex, unique; name: that of the run's folder. place: a folder inside it for the tracker's files, unless the
    user gives another. settings: the experiment's declaration. kept: what `Tracker.keep` returned last, in an earlier
    session; None if there was none. again: all calls are repeated from the start, because it is unknown how many were
    made; what the tracker has of this run already is not to be added twice.
    """

    id: str
    name: str
    folder: Path
    place: Path
    score: str
    mode: str
    settings: Mapping[str, Any]
    kept: Any = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class TrackedMember:
    """A member in one of its attempts, as a tracker gets it.

    path: "3/0/2", the place in the tree. parent: the parent's id, None in generation 0. lineage: the ids of the
    ancestors from generation 0 on, then the member's own. offset: how many reports the ancestors made. known: only the
    tracker was restarted, and it kept in an earlier session that this attempt began; at: the step of its next report.
    """

    run: str
    id: int
    path: str
    generation: int
    parent: int | None
    lineage: tuple[int, ...]
    config: Mapping[str, Scalar]
    seed: int
    attempt: int
    t: float
    offset: int = 0
    known: bool = False
    at: int = 0

    @property
    def name(self) -> str:
        """The name of the member's folder: "0007"."""
        return f"{self.id:04}"

    @property
    def schedule(self) -> dict[str, float]:
        """The numbers of the config as metrics: drawn over lineage steps, they are the lineage's schedule."""
        numbers = {n: v for n, v in self.config.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        return {f"config/{name}": float(value) for name, value in numbers.items()}

    def tags(self) -> dict[str, str]:
        """The member's identity and origin as text, under the same names in every tracker."""
        return {
            "run": self.run,
            "member": str(self.id),
            "path": self.path,
            "generation": str(self.generation),
            "parent": "" if self.parent is None else str(self.parent),
            "lineage": "/".join(map(str, self.lineage)),
            "attempt": str(self.attempt),
            "seed": str(self.seed),
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """How a member ended: state is "finished", "failed" or "stopped". seconds: in `train`. t: when."""

    state: str
    score: float | None
    t: float
    seconds: float = 0.0
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


class Tracker:
    """The methods that the tracker's process calls, in this order. Any may raise; a missing one is not called."""

    #: cannot keep a member's reports before its end: one that is `known` gets them from the first on again
    forgets = False

    def opened(self, run: TrackedRun) -> None:
        """Once, before anything else: a run begins, or is resumed."""

    def started(self, member: TrackedMember) -> None:
        """An attempt began, or is `known` and goes on. A second attempt replaces what the first reported."""

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        """The member called `report`, for the `step`-th time from 0; `t` is seconds since the epoch."""

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        """The member has finished, was stopped early, or has failed for good."""

    def keep(self) -> Any:
        """Save everything so far; the result (JSON) comes back as `TrackedRun.kept`."""

    def closed(self, summary: Mapping[str, object]) -> None:
        """The last call: the run has ended, or was interrupted (`summary["how"]`)."""
