"""What going asynchronous costs and gains: schedules and searchers against each other, simulated, paired over seeds.

    python bench/policies.py [--searchers local,tpe,kin] [--seeds 24] [--slots 8] [--population 25] [--generations 10]

Heavy-tailed intervals (one in ten five times longer), the synthetic landscape of `gpbt_async.simulate`, suggestions
asked ahead as in a real run. Prints for each searcher the makespans (their ratio is the gain) and the difference of
the log of the best loss with its standard error (below 0: asynchronous is better).
"""

from __future__ import annotations

import argparse
import math
import statistics

from gpbt_async.experiment import Settings
from gpbt_async.searchers import registry
from gpbt_async.simulate import Landscape, Simulation
from gpbt_async.space import Choice, Float, Space

SPACE = Space({"a": Float(0, 1), "b": Float(1e-4, 1, log=True), "c": Choice(["x", "y"])})
ARMS = {"async": {}, "barrier": {"evidence": 1.0}, "sync": {"schedule": "sync"}}


def simulate(args: argparse.Namespace, searcher: str, seed: int, arm: dict[str, object]) -> Simulation:
    settings = Settings(
        space=SPACE,
        score="loss",
        mode="min",
        population=args.population,
        generations=args.generations,
        seed=seed,
        **arm,  # type: ignore[arg-type]
    )
    task = Landscape(seed).over(SPACE)
    return Simulation(settings, task, registry.make(searcher), args.slots, ask_seconds=0.02, usage=None).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searchers", default="local,tpe,kin")
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--population", type=int, default=25)
    parser.add_argument("--generations", type=int, default=10)
    args = parser.parse_args()
    for searcher in args.searchers.split(","):
        span: dict[str, list[float]] = {arm: [] for arm in ARMS}
        loss: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for seed in range(args.seeds):
            for arm, changes in ARMS.items():
                done = simulate(args, searcher, seed, changes)
                assert done.engine.best is not None
                span[arm].append(done.makespan)
                loss[arm].append(math.log(done.engine.best.loss))
        mean = {arm: statistics.mean(spans) for arm, spans in span.items()}
        print(f"{searcher}, {args.seeds} seeds, {args.slots} slots: makespan {mean['async']:.1f} async", flush=True)
        for arm in ("barrier", "sync"):
            pairs = [x - y for x, y in zip(loss["async"], loss[arm], strict=True)]
            error = statistics.stdev(pairs) / len(pairs) ** 0.5
            print(
                f"  against {arm:8} {mean[arm]:5.1f}: {mean[arm] / mean['async']:.2f} x less time, "
                f"log loss {statistics.mean(pairs):+.3f} +- {error:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
