"""A small run, killed at every one of its facts: before its line, with half of it written, and after it.

    python bench/crashes.py [--schedule sync|async] [--mode before|half|after] [--jobs N] [--json FILE]

Every position is a launch of its own that SIGKILLs itself there, a wait until nothing of the run is alive, a resume,
and a look at the folder without our code (tests/crashing.py): one whole tree, counts exact, history not rewritten,
nobody trained again whose training had been told, nothing left over, nothing alive; of the synchronous schedule also
the very tree, scores and best of a run that was not interrupted. Exit status 1 on any deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import crashing


def one(place: Path, schedule: str, mode: str, at: int, wanted: dict[str, Any]) -> tuple[crashing.Crash | None, str]:
    """The crash, or what is wrong."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        try:
            came = crashing.crash(Path(name), schedule, mode, at)
            if came.crashed and schedule == "sync":
                assert crashing.tree(Path(name, "runs", "run")) == wanted, "another tree than the uninterrupted run's"
        except Exception:
            return None, traceback.format_exc()
        return came, ""


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
    print(f"  {size}; again: attempts begun anew; cleared: from death to nothing alive")
    print(f"  {'schedule':8} {'killed':6} {'positions':>9} {'right':>5} {'again, most':>11} {'cleared, most':>13}")
    with tempfile.TemporaryDirectory(prefix="gpbt-crashes-") as base, ThreadPoolExecutor(options.jobs) as pool:
        place = Path(base).resolve()
        for schedule in options.schedule or crashing.SCHEDULES:
            (place / schedule).mkdir()
            folder = crashing.whole(place / schedule, schedule)
            crashing.check(folder)
            wanted, facts = crashing.tree(folder), len(crashing.facts(folder))
            for mode in options.mode or crashing.MODES:
                began, done = time.monotonic(), []
                for first in count(1, options.jobs):  # of an asynchronous run nobody knows how many facts there will be
                    batch = range(first, first + options.jobs)
                    came = list(pool.map(lambda at: one(place, schedule, mode, at, wanted), batch))  # noqa: B023
                    for at, (crash, error) in zip(batch, came, strict=True):
                        if error:
                            wrong.append(f"{schedule}, {mode} fact {at}:\n{error}")
                        if error or (crash is not None and crash.crashed):
                            done.append((at, crash))
                    if first + options.jobs > facts and any(c is not None and not c.crashed for c, _ in came):
                        break
                right = [crash for _, crash in done if crash is not None]
                again, cleared = max(c.again for c in right), max(c.cleared for c in right)
                told = f"{schedule:8} {mode:6} {len(done):9} {len(right):5} {again:11} {cleared:11.2f} s"
                print(f"  {told}   ({time.monotonic() - began:.0f} s)", flush=True)
                figures[f"{schedule}, {mode}"] = [(at, crash and vars(crash)) for at, crash in done]
    print(f"  deviations: {len(wrong)}; load average {os.getloadavg()[0]:.1f}")
    print("\n".join(wrong[:20]))
    if options.json is not None:
        options.json.write_text(json.dumps({"runs": figures, "wrong": wrong}, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
