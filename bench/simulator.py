"""The simulator's size: 100,000 members on 1,000 slots, in seconds of this machine.

    python bench/simulator.py [--slots 1000] [--population 10000] [--generations 10]

The engine in full, with a searcher that draws at random (a real one's suggestions cost what they cost, whoever asks).
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from gpbt_async.experiment import Settings
from gpbt_async.simulate import Landscape, Simulation
from gpbt_async.space import Choice, Float, Space

SPACE = Space({"a": Float(0, 1), "b": Float(1e-4, 1, log=True), "c": Choice(["x", "y"])})


class Anywhere:
    def suggest(self, ask: Any) -> Any:
        return SPACE.sample(random.Random(ask.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--population", type=int, default=10000)
    parser.add_argument("--generations", type=int, default=10)
    args = parser.parse_args()
    settings = Settings(space=SPACE, score="loss", mode="min", population=args.population, generations=args.generations)
    simulation = Simulation(
        settings, Landscape(0).over(SPACE), Anywhere(), args.slots, uses_kin=False, keep_facts=False, usage=None
    )
    wall, cpu = time.perf_counter(), time.process_time()
    simulation.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{len(simulation.engine.tree.members)} members on {args.slots} slots: {wall:.1f} s ({cpu:.1f} s of CPU)")
    print(f"  a member {1e6 * cpu / len(simulation.engine.tree.members):.0f} us")
    print(f"  simulated makespan {simulation.makespan:.1f} intervals, slots busy {simulation.utilisation:.1%}")


if __name__ == "__main__":
    main()
