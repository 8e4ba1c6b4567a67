"""A small run, killed at every one of its facts: before its line, with half of it written, and after it.

    python bench/crashes.py [--schedule sync|async] [--mode before|half|after] [--jobs N] [--json FILE]

Every position is a launch of its own that SIGKILLs itself there, a wait until no process of the run is alive, a resume,
and a look at the folder without the package's code (tests/support/crashing.py): one whole tree, exact counts, history
not rewritten, no member trained again that the journal says has trained, no file left over, no process alive; of the
synchronous schedule also the very tree, scores and best of a run that was not interrupted. Exit status 1 on any
deviation.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import crashing

if TYPE_CHECKING:
    from collections.abc import Callable

#: the crash, and the error, empty if there is none
Outcome: TypeAlias = "tuple[crashing.Crash | None, str]"


def one(place: Path, schedule: str, mode: str, wanted: dict[str, Any], at: int) -> Outcome:
    """The crash, or the error."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        try:
            crash = crashing.crash(Path(name), schedule, mode, at)
            if crash.crashed and schedule == "sync":
                assert crashing.tree(Path(name, "runs", "run")) == wanted, "another tree than the uninterrupted run's"
        except Exception:
            return None, traceback.format_exc()
        return crash, ""


def positions(
    pool: ThreadPoolExecutor, jobs: int, facts: int, crash: Callable[[int], Outcome]
) -> list[tuple[int, crashing.Crash | None, str]]:
    """A crash at every fact: its number, the crash, the error. facts: how many an uninterrupted run had.

    An asynchronous run may have more: it goes on until a run ends before the fact.
    """
    done: list[tuple[int, crashing.Crash | None, str]] = []
    for first in count(1, jobs):
        batch = range(first, first + jobs)
        outcomes = list(pool.map(crash, batch))
        for at, (crashed, error) in zip(batch, outcomes, strict=True):
            if error or (crashed is not None and crashed.crashed):
                done.append((at, crashed, error))
        if first + jobs > facts and any(crashed is not None and not crashed.crashed for crashed, _ in outcomes):
            break
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description="A small run, killed at every one of its facts.")
    parser.add_argument("--schedule", choices=crashing.SCHEDULES, action="append")
    parser.add_argument("--mode", choices=crashing.MODES, action="append")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    wrong: list[str] = []
    figures: dict[str, Any] = {}
    size = f"population {crashing.POPULATION}, generations {crashing.GENERATIONS}, {crashing.SLOTS} slots"
    print(f"  {size}; again: attempts begun again; cleared: from the kill until no process is alive")
    print(f"  {'schedule':8} {'killed':6} {'positions':>9} {'right':>5} {'again, most':>11} {'cleared, most':>13}")
    with tempfile.TemporaryDirectory(prefix="gpbt-crashes-") as base, ThreadPoolExecutor(options.jobs) as pool:
        place = Path(base).resolve()
        for schedule in options.schedule or crashing.SCHEDULES:
            (place / schedule).mkdir()
            folder = crashing.whole(place / schedule, schedule)
            crashing.check(folder)
            wanted, facts = crashing.tree(folder), len(crashing.facts(folder))
            for mode in options.mode or crashing.MODES:
                crash = functools.partial(one, place, schedule, mode, wanted)
                done = positions(pool, options.jobs, facts, crash)
                wrong += [f"{schedule}, {mode} fact {at}:\n{error}" for at, _, error in done if error]
                figures[f"{schedule}, {mode}"] = [(at, crashed and vars(crashed)) for at, crashed, _ in done]
                right = [crashed for _, crashed, _ in done if crashed is not None]
                again, cleared = max(c.again for c in right), max(c.cleared for c in right)
                print(f"  {schedule:8} {mode:6} {len(done):9} {len(right):5} {again:11} {cleared:11.2f} s", flush=True)
    print(f"  deviations: {len(wrong)}; load average {os.getloadavg()[0]:.1f}")
    print("\n".join(wrong[:20]))
    if options.json is not None:
        options.json.write_text(json.dumps({"runs": figures, "wrong": wrong}, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
