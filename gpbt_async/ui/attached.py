"""A run that another process runs, followed as it goes on: `gpbt-async watch` shows it with the view of `launch`.

Nothing is asked of the run, and nothing of it is touched: a RunReader reads the journal on, the run's GPU report says
how its GPUs are, and the members' metrics files hold what they reported last. So any number of people may watch a run,
and it does not notice when one of them leaves.

The run is over when the journal says so, or when no process holds the run's lock any more: a scheduler that is killed
closes nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .. import events
from ..analysis import run_summary
from ..analysis.logs import latest
from ..analysis.reader import RunReader
from ..devices.slots import Slot
from ..events import RunStatus
from ..storage.gpu_report import read_gpus
from .frame import ViewState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from ..events import Event
    from ..experiment import Settings
    from ..storage.folder import RunFolder
    from ..storage.gpu_report import DeviceStatus, GpuQueue


#: seconds between two looks at the journal
PERIOD = 0.25


class Attached:
    """What the view reads of a Run, for the run in `folder`. Iterate over it once: its events from now to its end.

    Raises FolderError when it cannot be read, here and while it is iterated over.
    """

    def __init__(self, folder: RunFolder) -> None:
        held = folder.locked() is not None  # before the journal is read: what was written while it was held is all
        self._reader = RunReader(folder)
        self.folder, self.name = folder, folder.name
        self.engine, self.usage = self._reader.engine, self._reader.usage
        self.warnings: list[str] = []
        #: finished, failed or interrupted, once over; None while it runs
        self.how: RunStatus | None = None if held else self._reader.left
        #: by member in training: the size of its metrics file when it was last read
        self._sizes: dict[int, int] = {}
        if held and (paused := self.usage.by_hand or self.usage.paused):
            fact = events.Paused(t=self._last, reason=paused, by_hand=bool(self.usage.by_hand))
            self.warnings.append(fact.sentence(folder.shell_name))

    @property
    def _last(self) -> float:
        return self._reader.last.t if self._reader.last is not None else 0.0

    def memory(self, now: Callable[[], float]) -> ViewState:
        """The state of a view that had followed the whole session. now: the clock of the facts."""
        last = self._last
        view = ViewState(self, now if self.how is None else lambda: last)
        view.start = self._reader.opened or view.now()
        view.failures, view.entered = self._reader.failures, dict(self._reader.entered)
        view.reason = self._reader.reason
        return view

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    @property
    def slots(self) -> AttachedSlots | None:
        return AttachedSlots(self) if self.how is None else None

    def summary(self) -> run_summary.Summary:
        return run_summary.summary(self.engine, self.usage.so_far(), run=self.name, how=self.how)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while self.how is None:
            await asyncio.sleep(PERIOD)
            held = self.folder.locked() is not None
            for fact in self._reader.facts():
                if isinstance(fact, events.Started):
                    self._sizes.pop(fact.member, None)
                yield fact
                if isinstance(fact, events.Paused) and not fact.by_hand:  # the view itself shows a pause by hand
                    yield events.Warned(t=fact.t, text=fact.sentence(self.folder.shell_name))
                if isinstance(fact, events.Closed):
                    self.how = RunStatus(fact.how)
            if not held:
                self.how = self.how or self._reader.left
            if self.how is None:
                for report in self._reports():
                    yield report

    def _reports(self) -> Iterator[Event]:
        """The last score of each member that has reported since the last look."""
        for member in self.engine.training:
            path = self.folder.member(member.id).metrics
            size = _size(path)
            if size == self._sizes.get(member.id, 0):
                continue
            self._sizes[member.id] = size
            if (score := latest(path, self.settings.score)) is not None:
                metrics = {self.settings.score: score}
                yield events.Reported(t=self._last, member=member.id, attempt=member.attempt, metrics=metrics)


class AttachedSlots:
    """A run's slots as far as another process can see them: its cores, or what its GPU report says."""

    def __init__(self, run: Attached) -> None:
        self._engine, self._usage = run.engine, run.usage
        self._report = read_gpus(run.folder)

    def __len__(self) -> int:
        return self._engine.slots

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots of the CPU; of GPUs those where a member trains."""
        if not self.rows():
            return tuple(_slot(index, f"cpu{index}") for index in range(max(self._usage.slots, self._engine.slots)))
        held = sorted((m.slot, m.id) for m in self._engine.training if m.slot is not None)
        return tuple(_slot(index, self._gpus_of(member) or f"slot {index}") for index, member in held)

    def _gpus_of(self, member: int) -> str:
        rows = [row for row in self.rows() if member in row.members]
        name = f" {rows[0].name}" if len(rows) == 1 else ""
        return f"GPU{'s' * (len(rows) > 1)} {' + '.join(row.gpu for row in rows)}{name}" if rows else ""

    def rows(self) -> list[DeviceStatus]:
        return list(self._report.gpus) if self._report is not None else []

    def waiting(self) -> GpuQueue | None:
        return self._report.waiting if self._report is not None else None


def _slot(index: int, name: str) -> Slot:
    return Slot(index=index, name=name, device="cpu", gpus=(), threads=1, env={})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
