"""What a tracker is told, and what it must be able to hear: plain data, and one small protocol.

A **tracker** carries what happens in a run to where a person looks at it: TensorBoard, MLflow, Weights & Biases, a
file. Members map to its own runs one to one. Hyperparameters change along a lineage, which trackers cannot show in one
run, as a run's parameters are fixed there; but a *member's* never change, so each member is a run of its own, with
tags that say whose child it is.

A lineage is still one curve, because every report has two steps: `step` counts the member's own reports from 0, and
`lineage_step` goes on where the parent's ended: `member.offset + step`, the offset being the number of reports that
all its ancestors made. Drawn over `lineage_step`, a child's curve begins right behind its parent's, and a
hyperparameter, drawn the same way, is the lineage's schedule.

A user's own tracker is a class made without arguments, a `Tracker` or one with its methods, named `module:Name`. It is
imported and called in a process of its own (teller.py), one call at a time, and may take its time, raise or die: the
run never waits for it. A call that raised is made again, and after a crash of the tracker's process what was told last
may be told once more: (member, attempt, step) tells whether one has it already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run, as a tracker is told of it.

    id: in hex, unlike any other run's; name: its folder's. place: a folder in the run's own for what the tracker
    writes, if it is told no other. settings: the experiment's declaration. kept: what `Tracker.keep` returned last, in
    an earlier session; None if there was none. again: everything is told from the start once more, as nobody knows how
    much was: what is there of this run already is not to be told twice.
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
    """A member in one of its attempts, as a tracker is told of it.

    path: "3/0/2", its place in the tree. parent: its id, None in generation 0. lineage: the ids of its ancestors from
    generation 0 on, then its own. offset: how many reports its ancestors made. known: only the tracker was started
    again, which was told, and kept, in an earlier session that this attempt began; at: the step its next report has.
    """

    run: str
    id: int
    path: str
    generation: int
    parent: int | None
    lineage: tuple[int, ...]
    config: Mapping[str, Any]
    seed: int
    attempt: int
    t: float
    offset: int = 0
    known: bool = False
    at: int = 0

    @property
    def name(self) -> str:
        """Its id as its folder is called: "0007"."""
        return f"{self.id:04}"

    @property
    def schedule(self) -> dict[str, float]:
        """Its config's numbers, under names of their own: drawn over lineage steps, they are the lineage's schedule."""
        numbers = {n: v for n, v in self.config.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        return {f"config/{name}": float(value) for name, value in numbers.items()}

    def tags(self) -> dict[str, str]:
        """Who it is and where it comes from, as text, by the names every tracker has them under."""
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
    """What the tracker's process calls, in this order. Any of them may raise, and any that is not there is left out."""

    #: cannot keep what it was told of a member before its end: one that is `known` is told from its first report again
    forgets = False

    def opened(self, run: TrackedRun) -> None:
        """Once, before anything else: a run begins, or is taken up again."""

    def started(self, member: TrackedMember) -> None:
        """An attempt began, or is `known` and goes on. A second one makes void what was reported by the first."""

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        """The member called `report`, for the `step`-th time from 0; `t` is seconds since the epoch."""

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        """The member has finished, was stopped early, or has failed for good."""

    def keep(self) -> Any:
        """Put what was told so far into safety; what is returned (JSON) comes back in `TrackedRun.kept`."""

    def closed(self, summary: Mapping[str, Any]) -> None:
        """Nothing more comes: the run is over, or was interrupted (`summary["how"]`)."""
