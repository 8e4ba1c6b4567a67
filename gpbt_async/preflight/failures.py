"""Why members of a generation failed, grouped by reason: for the finding, and for the end of a run.

Pure: it reads the engine's tree. If many members of a generation failed for one reason, the run has searched less than
it seems, so it must report that even if it has finished. Two reasons are the same if their texts differ only in numbers
and paths.
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
    """The failures of these generations (of all, if none is given), the most frequent reason first.

    Without members that ended without a score, or whose parent's checkpoint was lost: those are reported otherwise.
    """
    groups: list[Failures] = []
    for index in generations or range(len(engine.tree.generations)):
        generation = engine.tree.generations[index]
        alike: dict[str, list[Node]] = {}
        for member in generation.members:
            if member.state is State.FAILED and member.failures:
                alike.setdefault(kind(member.reason), []).append(member)
        for members in alike.values():
            reason = members[0].reason
            groups.append(Failures(index, generation.size, parts(reason)[0], remedy_of(reason), tuple(members)))
    return sorted(groups, key=lambda group: -len(group.members))


def many(engine: Engine) -> list[Failures]:
    """The failures that a finished run must report: of more than a tenth of a generation.

    The failure of a single member counts only if every attempt shares its reason.
    """
    return [f for f in failures(engine) if f.share > TOLERATED and (len(f.members) > 1 or remedies.lasting(f.reason))]


def kind(reason: str) -> str:
    """What failures for one reason have in common: the beginning of the text, without numbers, paths and remedy."""
    return re.sub(r"0x[0-9a-f]+|(?<![\w.])/[^\s:'\")]+|\d[\d.e+-]*", "#", parts(reason)[0])[:ALIKE]


def remedy_of(reason: str) -> str:
    """What to do about a failure that many members have in common."""
    cause, remedy = parts(reason)
    return remedy or remedies.remedy_for(cause) or UNKNOWN
