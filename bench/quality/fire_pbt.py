"""FIRE PBT (Dalibard and Jaderberg 2021, arXiv 2109.13800), written anew for the virtual clock.

The authors published no code. The rules are those of the paper's summary and of a second source that follows the paper
criterion by criterion (AwesomeLemon/PBT-Zoo and IPBT, algo/firepbt.py); we could not read the paper's full text.

PBT is greedy: a low learning rate lowers the loss at once, so it wins too early. FIRE PBT divides the population:

    part 1       is PBT as it is, greedy by the loss; the run's model is meant to come from here
    part 2       is PBT by another fitness, which looks further: how fast its weights improve once they are trained
                 with part 1's hyperparameters
    evaluators   measure that: one takes the weights of a member of part 2 (its parent) and the config of the best
                 member of part 1 (its child), and trains

Two curves of losses are compared by *improvement rate*: they are laid on each other where the one reaches the loss at
which the other begins, and what counts is the best score that each reaches in equal time from there. A parent's fitness
is the sum of these differences over the curves of the other parents' evaluators. An evaluator *succeeds* when its curve
beats its child's (best score, and a binomial test of the points); the child then takes its weights and curve, and keeps
its config. It *stops* when the test speaks against it, less and less of which is tolerated the longer it trains, when
the curves have not met in `patience` intervals, or when its parent or child has copied from another and is another.
A free evaluator takes the parent whose last evaluation is longest ago.

*The second source's own choices*, kept: 18 : 18 : 14 for the sizes of the parts and the evaluators, truncation at a
quarter, factors 0.5 and 2 without drawing anew.

*Chosen here*, mostly because a curve of ours has one point an interval and theirs has ten: straight lines join the
points, so curves can meet between two of them, and nothing is smoothed (they fit a Gaussian process); the test asks for
p <= .25, which is two points of two, and not for .01, which is seven of seven (the end of the shorter curve counts as a
point, too); categories move to a neighbour, where theirs are drawn anew; a curve that begins above all of another
is moved down to begin where that one does, and counts if it is faster; a parent keeps its last evaluation when that has
ended. There are two parts, where the paper allows more. Scores are -log(loss).

Whoever has trained least gets the next free slot, as in pbt.py. Evaluators train T intervals each, too: what they cost
is in the budget of 25 · T intervals, to the interval. They begin at once, with weights that are not trained yet. The
run's model is the best of all workers, as for every method here: an evaluator's, too.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import clock, pbt
from .record import Record
from .tasks import key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gpbt_async.space import Config

    from .tasks import Task

#: of all workers, in part 1 and in part 2
SHARE = 0.36
Curve = list[float]


@dataclass(slots=True, eq=False)
class Worker(pbt.Worker):
    """A member of part 1 or 2, or an evaluator."""

    #: scores since it last copied weights, those of the weights first; a new list for new weights
    curve: Curve = field(default_factory=list)

    def copy(self, other: pbt.Worker) -> None:
        pbt.Worker.copy(self, other)
        self.curve = [] if math.isinf(other.val) else [-math.log(other.val)]


@dataclass(slots=True, eq=False)
class Parent(Worker):
    """A member of part 2."""

    #: the curve of its weights under part 1's hyperparameters; none yet
    rate: Curve | None = None
    #: when its last evaluation began, in intervals issued by the run; it copied: now
    evaluated: int = -1


@dataclass(slots=True, eq=False)
class Evaluator(Worker):
    parent: Parent | None = None
    child: Worker | None = None
    #: the parent's and the child's curves when it began: others now tell that these are lost
    met: tuple[Curve, Curve] = ([], [])


@dataclass
class Fire:
    """The run's workers, and what they do when an interval has ended."""

    task: Task
    rng: random.Random
    first: list[Worker]
    second: list[Parent]
    evaluators: list[Evaluator]
    quantile: float
    factors: tuple[float, float]
    patience: int
    certain: float

    def assign(self, evaluator: Evaluator, serial: int) -> bool:
        """Give the evaluator what it is to evaluate, if there is any."""
        busy = {e.parent for e in self.evaluators}
        parents = [p for p in self.second if p not in busy]
        if not parents:
            return False
        parent = min(parents, key=lambda p: (p.evaluated, p.number))
        tried = [w for w in self.first if len(w.curve) > 1]  # not those that have just explored
        child = min(tried or self.first, key=lambda w: (w.val, w.number))
        evaluator.parent, evaluator.child, evaluator.met = parent, child, (parent.curve, child.curve)
        evaluator.copy(parent)
        evaluator.config, parent.evaluated = child.config, serial
        return True

    def greedy(self, worker: Worker) -> None:
        """A member of part 1 has ended an interval."""
        known = sorted((w for w in self.first if w.done), key=lambda w: (w.val, w.number))
        if better := self._better(worker, known):
            worker.copy(better)
            worker.config = self._explored(better.config)

    def patient(self, worker: Parent, serial: int) -> None:
        """A member of part 2 has ended an interval."""
        curves = {p: p.rate for p in self.second if p.rate}
        fitness = {
            p: sum(faster(rate, other) for q, other in curves.items() if q is not p) for p, rate in curves.items()
        }
        known = sorted(fitness, key=lambda p: (-fitness[p], p.number))
        if better := self._better(worker, known):
            worker.copy(better)
            worker.config = self._explored(better.config)
            worker.rate, worker.evaluated = None, serial

    def judge(self, evaluator: Evaluator) -> None:
        """An evaluator has ended an interval."""
        parent, child = evaluator.parent, evaluator.child
        assert parent is not None
        assert child is not None
        lost = parent.curve is not evaluator.met[0] or child.curve is not evaluator.met[1]
        if not lost:
            parent.rate = evaluator.curve
            trained = len(evaluator.curve) - 1
            points = list(meeting(evaluator.curve, child.curve))
            p = binomial(points)
            if points and faster(evaluator.curve, child.curve) > 0 and p <= self.certain:
                child.copy(evaluator)
                child.curve = list(evaluator.curve)
            elif points:
                lost = p > self.certain + max(0.0, 1 - trained / self.patience)
            else:
                lost = trained >= self.patience
        if lost or child.curve is not evaluator.met[1]:
            evaluator.parent = evaluator.child = None

    def _better(self, worker: Worker, known: Sequence[Worker]) -> Worker | None:
        best, worst = pbt.truncated(known, self.quantile)
        return self.rng.choice(best) if worker in worst else None

    def _explored(self, config: Config) -> Config:
        return pbt.explored(self.task.space, config, self.rng, self.factors, 0.0, "factors")


def run(
    task: Task,
    seed: int,
    slots: int,
    length: float = 1.0,
    population: int = 25,
    generations: int = 10,
    quantile: float = 0.25,
    factors: tuple[float, float] = (0.5, 2.0),
    patience: int = 4,
    certain: float = 0.25,
) -> Record:
    record, size = Record(task, population * generations), round(population * SHARE)
    begun = pbt.begun(task, seed, population)
    fire = Fire(
        task,
        random.Random(key("fire-pbt", seed)),
        [Worker(*one) for one in begun[:size]],
        [Parent(*one) for one in begun[size : 2 * size]],
        [Evaluator(*one) for one in begun[2 * size :]],
        quantile,
        factors,
        patience,
        certain,
    )
    workers: list[Worker] = [*fire.first, *fire.second, *fire.evaluators]

    def ready(serial: int) -> Worker | None:
        for worker in sorted(workers, key=lambda w: (w.done, w.number)):
            if not worker.training and worker.done < generations:
                free = isinstance(worker, Evaluator) and worker.parent is None
                if not free or fire.assign(worker, serial):  # type: ignore[arg-type]
                    return worker
        return None

    def issue(serial: int) -> Callable[[float], None] | None:
        worker = ready(serial)
        if worker is None:
            return None
        outcome = task.interval(worker.state, worker.config, key(seed, serial))
        worker.training = True

        def ended(now: float) -> None:
            worker.ended(outcome)
            worker.curve.append(-math.log(worker.val))
            record.add(now, worker.val, worker.state, worker.depth)
            if isinstance(worker, Evaluator):
                fire.judge(worker)
            elif isinstance(worker, Parent):
                fire.patient(worker, serial)
            else:
                fire.greedy(worker)

        return ended

    clock.run(slots, seed, length, issue)
    return record


def faster(a: Curve, b: Curve) -> float:
    """How much higher a's best score is than b's in equal time from where they meet."""
    points = list(meeting(a, b))
    if not points and min(a) > max(b):
        drop = a[0] - b[0]
        return max(0.0, faster([score - drop for score in a], b))
    return max((x for x, _ in points), default=0.0) - max((y for _, y in points), default=0.0)


def meeting(a: Curve, b: Curve) -> Iterator[tuple[float, float]]:
    """The scores of both 1, 2, … intervals after they meet, and at the end of the shorter; nothing if they do not."""
    at_a, at_b = reached(a, b[0]), reached(b, a[0])
    if at_a is None or at_b is None:
        return
    left = min(len(a) - 1 - at_a, len(b) - 1 - at_b)
    for after in (*range(1, math.floor(left) + 1), *([left] if left > math.floor(left) else [])):
        yield _at(a, at_a + after), _at(b, at_b + after)


def reached(curve: Curve, score: float) -> float | None:
    """When the curve first has this score; 0 if it begins above it, None if it never does."""
    if curve[0] >= score:
        return 0.0
    for i, (before, after) in enumerate(itertools.pairwise(curve)):
        if after >= score:
            return i + (score - before) / (after - before)
    return None


def _at(curve: Curve, time: float) -> float:
    i = min(int(time), len(curve) - 2)
    return curve[i] + (time - i) * (curve[i + 1] - curve[i])


def binomial(points: Sequence[tuple[float, float]]) -> float:
    """The chance that one is above the other in so many points, or in more, where both are equal."""
    n, wins = len(points), sum(x > y for x, y in points)
    return float(sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n)
