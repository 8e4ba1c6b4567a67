"""Can a task tell methods apart? Asked before any method is run on it, with what is no method.

Three things train for the budget of a run, 25 lineages of T intervals: the best config that stays the same, the best
schedule there is known, and random search over configs that stay. The config and the schedule were found by search on
other seeds (CHOOSING), which costs some thirty times a run; so they are about what no method could do better with one
config, and what a method that finds schedules may hope for. A task is admitted if each two of the three differ by at
least 5 standard errors at 40 seeds, and if the schedule is worth at least 10 % over the config.

The schedules are drawn: from the start that any config may be, what the task says is `decayed` (the learning rate,
if it says nothing) falls, and now and then another value moves, too; half of them start near the best config. Then the
best ones are drawn around. What is ranked is the test loss of a lineage's best model, the mean of its logarithm.

Choices are kept in admission.json and rows in admission.jsonl, so `admit` runs what is missing. Change a task, and
both are worthless: `--anew` throws the task's away.
"""

from __future__ import annotations

import json
import math
import random
import statistics as stats
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import driver, environment, plans, protocol, rows, tasks
from .methods import MAIN, Method
from .plans import Plan
from .statistics import log_ratios, percent, seeds_to_see

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from gpbt_async.space import Config, Space

    from .tasks import Task

#: a seed and an environment, as in report.py
Unit = tuple[int, str]
#: seeds that choose: of the second look, none of which is measured here
CHOOSING = range(20, 28)
SEEDS, ERRORS, WORTH = 40, 5.0, 0.10
#: an effect that a task should show
EFFECT = 0.03
#: plans drawn at first; drawn around the best; and how many of them see how many seeds
DRAWN, AROUND, ROUNDS = 64, 32, ((1.0, 2), (0.25, 4), (0.07, 8))


def admit(
    task: str, seeds: Iterable[int], folder: Path, anew: bool = False, tell: Callable[[str], None] = print
) -> str:
    """Choose, run what is missing, and say what comes of it. Raises ValueError for confirmation seeds."""
    seeds = list(seeds)
    spent = [seed for seed in seeds if seed not in protocol.TUNING_SEEDS and seed not in protocol.SECOND_SEEDS]
    if spent or set(seeds) & set(CHOOSING):
        raise ValueError(f"seeds for confirmation, and {CHOOSING}, admit nothing: {spent or list(CHOOSING)}")
    if anew:
        forget(task, folder)
    methods = candidates(chosen(task, folder, tell))
    driver.run(
        [protocol.Case(task, m, 8, seed) for seed in seeds for m in methods],
        folder,
        folder / "admission.jsonl",
        tell=tell,
    )
    return verdict(task, losses(task, folder, seeds)).text()


@dataclass(frozen=True)
class Pair:
    """How two of the three differ: the mean and standard deviation of the differences of log test losses."""

    names: str
    n: int
    mean: float
    sd: float

    @property
    def errors(self) -> float:
        """Standard errors that the mean would be away from 0 at SEEDS seeds."""
        return abs(self.mean) / (self.sd / math.sqrt(SEEDS)) if self.sd else math.inf

    def cells(self) -> tuple[str, str, str, str]:
        needed = seeds_to_see(math.log1p(EFFECT), self.sd)
        return f"{percent(self.mean):+.1f}", f"{100 * self.sd:.1f}", f"{self.errors:.1f}", f"{needed}"


@dataclass(frozen=True)
class Verdict:
    task: str
    #: geometric means of the test loss
    means: dict[str, float]
    pairs: tuple[Pair, ...]

    @property
    def admitted(self) -> bool:
        worth = 1 - math.exp(self.pairs[0].mean)
        return worth >= WORTH and all(pair.errors >= ERRORS for pair in self.pairs)

    def text(self) -> str:
        lines = [f"{self.task}: " + "; ".join(f"{name} {mean:.4g}" for name, mean in self.means.items())]
        for pair in self.pairs:
            mean, sd, errors, needed = pair.cells()
            lines.append(
                f"  {pair.names}: {mean} %, sd {sd} % over {pair.n} seeds, {errors} standard errors at {SEEDS}; "
                f"{needed} seeds to see 3 %"
            )
        return "\n".join([*lines, f"  {'admitted' if self.admitted else 'NOT admitted'}"])


def verdict(task: str, found: dict[str, dict[Unit, float]]) -> Verdict:
    """Of the test losses of fixed config, schedule and random search, in this order, by seed and environment."""
    fixed, schedule, by_chance = found
    pairs = []
    for better, other in ((schedule, fixed), (fixed, by_chance), (schedule, by_chance)):
        ratios = log_ratios(found[better], found[other])
        pairs.append(Pair(f"{better} against {other}", len(ratios), stats.mean(ratios), stats.stdev(ratios)))
    return Verdict(task, {name: stats.geometric_mean(some.values()) for name, some in found.items()}, tuple(pairs))


def losses(task: str, folder: Path, seeds: Iterable[int]) -> dict[str, dict[Unit, float]]:
    """The test losses there are of the task's three."""
    known, methods = environment.Known(folder), candidates(_choices(folder)[task])
    found: dict[str, dict[Unit, float]] = {m.name: {} for m in methods}
    by_key = {(task, m.on(task).digest, 8, seed): m for m in methods for seed in seeds}
    for row in rows.read_all(folder):
        if (m := by_key.get(rows.key(row))) is not None:
            found[m.name][row["seed"], known.group(rows.environment(row))] = row["test"]
    return found


def published(folder: Path) -> list[str]:
    """A table of all tasks that were looked at, each over the seeds that all of its three have; Markdown."""
    lines = []
    for task in _choices(folder):
        found = losses(task, folder, protocol.TUNING_SEEDS) if task in tasks.WHERE else {}
        shared = set.intersection(*map(set, found.values())) if found else set()
        if len(shared) < 2:
            continue
        told = verdict(task, {name: {unit: some[unit] for unit in shared} for name, some in found.items()})
        cells = [cell for pair in told.pairs for cell in pair.cells()]
        means = [f"{mean:.4g}" for mean in told.means.values()]
        answer = "yes" if told.admitted else "no"
        lines.append("| " + " | ".join([task, str(len(shared)), *means, *cells, answer]) + " |")
    head = ["task", "seeds", "fixed", "schedule", "random"]
    for pair in ("schedule, fixed", "fixed, random", "schedule, random"):
        head += [f"{pair}: %", "sd, %", f"standard errors at {SEEDS} seeds", "seeds to see 3 %"]
    head.append("admitted")
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines] if lines else []


def candidates(chosen: dict[str, dict[str, Any]]) -> tuple[Method, ...]:
    """Fixed, schedule, random, in this order."""
    fixed, schedule = (Method(name, "plans", {"plan": chosen[name]}) for name in ("fixed", "schedule"))
    return fixed, schedule, next(m for m in MAIN if m.name == "random")


def forget(task: str, folder: Path) -> None:
    """What is known of a task that has changed since."""
    file = folder / "admission.jsonl"
    kept = [row for row in rows.read(file) if row["task"] != task] if file.exists() else []
    file.unlink(missing_ok=True)
    for row in kept:
        rows.append(file, row)
    choices = _choices(folder)
    choices.pop(task, None)
    _keep(choices, folder)


def chosen(task: str, folder: Path, tell: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
    """The task's best config and best schedule: as they were chosen before, or chosen now."""
    choices = _choices(folder)
    if task not in choices:
        space = tasks.make(task, CHOOSING[0]).space
        rng = random.Random(tasks.key("admission", task))
        fixed = search(task, lambda: Plan(short(space.sample(rng))), lambda p: near(space, p, rng), tell)
        decayed = getattr(tasks.kind(task), "decayed", ("lr",))
        schedule = search(
            task,
            lambda: drawn(space, fixed.start, decayed, rng),
            lambda p: near(space, p, rng),
            tell,
        )
        choices[task] = {"fixed": fixed.told(), "schedule": schedule.told()}
        folder.mkdir(parents=True, exist_ok=True)
        _keep(choices, folder)
    return choices[task]


@dataclass(eq=False)
class Tried:
    """A plan, and the logarithms of its test losses by seed."""

    plan: Plan
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return stats.mean(self.losses.values())


def search(task: str, draw: Callable[[], Plan], around: Callable[[Plan], Plan], tell: Callable[[str], None]) -> Plan:
    """The plan of the lowest test loss: the best of many on two seeds, of some on four, of few on eight; twice."""
    made = {seed: tasks.make(task, seed) for seed in CHOOSING}
    pool = raced(made, [Tried(draw()) for _ in range(DRAWN)])[:4]
    pool = raced(made, [*pool, *(Tried(around(pool[i % 4].plan)) for i in range(AROUND))])
    tell(f"{task}: {math.exp(pool[0].mean):.4g} with {json.dumps(pool[0].plan.told())}")
    return pool[0].plan


def raced(made: dict[int, Task], pool: list[Tried]) -> list[Tried]:
    """The best first; who is among them has seen all seeds."""
    for share, some in ROUNDS:
        for one in pool[: max(4, round(share * len(pool)))]:
            for seed in CHOOSING[:some]:
                if seed not in one.losses:
                    one.losses[seed] = math.log(lineage(made[seed], one.plan, seed))
        pool = sorted(pool, key=lambda one: (-len(one.losses), one.mean))
    return pool


def lineage(task: Task, plan: Plan, seed: int) -> float:
    """The test loss of the best model of one lineage."""
    record = plans.run(task, seed, 1, population=1, generations=task.generations, plan=plan.told())
    return task.test(record.state)


def drawn(space: Space, best: Config, decayed: Sequence[str], rng: random.Random) -> Plan:
    """A schedule, from anywhere or from near the best config."""
    start = space.sample(rng) if rng.random() < 0.5 else space.step(best, rng, 0.1, 0.1)
    end = dict(start)
    for name, u in zip(space, space.encode(start), strict=True):
        if name in decayed:
            end[name] = space[name].from_unit(rng.uniform(0.0, u))
        elif rng.random() < 0.25:
            end[name] = space[name].from_unit(rng.random())
    return Plan(short(start), short(end), rng.choice(plans.SHAPES), round(rng.uniform(0.2, 1.0), 2))


def near(space: Space, plan: Plan, rng: random.Random) -> Plan:
    """A plan a small step away from this one."""
    start = short(space.step(plan.start, rng, 0.07, 0.05))
    if plan.end is None:
        return Plan(start)
    shape = plan.shape if rng.random() < 0.8 else rng.choice(plans.SHAPES)
    until = min(1.0, max(0.1, plan.until + rng.gauss(0, 0.1)))
    return Plan(start, short(space.step(plan.end, rng, 0.07, 0.05)), shape, round(until, 2))


def short(config: Config) -> Config:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in config.items()}


def _choices(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    file = folder / "admission.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _keep(choices: dict[str, Any], folder: Path) -> None:
    (folder / "admission.json").write_text(json.dumps(choices, indent=1, sort_keys=True) + "\n")
