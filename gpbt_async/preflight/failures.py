"""Why members of a generation failed, those alike taken together: for the finding, and for how a run is said to end.

Pure, read off the engine's tree. A run in which many members of a generation failed for one reason has searched less
than it seems: it may have finished, and does not simply say so. Two reasons are alike when their words are, figures and
paths left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine.tree import State
from ..formatting import parts
from ..processes import remedies

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.tree import Node


#: the share of a generation that may fail for one reason
TOLERATED = 0.1
#: characters of two reasons that must be the same
ALIKE = 160
UNKNOWN = "gpbt-async doctor SCRIPT trains a child whose config differs from its parent's in every dimension"


@dataclass(frozen=True, slots=True)
class Failures:
    """The members of a generation that failed for one reason. size: how many members the generation has in all."""

    generation: int
    size: int
    reason: str
    remedy: str
    members: tuple[Node, ...]

    @property
    def share(self) -> float:
        return len(self.members) / self.size

    @property
    def text(self) -> str:
        """As "4 of 8 members of generation 1 failed for one reason: …"."""
        one = " for one reason" if len(self.members) > 1 else ""
        return f"{len(self.members)} of {self.size} members of generation {self.generation} failed{one}: {self.reason}"


def failures(engine: Engine, *generations: int) -> list[Failures]:
    """What members of these generations (of all, if none is given) failed for, the most frequent reason first.

    Not those that ended without a score, or whose parent's checkpoint was lost: that is said otherwise.
    """
    found: list[Failures] = []
    for index in generations or range(len(engine.tree.generations)):
        here = engine.tree.generations[index]
        alike: dict[str, list[Node]] = {}
        for member in here.members:
            if member.state is State.FAILED and member.failures:
                alike.setdefault(kind(member.reason), []).append(member)
        for members in alike.values():
            told = members[0].reason
            found.append(Failures(index, here.size, why(told), remedy_of(told), tuple(members)))
    return sorted(found, key=lambda each: -len(each.members))


def many(engine: Engine) -> list[Failures]:
    """Those that a run which has finished must not pass over in silence: more than a tenth of their generation.

    One member alone is none of them, unless its reason is one that every attempt shares.
    """
    all_of_them = failures(engine)
    return [f for f in all_of_them if f.share > TOLERATED and (len(f.members) > 1 or lasts(f.reason))]


def kind(reason: str) -> str:
    """What failures for one reason have in common: how its words begin, without figures, paths and the remedy."""
    line = why(reason)
    return re.sub(r"0x[0-9a-f]+|(?<![\w.])/[^\s:'\")]+|\d[\d.e+-]*", "#", line)[:ALIKE]


def remedy_of(reason: str) -> str:
    """What to do about a failure that many have in common."""
    told, remedy = parts(reason)
    return remedy or remedies.remedy_for(told) or UNKNOWN


def why(reason: str) -> str:
    """A reason without what to do about it."""
    return parts(reason)[0]


def lasts(reason: str) -> bool:
    """Is it a reason that depends on the config and the parent alone?"""
    return remedies.lasting(reason)
