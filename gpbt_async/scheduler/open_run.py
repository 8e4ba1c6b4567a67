"""A run that this process holds: its folder is locked, its journal is open, its state is known.

A RunState is the run as its folder describes it: the configuration, the journal, and the engine, usage and disk account
that follow from the journal's facts. Only `RunState.apply` changes them, by a fact. A run that has ended has a RunState
alone. An OpenRun adds processes, slots, searcher and trackers, to train members. startup.py makes both, and its
caller's exit stack closes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine.tree import State

if TYPE_CHECKING:
    from ..analysis.run_fold import RunFold
    from ..analysis.usage import Usage
    from ..devices.slots import Pool
    from ..engine.engine import Engine
    from ..events import Command, Fact
    from ..experiment import Settings
    from ..processes.launcher import Launcher
    from ..searchers.client import SearcherClient
    from ..storage.checkpoints import CheckpointStore
    from ..storage.folder import RunFolder
    from ..storage.journal import Journal
    from ..storage.run_config import RunConfig
    from ..trackers.client import Tracking
    from .disk_budget import Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """closed: the run has ended, its summary is written and its checkpoints are cleared."""

    folder: RunFolder
    record: RunConfig
    journal: Journal
    replay: RunFold
    disk: Disk
    closed: bool = False

    @property
    def engine(self) -> Engine:
        return self.replay.engine

    @property
    def usage(self) -> Usage:
        return self.replay.usage

    @property
    def settings(self) -> Settings:
        """Those in force: as the run began, with what was adopted since."""
        return self.engine.settings

    def apply(self, fact: Fact) -> list[Command]:
        """Append the fact to the journal, and account for it; the commands that follow from it."""
        self.journal.append(fact)
        commands = self.replay.apply(fact)
        self.disk.fold(fact)
        return commands

    def sweep(self, store: CheckpointStore) -> None:
        """Delete what a crash left half done: checkpoints of members that, by the journal, have not trained.

        A published checkpoint of a member that trains again goes too: a power failure may have cost the journal its
        last lines.
        """
        kept, published = set(), set()
        for member in self.engine.tree.members:
            name = self.folder.member(member.id).path.name
            if member.state is State.TRAINED:
                kept.add(f"{name}/attempt-{member.attempt}")
            if member.state not in (State.WAITING, State.TRAINING, State.FAILED):
                published.add(name)
        store.sweep(self.folder.members, kept, published)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """What a run that is to go on has beside its state."""

    state: RunState
    launcher: Launcher
    searcher: SearcherClient
    slots: Pool
    tracking: Tracking
