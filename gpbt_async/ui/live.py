"""The data of runs that go on, for pages that are open: read on, and sent as patches.

A page has the data of a run's report (analysis/report_data.py) and receives *patches* of it. `FollowedRun` and
`FollowedFolder` read on where they stopped. They do nothing by themselves: a page that waits for newer data (`newer`)
starts the next look, all pages that wait share it, and without a page nothing is read. Reading is done in a thread, so
that a run of ten thousand members does not block the event loop, and takes at most a quarter of the time. A slow page
misses intermediate states and gets the latest, so nothing is queued. The journal is only read, never locked; the run's
lock shows whether it goes on.

Most of a report's data are long columns that grow at their ends and change in few places, so a patch names places and
the values there now. It is one of
    {"=": value}                             the new value
    {"k": {name: patch, ...}}                of an object with the same names as before
    {"n": length, "i": [...], "v": [...]}    of a list: its length now, and where which values are new or changed
    {"l": {index: patch, ...}}               of a list of lists or objects with the same length as before
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar

from ..analysis.logs import latest
from ..analysis.reader import RunReader
from ..analysis.report_data import importance_of, report_data, traceback
from ..analysis.status import brief, present
from ..engine.tree import State
from ..errors import FolderError
from ..events import RunStatus
from ..storage.files import spelled
from ..storage.folder import RunFolder, is_run
from ..storage.folder import runs as runs_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..analysis.importance import ImportanceRow
    from ..analysis.report_data import ReportData
    from ..analysis.status import RunLineRecord, WaitingRecord
    from ..storage.gpu_report import DeviceStatus, GpuQueue


#: seconds between two looks at a journal; and between two at what changes without a fact (reports, the lock)
LOOK, AROUND = 0.1, 0.5
#: a look that took t seconds is followed by a pause of so many times t
REST = 3.0
#: importance takes most of the time of a large run's data and changes slowly: it is computed again after so many
#: seconds, and after so many times the seconds that it took
OLD, OLD_TIMES = 5.0, 40.0
#: waiting members that are listed by name
WAITING = 20
#: significant digits of a page's numbers; the run's own files and `export` have all of them
DIGITS = 7
#: keys below which numbers are not rounded: times since the epoch, and seeds
EXACT = ("run", "now", "clock")

#: device, inode and size of a file, and whatever else distinguishes two states of it
Mark = tuple[int | None, ...]
#: see above
Patch = dict[str, object]


class TrainingNow(TypedDict):
    """A member in a slot. since: when it entered `train`, in seconds since the epoch. score: the last reported."""

    slot: int | None
    member: int
    attempt: int
    since: float | None
    score: float | None


class NowRow(TypedDict):
    """The run's present activity, as plain data that does not age: times in seconds since the epoch.

    waiting: the first WAITING of waiting_count. to_retry: how many. paused: why no member begins, or "". typed: the
    run's folder in a command. The others: of status.Activity.
    """

    training: list[TrainingNow]
    waiting: list[WaitingRecord]
    waiting_count: int
    to_retry: int
    reopens: bool
    gpus: tuple[DeviceStatus, ...]
    waiting_for_gpus: GpuQueue | None
    slots: int
    free_slots: int | None
    free_until: str
    free_since: float | None
    paused: str
    paused_by_hand: bool
    typed: str


class PageContent(Protocol):
    """What a page shows."""

    def to_json(self) -> Mapping[str, object]: ...


P = TypeVar("P", bound=PageContent)


@dataclass(frozen=True, slots=True)
class RunPage:
    """One run. data: of its report. now: its present activity. problem: why nothing is newer, or "".

    clock: our time, so that a browser with another clock can compute how long ago something was. data, now, clock: None
    while the run has not been read.
    """

    data: ReportData | None = None
    now: NowRow | None = None
    clock: float | None = None
    problem: str = ""

    def to_json(self) -> Mapping[str, object]:
        """Flat: "now", "clock" and "problem" beside the names of the data."""
        if self.data is None:
            return {"problem": self.problem}
        return {**self.data, "now": self.now, "clock": self.clock, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class FolderPage:
    """All runs in a folder, a line each. A run that is not read yet has no "state"."""

    runs: list[RunLineRecord]
    path: str

    def to_json(self) -> Mapping[str, object]:
        return {"runs": self.runs, "path": self.path}


class Followed(Generic[P]):
    """Something that is read again and again. latest: the result of the last look, a new object if it has changed."""

    def __init__(self) -> None:
        self.latest: P | None = None
        #: when a page last asked, on the monotonic clock
        self.asked = time.monotonic()
        self._due = 0.0
        #: seconds of the last look spent on work that the next one need not repeat
        self._once = 0.0
        self._looking: asyncio.Future[None] | None = None

    async def newer(self, than: P | None) -> P:
        """The latest result, as soon as it is another object than `than`."""
        while self.latest is None or self.latest is than:
            self.asked = time.monotonic()
            if self._looking is None or self._looking.done():
                self._looking = asyncio.ensure_future(self._look_when_due())
            await asyncio.shield(self._looking)  # other pages wait for it as well
        return self.latest

    async def _look_when_due(self) -> None:
        await asyncio.sleep(self._due - time.monotonic())
        began = time.monotonic()
        await asyncio.to_thread(self._look)
        now = time.monotonic()
        self._due = now + max(LOOK, REST * (now - began - self._once))
        self._once = 0.0

    def _look(self) -> None:
        """Set `latest` if there is news. Runs in a thread, one look at a time."""
        raise NotImplementedError


class FollowedRun(Followed[RunPage]):
    """One run."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder
        self._reader: RunReader | None = None
        #: device and inode of the journal that is read; and the mark at which a journal was damaged
        self._file: Mark = ()
        self._damaged: Mark = ()
        self._looked = -AROUND
        self._importance: list[ImportanceRow] | None = None
        #: has there been news since importance was computed, and when may it be computed again?
        self._outdated, self._weigh_again = False, 0.0
        #: kind and reason of a failure → its traceback; and if that is "", the members and attempts whose logs have
        #: been searched, None while one of them may still write
        self._tracebacks: dict[tuple[str, str], tuple[str, list[tuple[int, int]] | None]] = {}

    def _look(self) -> None:
        try:
            self._read_on()
        except FolderError as error:  # also for a damaged journal
            self._report(str(error))
        except (KeyError, TypeError, ValueError) as error:  # as in `status`
            self._report(f"{self.folder.path} is damaged: {error!r}")

    def _report(self, problem: str) -> None:
        self._reader = None
        if self.latest is None or self.latest.problem != problem:
            self.latest = replace(self.latest or RunPage(), problem=problem)

    def _read_on(self) -> None:
        if not is_run(self.folder.path):
            raise FolderError(
                f"{self.folder.path} is not there any more: it was moved or deleted. This page shows its last state"
            )
        journal = _journal(self.folder)
        if journal == self._damaged:
            return  # still the same damaged file
        self._damaged = journal
        if self._reader is None or journal[:2] != self._file:
            news, self._file, self._looked = True, journal[:2], -AROUND
            began = time.monotonic()
            self._reader = RunReader(self.folder, history=True)
            self._once, self._importance = time.monotonic() - began, None
        else:
            news = self._reader.more()
        self._damaged = ()
        now = time.monotonic()
        if not news and now - self._looked < AROUND:
            return
        # in a look without news, so that news need not wait for it; unless there is always news
        weighed = self._outdated and now - self._weigh_again > (OLD if news else 0.0)
        if weighed:
            self._weigh(self._reader)
        self._looked = now
        self._update(self._reader, news or weighed)

    def _update(self, reader: RunReader, news: bool) -> None:
        around = _around(reader)
        state = reader.state
        old = self.latest
        data = old.data if old is not None else None
        if old is None or data is None or news or data["run"]["state"] != state:
            if self._importance is None or state != RunStatus.RUNNING:
                self._weigh(reader)
            else:
                self._outdated = True
            data = report_data(reader, self._importance)
            data["remains"] = {"logs": [], "curves": [], "tracebacks": self._failures(reader, data)}
        elif around == old.now and not old.problem:
            return
        self.latest = RunPage(data, around, time.time())

    def _weigh(self, reader: RunReader) -> None:
        began = time.monotonic()
        self._importance = importance_of(reader)
        took = time.monotonic() - began
        self._once += took
        self._weigh_again, self._outdated = began + max(OLD, OLD_TIMES * took), False

    def _failures(self, reader: RunReader, data: ReportData) -> list[str]:
        """The traceback of each kind of failure in the data, "" if there is none."""
        tracebacks = []
        for kind in data["failures"]["list"]:
            key = kind["kind"], kind["reason"]
            members = [reader.engine.tree.members[id] for id in kind["members"]]
            attempts = [(m.id, m.attempt) for m in members]
            text, searched = self._tracebacks.get(key, ("", None))
            if not text and searched != attempts:
                text = traceback(self.folder, kind)
                over = not any(m.state in (State.WAITING, State.TRAINING) for m in members)
                self._tracebacks[key] = text, attempts if over else None
            tracebacks.append(text)
        return tracebacks


def _around(reader: RunReader) -> NowRow:
    activity, metric = present(reader), reader.settings.score
    training: list[TrainingNow] = [
        {
            "slot": row.slot,
            "member": row.member,
            "attempt": row.attempt,
            "since": None if row.seconds is None else round(reader.entered[row.member], 3),
            "score": latest(reader.folder.member(row.member).metrics, metric),
        }
        for row in activity.training
    ]
    return {
        "training": sorted(training, key=lambda row: row["slot"] or 0),
        "waiting": [row.to_json() for row in activity.waiting[:WAITING]],
        "waiting_count": len(activity.waiting),
        "to_retry": len(activity.to_retry),
        "reopens": activity.reopens,
        "gpus": activity.gpus,
        "waiting_for_gpus": activity.waiting_for_gpus,
        "slots": activity.slots,
        "free_slots": activity.free_slots,
        "free_until": activity.free_until,
        "free_since": activity.free_since,
        "paused": reader.why_paused,
        "paused_by_hand": reader.paused_by_hand,
        "typed": reader.folder.shell_name,
    }


class FollowedFolder(Followed[FolderPage]):
    """All runs in a folder, or the run that it is itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        #: run → the state of its journal and lock, and its line then
        self._lines: dict[str, tuple[Mark, RunLineRecord]] = {}
        #: run that goes on → the file that is read, and its reader
        self._readers: dict[str, tuple[Mark, RunReader]] = {}

    def _look(self) -> None:
        folders = {folder.name: folder for folder in runs_at(self.path)}
        for gone in self._lines.keys() - folders.keys():
            del self._lines[gone]
            self._readers.pop(gone, None)
        marks = {name: _mark(folder) for name, folder in folders.items()}
        changed = [name for name in folders if name not in self._lines or self._lines[name][0] != marks[name]]
        began = time.monotonic()
        # small runs first, and those that take longer in later looks, so that the page has something to show soon
        for name in sorted(changed, key=lambda name: marks[name][2] or 0):
            if self.latest is not None and time.monotonic() < began + LOOK:
                self._lines[name] = marks[name], self._brief(folders[name], marks[name])
            else:
                self._lines.setdefault(name, ((), {"run": name}))
        index = FolderPage([self._lines[name][1] for name in folders], str(self.path))
        if index != self.latest:
            self.latest = index

    def _brief(self, folder: RunFolder, mark: Mark) -> RunLineRecord:
        file, reader = self._readers.pop(folder.name, ((), None))
        try:
            if reader is None or file != mark[:2]:
                reader = RunReader(folder)
            else:
                reader.more()
        except (FolderError, KeyError, TypeError, ValueError):
            return brief(folder).to_json()  # which says what is wrong
        if mark[-1]:
            self._readers[folder.name] = mark[:2], reader
        return brief(folder, reader).to_json()


def runs_at(path: Path) -> list[RunFolder]:
    """The run that a folder is, or else the runs in it so far."""
    return [RunFolder(path)] if is_run(path) else runs_in(path)


def _mark(folder: RunFolder) -> Mark:
    """Changes whenever there is news of a run: its journal, and whether a process holds its lock."""
    return (*_journal(folder), folder.locked() is not None)


def _journal(folder: RunFolder) -> Mark:
    """Device, inode and size of the journal."""
    try:
        status = os.stat(folder.journal)
    except OSError:
        return (None, None, None)
    return (status.st_dev, status.st_ino, status.st_size)


# ---- patches


def difference(old: Any, new: Any) -> Patch | None:
    """The patch that turns `old` into `new`; None if they are equal (a NaN equals a NaN)."""
    if old is new:
        return None
    if type(old) is not type(new):
        return {"=": new}
    if isinstance(new, dict):
        if old.keys() != new.keys():
            return {"=": new}
        changed = {name: patch for name in new if (patch := difference(old[name], new[name])) is not None}
        return {"k": changed} if changed else None
    if isinstance(new, list | tuple):
        return _of_lists(old, new)
    return None if old == new or (old != old and new != new) else {"=": new}


def _of_lists(old: Any, new: Any) -> Patch | None:
    if old == new:
        return None
    if len(old) == len(new) and all(isinstance(item, list | tuple | dict) for item in new):
        changed = {str(i): patch for i, item in enumerate(new) if (patch := difference(old[i], item)) is not None}
        return {"l": changed} if changed else None
    places = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b and (a == a or b == b)]
    if len(places) > len(new) // 2:
        return {"=": new}
    places += range(len(old), len(new))
    if not places and len(old) == len(new):
        return None
    return {"n": len(new), "i": places, "v": [new[i] for i in places]}


def page_json(value: Any) -> str:
    """A report's data, or a patch of it, as JSON: numbers rounded, non-finite ones spelled."""
    return json.dumps(_rounded(spelled(value)), allow_nan=False, separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if isinstance(value, dict):
        return {name: item if name in EXACT else _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
