"""Whose checkpoints are on the disk, and which of them nobody can need any more.

Part of the engine. To ask of every stored member after every fact would be slow, so whoever changes somebody's fate
names suspects: members that may have become needless. Only those are looked at, once what changed is settled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import events
from .tree import NOTHING

if TYPE_CHECKING:
    from ..experiment import Settings
    from .selection import Selection
    from .termination import Termination
    from .tree import Node


class Retention:
    """stored: members with something on disk that is needed, by id. discarding: whose Discard is not confirmed."""

    def __init__(self, settings: Settings, rule: Selection, ending: Termination) -> None:
        self.stored: dict[int, Node] = {}
        self.discarding: dict[int, Node] = {}
        self._plus = settings.selection == "plus"
        self._replays = settings.replay is not None
        self._selection, self._termination = rule, ending
        self._suspects: set[int] = set()

    def suspect(self, *members: Node | None) -> None:
        """Their being needed may have changed since they were last looked at."""
        self._suspects |= {m.id for m in members if m is not None}

    def discards(self) -> list[events.Command]:
        """Let go of whom nobody needs."""
        if self._plus:
            self._suspects |= set(self.stored)
        held = {member.id for member in self._termination.held}
        suspects = sorted(self._suspects & (self.stored.keys() - held))
        idle = [member for member in map(self.stored.__getitem__, suspects) if not self._selection.needed(member)]
        self._suspects.clear()
        for member in idle:
            self.discarding[member.id] = self.stored.pop(member.id)
            if not self._replays:  # whose few are compared to the last
                member.metrics = NOTHING  # they are in the journal
        return [events.Discard(member.id) for member in idle]
