"""Why a member exists: its ancestry, and at each step who was chosen as the parent, when, why, and what was changed.

Pure: read off the engine and the history; ranks "then" are those in the moment the child was issued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .asks import path_of, path_text
from .errors import ExperimentError
from .wording import clean, counted, duration, number, score_text

if TYPE_CHECKING:
    from .reading import Reading
    from .tree import Member


def wanted(reading: Reading, said: str) -> Member:
    """The member that `said` means: its number, its path ("0/3/1"), or "best". Raises ExperimentError."""
    tree, name = reading.lineage.tree, reading.folder.name
    if not tree.members:
        raise ExperimentError(
            f"MEMBER {said!r}: {name} has no members yet; see gpbt-async status {reading.folder.typed}"
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


def descent(reading: Reading, member: Member) -> dict[str, Any]:
    """The ancestry as plain data, from the root on; `reading` must have its history.

    rank: from 1, among the finished of its generation now, None if it has not finished. changed: [old, new] by
    hyperparameter, against the parent. siblings: other members of its generation with the same parent. chosen: how its
    parent stood when it was issued (rank from 1); None for a root. t: when, in seconds since the epoch.
    """
    return {
        "run": reading.folder.name,
        "member": member.id,
        "metric": reading.settings.score,
        "mode": reading.settings.mode,
        "searcher": reading.settings.searcher,
        "schedule": reading.settings.schedule,
        "ancestry": [_step(reading, each) for each in member.ancestry],
    }


def _step(reading: Reading, member: Member) -> dict[str, Any]:
    tree = reading.lineage.tree
    generation = tree.generations[member.generation]
    parent = member.parent
    ranks = {m.id: place for place, m in enumerate(generation.ranking, 1)}
    issue = reading.history.issues[member.id]
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


# ---- for people


def descent_text(told: dict[str, Any], began: float) -> str:
    """The ancestry as a tree, the root first; `began`: when the run did, in seconds since the epoch."""
    metric, steps = clean(told["metric"]), told["ancestry"]
    lines = [f"{told['run']}: why member {told['member']} exists"]
    for depth, step in enumerate(steps):
        pad = "   " * max(0, min(depth, 12) - 1) + ("└─ " if depth else "")
        under = "   " * min(depth, 12) + "   "
        ranked = f", {_ordinal(step['rank'])} of generation {step['generation']}'s {step['of']}" if step["rank"] else ""
        lines.append(
            f"{pad}member {step['member']} ({step['path']}), generation {step['generation']}: {step['state']}, "
            f"{metric} {score_text(step['score'])}{ranked}"
        )
        if step["reason"]:
            told_why = "because" if step["state"] == "failed" else "an attempt of it failed:"
            lines.append(f"{under}{told_why} {clean(step['reason'])}")
        lines += [under + text for text in _why(step, told, step["t"] - began)]
    return "\n".join(lines)


def _why(step: dict[str, Any], told: dict[str, Any], after: float) -> list[str]:
    chosen, searcher = step["chosen"], clean(told["searcher"])
    when = f"issued {duration(after)} after the run began"
    others = f"one of {counted(step['siblings'] + 1, 'sibling')}" if step["siblings"] else "an only child"
    config = ", ".join(f"{clean(name)} {clean(number(value))}" for name, value in step["config"].items())
    if chosen is None:
        return [f"{when}; a root, {others}", f"config {config}"]
    rank = f"{_ordinal(chosen['rank'])} of the {chosen['rivals']} finished then"
    elite = f"the fewest in this generation among the elite of {chosen['elite']}"
    if told["schedule"] == "sync":
        elite = f"one of the elite of {chosen['elite']}, each of which has its share of this generation"
    had = (
        "no children"
        if not chosen["children"]
        else "1 child"
        if chosen["children"] == 1
        else f"{chosen['children']} children"
    )
    lines = [f"{when}; {others}", f"parent {chosen['parent']}: {rank}, with {had} so far, {elite}"]
    changes = ", ".join(
        f"{clean(name)} {clean(number(old))} → {clean(number(new))}" for name, (old, new) in step["changed"].items()
    )
    if step["repeats"]:
        clipped = f", clipped to the space adopted since: {changes}" if changes else ""
        return [*lines, f"config as its parent's: a first child repeats it{clipped}"]
    if not step["changed"]:
        return [*lines, f"config as its parent's: {searcher} changed nothing"]
    same = len(step["config"]) - len(step["changed"])
    return [*lines, f"{searcher} changed {changes}" + (f"; {same} as the parent's" if same else "")]


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
