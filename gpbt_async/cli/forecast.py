"""Forecasts of a run, without running it: its time, the use of its slots, and the disk and memory it needs.

`plan` and `doctor` ask for them. The engine's own schedule runs on the simulator's virtual clock, over a handful of
seeds. The durations of intervals come from a run made before, from a mean and a spread, or from the members that the
doctor has trained. Scores are drawn at random: here it only matters which member waits for which.

What is not known is left out. Durations that depend on the config, and searchers slower than an interval, make a real
run differ. Early stopping depends on the scores, so a forecast of a run that has it is an upper bound. Members beside
one another share memory bandwidth and caches, which one member alone does not show.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..analysis.reader import RunReader, open_run
from ..engine.tree import State
from ..errors import ExperimentError
from ..experiment import Settings
from ..simulate import Simulation, VirtualInterval
from .measurements import Expected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..ask import Ask
    from ..declaration.address import Address
    from ..engine.tree import Node
    from ..experiment import Changes
    from ..space import Config
    from .measurements import CheckUp

    Draw = Callable[[random.Random], float]


#: how many runs are simulated
SEEDS = 10
#: members of all of them together, so fewer of large ones; and what is too large to be simulated while a person waits
MEMBERS, MOST_MEMBERS, MOST_SLOTS = 20_000, 200_000, 10_000
#: seconds that an interval may last
LONGEST = 1e8
#: the largest --spread: beyond it, the draws that make up the mean are too rare to be seen
WIDEST = 100
#: of the doctor: runs that are simulated, and members of each; a larger run is judged by its first generations
FEW_SEEDS, FEW_MEMBERS = 3, 4000
#: … and the standard deviation of its intervals, as a share of their mean: the default of `plan --spread`
SPREAD = 0.3


@dataclass(frozen=True, slots=True)
class Forecast:
    """Times in seconds: wall_s and work_s are medians, interval_s is the median or mean that was given.

    at_most: early stopping will save some of it. idle: by cause, the share of the slots' time. checkpoints: the most
    that are kept at a time, without those being written.
    """

    interval_s: float
    slots: int
    population: int
    generations: int
    schedule: str
    at_most: bool
    wall_s: float
    wall_s_range: tuple[float, float]
    work_s: float
    utilisation: float
    idle: dict[str, float]
    checkpoints: int
    simulated_runs: int


def plan(
    script: Address,
    slots: int,
    *,
    run: str | None,
    runs: Path,
    seconds: float | None,
    spread: float,
    changes: Changes,
) -> Forecast:
    """Simulate the script's experiment on so many slots. Raises ExperimentError, FolderError."""
    if slots < 1:
        raise ExperimentError(f"--slots {slots} (or --gpus): must be at least 1")
    if (run is None) == (seconds is None):
        raise ExperimentError("give either --from RUN (the durations of an earlier run) or --seconds S")
    if run is not None:
        durations = measured(run, runs)
        interval, draw = statistics.median(durations), _any_of(durations)
    else:
        assert seconds is not None
        if not 0 < seconds <= LONGEST:
            raise ExperimentError(f"--seconds {seconds}: must be above 0, and at most {LONGEST:g}")
        if not 0 <= spread <= WIDEST:
            raise ExperimentError(f"--spread {spread}: must be from 0 to {WIDEST}")
        interval, draw = seconds, log_normal(seconds, spread)
    settings = asyncio.run(_declared(script)).with_options(changes)
    members = settings.population * settings.generations
    if members > MOST_MEMBERS:
        raise ExperimentError(
            f"--population and --generations: got {members} members in all; must be at most {MOST_MEMBERS}"
        )
    if slots > MOST_SLOTS:
        raise ExperimentError(f"--slots {slots}: must be at most {MOST_SLOTS}")
    return forecast(settings, slots, interval, draw, max(1, min(SEEDS, MEMBERS // members)))


def measured(run: str, runs: Path) -> list[float]:
    """Seconds in `train` of the members that a run has finished."""
    members = RunReader(open_run(run, runs)).engine.tree.members
    durations = [member.seconds for member in members if member.state is State.FINISHED]
    if not durations:
        raise ExperimentError(f"--from {run}: none of its members has finished, so it has no durations")
    return durations


async def _declared(script: Address) -> Settings:
    """What the script declares. As in a run, only the zygote imports it."""
    import secrets

    from ..processes.launcher import Launcher

    script.check()
    async with Launcher(secrets.token_hex(8)) as launcher:
        return Settings.from_json((await launcher.open_script(script))["experiment"])


def forecast(
    settings: Settings, slots: int, interval: float, draw: Draw, count: int, *, start: float = 0.0, publish: float = 0.0
) -> Forecast:
    """The outcome of `count` simulations. draw: seconds of an interval. start, publish: seconds that each member takes
    beside its interval, to start and to have its checkpoint published.
    """
    quiet = settings.replaced(early_stop=())
    simulations = [simulate(quiet.replaced(seed=quiet.seed + i), slots, draw, start, publish) for i in range(count)]
    spans = [s.makespan for s in simulations]
    causes = [s.idle for s in simulations]  # each is a fold over the whole journal: take it once
    idle = {name: sum(shares.get(name, 0.0) for shares in causes) for shares in causes for name in shares}
    offered = sum(slots * span for span in spans)
    return Forecast(
        interval_s=interval,
        slots=slots,
        population=settings.population,
        generations=settings.generations,
        schedule=settings.schedule,
        at_most=bool(settings.early_stop),
        wall_s=statistics.median(spans),
        wall_s_range=(min(spans), max(spans)),
        work_s=statistics.median(s.busy for s in simulations),
        utilisation=statistics.mean(s.utilisation for s in simulations),
        idle={name: total / offered for name, total in sorted(idle.items()) if total > 0},
        checkpoints=max(s.most_stored for s in simulations),
        simulated_runs=count,
    )


def simulate(settings: Settings, slots: int, draw: Draw, start: float = 0.0, publish: float = 0.0) -> Simulation:
    def task(member: Node, parent_state: Any) -> VirtualInterval:
        rng = random.Random(f"plan:{settings.seed}:{member.seed}:{member.attempt}")
        return VirtualInterval(state=None, score=rng.random(), seconds=draw(rng))

    class AnyConfig:
        def suggest(self, ask: Ask) -> Config:
            return settings.space.sample(random.Random(ask.seed))

    return Simulation(
        settings, task, AnyConfig(), slots, publish_seconds=publish, start_seconds=start, uses_kin=False,
        keep_facts=False,
    ).run()  # fmt: skip


def log_normal(mean: float, spread: float) -> Draw:
    """Draws with this mean, and the standard deviation `spread` · mean."""
    sigma = math.sqrt(math.log(1 + spread**2))
    return lambda rng: rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)


def _any_of(durations: Sequence[float]) -> Draw:
    return lambda rng: rng.choice(durations)


# ---- for the doctor


def expect(c: CheckUp, runs: Path, gpu_bytes: list[int]) -> Expected:
    """What a run would take if all its members were like those of the check-up. runs: a folder on the runs' disk."""
    import psutil

    settings, slots, pair = c.settings, max(1, c.slots), (c.member, c.child)
    # only the child's: the first members also import what is imported when it is first used
    seconds = max(1e-6, c.child.seconds)
    start = min((m.start_s for m in pair if m.start_s is not None), default=0.0)
    wall, kept = _course(settings, slots, seconds, start, statistics.mean(m.publish_s for m in pair))
    members = settings.population * settings.generations
    return Expected(
        population=settings.population,
        generations=settings.generations,
        schedule=settings.schedule,
        slots=slots,
        wall_s=c.import_s + wall,
        at_most=bool(settings.early_stop),
        checkpoints=kept,
        disk_bytes=(kept + slots) * max(m.checkpoint_bytes for m in pair) + members * max(m.other_bytes for m in pair),
        disk_free=shutil.disk_usage(runs).free,
        memory_bytes=slots * max(m.private for m in pair),
        memory_free=psutil.virtual_memory().available,
        gpu_bytes=gpu_bytes,
    )


def _course(settings: Settings, slots: int, seconds: float, start: float, publish: float) -> tuple[float, int]:
    """Seconds of wall time, and the most checkpoints that are kept at a time. seconds: of an interval."""
    first = settings.replaced(generations=min(settings.generations, max(3, FEW_MEMBERS // settings.population)))
    if first.population * first.generations > MEMBERS or slots > MOST_SLOTS:  # too many to simulate
        width = min(slots, settings.population)
        return settings.population * settings.generations * (seconds + start) / width, 2 * settings.parents + width
    draw = log_normal(seconds, SPREAD)
    result = forecast(first, slots, seconds, draw, FEW_SEEDS, start=start, publish=publish)
    return result.wall_s * settings.generations / first.generations, result.checkpoints
