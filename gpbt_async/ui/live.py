"""Runs followed while they go on, for pages that are open: read on where the last look ended, told anew when it pays.

Nothing here runs by itself. Who waits for news (`newer`) sets off the next look, all who wait share it, and when nobody
does, nothing is looked at. Looks and tellings are done in a thread, so that a run of ten thousand members holds up no
event loop, and at most a quarter of the time: what costs more is done less often. Who is slow misses what lies in
between and is told what is, so that there is nothing to queue.

The journal is only read, never locked; that a run goes on is asked of its lock, as `status` does.

Stories as JSON for a page: whole, and as what has changed from one to the next.

A page that is open while a run goes on has a story and is sent *patches* of it. Most of a story are long columns that
grow at their ends and change in few places, so a patch names places and what stands there now. Pure, and of the
story's meaning it knows nothing but which numbers must not be rounded.

A patch is one of
    {"=": value}                         this instead
    {"k": {name: patch, ...}}            of an object with the same names as before
    {"n": length, "i": [...], "v": [...]}    of a list: its length now, and values where they are new or others
    {"l": {index: patch, ...}}           of a list of lists or objects, as long as before
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

from ..analysis.logs import latest
from ..analysis.reader import RunReader, brief, present
from ..analysis.story import importance_of, story, traceback
from ..engine.tree import State
from ..errors import FolderError
from ..storage.files import spelled
from ..storage.folder import RunFolder, is_run
from ..storage.folder import runs as runs_in

if TYPE_CHECKING:
    from pathlib import Path


#: seconds between two looks at a journal; and at all else (who trains, the lock), which changes without a fact
LOOK, AROUND = 0.1, 0.5
#: so many times what the last look took is waited before the next
REST = 3.0
#: importance is most of a large story's work, and tells little of the last seconds: seconds, and times what it took
OLD, OLD_TIMES = 5.0, 40.0
#: members that are told by name of those that wait
WAITING = 20

#: which file, and how large; what else there is to tell one state of it from another
Mark = tuple[int | None, ...]


class Followed:
    """Something that is looked at again and again: `told` is what was found last, an object of its own each time."""

    def __init__(self) -> None:
        self.told: dict[str, Any] | None = None
        #: when somebody last asked, on the monotonic clock
        self.asked = time.monotonic()
        self._due = 0.0
        #: seconds of the last look that were spent on what the next will not do again
        self._once = 0.0
        self._turning: asyncio.Future[None] | None = None

    async def newer(self, than: dict[str, Any] | None) -> dict[str, Any]:
        """What is told now, as soon as it is something else than `than`."""
        while self.told is None or self.told is than:
            self.asked = time.monotonic()
            if self._turning is None or self._turning.done():
                self._turning = asyncio.ensure_future(self._turn())
            await asyncio.shield(self._turning)  # others wait for it as well
        return self.told

    async def _turn(self) -> None:
        await asyncio.sleep(self._due - time.monotonic())
        began = time.monotonic()
        await asyncio.to_thread(self._look)
        now = time.monotonic()
        self._due = now + max(LOOK, REST * (now - began - self._once))
        self._once = 0.0

    def _look(self) -> None:
        """Find out what is to be told now; in a thread, one look at a time."""
        raise NotImplementedError


class FollowedRun(Followed):
    """One run. Told is its story with "now" (what it does just now) and "problem": why nothing newer can be told."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder
        self._reading: RunReader | None = None
        #: which file the journal was, to tell it from another that takes its place; and as how large it was damaged
        self._file: Mark = ()
        self._damaged: Mark = ()
        self._looked = -AROUND
        self._importance: list[dict[str, Any]] | None = None
        #: whether there has been news since importance was told; and when it may be told again
        self._unweighed, self._weigh_again = False, 0.0
        #: the ends of logs of the failures that were told, by kind and reason; and of those without one the members
        #: and attempts that were looked at, None while one may still write
        self._tracebacks: dict[tuple[str, str], tuple[str, list[tuple[int, int]] | None]] = {}

    def _look(self) -> None:
        try:
            self._read_on()
        except FolderError as error:  # a damaged journal among them
            self._trouble(str(error))
        except (KeyError, TypeError, ValueError) as error:  # as `status` takes them
            self._trouble(f"{self.folder.path} is damaged: {error!r}")

    def _trouble(self, problem: str) -> None:
        self._reading = None
        if self.told is None or self.told.get("problem") != problem:
            self.told = {**(self.told or {}), "problem": problem}

    def _read_on(self) -> None:
        if not is_run(self.folder.path):
            raise FolderError(
                f"{self.folder.path} is not there any more: it was moved or deleted. What is shown is the last that "
                "was seen of it"
            )
        journal = _journal(self.folder)
        if journal == self._damaged:
            return  # nobody has mended it
        self._damaged = journal
        if self._reading is None or journal[:2] != self._file:
            news, self._file, self._looked = True, journal[:2], -AROUND
            began = time.monotonic()
            self._reading = RunReader(self.folder, history=True)
            self._once, self._importance = time.monotonic() - began, None
        else:
            news = self._reading.more()
        self._damaged = ()
        now = time.monotonic()
        if not news and now - self._looked < AROUND:
            return
        # in a look of its own, so that no news has to wait for it; unless there always are some
        late = now - self._weigh_again
        weighed = self._unweighed and late > (OLD if news else 0.0)
        if weighed:
            self._weigh(self._reading)
        self._looked = now
        self._tell(self._reading, news or weighed)

    def _tell(self, reading: RunReader, news: bool) -> None:
        around = _around(reading)
        state = reading.state
        old = self.told
        if news or old is None or "run" not in old or old["run"]["state"] != state:
            if self._importance is None or state != "running":
                self._weigh(reading)
            else:
                self._unweighed = True
            told = story(reading, self._importance)
            told["remains"] = {"logs": [], "curves": [], "tracebacks": self._failures(reading, told)}
        elif around == old["now"] and not old["problem"]:
            return
        else:
            told = dict(old)
        # the clock, so that who has another can tell since when what is
        self.told = {**told, "now": around, "clock": time.time(), "problem": ""}

    def _weigh(self, reading: RunReader) -> None:
        began = time.monotonic()
        self._importance = importance_of(reading)
        took = time.monotonic() - began
        self._once += took
        self._weigh_again, self._unweighed = began + max(OLD, OLD_TIMES * took), False

    def _failures(self, reading: RunReader, told: dict[str, Any]) -> list[str]:
        found = []
        for kind in told["failures"]["list"]:
            named = kind["kind"], kind["reason"]
            members = [reading.engine.tree.members[id] for id in kind["members"]]
            attempts = [(m.id, m.attempt) for m in members]
            text, of = self._tracebacks.get(named, ("", None))
            if not text and of != attempts:
                text = traceback(self.folder, kind)
                over = not any(m.state in (State.WAITING, State.TRAINING) for m in members)
                self._tracebacks[named] = text, attempts if over else None
            found.append(text)
        return found


def _around(reading: RunReader) -> dict[str, Any]:
    """What the run does just now, as plain data that does not age: times in seconds since the epoch."""
    told, metric = present(reading), reading.settings.score
    training = [
        {
            "slot": t["slot"],
            "member": t["member"],
            "attempt": t["attempt"],
            "since": None if t["seconds"] is None else round(reading.entered[t["member"]], 3),
            "score": latest(reading.folder.member(t["member"]).metrics, metric),
        }
        for t in told["training"]
    ]
    del told["free_because"]  # which free_until tells better
    return {
        **told,
        "to_retry": len(told["to_retry"]),
        "training": sorted(training, key=lambda t: t["slot"]),
        "waiting": told["waiting"][:WAITING],
        "waiting_count": len(told["waiting"]),
        "paused": reading.why_paused,
        "paused_by_hand": bool(reading.why_paused and reading.usage.by_hand),
        "typed": reading.folder.typed,
    }


class FollowedFolder(Followed):
    """All runs in a folder, or the one that it is itself.

    Told is {"runs": a line each (reading.brief)}; one that is not read yet has no "state".
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        #: each run's line, and what its journal and lock were like then
        self._known: dict[str, tuple[Mark, dict[str, Any]]] = {}
        #: the readings of those that go on, and of which file
        self._readings: dict[str, tuple[Mark, RunReader]] = {}

    def _look(self) -> None:
        folders = {folder.name: folder for folder in found(self.path)}
        for gone in self._known.keys() - folders.keys():
            del self._known[gone]
            self._readings.pop(gone, None)
        marks = {name: _mark(folder) for name, folder in folders.items()}
        changed = [name for name in folders if name not in self._known or self._known[name][0] != marks[name]]
        began = time.monotonic()
        # the small ones first, and what takes longer by the next looks: what is known is shown soon
        for name in sorted(changed, key=lambda name: marks[name][2] or 0):
            if self.told is not None and time.monotonic() < began + LOOK:
                self._known[name] = marks[name], self._brief(folders[name], marks[name])
            else:
                self._known.setdefault(name, ((), {"run": name}))
        told = {"runs": [self._known[name][1] for name in folders], "path": str(self.path)}
        if told != self.told:
            self.told = told

    def _brief(self, folder: RunFolder, mark: Mark) -> dict[str, Any]:
        file, reading = self._readings.pop(folder.name, ((), None))
        try:
            if reading is None or file != mark[:2]:
                reading = RunReader(folder)
            else:
                reading.more()
        except (FolderError, KeyError, TypeError, ValueError):
            return brief(folder)  # which tells what is wrong
        if mark[-1]:
            self._readings[folder.name] = mark[:2], reading
        return brief(folder, reading)


def found(path: Path) -> list[RunFolder]:
    """The run that a folder is, or else those in it; there may be some later."""
    return [RunFolder(path)] if is_run(path) else runs_in(path)


def _mark(folder: RunFolder) -> Mark:
    """Whatever changes when there is something new to say of a run: its journal, and whether somebody runs it."""
    return (*_journal(folder), folder.locked() is not None)


def _journal(folder: RunFolder) -> Mark:
    """Which file the journal is, and how large."""
    try:
        there = os.stat(folder.journal)
    except OSError:
        return (None, None, None)
    return (there.st_dev, there.st_ino, there.st_size)


#: significant digits of a page's numbers; the run's own files and `export` have all of them
DIGITS = 7
#: what holds times since the epoch, or a seed
EXACT = ("run", "now", "clock")

Patch = dict[str, Any]


def difference(old: Any, new: Any) -> Patch | None:
    """The patch that makes `new` of `old`; None if they are equal (a NaN equals a NaN)."""
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
        found = {str(i): patch for i, item in enumerate(new) if (patch := difference(old[i], item)) is not None}
        return {"l": found} if found else None
    places = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b and (a == a or b == b)]
    if len(places) > len(new) // 2:
        return {"=": new}
    places += range(len(old), len(new))
    if not places and len(old) == len(new):
        return None
    return {"n": len(new), "i": places, "v": [new[i] for i in places]}


def encoded(value: Any) -> str:
    """A story, or a patch of one, as JSON: numbers rounded, non-finite ones spelled."""
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
