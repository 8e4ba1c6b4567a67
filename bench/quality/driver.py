"""What is still to be run is run, one case after the other, and its row kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from .protocol import Case


def run(
    cases: Iterable[Case], folder: Path, file: Path, seconds: float = 1e9, tell: Callable[[str], None] = print
) -> int:
    """Run the cases whose rows are not in the folder yet, until the time is over; how many were run.

    Rows go to `file`. Every one counts from the moment it is written, whatever happens next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = {rows.key(row) for row in rows.read_all(folder)}
    until, ran = time.monotonic() + seconds, 0
    for case in cases:
        if case.key in done:
            continue
        if time.monotonic() >= until:
            break
        begun = time.process_time()
        record = case.method.run(case.task, case.slots, case.seed)
        cpu = time.process_time() - begun
        task, digest, slots, seed = case.key
        named = {"task": task, "method": case.method.name, "slots": slots, "seed": seed, "digest": digest}
        rows.append(file, {**named, **record.row(), "cpu": round(cpu, 2)})
        done.add(case.key)
        ran += 1
        tell(f"{task} {case.method.name!r} {slots} slots, seed {seed}: val {record.val:.4g} ({cpu:.1f} s)")
    return ran
