"""Retention: which checkpoints are on the disk, and which of them are no longer needed.

To examine every stored member after every fact would be slow. So when a fact may have made a member's checkpoint
needless, the engine marks that member (a suspect). After all consequences of the fact are applied, it examines the
suspects only. The rule itself, which checkpoints are still needed, is `Selection.needed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import events
from .tree import NOTHING, State

if TYPE_CHECKING:
    from ..experiment import Settings
    from .selection import Selection
    from .termination import Termination
    from .tree import Node


class Retention:
    """stored: members with a needed checkpoint on the disk, by id. discarding: those whose Discard is under way."""

    def __init__(self, settings: Settings, selection: Selection, termination: Termination) -> None:
        self.stored: dict[int, Node] = {}
        self.discarding: dict[int, Node] = {}
        self._plus = settings.selection == "plus"
        self._replays = settings.replay is not None
        self._selection, self._termination = selection, termination
        self._suspects: set[int] = set()

    def suspect(self, *members: Node | None) -> None:
        """Their checkpoints may have become needless."""
        self._suspects |= {m.id for m in members if m is not None}

    def discards(self) -> list[events.Command]:
        """Discard the suspects' checkpoints that are needless indeed."""
        if self._plus:
            self._suspects |= set(self.stored)
        if not self._suspects:
            return []
        held = {member.id for member in self._termination.held}
        suspects = [self.stored[id] for id in sorted(self._suspects) if id in self.stored and id not in held]
        needless = [member for member in suspects if not self._selection.needed(member)]
        self._suspects.clear()
        for member in needless:
            self.discarding[member.id] = self.stored.pop(member.id)
            if not self._replays:  # a replay compares the metrics of its few members at its end
                member.metrics = NOTHING  # they are in the journal
        return [events.Discard(member.id) for member in needless]

    def check(self) -> None:
        """Assert that exactly the needed checkpoints are stored."""
        assert not self._suspects
        assert not self.stored.keys() & self.discarding.keys()
        assert all(id == member.id for held in (self.stored, self.discarding) for id, member in held.items())
        assert all(m.state in (State.TRAINED, State.FINISHED) for m in self.stored.values())
        held = {member.id for member in self._termination.held}
        needless = [id for id, member in self.stored.items() if id not in held and not self._selection.needed(member)]
        assert needless == [], "a needless checkpoint is kept"
        tree = self._selection.tree
        for member in tree.members:
            assert member.state is not State.TRAINED or member.id in self.stored
            parent = member.parent
            assert parent is None or parent.id in self.stored or member.state.settled, "a needed checkpoint is gone"
        assert tree.best is None or tree.best.id in self.stored
