"""Combinations: what is made of several members of a run that has ended, at no further interval.

A *merge* is one model, whose weights are the average of some members' weights (a greedy soup: Wortsman et al.,
arXiv 2203.05482). An *ensemble* is several models, whose predictions are averaged. Both are chosen alike: the best
member comes first; then each candidate is added in turn, and stays only if the combination scores better with it.

A merge tries its candidates by score. An ensemble always tries next the candidate that shares the fewest intervals of
training with the members chosen so far: the family tree knows who is independent of whom.

Pure: who is a candidate, who is next, what is better, and the record of it (summary.json). The scheduler validates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003 (the codec evaluates annotations)
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..engine.tree import State
from ..errors import FolderError, GPBTError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.tree import Node
    from .reader import RunReader

How: TypeAlias = Literal["merge", "ensemble"]
#: the folder of each in the run's folder
FOLDERS: dict[How, str] = {"merge": "merged", "ensemble": "ensemble"}
#: validated and reported scores of one checkpoint that differ by more than this, relatively, are worth a sentence
TOLERANCE = 1e-3


class CombinationError(GPBTError):
    """A combination was begun, and cannot be made."""

    exit_status = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One validation. members: that were combined, the best one first. score, metrics: what was reported, if anything.

    kept: whether the member that was added last stays. reason: why there is no score, else "".
    """

    members: tuple[int, ...]
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """What came of it, as summary.json has it.

    members: combined, in the order in which they were added; the best one alone if no addition improved it. score: of
    the combination. best: the best member. best_score: its score by the same function. reported: its score in the run.
    gain: by how much the combination is better, in units of the score, 0 or more. candidates: members whose checkpoints
    were on the disk, in the order of their scores. script: the digest of the file that validates. folder: of the
    result. checkpoints: what is to be used, relative to the folder; empty if no addition improved the best.
    """

    how: How
    run: str
    metric: str
    mode: str
    members: tuple[int, ...]
    score: float
    metrics: Mapping[str, float]
    best: int
    best_score: float
    reported: float
    gain: float
    candidates: tuple[int, ...]
    most: int
    script: str
    steps: tuple[Step, ...]
    folder: str = ""
    checkpoints: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Does the function that validates give the best member another score than its training has reported?"""
        return not math.isclose(self.best_score, self.reported, rel_tol=TOLERANCE, abs_tol=1e-12)


def ended(reader: RunReader) -> Node:
    """The best member of a run that has ended, and can validate. Raises FolderError."""
    folder, engine = reader.folder, reader.engine
    if engine.ended is None:
        wait = f"wait for its end, or stop it (gpbt-async stop {folder.shell_name})"
        go_on = wait if folder.locked() is not None else f"continue it (gpbt-async resume {folder.shell_name})"
        raise FolderError(f"{folder.name} has not finished, so its last generation is not complete: {go_on}")
    if engine.best is None:
        raise FolderError(f"{folder.name} has no finished member: see gpbt-async status {folder.shell_name}")
    if reader.settings.command is not None:
        raise FolderError(f"{folder.name} trains by a command, and only a Python function can validate checkpoints")
    if reader.settings.validate is None:
        raise FolderError(
            f"{folder.name} declares no validation, and so it has kept only its best checkpoint: write a function "
            f"validate(member) that loads member.parent, trains nothing and reports {reader.settings.score!r}; give "
            "Experiment(..., validate=validate), and launch a new run (gpbt-async guide member)"
        )
    return engine.best


def candidates(reader: RunReader) -> list[Node]:
    """The members whose checkpoints are on the disk, the best one first. Raises FolderError when there is but one."""
    folder, best = reader.folder, reader.engine.best
    there = [
        member
        for member in reader.engine.tree.members
        if member.state is State.FINISHED and not member.damaged and folder.member(member.id).checkpoint.is_dir()
    ]
    there.sort(key=lambda member: (member is not best, member.loss, member.id))
    if not there or there[0] is not best:
        raise FolderError(f"the checkpoint of the best member of {folder.name} is gone: bring it back from a copy")
    if len(there) == 1:
        raise FolderError(
            f"{folder.name} has one checkpoint, that of its best member: there is nothing to combine it with "
            "(a run keeps the best of its last two generations until gpbt-async clean deletes them)"
        )
    return there


def following(how: How, chosen: Sequence[Node], untried: Sequence[Node]) -> Node:
    """The candidate to try next. untried: by score, the best one first."""
    if how == "merge":
        return untried[0]
    ancestries = [{m.id for m in member.ancestry} for member in chosen]
    return min(untried, key=lambda member: max(len({m.id for m in member.ancestry} & each) for each in ancestries))
