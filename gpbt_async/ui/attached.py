"""A run that another process runs, read as it goes on: what `gpbt-async watch` shows with the view that `launch` has.

Nothing is asked of the run, and nothing of it is touched: the journal is read on, fact by fact, through an engine of
our own; the GPUs are on the run's notice board, and what members reported last stands in their metrics files. So a run
may be watched by any number of people, and it does not matter to it when one of them goes.

It is over when the journal says so, or when nobody holds the run's lock any more: a scheduler that is killed closes
nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .. import events
from ..analysis import results
from ..analysis.logs import latest
from ..analysis.usage import Usage, replay
from ..devices.slots import Slot
from ..engine.engine import Engine
from ..storage.gpu_report import read_gpus
from ..storage.journal import JournalReader
from ..storage.run_config import RunConfig
from .frame import ViewState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from ..events import Event, Fact
    from ..experiment import Settings
    from ..storage.folder import RunFolder
    from ..storage.gpu_report import DeviceStatus, GpuQueue


#: seconds between two looks at the journal
PERIOD = 0.25


class Attached:
    """What the view reads of a Run, of the run in `folder`. Iterate over it once: its events from now on, to its end.

    Raises FolderError when it cannot be read, here and while it is iterated over.
    """

    def __init__(self, folder: RunFolder) -> None:
        settings = RunConfig.read(folder.experiment).settings
        assert settings is not None
        self.folder, self.name = folder, folder.name
        self.engine = Engine(settings)
        self.usage = Usage()
        self.warnings: list[str] = []
        #: "finished", "failed" or "interrupted", once over; None while it runs
        self.how: str | None = None
        self._journal = JournalReader(folder.journal)
        #: when the session began; the last fact; attempts of it that failed; who is in `train`, since when
        self._opened, self._last = 0.0, 0.0
        self._failures = 0
        self._entered: dict[int, float] = {}
        self._reason = ""
        #: by member in training: the size of its metrics file when it was looked at
        self._seen: dict[int, int] = {}
        held = self._held()
        for fact in self._read():
            self._remember(fact)
        if not held:
            self._end()
        elif paused := self.usage.by_hand or self.usage.paused:
            fact = events.Paused(t=self._last, reason=paused, by_hand=bool(self.usage.by_hand))
            self.warnings.append(fact.sentence(folder.typed))

    def memory(self, now: Callable[[], float]) -> ViewState:
        """What a view that had been there since the session began would know. now: the clock of the facts."""
        last = self._last
        known = ViewState(self, now if self.how is None else lambda: last)
        known.start = self._opened or known.now()
        known.failures, known.entered, known.reason = self._failures, dict(self._entered), self._reason
        return known

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    @property
    def slots(self) -> Seen | None:
        return Seen(self) if self.how is None else None

    def summary(self) -> dict[str, Any]:
        return results.summary(self.engine, self.usage.so_far(), run=self.name, how=self.how)

    # ---- what comes

    async def __aiter__(self) -> AsyncIterator[Event]:
        while self.how is None:
            await asyncio.sleep(PERIOD)
            held = self._held()  # before the journal is read: what was written while it was held is all there is
            for fact in self._read():
                self._remember(fact)
                yield fact
                if isinstance(fact, events.Paused) and not fact.by_hand:  # of which the view itself tells
                    yield events.Warned(t=fact.t, text=fact.sentence(self.folder.typed))
                if isinstance(fact, events.Closed):
                    self.how = fact.how
            if not held and self.how is None:
                self._end()
            if self.how is None:
                for report in self._reports():
                    yield report

    def _held(self) -> bool:
        """Does somebody run it?"""
        return self.folder.locked() is not None

    def _read(self) -> Iterator[Fact]:
        yield from replay(self._journal.more(), self.engine, self.usage, self.folder.journal)

    def _remember(self, fact: Fact) -> None:
        """What the engine does not keep, and a view that comes later would miss."""
        self._last = fact.t
        match fact:
            case events.Opened():
                self._opened, self._failures, self._reason = fact.t, 0, ""
                self._entered.clear()
            case events.Started(member=id):
                self._seen.pop(id, None)
            case events.Entered(member=id):
                self._entered[id] = fact.t
            case events.Trained(member=id) | events.StoppedEarly(member=id) | events.Lost(member=id):
                self._entered.pop(id, None)
            case events.Failed(member=id):
                self._entered.pop(id, None)
                self._failures += 1
            case events.Closed(reason=reason):
                self._reason = reason

    def _end(self) -> None:
        """Nobody runs it: how it ended stands in the journal."""
        ended = self.engine.ended
        self.how = "interrupted" if ended is None else "failed" if ended.reason else "finished"
        self._reason = ended.reason if ended is not None else self._reason

    def _reports(self) -> Iterator[Event]:
        """The last score of each member that has reported since it was looked at."""
        for member in self.engine.training:
            path = self.folder.member(member.id).metrics
            size = _size(path)
            if size == self._seen.get(member.id, 0):
                continue
            self._seen[member.id] = size
            if (score := latest(path, self.settings.score)) is not None:
                names = {"t": self._last, "member": member.id, "attempt": member.attempt}
                yield events.Reported(**names, metrics={self.settings.score: score})  # type: ignore[arg-type]


class Seen:
    """A run's slots as far as they can be seen from outside: its cores, or what the notice board says of its GPUs."""

    def __init__(self, run: Attached) -> None:
        self._engine, self._usage = run.engine, run.usage
        self._report = read_gpus(run.folder)

    def __len__(self) -> int:
        return self._engine.slots

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots of the CPU; of GPUs those where somebody trains."""
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
