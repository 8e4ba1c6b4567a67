"""What is still to be run is run, one case after the other, and its row kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import environment, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from .protocol import Case


def run(
    cases: Iterable[Case], folder: Path, file: Path, seconds: float = 1e9, tell: Callable[[str], None] = print
) -> int:
    """Run the cases whose rows are not in the folder yet, until the time is over; how many were run.

    Rows go to `file`. Every one counts from the moment it is written, whatever happens next. A row that was made in an
    environment not known to give the same rows as this one does not count: it cannot be paired with rows made here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = environment.Known(folder)
    here = known.group(environment.digest(environment.here()))
    stored = rows.read_all(folder)
    done = {rows.key(row) for row in stored if known.group(rows.environment(row)) == here}
    elsewhere = {rows.key(row) for row in stored} - done
    cases = list(cases)
    others = sum(case.key in elsewhere for case in cases)
    if others:
        tell(f"{others} of {len(cases)} runs have rows of other environments, and are run here anew; see `again`")
    until, ran = time.monotonic() + seconds, 0
    for case in cases:
        if case.key in done:
            continue
        if time.monotonic() >= until:
            break
        row = row_of(case)
        rows.append(file, {**row, "environment": known.note()})
        done.add(case.key)
        ran += 1
        tell(
            f"{case.task} {case.method.name!r} {case.slots} slots, seed {case.seed}: "
            f"val {row['val']:.4g} ({row['cpu']:.1f} s)"
        )
    return ran


def row_of(case: Case) -> rows.Row:
    """Run it; what is kept of it, but for the environment."""
    begun = time.process_time()
    record = case.method.run(case.task, case.slots, case.seed)
    cpu = time.process_time() - begun
    task, digest, slots, seed = case.key
    row = {"task": task, "method": case.method.name, "slots": slots, "seed": seed, "digest": digest, **record.row()}
    uses = environment.own(case.method.room, task)
    code = environment.code()
    row |= {"code": code} if code else {}
    return {**row, "cpu": round(cpu, 2), **({"with": uses} if uses else {})}
