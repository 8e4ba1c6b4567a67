"""What the telemetry of a member shows, by itself or beside another's: pure, from plain JSON to what is to be said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .heirs import Said

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..tree import Member

    #: telemetry, as JSON
    Noted = Mapping[str, Any]


def overwritten(member: Member, noted: Noted) -> Iterator[Said]:
    """Searched values that the script has set before it read them."""
    for name, searched, given in noted.get("overwritten", ()):
        yield Said(
            "GPBT020",
            name,
            f"member {member.id} was to train with {name}={searched}, and the script set {given} before it read that",
            f"let the searched values come last ({{**defaults, **member.config}}), or take {name!r} out of the space",
        )


def splits(member: Member, noted: Noted, others: Iterable[tuple[Member, Noted]]) -> Iterator[Said]:
    """Data split differently by two members. Another split that is the same for both may be the one that judges."""
    mine: Mapping[str, str] = noted.get("splits", {})
    for other, theirs in others if mine else ():
        seen: Mapping[str, str] = theirs.get("splits", {})
        if other.seed == member.seed or any(seen.get(place) == mine[place] for place in mine):
            continue
        for place in mine.keys() & seen.keys():
            yield Said(
                "GPBT017",
                "split",
                f"members {other.id} and {member.id} split the data differently at {place}: each is judged by other "
                "data, and a child by what its parent has trained on",
                "draw the split from a seed of its own (generator=torch.Generator().manual_seed(0), random_state=0)",
            )
