"""What a member without a process, or a free slot, waits for, in words.

The surprise: some causes are known to the scheduler only. Why a member has no process yet (it has not started, or its
parent's checkpoint has not been read again) is in no fact, so `member_waits_for` names both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ask import path_text
from ..engine.tree import LONGEST_DELAY

if TYPE_CHECKING:
    from ..engine.tree import Node
    from ..events import Suggest
    from .reader import RunReader


def member_waits_for(reader: RunReader, member: Node, gpu: bool, now: float) -> str:
    """What a member that is to have a slot waits for: the first cause that holds. gpu: do members wait for a GPU?"""
    left = reader.ended.get(member.id, 0.0) + member.retry_delay - now
    if 0 < left <= LONGEST_DELAY:
        return f"the end of its pause before attempt {member.attempt}"
    if reader.usage.by_hand:
        return "the end of the pause"
    if reader.usage.paused:
        return "room on the disk"
    causes = ["a GPU"] if gpu else []
    if member.parent is not None and member.parent.id not in reader.fresh:
        causes.append("its parent's checkpoint, of an earlier session, to be read again")
    return ", or ".join([*causes, "its process to start"])


def slot_waits_for(reader: RunReader) -> tuple[str, float | None]:
    """What a free slot waits for; and since when, if that is the searcher's answer."""
    engine, tree, s = reader.engine, reader.engine.tree, reader.settings
    cause = engine.idle_cause()
    current = next((i for i, g in enumerate(tree.generations) if not g.full), 0)
    if cause == "searcher":
        ask = next(iter(engine.asked), None)
        return _asked(reader, ask) if ask is not None else ("the searcher", None)
    if cause == "checkpoint":
        return "checkpoints to be published", None
    if cause == "evidence" and engine.termination.doubtful:
        return _doubt(reader), None
    if cause == "evidence" and (not current or engine.selection.evident(current - 1)):
        return "an elder sibling to end, as schedule is sync", None
    if cause == "evidence":
        above, needed = current - 1, engine.selection.evidence(current - 1)
        return f"{needed} of {s.population} in generation {above} to end ({tree.generations[above].settled} have)", None
    if len(engine.training) >= engine.width:
        return f"nothing: no more than the population of {s.population} train at a time", None
    return "nothing: all members have been issued", None


def _doubt(reader: RunReader) -> str:
    """Why no new member begins while no member has shown that the script works."""
    ending = reader.engine.termination
    if ending.scoreless:
        first, score = ending.scoreless[0].id, reader.settings.score
        return f"the members in training to end: member {first} ended without its score {score!r}, and perhaps all do"
    return f"the members in training to end: member {ending.failed[0].id} has failed for good, and perhaps all do"


def _asked(reader: RunReader, ask: Suggest) -> tuple[str, float]:
    """The member that the searcher was asked for, and since when."""
    since = max(reader.opened, reader.times[ask.since - 1] if ask.since else 0.0)
    return f"the searcher, asked for member {path_text(ask.path)}", since
