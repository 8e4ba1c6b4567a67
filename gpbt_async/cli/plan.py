"""`gpbt-async plan SCRIPT`: how long would it take, and how busy would the slots be?

The experiment's own schedule on the simulator's virtual clock, with durations of intervals taken from a run made
before, or from a mean and a spread given by hand, over a handful of seeds. Scores are drawn at random: who wins does
not matter here, only who waits for whom. What is not known is not guessed: durations that depend on the config, and
searchers slower than an interval, make a real run differ; and what early stopping will save depends on the scores, so
it is left out, and the plan of a run with it is an upper bound.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from typing import TYPE_CHECKING, Any

from ..analysis.reader import RunReader, open_run
from ..declaration.address import Address, find
from ..engine.tree import State
from ..errors import ExperimentError
from ..experiment import Settings
from ..simulate import Simulation, VirtualInterval

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ..ask import Ask
    from ..engine.tree import Node
    from ..space import Config


#: how many runs are simulated
SEEDS = 10
#: … fewer of large ones: so many members in all; and what is too large to be simulated while somebody waits
MEMBERS, MOST_MEMBERS, MOST_SLOTS = 20_000, 200_000, 10_000
#: seconds an interval may last
LONGEST = 1e8
#: the largest --spread: beyond, the mean is that of draws too rare to be seen
WIDEST = 100


def plan(
    script: str | os.PathLike[str],
    slots: int,
    *,
    run: str | None,
    runs: Path,
    seconds: float | None,
    spread: float,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Simulate the script's experiment on `slots` slots. Times in seconds. Raises ExperimentError, FolderError."""
    if slots < 1:
        raise ExperimentError(f"--slots {slots} (or --gpus): at least 1 slot is needed")
    if (run is None) == (seconds is None):
        raise ExperimentError("give either --from RUN (durations of a run made before) or --seconds S")
    if run is not None:
        durations = measured(run, runs)
        draw: Callable[[random.Random], float] = lambda rng: rng.choice(durations)  # noqa: E731
    else:
        assert seconds is not None
        if not 0 < seconds <= LONGEST:
            raise ExperimentError(f"--seconds {seconds}: must be above 0, and at most {LONGEST:g}")
        if not 0 <= spread <= WIDEST:
            raise ExperimentError(f"--spread {spread}: must be from 0 to {WIDEST}")
        durations = []
        draw = log_normal(seconds, spread)
    settings = asyncio.run(_declared(find(script))).with_options(changes)
    members = settings.population * settings.generations
    if members > MOST_MEMBERS:
        raise ExperimentError(f"--population and --generations: a plan of {members} members; at most {MOST_MEMBERS}")
    if slots > MOST_SLOTS:
        raise ExperimentError(f"--slots {slots}: at most {MOST_SLOTS} can be planned for")
    count = max(1, min(SEEDS, MEMBERS // members))
    interval = statistics.median(durations) if durations else seconds
    return {"interval_s": interval, **foretell(settings, slots, draw, count)}


def foretell(
    settings: Settings,
    slots: int,
    draw: Callable[[random.Random], float],
    count: int,
    *,
    start_seconds: float = 0.0,
    publish_seconds: float = 0.0,
) -> dict[str, Any]:
    """What `count` simulations come to. draw: seconds of an interval. Times in seconds; checkpoints: the most that are
    kept at a time, those being written left out. at_most: early stopping, which is left out, will save some of it.
    """
    stopping = settings.early_stop
    settings = settings.replaced(early_stop=())
    simulations = [
        simulate(settings.replaced(seed=settings.seed + i), slots, draw, start_seconds, publish_seconds)
        for i in range(count)
    ]
    spans = [s.makespan for s in simulations]
    told = [s.idle for s in simulations]  # each a fold over the whole journal: once
    idle = {name: sum(each.get(name, 0.0) for each in told) for each in told for name in each}
    offered = sum(slots * s.makespan for s in simulations)
    return {
        "slots": slots,
        "population": settings.population,
        "generations": settings.generations,
        "schedule": settings.schedule,
        "at_most": bool(stopping),
        "wall_s": statistics.median(spans),
        "wall_s_range": [min(spans), max(spans)],
        "work_s": statistics.median(s.busy for s in simulations),
        "utilisation": statistics.mean(s.utilisation for s in simulations),
        "idle": {name: total / offered for name, total in sorted(idle.items()) if total > 0},
        "checkpoints": max(s.most_stored for s in simulations),
        "simulated_runs": count,
    }


def measured(run: str, runs: Path) -> list[float]:
    """Seconds in `train` of the members a run has finished."""
    reading = RunReader(open_run(run, runs))
    found = [m.seconds for m in reading.engine.tree.members if m.state is State.FINISHED]
    if not found:
        raise ExperimentError(f"--from {run}: no member of it has finished, so there are no durations to take")
    return found


def log_normal(mean: float, spread: float) -> Callable[[random.Random], float]:
    """Draws of the given mean, and standard deviation `spread` · mean."""
    sigma = math.sqrt(math.log(1 + spread**2))
    return lambda rng: rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)


def simulate(
    settings: Settings,
    slots: int,
    draw: Callable[[random.Random], float],
    start_seconds: float = 0.0,
    publish_seconds: float = 0.0,
) -> Simulation:
    def task(member: Node, parent_state: Any) -> VirtualInterval:
        rng = random.Random(f"plan:{settings.seed}:{member.seed}:{member.attempt}")
        return VirtualInterval(state=None, score=rng.random(), seconds=draw(rng))

    class Anything:
        def suggest(self, ask: Ask) -> Config:
            return settings.space.sample(random.Random(ask.seed))

    return Simulation(
        settings, task, Anything(), slots, publish_seconds=publish_seconds, start_seconds=start_seconds,
        uses_kin=False, keep_facts=False,
    ).run()  # fmt: skip


async def _declared(script: Address) -> Settings:
    """What the script declares; as always, only the zygote imports it."""
    import secrets

    from ..processes.launcher import Launcher

    script.check()
    async with Launcher(secrets.token_hex(8)) as launcher:
        return Settings.from_json((await launcher.open_script(script))["experiment"])


def text(p: dict[str, Any]) -> str:
    low, high = p["wall_s_range"]
    most, runs = "at most " if p["at_most"] else "", p["simulated_runs"]
    idle = ", ".join(f"{name} {share:.0%}" for name, share in p["idle"].items() if share >= 0.005)
    return "\n".join(
        [
            f"{p['generations']} generations of {p['population']} members, {p['schedule']}, on {p['slots']} slot(s)",
            f"  wall time    {most}{span(p['wall_s'])} ({span(low)} to {span(high)} in {runs} simulations)",
            f"  work         {span(p['work_s'])} of training, an interval about {p['interval_s']:.3g} s",
            *(["               early stopping will save what the scores allow"] if most else []),
            f"  slots busy   {p['utilisation']:.0%}" + (f"; idle: {idle}" if idle else ""),
        ]
    )


def span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
