"""An application that runs an experiment beside its other work, and an optimisation without a neural network.

    python examples/embed.py

Simulated annealing of a round trip through 60 towns: how hot to anneal, and how far a move may reach, changes as the
tour gets better, and the run finds that schedule while it anneals. The application's other work is a small service on
the loopback interface that sends the best tour so far to each client. Ctrl-C leaves a run that can go on: start the
program again.
"""

import asyncio
import json
import math
import random
import sys

import gpbt_async as gpbt

TOWNS = [complex(x, y) for x, y in random.Random(1).sample([(x, y) for x in range(100) for y in range(100)], 60)]
MOVES = 40_000  # one interval


def length(tour: list[int]) -> float:
    return sum(abs(TOWNS[a] - TOWNS[b]) for a, b in zip(tour, tour[1:] + tour[:1], strict=True))


def anneal(member: gpbt.Member) -> None:
    """One interval: go on with the parent's tour, or a random one, at this member's temperature and reach."""
    heat, reach = member.config["temperature"], member.config["reach"]
    tour = list(range(len(TOWNS)))
    if member.parent is not None:
        tour = json.loads((member.parent / "tour.json").read_text())
    else:
        random.shuffle(tour)  # random is seeded already, differently in every member
    for _ in range(MOVES):
        first = random.randrange(len(tour))
        last = first + random.randint(1, reach)
        if last >= len(tour):
            continue
        # reverse the piece from first to last: only the roads at its two ends change
        a, b, c, d = (TOWNS[tour[i]] for i in (first - 1, first, last, (last + 1) % len(tour)))
        longer = abs(a - c) + abs(b - d) - abs(a - b) - abs(c - d)
        if longer <= 0 or random.random() < math.exp(-longer / heat):
            tour[first : last + 1] = reversed(tour[first : last + 1])
    member.report(length=length(tour))
    (member.checkpoint / "tour.json").write_text(json.dumps(tour))


experiment = gpbt.Experiment(
    anneal,
    space={"temperature": gpbt.Float(0.1, 100, log=True), "reach": gpbt.Int(1, 50, log=True)},
    score="length", mode="min", population=8, generations=8, resources=gpbt.Resources(gpus=0),
)  # fmt: skip


async def main() -> None:
    async with gpbt.Run(experiment, folder="runs/embed", resume="auto") as run:

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            text = f"{run.best.score:.1f}" if run.best is not None else "no tour yet"
            writer.write(f"{text}\n".encode())
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1") as service:
            port = service.sockets[0].getsockname()[1]
            print(f"the best tour so far: nc 127.0.0.1 {port}")
            shown = None
            async for _event in run:  # every fact as it happens; here only what it means for the best
                if (best := run.best) is not None and best.member != shown:
                    print(f"member {best.member}, generation {best.generation}: {best.score:.1f}")
                    shown = best.member
        best = await run.wait()
    if best is not None:
        print(f"the best tour is {best.score:.1f} long, annealed by this schedule:")
        for generation, config in enumerate(best.schedule):
            print(f"  {generation}: temperature {config['temperature']:.2f}, reach {config['reach']}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: start the program again to go on")
