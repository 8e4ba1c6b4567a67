"""The file of rows: one line of JSON a run, appended when the run is over, never changed.

A run that was interrupted has left no line, or half of one: which is skipped when reading, and closed off before the
next line is written. All files of a folder are read together, so a run that two blocks share is run once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .environment import BEFORE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]


def append(file: Path, row: Row) -> None:
    line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
    with open(file, "a+b") as f:
        if f.tell():
            f.seek(-1, 2)
            if f.read(1) != b"\n":
                line = b"\n" + line
        f.write(line)


def read(file: Path) -> Iterator[Row]:
    for line in file.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def read_all(folder: Path) -> list[Row]:
    return [row for file in sorted(folder.glob("*.jsonl")) for row in read(file)]


def environment(row: Row) -> str:
    """The digest of the environment the row was made in."""
    told: str = row.get("environment", BEFORE)
    return told


def key(row: Row) -> tuple[str, str, int, int]:
    """What the row is a run of: task, the method's digest, slots, seed."""
    return row["task"], row["digest"], row["slots"], row["seed"]
