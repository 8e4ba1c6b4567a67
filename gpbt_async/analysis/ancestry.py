"""Why a member exists: its ancestors, and for each of them the parent, when and why it was chosen, and what changed.

Pure: read off the engine and the history. Ranks "then" are those of the moment at which the member was created.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ask import path_of, path_text
from ..errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..engine.tree import Node
    from ..space import Config
    from .reader import RunReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Parentage:
    """The parent as it stood when the member was created.

    rank: from 1, among the `rivals` of its generation that had finished; elite: how many of them could be a parent;
    settled: how many of that generation were terminal; children: how many the parent had in this generation before.
    """

    parent: int
    rank: int
    rivals: int
    elite: int
    settled: int
    children: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AncestryStep:
    """One member of the ancestry. In JSON: an object with these names.

    rank: from 1, among the finished of its generation now, None if it has not finished; of: that generation's size.
    siblings: other members of its generation with the same parent. changed: [old, new] by hyperparameter, against the
    parent. t: when it was created, in seconds since the epoch. repeats: does it continue its parent's config? chosen:
    None for a root.
    """

    member: int
    path: str
    generation: int
    state: str
    score: float | None
    rank: int | None
    of: int
    reason: str
    siblings: int
    children: int
    config: Config
    changed: Mapping[str, Sequence[object]]
    t: float
    repeats: bool
    chosen: Parentage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """The ancestry of a member, from the root on. In JSON: an object with these names."""

    run: str
    member: int
    metric: str
    mode: str
    searcher: str
    schedule: str
    ancestry: list[AncestryStep]


def wanted(reader: RunReader, text: str) -> Node:
    """The member that `text` names: its number, its path ("0/3/1"), or "best". Raises ExperimentError."""
    tree, name = reader.engine.tree, reader.folder.name
    if not tree.members:
        raise ExperimentError(
            f"MEMBER {text!r}: {name} has no members yet; see gpbt-async status {reader.folder.shell_name}"
        )
    if text == "best":
        if (best := reader.engine.best) is None:
            raise ExperimentError(f"MEMBER 'best': no member of {name} has finished yet; give a number or a path")
        return best
    parts = text.split("/") if len(text) < 4000 else []
    if parts and all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        if len(parts) > 1 and (member := tree.at(path_of(text))) is not None:
            return member
        if len(parts) == 1 and int(text) < len(tree.members):
            return tree.members[int(text)]
    last = tree.members[-1]
    raise ExperimentError(
        f"MEMBER {text!r}: {name} has members 0 to {last.id}; give such a number, "
        f"a path as in {path_text(last.path)}, or best"
    )


def descent(reader: RunReader, member: Node) -> Ancestry:
    """The ancestry of a member; the run must have been read with its history."""
    return Ancestry(
        run=reader.folder.name,
        member=member.id,
        metric=reader.settings.score,
        mode=reader.settings.mode,
        searcher=reader.settings.searcher,
        schedule=reader.settings.schedule,
        ancestry=[_step(reader, ancestor) for ancestor in member.ancestry],
    )


def _step(reader: RunReader, member: Node) -> AncestryStep:
    parent, issue = member.parent, reader.history.issues[member.id]
    generation = reader.engine.tree.generations[member.generation]
    ranks = {m.id: rank for rank, m in enumerate(generation.ranking, 1)}
    family = generation.members if parent is None else [c for c in parent.children if c.generation == member.generation]
    return AncestryStep(
        member=member.id,
        path=path_text(member.path),
        generation=member.generation,
        state=member.state.value,
        score=member.score,
        rank=ranks.get(member.id),
        of=len(generation.members),
        reason=member.reason,
        siblings=len(family) - 1,
        children=len(member.children),
        config=member.config,
        changed=_changes(parent.config, member.config) if parent is not None else {},
        t=issue.t,
        repeats=parent is not None and member.path[-1] == 0,
        chosen=None if parent is None else Parentage(
            parent=parent.id,
            rank=issue.rank + 1,
            rivals=issue.rivals,
            elite=issue.elite,
            settled=issue.settled,
            children=issue.children,
        ),
    )  # fmt: skip


def _changes(old: Config, new: Config) -> dict[str, list[object]]:
    return {
        name: [old[name], value]
        for name, value in new.items()
        if old[name] != value or type(old[name]) is not type(value)
    }
