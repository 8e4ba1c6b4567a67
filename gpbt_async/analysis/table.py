"""All members of a run as a table, one row each, for pandas, a spreadsheet or other programs.

Columns: what every member has, then `config.NAME` for each hyperparameter and `metric.NAME` for each reported metric.
The prefixes tell a metric called "state" from the state. Numbers are exact.

CSV has one guard: a *reason* is an exception's text, perhaps about data from elsewhere, and a spreadsheet takes a cell
that begins with =, +, - or @ for a formula. So such a reason begins with an apostrophe. Names and options come from the
script, which could run anything here anyway, and must be read back as they were: they stay unchanged. In CSV a missing
value is empty; non-finite numbers are nan, inf, -inf (in JSON "NaN", "Infinity", "-Infinity").
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from ..ask import path_text
from ..errors import ExperimentError, FolderError, MissingExtra
from ..storage.files import explained, replacing, spelled

if TYPE_CHECKING:
    from pathlib import Path

    from .history import Attempt
    from .reader import RunReader


FORMATS = ("csv", "parquet", "json")
#: a spreadsheet takes a cell that begins so for a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table(reader: RunReader) -> dict[str, list[Any]]:
    """The columns by name, all of the same length: a member's id is its row. The reader must have a history.

    score, rank (from 1, among the finished of its generation): None until there is one. seconds: in `train`, of the
    attempt that counts. started, entered, trained, published: of the last attempt, in seconds since the epoch.
    """
    tree = reader.engine.tree
    members = tree.members
    last: dict[int, Attempt] = {attempt.member: attempt for attempt in reader.history.attempts}
    ranks = {m.id: rank for g in tree.generations for rank, m in enumerate(g.ranking, 1)}
    of = [last.get(m.id) for m in members]
    columns: dict[str, list[Any]] = {
        "member": [m.id for m in members],
        "path": [path_text(m.path) for m in members],
        "parent": [m.parent.id if m.parent is not None else None for m in members],
        "generation": [m.generation for m in members],
        "state": [m.state.value for m in members],
        "score": [m.score for m in members],
        "rank": [ranks.get(m.id) for m in members],
        "seed": [m.seed for m in members],
        "seconds": [m.seconds if m.state.settled else None for m in members],
        "slot": [a.slot if a else None for a in of],
        "issued": [issue.t for issue in reader.history.issues],
        "started": [a.started if a else None for a in of],
        "entered": [a.entered if a else None for a in of],
        "trained": [a.left if a else None for a in of],
        "published": [a.published if a else None for a in of],
        "attempts": [m.attempt for m in members],
        "failures": [m.failures for m in members],
        "losses": [m.lost_attempts for m in members],
        "reason": [m.reason or None for m in members],
    }
    columns |= {f"config.{name}": [m.config[name] for m in members] for name in reader.settings.space.names}
    reports = [reader.history.metrics.get(m.id, {}) for m in members]
    reported = dict.fromkeys(name for metrics in reports for name in metrics)
    return columns | {f"metric.{name}": [metrics.get(name) for metrics in reports] for name in reported}


def export(reader: RunReader, format: str) -> bytes:
    """The table as a file of that format. Raises GPBTError without the extra that parquet needs."""
    columns = table(reader)
    if format == "parquet":
        return _parquet(columns)
    return (_csv if format == "csv" else _json)(columns).encode(errors="surrogatepass")


def write(reader: RunReader, format: str, target: Path) -> None:
    """The same into a file, whole or not at all. Raises FolderError when it cannot be written."""
    data = export(reader, format)
    with explained("cannot write", target), replacing(target) as beside:
        beside.write_bytes(data)


def check(wanted: str | None, target: Path | None, terminal: bool) -> str:
    """The format: the one wanted, else the target's suffix, else csv.

    Raises GPBTError for what is impossible, before a long journal is read. terminal: is standard output one?
    """
    suffix = target.suffix[1:].lower() if target is not None else ""
    named = suffix if suffix in FORMATS else None
    format = wanted or named or "csv"
    if format not in FORMATS:
        raise ExperimentError(f"--format {format}: must be csv, parquet or json")
    if named not in (None, format):
        raise ExperimentError(f"--format {format}: but --out {target} is named as {named}; give one of them only")
    if target is None and format == "parquet" and terminal:
        raise ExperimentError("--format parquet: is not for a terminal; give --out FILE, or redirect the output")
    if target is not None:
        check_target(target, f"members.{format}")
    if format == "parquet":
        _pyarrow()
    return format


def check_target(target: Path, name: str) -> None:
    """Can a file be put there? name: an example of a file's name. Raises FolderError."""
    if target.is_dir():
        raise FolderError(f"--out {target}: is a folder; give the path of a file, as in {target / name}")
    if not target.parent.is_dir():
        raise FolderError(f"--out {target}: there is no folder {target.parent}; make it first")


def _csv(columns: dict[str, list[Any]]) -> str:
    columns = {**columns, "reason": [_harmless(reason) for reason in columns["reason"]]}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()


def _harmless(reason: str | None) -> str | None:
    return "'" + reason if reason is not None and reason.startswith(_FORMULA) else reason


def _json(columns: dict[str, list[Any]]) -> str:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return json.dumps(spelled(rows), allow_nan=False, indent=1) + "\n"


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(
            "--format parquet: needs pyarrow, which is not installed: pip install 'gpbt-async[parquet]'"
        ) from None
    return pyarrow


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    pyarrow = _pyarrow()
    arrays = {name: _array(pyarrow, values) for name, values in columns.items()}
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), out)
    return out.getvalue()


def _array(pyarrow: Any, values: list[Any]) -> Any:
    """One type a column: options of several types (True, 1, "a") become JSON text, which keeps them apart."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1 or any(isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 for value in values):
        values = [None if value is None else json.dumps(spelled(value)) for value in values]
    return pyarrow.array(values)
