"""A run read from its folder by a process that does not run it.

Everything comes from the journal, replayed through the engine, so a reader knows what the scheduler knew after the same
facts. A run that is being written right now is read up to its last whole line, and `more` reads on from there. Nothing
is locked, nothing is changed, and any number of readers disturb neither the run nor each other.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from .. import events
from ..errors import FolderError
from ..events import RunStatus
from ..storage.folder import RunFolder, locate
from ..storage.journal import JournalReader
from ..storage.run_config import RunConfig
from .history import History
from .run_fold import RunFold
from .run_summary import best_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..events import Command, Fact
    from .run_summary import Best


def open_run(run: str, runs: Path) -> RunFolder:
    return RunFolder.open(locate(run, runs))


class RunReader(RunFold):
    """The run in a folder. history: remember also what happened when, and what each slot did.

    Raises FolderError and JournalError, here and wherever it reads on.
    """

    def __init__(self, folder: RunFolder, *, history: bool = False) -> None:
        self.record = RunConfig.read(folder.experiment)
        assert self.record.settings is not None
        super().__init__(self.record.settings, trail=history)
        self.folder = folder
        self.history = History()
        self._remembers = history
        self._journal = JournalReader(folder.journal)
        self.last: Fact | None = None
        #: the time of every fact
        self.times = array("d")
        #: by member inside `train`: when it entered. By member: when its last attempt failed or was lost.
        self.entered: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        #: members with an attempt
        self.begun: set[int] = set()
        #: of this session: when it began, how many attempts failed, whose checkpoints were published
        self.opened = 0.0
        self.failures = 0
        self.fresh: set[int] = set()
        # read twice: a run that has just begun may have written its first facts after the first look
        if not self.more() and (members := folder.count_members()) and not self.more():
            raise folder.emptied(members)

    def more(self) -> bool:
        """Apply the facts that the journal has by now; False if there are no new ones."""
        return sum(1 for _ in self.facts()) > 0

    def facts(self) -> Iterator[Fact]:
        """The same; yields each new fact once it is applied."""
        return self.read(self._journal.facts(), self.folder.journal)

    def apply(self, fact: Fact) -> list[Command]:
        commands = super().apply(fact)
        self.last = fact
        self.times.append(fact.t)
        match fact:
            case events.Opened():
                self.opened, self.failures = fact.t, 0
                self.fresh.clear()
                self.entered.clear()
            case events.Started():
                self.begun.add(fact.member)
            case events.Entered():
                self.entered[fact.member] = fact.t
            case events.Published():
                self.fresh.add(fact.member)
            case events.Trained() | events.StoppedEarly():
                self.entered.pop(fact.member, None)
            case events.Failed() | events.Lost():
                self.entered.pop(fact.member, None)
                self.ended[fact.member] = fact.t
                self.failures += isinstance(fact, events.Failed)
        if self._remembers:
            self.history.fold(fact, self.engine)
        return commands

    @property
    def state(self) -> RunStatus:
        return RunStatus.RUNNING if self.folder.locked() is not None else self.left

    @property
    def left(self) -> RunStatus:
        """Its state if no process runs it."""
        return RunStatus.without_process(self.engine.ended)

    @property
    def reason(self) -> str:
        """Why the run failed, or which error closed its last session; "" otherwise."""
        if self.engine.ended is not None:
            return self.engine.ended.reason
        return self.last.reason if isinstance(self.last, events.Closed) else ""

    @property
    def why_ended(self) -> str:
        """The reason, unless the run goes on."""
        return self.reason if self.engine.ended is not None or self.state is RunStatus.INTERRUPTED else ""

    @property
    def why_paused(self) -> str:
        """Why no member begins now; "" if members begin, or no process runs it."""
        return (self.usage.by_hand or self.usage.paused) if self.state is RunStatus.RUNNING else ""

    @property
    def paused_by_hand(self) -> bool:
        return bool(self.usage.by_hand) and self.state is RunStatus.RUNNING


def best(folder: RunFolder) -> Best:
    """The best so far. Raises FolderError when there is none, or its checkpoint is not there."""
    best: Best | None = None
    for _ in range(2):  # a run that goes on may have found a better one since, and deleted this one's checkpoint
        best = best_of(RunReader(folder).engine, folder)
        if best is None:
            raise FolderError(f"{folder.name} has no finished member yet: see gpbt-async status {folder.shell_name}")
        if best.checkpoint.is_dir():
            return best
    assert best is not None
    error = FolderError(
        f"the best of {folder.name} is member {best.member} (score {best.score:.6g}), but its checkpoint is gone:"
        f" {best.checkpoint} was deleted or moved by hand; bring it back from where it was copied to"
    )
    error.exit_status = 1
    raise error
