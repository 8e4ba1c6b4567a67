"""The scale of engine, journal and simulator: 100,000 members, 1,000 slots.

    python bench/scale.py [engine replay append simulator] [--members 1000 10000 100000] [--slots 1000] [--only N]
                          [--dir DIR] [--json FILE]

*Decision*: one fact of the journal, handled: `Engine.handle`, which changes the tree, looks for the next members and
returns the commands that follow. A member has about six facts (Suggested, Started, Entered, Trained, Published,
Discarded). Asks are made in advance for a whole round of slots, as in a real run. What a searcher takes to answer is
not counted: children get `local`'s steps, roots are drawn at random, because `local` draws them by TPE, whose cost is
hyperopt's. The facts come from the simulator, which performs every command of the engine; they are recorded, and
handled once more by a fresh engine, which is timed.

*Shapes*: `wide` has 10 generations, `deep` has generations of 1,000. So with 1,000 members in a wide tree only 100
train at once; in a deep one all 1,000 slots are used, in one generation alone.

Times are of the CPU, not of the clock, since other work on a machine is not the engine's; memory is the most that a
fresh process ever had resident (VmHWM), interpreter and imports included.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpbt_async.analysis.run_fold import RunFold
from gpbt_async.engine.engine import Engine
from gpbt_async.experiment import Settings
from gpbt_async.searchers import local
from gpbt_async.simulate import Landscape, Simulation
from gpbt_async.space import Choice, Float, Space
from gpbt_async.storage.journal import Journal

if TYPE_CHECKING:
    from gpbt_async.ask import Ask
    from gpbt_async.events import Fact
    from gpbt_async.space import Config

SPACE = Space({"a": Float(0, 1), "b": Float(1e-4, 1, log=True), "c": Choice(["x", "y"])})
WIDE, DEEP = "wide", "deep"
#: seconds of the clock after which a recorded run is not handled further: for versions that are a hundred times slower
PATIENCE = 600.0
Row = dict[str, Any]


class Steps:
    """`local`, with roots at random."""

    def suggest(self, ask: Ask) -> Config:
        rng = random.Random(ask.seed)
        return SPACE.sample(rng) if ask.parent is None else local.step(ask, rng)


def settings(members: int, shape: str, schedule: str = "async") -> Settings:
    population = members // 10 if shape == WIDE else min(members, 1000)
    generations = members // population
    return Settings(
        space=SPACE, score="loss", mode="min", population=population, generations=generations, schedule=schedule
    )


def simulation(of: Settings, slots: int, *, ask_seconds: float, keep_facts: bool) -> Simulation:
    world = Landscape(0).over(SPACE)
    return Simulation(
        of, world, Steps(), slots, ask_seconds=ask_seconds, uses_kin=False, keep_facts=keep_facts, usage=None
    )


def recorded(of: Settings, slots: int) -> list[Fact]:
    """The facts of a run whose searcher is quick, but takes time: so it is asked in advance."""
    return simulation(of, slots, ask_seconds=1e-6, keep_facts=True).run().facts


# ---- measurements: each prints its rows and returns them


def decisions(facts: list[Fact], of: Settings, only: int | None) -> Row:
    """Handle the facts in a fresh engine: how many a second, over all and in each tenth."""
    engine, done, patience = Engine(of), 0, time.monotonic() + PATIENCE
    facts = facts[:only]
    gc.collect()
    gc.disable()  # the facts are half a million objects, which no engine holds
    marks = [time.process_time()]
    for tenth in range(10):
        for fact in facts[len(facts) * tenth // 10 : len(facts) * (tenth + 1) // 10]:
            engine.handle(fact)
            done += 1
        marks.append(time.process_time())
        if time.monotonic() > patience:
            break
    gc.enable()
    tenths = [1e6 * 10 * (b - a) / max(1, len(facts)) for a, b in itertools.pairwise(marks)]
    return {
        "facts": done,
        "members": len(engine.tree.members),
        "a second": done / (marks[-1] - marks[0]),
        "us, by tenths": tenths,
    }


def engine(options: argparse.Namespace) -> list[Row]:
    """engine: decisions a second against the size of the tree"""
    rows = []
    print(f"  {'':22} {'members':>8} {'facts':>8} {'a second':>9} {'us each':>8}  us in the first, fifth, last tenth")
    for schedule in ("async", "sync"):
        for shape in (WIDE, DEEP):
            for members in options.members:
                of = settings(members, shape, schedule)
                row = decisions(recorded(of, options.slots), of, options.only)
                rows.append({"schedule": schedule, "shape": shape, "of": members, **row})
                tenths = row["us, by tenths"]
                some = ", ".join(f"{tenths[min(i, len(tenths) - 1)]:.1f}" for i in (0, 4, 9))
                rate = row["a second"]
                numbers = f"{row['members']:8} {row['facts']:8} {rate:9.0f} {1e6 / rate:8.1f}"
                print(f"  {schedule:6} {shape:6} of {members:6} {numbers}  {some}", flush=True)
    return rows


def written(facts: list[Fact], path: Path) -> float:
    """Append the facts to a new journal; seconds of the clock that it took. (Each is one write; syncs go on beside.)"""
    began = time.perf_counter()
    with Journal.open(path) as journal:
        for fact in facts:
            journal.append(fact)
        return time.perf_counter() - began


CHILD = """
import sys
sys.path.insert(0, {here!r})
from bench.scale import {name}
print({name}(*sys.argv[1:]))
"""


def fresh(name: str, *arguments: object) -> list[float]:
    """What a function of this module prints in a process of its own."""
    code = CHILD.format(here=str(Path(__file__).resolve().parent.parent), name=name)
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    words = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return [float(word) for word in words]


def most_memory() -> float:
    """MB that this process has had resident at most."""
    found = re.search(r"^VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1]) / 1024


def resume(path: str, members: str, shape: str) -> str:
    """Open a journal and replay it, as a resume does: CPU seconds, seconds of the clock, MB, members."""
    wall, cpu = time.perf_counter(), time.process_time()
    fold = RunFold(settings(int(members), shape))
    with Journal.open(path) as journal:
        for _ in fold.read(journal.replay(), path):
            pass
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{cpu} {wall} {most_memory()} {len(fold.engine.tree.members)}"


def replay(options: argparse.Namespace) -> list[Row]:
    """replay: a run's journal read and applied (engine and account of time), in a fresh process"""
    rows = []
    print(f"  {'':22} {'members':>8} {'MB':>6} {'CPU, s':>7} {'wall, s':>7} {'peak MB':>8}")
    for slots, members in [(options.slots, m) for m in options.members] + [(8, options.members[-1])]:
        path = Path(options.dir, f"{slots}-{members}.jsonl")
        facts = recorded(settings(members, WIDE), slots)
        written(facts, path)
        del facts
        cpu, wall, peak, count = fresh("resume", path, members, WIDE)
        size = path.stat().st_size / 1e6
        rows.append({"slots": slots, "members": count, "MB": size, "cpu": cpu, "wall": wall, "peak": peak})
        numbers = f"{count:8.0f} {size:6.1f} {cpu:7.2f} {wall:7.2f} {peak:8.0f}"
        print(f"  {f'{slots} slots, {members}':22} {numbers}", flush=True)
    return rows


def append(options: argparse.Namespace) -> list[Row]:
    """append: facts written to a new journal, each by a write of its own"""
    facts = recorded(settings(10000, WIDE), options.slots)
    seconds = written(facts, Path(options.dir, "append.jsonl"))
    print(f"  {len(facts) / seconds:.0f} facts a second ({1e6 * seconds / len(facts):.1f} us each, on the clock)")
    return [{"facts": len(facts), "seconds": seconds}]


def simulate(members: str, slots: str) -> str:
    """A whole run on the virtual clock: CPU seconds, seconds of the clock, MB, members."""
    run = simulation(settings(int(members), WIDE), int(slots), ask_seconds=0.0, keep_facts=False)
    wall, cpu = time.perf_counter(), time.process_time()
    run.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{cpu} {wall} {most_memory()} {len(run.engine.tree.members)}"


def simulator(options: argparse.Namespace) -> list[Row]:
    """simulator: a whole run, with a synthetic landscape, in a fresh process"""
    rows = []
    print(f"  {'':22} {'members':>8} {'CPU, s':>7} {'wall, s':>7} {'us each':>8} {'peak MB':>8}")
    for members in options.members:
        cpu, wall, peak, count = fresh("simulate", members, options.slots)
        rows.append({"members": count, "cpu": cpu, "wall": wall, "peak": peak})
        numbers = f"{count:8.0f} {cpu:7.2f} {wall:7.2f} {1e6 * cpu / count:8.1f} {peak:8.0f}"
        print(f"  {f'{options.slots} slots, {members}':22} {numbers}", flush=True)
    return rows


MEASUREMENTS = {"engine": engine, "replay": replay, "append": append, "simulator": simulator}


def main() -> None:
    parser = argparse.ArgumentParser(description="The scale of engine, journal and simulator.")
    parser.add_argument("names", nargs="*", choices=[[], *MEASUREMENTS], help="all of them without")
    parser.add_argument("--members", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--only", type=int, metavar="N", help="engine: handle the first N facts of each run alone")
    parser.add_argument("--dir", metavar="DIR", help="where to put journals for the time being")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="gpbt-scale-", dir=options.dir) as name:
        options.dir = name
        for measurement in options.names or MEASUREMENTS:
            print(f"{MEASUREMENTS[measurement].__doc__}; load average {os.getloadavg()[0]:.1f}", flush=True)
            figures[measurement] = MEASUREMENTS[measurement](options)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
