"""Reads a run's folder, live or finished, and reports it to a tracker.

Everything a tracker gets is on the disk first: facts in journal.jsonl, and each report in the member's metrics.jsonl,
which the member writes before it sends it. So a follower reads those two, beside a live run or years after it, and
needs nothing from the scheduler. What a slow tracker has not got yet waits on the disk. One that died continues at its
*position*: the number of facts reported, and for each member in training how much of its file. If a position does not
fit the journal any more, because a power failure took the journal's last facts, everything is reported from the start
again, and the tracker leaves out what it has. The engine is replayed alongside: it alone knows that a failed attempt
was the last one, or which generation a member belongs to.

The one surprise is retries. A new attempt deletes the metrics file of the one before, so a follower that lags may open
the wrong one. But before the file is deleted, the journal says that the earlier attempt has failed or was lost. So a
file, once opened, is trusted only after another look at the journal. Reports of an attempt that does not count are
passed on if they were read in time, and else not.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

from .. import events
from ..ask import path_text
from ..engine.engine import Engine
from ..engine.tree import State
from ..errors import FolderError, JournalError
from ..processes import wire
from ..storage.files import read_json
from ..storage.journal import JournalReader
from ..storage.run_config import RunConfig
from ..tracked import Ending, TrackedMember, TrackedRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ..engine.tree import Node
    from ..events import Fact
    from ..storage.folder import RunFolder
    from ..tracked import Tracker


#: the layout of a position
FORMAT = 1
#: facts reported, and bytes of one member's reports read, in one turn
FACTS, PIECE = 200, 1 << 18


class Position(TypedDict):
    """How far a tracker is, in JSON. facts: how many are reported; last: the last of them. run: its id.

    open: member → attempt, bytes of its reports read, how many reports, whether no more will come. kept: what the
    tracker's `keep` returned.
    """

    format: int
    run: str
    facts: int
    last: str
    open: dict[str, list[int]]
    kept: Any


@dataclass(slots=True)
class _Open:
    """A member that has started and is not terminal.

    read: bytes of its file that are reported. steps: how many reports those were. whole: whether no more will come.
    end: when it ended, once known.
    """

    member: TrackedMember
    read: int = 0
    steps: int = 0
    file: int | None = None
    rest: bytes = b""
    whole: bool = False
    end: float | None = None


class Follower:
    """Reports the run in `folder` to `tracker`, from `position` on (what `position()` returned; None: the start).

    If a position does not fit the journal, or is damaged, everything is reported again, with TrackedRun.again set.
    """

    def __init__(self, folder: RunFolder, tracker: Tracker, place: Path, position: Position | None = None) -> None:
        record = RunConfig.read(folder.experiment)
        assert record.settings is not None
        self._folder, self._tracker, self._settings = folder, tracker, record.settings
        self._run = TrackedRun(
            id=record.run,
            name=folder.name,
            folder=folder.path,
            place=place,
            score=record.settings.score,
            mode=record.settings.mode,
            settings=record.settings.to_json(),
        )
        self._position = position
        self._restart()

    def _restart(self) -> None:
        self._engine = Engine(self._settings)
        self._journal = JournalReader(self._folder.journal)
        self._queue: deque[Fact] = deque()
        #: how many facts are reported, and what identifies the last of them
        self._facts, self._last = 0, ""
        self._open: dict[int, _Open] = {}
        #: by member: its last attempt in the journal, the lineage step behind its last report, and its last values
        self._latest: dict[int, int] = {}
        self._behind: dict[int, int] = {}
        self._values: dict[int, Mapping[str, float]] = {}
        #: attempts that failed or were lost, as far as the journal was read
        self._void: set[tuple[int, int]] = set()

    def begin(self) -> None:
        """Open the tracker, at the position."""
        if self._position is not None:
            try:
                self._resume(self._position)
                self._run = replace(self._run, kept=self._position.get("kept"))
            except (JournalError, KeyError, IndexError, TypeError, ValueError, AttributeError):
                self._restart()
                self._run = replace(self._run, again=True)
        self._tracker.opened(self._run)
        for going in self._open.values():
            self._tracker.started(going.member)

    def turn(self) -> bool:
        """Report some of what is new; False when nothing was."""
        progress = False
        if not self._queue:
            self._read()
        for _ in range(min(FACTS, len(self._queue))):
            self._handle(self._queue.popleft())
            progress = True
        for member in list(self._open.values()):
            progress |= not member.whole and self._report(member)
        return progress

    def position(self, kept: Any) -> Position:
        going = {str(m): [o.member.attempt, o.read, o.steps, o.whole] for m, o in self._open.items()}
        return {
            "format": FORMAT,
            "run": self._run.id,
            "facts": self._facts,
            "last": self._last,
            "open": going,
            "kept": kept,
        }

    def close(self) -> None:
        """Report how the run ended, or that it was interrupted."""
        ended = self._engine.ended
        how = "interrupted" if ended is None else "failed" if ended.reason else "finished"
        try:
            summary = read_json(self._folder.summary)
        except FolderError:
            summary = {}
        self._tracker.closed({**summary, "how": how})
        for member in self._open.values():
            _close(member)

    # ---- the journal

    def _read(self) -> None:
        for fact in self._journal.facts():
            self._queue.append(fact)
            if isinstance(fact, events.Started):
                self._latest[fact.member] = fact.attempt
            elif isinstance(fact, events.Failed | events.Lost):
                self._void.add((fact.member, fact.attempt))

    def _resume(self, position: Position) -> None:
        """Replay the reported facts without reporting them, and open the members that were in training.

        Raises ValueError when other facts stand in the journal, as a power failure may have taken some.
        """
        self._read()
        facts, going = int(position["facts"]), {int(m): list(o) for m, o in position["open"].items()}
        if position["format"] != FORMAT or position["run"] != self._run.id or facts > len(self._queue):
            raise ValueError("it is of another run, of another version, or of another journal")
        started: dict[int, float] = {}
        for _ in range(facts):
            fact = self._queue.popleft()
            self._apply(fact)
            if isinstance(fact, events.Started):
                started[fact.member] = fact.t
        if position["last"] != self._last:
            raise ValueError("it is of another journal")
        for id, (attempt, *far) in going.items():
            read, steps, whole = map(int, far if not self._tracker.forgets else (0, 0, False))
            member = self._member(self._engine.tree.members[id], int(attempt), started[id], steps)
            if attempt == self._latest[id]:  # else another one has begun meanwhile
                self._open[id] = _Open(member, read, steps, whole=bool(whole))

    def _apply(self, fact: Fact) -> None:
        try:
            self._engine.handle(fact)
        except JournalError as error:
            raise JournalError(f"{self._folder.journal}: {error}") from None
        self._facts += 1
        self._last = f"{type(fact).__name__} {fact.t!r}"
        if isinstance(fact, events.Started):
            self._values.pop(fact.member, None)  # an earlier attempt's
        elif isinstance(fact, events.Trained | events.StoppedEarly):
            self._values[fact.member] = fact.metrics  # the engine forgets them with the checkpoint

    def _handle(self, fact: Fact) -> None:
        self._apply(fact)
        if isinstance(fact, events.Started):
            if fact.attempt == self._latest[fact.member]:
                self._start(self._engine.tree.members[fact.member], fact)
        elif isinstance(fact, events.Trained | events.StoppedEarly | events.Failed | events.Lost):
            going = self._open.get(fact.member)
            if going is not None and going.member.attempt == fact.attempt and not going.whole:
                self._finish_reports(going, fact)
        # one fact may end other members, too: those whose parent's checkpoint is lost
        for going in [o for o in self._open.values() if self._engine.tree.members[o.member.id].state.settled]:
            self._end(going, fact)

    def _start(self, member: Node, fact: events.Started) -> None:
        before = self._open.pop(member.id, None)
        if before is not None:
            _close(before)
        going = self._open[member.id] = _Open(self._member(member, fact.attempt, fact.t))
        self._tracker.started(going.member)

    def _end(self, going: _Open, fact: Fact) -> None:
        member = self._engine.tree.members[going.member.id]
        if not going.whole:
            self._finish_reports(going, fact)
        del self._open[member.id]
        score = member.score if member.state is not State.FAILED else None
        reason = member.reason if member.state is not State.FINISHED else ""  # an earlier attempt's
        metrics = dict(self._values.get(member.id, {}))
        ending = Ending(member.state.value, score, fact.t, member.seconds, reason, metrics)
        self._tracker.ended(going.member, ending)

    def _member(self, member: Node, attempt: int, t: float, at: int | None = None) -> TrackedMember:
        """at: how many of its reports were passed on, if it was opened in an earlier session."""
        return TrackedMember(
            run=self._run.name,
            id=member.id,
            path=path_text(member.path),
            generation=member.generation,
            parent=member.parent.id if member.parent is not None else None,
            lineage=tuple(m.id for m in member.ancestry),
            config=member.config,
            seed=member.seed,
            attempt=attempt,
            t=t,
            offset=self._end_of(member.parent) if member.parent is not None else 0,
            known=at is not None,
            at=at or 0,
        )

    # ---- reports

    def _report(self, going: _Open) -> bool:
        """Pass on a turn's worth of new reports; False when there were none."""
        if going.file is None:
            going.file = self._metrics(going)
        if going.file is None:
            return False
        try:
            data = os.read(going.file, PIECE)
        except OSError:  # a file server does not answer: the next look may succeed
            return False
        *lines, going.rest = (going.rest + data).split(b"\n")
        if len(going.rest) > wire.LIMIT:
            going.read += len(going.rest)
            going.rest = b""  # the end of the line alone will not be taken for a report
        for line in lines:
            self._line(going, line)
            going.read += len(line) + 1
        return bool(data)

    def _line(self, going: _Open, line: bytes) -> None:
        for t, metrics in self._reports([line]):
            now = going.end if going.end is not None else time.time()
            self._tracker.reported(going.member, going.steps, metrics, now if t is None else t)
            going.steps += 1

    def _finish_reports(self, going: _Open, fact: Fact) -> None:
        """Read its file to the end; it reports no more."""
        going.end = fact.t
        while self._report(going):
            pass
        if going.rest:
            self._line(going, going.rest)
        if not going.steps and isinstance(fact, events.Trained | events.StoppedEarly) and fact.metrics:
            self._tracker.reported(going.member, 0, fact.metrics, fact.t)  # its file was deleted by `clean`
            going.steps = 1
        going.whole, going.rest = True, b""
        self._behind[going.member.id] = going.member.offset + going.steps
        _close(going)

    def _metrics(self, going: _Open) -> int | None:
        """The file of this attempt's reports, positioned behind those passed on; None if there is none (any more)."""
        id, attempt = going.member.id, going.member.attempt
        try:
            file = os.open(self._folder.member(id).metrics, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        self._read()
        settled = self._engine.tree.members[id].state.settled
        void = self._latest[id] != attempt or ((id, attempt) in self._void and not settled)
        if void or not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return None
        os.lseek(file, going.read, os.SEEK_SET)
        return file

    def _reports(self, lines: list[bytes]) -> Iterator[tuple[float | None, dict[str, float]]]:
        """(time, metrics) of the lines that are reports. A program's have no time: `t` is a metric there."""
        for line in lines:
            if not line.strip() or len(line) > wire.LIMIT:
                continue
            try:
                numbers = wire.numbers(wire.loads(line, strict=False))
            except wire.WireError:
                continue
            t = numbers.pop("t", None) if self._settings.command is None else None
            yield None if t is None else wire.real(t), {name: wire.real(value) for name, value in numbers.items()}

    def _end_of(self, member: Node) -> int:
        """The lineage step behind the last report of a member that has ended."""
        unknown: list[Node] = []
        ancestor: Node | None = member
        while ancestor is not None and ancestor.id not in self._behind:
            unknown.append(ancestor)
            ancestor = ancestor.parent
        end = self._behind[ancestor.id] if ancestor is not None else 0
        for member in reversed(unknown):  # reported in an earlier session: count its reports again
            end += self._count(member)
            self._behind[member.id] = end
        return end

    def _count(self, member: Node) -> int:
        path = self._folder.member(member.id).metrics
        try:
            lines = path.read_bytes().split(b"\n") if path.is_file() else []
        except OSError:
            lines = []
        return sum(1 for _ in self._reports(lines)) or int(bool(self._values.get(member.id)))


def _close(going: _Open) -> None:
    if going.file is not None:
        os.close(going.file)
        going.file = None
