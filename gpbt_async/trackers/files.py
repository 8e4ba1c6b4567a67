"""Trackers that need nothing installed: everything as JSON lines in one file, or as two CSV tables.

`jsonl` is for programs: a line for each start, report and end, in one file, which several runs may share. `csv` is for
spreadsheets: `members.csv` has a row for each member that ended, with its config; `reports.csv` has one for each
reported number, so that its columns are the same whatever a script reports. Both write whole lines, so a reader of the
growing file never sees half of one.

After a crash some lines are reported again. They are recognised among the lines that were written after the position
kept last, and left out.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.files import Appended, spelled
from ..tracked import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..tracked import Ending, TrackedMember, TrackedRun


Key = tuple[Any, ...]


class _Table:
    """A file of lines. Each has a key; a line that was written after the position `kept` is not written again.

    keys: the keys of the lines in a text.
    """

    def __init__(self, path: Path, kept: Any, keys: Callable[[str], Iterable[Key]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = Appended(path)
        #: lines behind the position kept, as far as they have not been reported again
        self._unkept: set[Key] = set()
        self._kept = kept if isinstance(kept, int) else self._file.size
        if self._kept < self._file.size:
            with open(path, "rb") as file:
                file.seek(self._kept)
                self._unkept = set(keys(file.read().decode(errors="replace")))
        self.empty = not self._file.size

    def add(self, *lines: tuple[Key, str]) -> None:
        """Append all of them, or none: a call that raises is made again."""
        text = "".join(line for key, line in lines if key not in self._unkept)
        if text:
            self._file.append(("\n" if self._file.torn else "").encode() + text.encode(errors="replace"))
            self._file.torn = False
        self._unkept.difference_update(key for key, _ in lines)

    def keep(self) -> int:
        self._file.sync()
        if not self._unkept:
            self._kept = self._file.size
        return self._kept

    def close(self) -> None:
        self._file.close()


class JsonLines(Tracker):
    """One JSON object a line, in the file `destination`, or reports.jsonl in the run's own folder."""

    def __init__(self, destination: str | None = None) -> None:
        self._destination = destination

    def opened(self, run: TrackedRun) -> None:
        self._run = run
        path = Path(self._destination) if self._destination is not None else run.place / "reports.jsonl"
        self._table = _Table(path, 0 if run.again else run.kept, self._keys)

    def _keys(self, text: str) -> Iterable[Key]:
        for line in text.split("\n"):
            try:
                flat = json.loads(line)
                if flat["run_id"] == self._run.id:
                    yield self._key(flat)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # torn, or not of this run

    def _key(self, flat: Mapping[str, object]) -> Key:
        timed = flat["event"] != "reported" or _timed(self._run)
        return flat["event"], flat["member"], flat["attempt"], flat.get("step"), flat["t"] if timed else None

    def _add(self, event: str, member: TrackedMember, **more: Any) -> None:
        flat = {
            "event": event,
            "run": member.run,
            "run_id": self._run.id,
            "member": member.id,
            "path": member.path,
            "generation": member.generation,
            "attempt": member.attempt,
            **more,
        }
        line = json.dumps(spelled(flat), allow_nan=False, separators=(",", ":")) + "\n"
        self._table.add((self._key(flat), line))

    def started(self, member: TrackedMember) -> None:
        if member.known:
            return
        origin = {"parent": member.parent, "lineage": list(member.lineage), "seed": member.seed}
        self._add("started", member, t=member.t, **origin, config=dict(member.config))

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        steps = {"step": step, "lineage_step": member.offset + step}
        self._add("reported", member, t=t, **steps, metrics=dict(metrics))

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        result = {"state": ending.state, "score": ending.score, "seconds": ending.seconds, "reason": ending.reason}
        self._add("ended", member, t=ending.t, **result, metrics=dict(ending.metrics))

    def keep(self) -> Any:
        return self._table.keep()

    def closed(self, summary: Mapping[str, object]) -> None:
        self._table.keep()
        self._table.close()


class Csv(Tracker):
    """members.csv and reports.csv in `destination`/NAME, or in a folder of the run's own."""

    REPORT = ("run", "member", "path", "generation", "attempt", "step", "lineage_step", "t", "metric", "value")
    MEMBER = (
        "run", "member", "path", "generation", "parent", "lineage", "attempt", "seed", "t", "state", "score", "seconds",
        "reason",
    )  # fmt: skip

    def __init__(self, destination: str | None = None) -> None:
        self._destination = destination

    def opened(self, run: TrackedRun) -> None:
        place = Path(self._destination, run.name) if self._destination is not None else run.place / "csv"
        kept = run.kept if isinstance(run.kept, dict) else {}
        if run.again:
            kept = {"members": 0, "reports": 0}
        self._names, self._timed = list(run.settings["space"]), _timed(run)
        head = [*self.MEMBER, *(f"config.{name}" for name in self._names)]
        self._members = self._table(place / "members.csv", head, kept.get("members"), ("member", "attempt", "t"))
        parts = ("member", "attempt", "step", "metric", *(("t",) if self._timed else ()))
        self._reports = self._table(place / "reports.csv", self.REPORT, kept.get("reports"), parts)

    def _table(self, path: Path, head: Iterable[str], kept: Any, key: tuple[str, ...]) -> _Table:
        head = list(head)
        where = [head.index(name) for name in key]

        def keys(text: str) -> Iterable[Key]:
            for row in csv.reader(io.StringIO(text)):
                if len(row) == len(head):
                    yield tuple(row[i] for i in where)

        table = _Table(path, kept, keys)
        if table.empty:
            table.add((("head",), _row(head)))
        else:
            with open(path, newline="", encoding="utf-8", errors="replace") as file:
                columns = next(csv.reader(file), [])
            if columns != head:
                raise ValueError(f"{path} has other columns: it belongs to another experiment")
        return table

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        at = (member.id, member.path, member.generation, member.attempt, step, member.offset + step, t)
        key, when = (str(member.id), str(member.attempt), str(step)), (str(t),) if self._timed else ()
        rows = (((*key, metric, *when), _row((member.run, *at, metric, value))) for metric, value in metrics.items())
        self._reports.add(*rows)

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        lineage = "/".join(map(str, member.lineage))
        origin = (member.run, member.id, member.path, member.generation, member.parent, lineage, member.attempt)
        reason = (ending.reason.splitlines() or [""])[0]
        result = (member.seed, member.t, ending.state, ending.score, ending.seconds, reason)
        config = (member.config.get(name) for name in self._names)
        self._members.add(((str(member.id), str(member.attempt), str(member.t)), _row((*origin, *result, *config))))

    def keep(self) -> Any:
        return {"members": self._members.keep(), "reports": self._reports.keep()}

    def closed(self, summary: Mapping[str, object]) -> None:
        self.keep()
        self._members.close()
        self._reports.close()


def _timed(run: TrackedRun) -> bool:
    """Does its time identify a report? Not a program's, which is the time at which the file was read."""
    return run.settings["command"] is None


def _row(cells: Iterable[Any]) -> str:
    """One line: a line break in a cell would make it two for a reader of lines."""
    line = io.StringIO()
    flat = (" ".join(cell.splitlines()) if isinstance(cell, str) else cell for cell in cells)
    csv.writer(line, lineterminator="\n").writerow(flat)
    return line.getvalue()
