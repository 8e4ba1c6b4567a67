"""Early stopping: two rules, each a pure decision. The engine asks them and acts.

**median**, inside a member: its first report of the score is compared with the running median of the first reports of
its generation, whichever the parents are; a worse one stops the member. At least MEDIAN_LEAST others must have
reported. Generation 0 and the child that repeats its parent's config are exempt. Decisions compare first reports with
first reports, ranks compare final scores with final scores; a stopped member has no rank.

**generation**, inside a generation g: no new children are created once the gain of one of them is larger than that of
the generation before. Gains are measured between best losses: loss < 2·best(g-1) - best(g-2). The child must also be
better than best(g-1), because the generation before may have made a loss instead of a gain. (Scardigli et al. describe
this rule; their published code compares with uninitialised memory and does not use it.) With plus selection, survivors
count as members of the generation that they survived into.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..experiment import Settings
    from .tree import Node


MEDIAN = "median"
GENERATION = "generation"
#: how many first reports of others the median rule needs
MEDIAN_LEAST = 4


def judged(settings: Settings, member: Node) -> bool:
    """Does the member's first report wait for a verdict?"""
    return MEDIAN in settings.early_stop and member.generation > 0


def exempt(settings: Settings, member: Node) -> bool:
    """Does the member go on, whatever it reports?"""
    return not judged(settings, member) or member.index == 0


def stops(first_loss: float, others: Sequence[float]) -> bool:
    """Is a first report (a loss; inf if not finite) worse than the median of the others', with enough of them?

    The median of an even number is the mean of the middle two; a tie goes on.
    """
    return len(others) >= MEDIAN_LEAST and first_loss > statistics.median(others)


def closes(loss: float, best_above: float, best_above_that: float) -> bool:
    """Has a member with this loss beaten the generation above by more than that one beat its own?"""
    return loss < min(best_above, 2 * best_above - best_above_that)
