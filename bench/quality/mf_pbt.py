"""Multiple-Frequencies PBT (Doulazmi et al. 2025, arXiv 2506.03225), written anew after its authors' repository.

The repository is WaelDLZ/MF-PBT; of the paper we could read the abstract and a summary, not the full text.

The population is divided into M parts. Part i selects after every d_i-th round: with small d it is quick and greedy,
with large d it is steady and looks further. When a part selects, its members are ranked by their losses:

    last quarter    its r-th member copies the weights and the config of the part's r-th best, and explores
    third quarter   its members, best first, may each take a migrant, the best member of all other parts that has not
                    migrated yet in this selection, if that one is better than they are

A migrant's weights are always taken. Its config is taken only where it comes from a steadier part; where it comes from
a quicker one, the member takes the config of its own part's best. So a quick part's weights spread, and the greed in
its config does not. Members do not explore after a migration.

*The repository's choices*, kept: factors 0.8 and 1.25, and no drawing anew; the r-th last copies the r-th best, not
a random one; a migrant's config is not perturbed.

*Chosen here*: the parts of 25 members are as equal as they can be (with three: 9, 8, 8), a quarter being rounded down;
members copy what others had at the round's end (in the repository a member that has just been replaced can be copied);
d is 1, 2, 5. The repository's Hopper has 1, 10, 25, 50 in 1000 rounds, so its steadiest part selects 20 times; with 20
rounds, ours selects 4 times, the last of them at the end, where it is left out since nothing is trained after it.

The method has rounds, so all wait for the slowest member: this costs virtual time, and no intervals.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import TYPE_CHECKING

from . import clock
from .pbt import Worker, begun, explored
from .record import Record
from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .tasks import Task

FACTORS = (0.8, 1.25)


@dataclasses.dataclass(frozen=True, slots=True)
class Inherited:
    """Whose weights and whose config a member goes on with, by number."""

    weights: int
    config: int
    explores: bool


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    periods: tuple[int, ...] = (1, 2, 5),
    factors: tuple[float, float] = FACTORS,
    resample: float = 0.0,
) -> Record:
    rng = random.Random(key("mf-pbt", seed))
    record = Record(task, population * generations)
    workers = [Worker(*one) for one in begun(task, seed, population)]
    parts = divided(population, len(periods))

    def select(rounds: int) -> None:
        heirs = inheritance([w.val for w in workers], parts, periods, rounds)
        before = [dataclasses.replace(w) for w in workers]
        for number, heir in heirs.items():
            worker = workers[number]
            worker.copy(before[heir.weights])
            worker.config = before[heir.config].config
            if heir.explores:
                worker.config = explored(task.space, worker.config, rng, factors, resample, "factors")

    def issue(serial: int) -> Callable[[float], None] | None:
        least = min(w.done for w in workers)
        worker = next((w for w in workers if not w.training and w.done == least < generations), None)
        if worker is None:
            return None
        outcome = task.interval(worker.state, worker.config, key(seed, serial))
        worker.training = True

        def ended(now: float) -> None:
            worker.ended(outcome)
            record.add(now, worker.val, worker.state, worker.depth)
            if worker.done < generations and all(w.done == worker.done for w in workers):
                select(worker.done)

        return ended

    clock.run(slots, seed, length, issue)
    return record


def divided(population: int, parts: int) -> list[range]:
    """The members' numbers, part by part; the first parts have the members that are left over."""
    size, more = divmod(population, parts)
    begins = [i * size + min(i, more) for i in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(begins)]


def inheritance(
    vals: Sequence[float], parts: Sequence[range], periods: Sequence[int], rounds: int
) -> dict[int, Inherited]:
    """Who goes on with what after so many rounds; whoever is not named goes on as it is."""
    ranked = sorted(range(len(vals)), key=lambda i: (vals[i], i))
    place = {number: i for i, number in enumerate(ranked)}
    heirs: dict[int, Inherited] = {}
    for part, period in zip(parts, periods, strict=True):
        if rounds % period:
            continue
        own = sorted(part, key=place.__getitem__)
        quarter = len(own) // 4
        for better, worse in zip(own[:quarter], own[len(own) - quarter :], strict=True):
            heirs[worse] = Inherited(better, better, True)
        migrants = iter([number for number in ranked if number not in part])
        migrant = next(migrants, None)
        for number in own[2 * quarter : 3 * quarter]:
            if migrant is not None and place[migrant] < place[number]:
                theirs = next(d for p, d in zip(parts, periods, strict=True) if migrant in p)
                config = migrant if theirs > period else own[0] if theirs < period else number
                heirs[number] = Inherited(migrant, config, False)
                migrant = next(migrants, None)
    return heirs
