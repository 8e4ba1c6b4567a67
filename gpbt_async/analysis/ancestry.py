"""Why a member exists: its ancestry, and at each step who was chosen as the parent, when, why, and what was changed.

Pure: read off the engine and the history; ranks "then" are those in the moment the child was issued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ask import path_of, path_text
from ..errors import ExperimentError

if TYPE_CHECKING:
    from ..engine.tree import Node
    from .reader import RunReader


def wanted(reader: RunReader, said: str) -> Node:
    """The member that `said` means: its number, its path ("0/3/1"), or "best". Raises ExperimentError."""
    tree, name = reader.engine.tree, reader.folder.name
    if not tree.members:
        raise ExperimentError(
            f"MEMBER {said!r}: {name} has no members yet; see gpbt-async status {reader.folder.typed}"
        )
    if said == "best":
        if tree.best is None:
            raise ExperimentError(f"MEMBER 'best': nobody in {name} has finished yet; give a number or a path")
        return tree.best
    digits = said.isascii() and said.replace("/", "").isdecimal() and len(said) < 4000
    if digits and "/" not in said and len(said) < 10 and int(said) < len(tree.members):
        return tree.members[int(said)]
    if digits and "/" in said and all(part and len(part) < 10 for part in said.split("/")):
        found = tree.at(path_of(said))
        if found is not None:
            return found
    last = tree.members[-1]
    raise ExperimentError(
        f"MEMBER {said!r}: {name} has members 0 to {last.id}; give such a number, "
        f"a path as in {path_text(last.path)}, or best"
    )


def descent(reader: RunReader, member: Node) -> dict[str, Any]:
    """The ancestry as plain data, from the root on; `reader` must have its history.

    rank: from 1, among the finished of its generation now, None if it has not finished. changed: [old, new] by
    hyperparameter, against the parent. siblings: other members of its generation with the same parent. chosen: how its
    parent stood when it was issued (rank from 1); None for a root. t: when, in seconds since the epoch.
    """
    return {
        "run": reader.folder.name,
        "member": member.id,
        "metric": reader.settings.score,
        "mode": reader.settings.mode,
        "searcher": reader.settings.searcher,
        "schedule": reader.settings.schedule,
        "ancestry": [_step(reader, each) for each in member.ancestry],
    }


def _step(reader: RunReader, member: Node) -> dict[str, Any]:
    tree = reader.engine.tree
    generation = tree.generations[member.generation]
    parent = member.parent
    ranks = {m.id: place for place, m in enumerate(generation.ranking, 1)}
    issue = reader.history.issues[member.id]
    family = generation.members if parent is None else [c for c in parent.children if c.generation == member.generation]
    changed = {} if parent is None else {
        name: [parent.config[name], value]
        for name, value in member.config.items()
        if parent.config[name] != value or type(parent.config[name]) is not type(value)
    }  # fmt: skip
    return {
        "member": member.id,
        "path": path_text(member.path),
        "generation": member.generation,
        "state": member.state.value,
        "score": member.score,
        "rank": ranks.get(member.id),
        "of": len(generation.members),
        "reason": member.reason,
        "siblings": len(family) - 1,
        "children": len(member.children),
        "config": member.config,
        "changed": changed,
        "t": issue.t,
        "repeats": parent is not None and member.path[-1] == 0,
        "chosen": None if parent is None else {
            "parent": parent.id,
            "rank": issue.rank + 1,
            "rivals": issue.rivals,
            "elite": issue.elite,
            "settled": issue.settled,
            "children": issue.children,
        },
    }  # fmt: skip
