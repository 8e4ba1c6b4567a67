"""What a member without a slot, and a slot without a member, wait for: read off the journal, for `status`.

Where only the scheduler knows which of two things it is (has the process not started, or has its parent's checkpoint
not been read again?), both are said.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from . import events
from .asks import path_text
from .deadlines import LAST_PAUSE, pause

if TYPE_CHECKING:
    from .asks import Path as Place
    from .reading import Reading
    from .tree import Member


def member(reading: Reading, waiting: Member, gpu: bool, now: float) -> str:
    """What a member waits for that is to have a slot: the first that holds, in the order in which it waits.

    gpu: do members wait for a GPU?
    """
    times = waiting.failures + max(0, waiting.losses_in_a_row - 1)
    left = reading.ended.get(waiting.id, 0.0) + pause(times) - now
    if 0 < left <= LAST_PAUSE:
        return f"the end of its pause before attempt {waiting.attempt}"
    if reading.usage.by_hand:
        return "the end of the pause"
    if reading.usage.paused:
        return "room on the disk"
    words = ["a GPU"] if gpu else []
    if waiting.parent is not None and waiting.parent.id not in reading.fresh:
        words.append("its parent's checkpoint, of an earlier session, to be read again")
    return ", or ".join([*words, "its process to start"])


def slot(reading: Reading) -> tuple[str, float | None]:
    """What a free slot waits for, as far as can be said by name and number; and since when, if it is an answer."""
    lineage, tree, s = reading.lineage, reading.lineage.tree, reading.settings
    cause = lineage.idle_cause()
    here = next((i for i, g in enumerate(tree.generations) if not g.full), 0)
    if cause == "searcher":
        asks = [command.path for command in lineage.outstanding() if isinstance(command, events.Suggest)]
        return _asked(reading, asks[0]) if asks else ("the searcher", None)
    if cause == "checkpoint":
        return "checkpoints to be published", None
    if cause == "evidence" and lineage.ending.doubtful:
        return _doubt(reading), None
    if cause == "evidence" and (not here or lineage.rule.evident(here - 1)):
        return "an elder sibling to end, as schedule is sync", None
    if cause == "evidence":
        settled, wanted = tree.generations[here - 1].settled, lineage.rule.evidence(here - 1)
        return f"{wanted} of {s.population} in generation {here - 1} to end ({settled} have)", None
    if len(lineage.training) >= lineage.width:
        return f"nothing: no more than the population of {s.population} train at a time", None
    return "nothing: all members have been issued", None


def _doubt(reading: Reading) -> str:
    """Why no new member begins, while nothing has shown that the script works."""
    ending = reading.lineage.ending
    if ending.scoreless:
        first, score = ending.scoreless[0].id, reading.settings.score
        return f"the members in training to end: member {first} ended without its score {score!r}, and perhaps all do"
    return f"the members in training to end: member {ending.failed[0].id} has failed for good, and perhaps all do"


def _asked(reading: Reading, path: Place) -> tuple[str, float]:
    """For whom the searcher was asked, and when."""
    lineage = reading.lineage
    generation = lineage.generation_asked(path)
    assert generation is not None
    # the engine knows after which fact it asked: of all answers the first that it would take
    after = bisect_left(range(lineage.count + 1), True, key=lambda asked: lineage.wants(path, generation, asked))
    since = max(reading.opened, reading.times[after - 1] if after else 0.0)
    return f"the searcher, asked for member {path_text(path)}", since
