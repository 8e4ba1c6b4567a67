"""Uses of the family tree in bench/quality: the filter against known truths, and the rules in simulated runs whose
engines are checked all along."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpbt_async.engine.engine import Engine
from gpbt_async.engine.tree import State, Tree
from gpbt_async.experiment import Settings
from gpbt_async.searchers import registry
from gpbt_async.simulate import Landscape, Simulation, VirtualInterval
from gpbt_async.space import Float, Space

sys.path.append(str(Path(__file__).parent.parent.parent / "bench"))

from quality import candidates, genealogy, lineage, ours, tasks
from quality.classes import Classes

if TYPE_CHECKING:
    from collections.abc import Callable

    from quality.record import Record

    from gpbt_async.engine.tree import Node

#: facts between two checks, which cost far more than the run; a prime, so that all kinds of facts come before one
EVERY = 11
SPACE = Space({"x": Float(0.0, 1.0), "y": Float(1e-3, 1.0, log=True)})
CLASSES = ("classes", {"periods": [1, 2, 5]})
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "classes": CLASSES,
    "one class": ("classes", {"periods": [3]}),
    "no migration": ("classes", {"periods": [1, 2, 5], "migrate": False}),
    "capped": ("capped", {"cap": 1}),
    "returning": ("returning", {"patience": 2}),
    "allocated": ("allocated", {}),
}


def simulated(
    n: int,
    generations: int,
    slots: int,
    seed: int,
    failing: float = 0.0,
    crashes: tuple[float, ...] = (),
    **options: Any,
) -> Simulation:
    """A run that is to begin, whose engine is checked every so many facts. failing: the share of attempts that fail."""
    world = Landscape(seed, noise=0.1).over(SPACE)

    def train(member: Node, parent: Any) -> VirtualInterval:
        made = world(member, parent)
        fails = random.Random(f"{seed}:{member.seed}").random() < failing
        return VirtualInterval(made.state, made.score, made.seconds, fails_at=0.5 if fails else None)

    evidence = options.pop("evidence", 0.75)
    s = Settings(
        space=SPACE, score="loss", mode="min", population=n, generations=generations, seed=seed, evidence=evidence
    )
    simulation = Simulation(s, train, registry.make("local"), slots, usage=None, crashes=crashes)
    genealogy.Genealogy(simulation, {}, lambda member: member.loss, **options)
    handle = simulation.engine.handle

    def checked(fact: Any) -> Any:
        commands = handle(fact)
        if simulation.engine.count % EVERY == 0 or simulation.engine.ended is not None:
            simulation.engine.check()
        return commands

    simulation.engine.handle = checked  # type: ignore[method-assign]
    return simulation


# ---- the filter


def told(record: Record) -> tuple[Any, ...]:
    return record.val, record.spent, record.now, record.depth, record.trace


@pytest.mark.parametrize("prior", ["lineage", "generation"])
@pytest.mark.parametrize("logs", [True, False])
def test_without_noise_the_filter_is_the_plain_rule(prior: str, logs: bool) -> None:
    task = tasks.make("landscape", 3)  # reports no error
    plain = ours.run(task, 3, 4, population=9, generations=5)
    filtered = ours.run(task, 3, 4, population=9, generations=5, genealogy={"filter": prior, "logs": logs})
    assert told(filtered) == told(plain)


def test_with_noise_the_filter_changes_the_run() -> None:
    task = tasks.make("trap", 3)
    plain = ours.run(task, 3, 4, population=9, generations=14)
    filtered = ours.run(task, 3, 4, population=9, generations=14, genealogy={"filter": "lineage"})
    assert told(filtered) != told(plain)


class Noisy:
    """A tree of which the true losses are known: gains are shared within a family and differ between families."""

    def __init__(self, seed: int, noise: float, prior: str = "lineage", generations: int = 8, n: int = 24) -> None:
        rng = random.Random(seed)
        self.tree = Tree(generations, n)
        self.errors: dict[int, float] = {}
        self.truth: dict[int, float] = {}
        self.seen: dict[int, float] = {}
        self.means: dict[int, float] = {}
        self.filter = lineage.Filter(self.tree, self.errors, prior, logs=False)
        for generation in range(generations):
            parents = self.tree.generations[generation - 1].ranking[:6] if generation else []
            shared = {m.id: rng.gauss(-0.5, 0.3) for m in parents}
            born: list[tuple[Node, float]] = []
            for i in range(n):
                parent = parents[i % 6] if parents else None
                member = self.tree.add(generation, parent, {}, seed)
                before = self.truth[parent.id] + shared[parent.id] if parent is not None else 10.0
                born.append((member, before + rng.gauss(0.0, 0.2)))
            rng.shuffle(born)
            for member, true in born:
                self.truth[member.id] = true
                self.errors[member.id] = noise
                member.loss = self.seen[member.id] = true + rng.gauss(0.0, noise)
                self.means[member.id] = member.loss = self.filter.take(member)
                self.tree.settle(member, State.FINISHED)

    def error(self, of: dict[int, float]) -> float:
        """The mean square of what is off, from generation 2 on."""
        later = [m.id for g in self.tree.generations[2:] for m in g.members]
        return statistics.fmean((of[id] - self.truth[id]) ** 2 for id in later)

    def among(self, of: dict[int, float]) -> float:
        """The mean true rank, within the generation, of the best quarter by these values."""
        ranks = []
        for g in self.tree.generations[2:]:
            ids = [m.id for m in g.members]
            true = {id: rank for rank, id in enumerate(sorted(ids, key=self.truth.__getitem__))}
            ranks += [true[id] for id in sorted(ids, key=of.__getitem__)[:6]]
        return statistics.fmean(ranks)


def test_the_filter_is_nearer_to_the_truth_than_the_scores_are() -> None:
    worlds = [Noisy(seed, 0.5) for seed in range(10)]
    assert all(w.error(w.means) < 0.8 * w.error(w.seen) for w in worlds)
    better = [w.among(w.seen) - w.among(w.means) for w in worlds]
    assert statistics.fmean(better) > 0.3
    assert sum(b > 0 for b in better) >= 8


def test_the_filter_without_kin_keeps_the_order_of_the_scores_where_all_are_equally_noisy() -> None:
    w = Noisy(1, 0.5, "generation")
    for g in w.tree.generations:
        assert sorted(g.members, key=lambda m: w.means[m.id]) == sorted(g.members, key=lambda m: w.seen[m.id])


def test_little_noise_moves_scores_little() -> None:
    w = Noisy(2, 0.01)
    assert max(abs(w.means[id] - seen) for id, seen in w.seen.items()) < 0.02


def test_a_child_is_judged_by_its_parent_and_its_siblings_and_its_score_as_kalman_says() -> None:
    """Four parents gain nothing, their children lose 1 but for noise; then one more child, by hand."""
    tree = Tree(3, 12)
    errors: dict[int, float] = {}
    kalman = lineage.Filter(tree, errors, logs=False)

    def finish(generation: int, parent: Node | None, loss: float, error: float) -> Node:
        member = tree.add(generation, parent, {}, 0)
        errors[member.id], member.loss = error, loss
        member.loss = kalman.take(member)
        tree.settle(member, State.FINISHED)
        return member

    roots = [finish(0, None, loss, 0.5) for loss in (5.0, 6.0)]
    gains = (-1.0, -2.0, 0.0, -1.0, -1.5, -0.5)
    children = [finish(1, roots[i % 2], roots[i % 2].loss + gain, 0.5) for i, gain in enumerate(gains)]
    assert [c.loss for c in children] == [roots[i % 2].loss + gain for i, gain in enumerate(gains)], "nothing to go by"
    parent = children[0]
    better = (0.0, 0.0, 0.5**2, 1.0)  # squares of what lies at or below the median, -1
    q = max(lineage.FLOOR * 0.25, statistics.fmean(better) - 0.25 - 0.25)
    one = finish(2, parent, 2.0, 0.5)
    expected, variance = parent.loss - 1.0, 0.25 + q
    gain = variance / (variance + 0.25)
    assert one.loss == pytest.approx(expected + gain * (2.0 - expected))
    assert kalman.beliefs[one.id].variance == pytest.approx((1 - gain) * variance)
    finish(2, children[1], 4.0, 0.5)
    seen = {parent.id: 2.0 - parent.loss, children[1].id: 4.0 - children[1].loss}
    more = (seen[parent.id] - statistics.median(seen.values())) / (1 + lineage.KAPPA)
    third = finish(2, parent, 3.0, 0.5)
    assert third.loss == pytest.approx(expected + more + gain * (3.0 - expected - more))


def test_choosing_parents_by_their_scores_does_not_bias_the_slope() -> None:
    """Half of the variance is noise; the best fifth become parents. The covariance alone would say far less."""
    rng = random.Random(0)
    generations = []
    for _ in range(400):
        true = [rng.gauss(0.0, 1.0) for _ in range(30)]
        seen = sorted((x + rng.gauss(0.0, 1.0), x) for x in true)[:6]
        families = [(y, statistics.median(x + rng.gauss(-1.0, 1.0) for _ in range(5))) for y, x in seen]
        generations.append((2.0, families))
    assert lineage.inherited_share(generations) == pytest.approx(0.5, abs=0.08)
    assert lineage.inherited_share(generations[:1]) is None


def test_only_the_better_side_counts_as_spread() -> None:
    assert lineage.better_variance([-1.0, 0.0, 50.0]) == pytest.approx(0.5)
    assert lineage.better_variance([3.0, 3.0]) == 0.0


def test_the_final_choice_may_be_by_scores() -> None:
    task = tasks.make("trap", 5)
    options = {"population": 9, "generations": 6}
    by_rank = ours.run(task, 5, 4, **options, genealogy={"filter": "lineage"})
    by_score = ours.run(task, 5, 4, **options, genealogy={"filter": "lineage", "choose": "score"})
    plain = ours.run(task, 5, 4, **options)
    passive = ours.run(task, 5, 4, **options, genealogy={"filter": "lineage", "ranks": False})
    assert by_score.val <= by_rank.val
    assert plain.val <= passive.val
    assert (plain.now, plain.spent) == (passive.now, passive.spent)


# ---- what is evaluated twice


def test_evaluations_count_in_the_budget() -> None:
    task = tasks.make("trap", 1)
    options = {"population": 9, "generations": 6}
    free = ours.run(task, 1, 4, **options, genealogy={"reevaluate": 0.0})
    dear = ours.run(task, 1, 4, **options, genealogy={"reevaluate": 0.5})
    finalists = ours.run(task, 1, 4, **options, genealogy={"choose": (5, 0.5)})
    assert free.spent == 54
    assert dear.spent <= 54.5
    assert dear.now < free.now, "fewer intervals"
    assert finalists.spent <= 54.5


def test_who_is_about_to_be_a_parent_is_evaluated_again_and_nobody_else() -> None:
    made = simulated(9, 5, 3, 0, reevaluate=0.1)
    again: list[int] = []
    tree = made.engine.tree
    assert isinstance(tree, genealogy.Reevaluated)

    def worse(member: Node) -> float:
        ranking = tree.generations[member.generation].ranking
        assert len(ranking) < 3 or member < ranking[2]
        again.append(member.id)
        return 1.02 * member.loss

    tree.again = worse
    made.run()
    assert set(again) == tree.twice
    assert len(again) == len(tree.twice) < 45
    for member in tree.members:
        assert member.score is not None
        assert member.loss == pytest.approx(member.score * (1.01 if member.id in tree.twice else 1))


# ---- rules


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("slots", "failing", "crashes"), [(1, 0.0, ()), (4, 0.3, (3.0, 7.5)), (15, 0.1, ())])
def test_every_rule_keeps_the_engines_invariants_and_fills_every_generation(
    name: str, slots: int, failing: float, crashes: tuple[float, ...]
) -> None:
    made = simulated(13, 11, slots, slots, failing, crashes, rule=RULES[name]).run()
    assert made.engine.ended is not None
    assert made.engine.ended.reason == ""
    assert [len(g.members) for g in made.engine.tree.generations] == [13] * 11


@pytest.mark.parametrize("name", RULES)
def test_a_replay_of_the_journal_gives_the_same_tree(name: str) -> None:
    made = simulated(13, 7, 4, 1, 0.2, (4.0,), rule=RULES[name]).run()
    again = simulated(13, 7, 4, 1, rule=RULES[name])
    for fact in made.facts:
        again.engine.handle(fact)
    one, other = made.engine, again.engine
    assert [(m.path, m.config, m.state, m.loss) for m in one.tree.members] == [
        (m.path, m.config, m.state, m.loss) for m in other.tree.members
    ]
    if name == "classes":
        assert isinstance(one.selection, Classes)
        assert isinstance(other.selection, Classes)
        kinds = [one.selection.kind(m) for m in one.tree.members]
        assert kinds == [other.selection.kind(m) for m in other.tree.members]


def finished(made: Simulation) -> tuple[Classes, list[list[Node]]]:
    made.run()
    rule = made.engine.selection
    assert isinstance(rule, Classes)
    return rule, [list(g.members) for g in made.engine.tree.generations]


@pytest.mark.parametrize("failing", [0.0, 0.25])
def test_every_class_has_its_share_of_every_generation(failing: float) -> None:
    rule, generations = finished(simulated(13, 11, 4, 2, failing, rule=CLASSES))
    assert rule.shares == [5, 4, 4]
    for members in generations:
        assert Counter(map(rule.kind, members)) == {0: 5, 1: 4, 2: 4}


def test_between_selections_every_member_has_one_child_that_repeats_its_config() -> None:
    rule, generations = finished(simulated(13, 11, 4, 3, rule=CLASSES))
    for above, members in itertools.pairwise(generations):
        for kind in range(3):
            if not rule.selects(kind, members[0].generation):
                own = [m for m in members if rule.kind(m) == kind]
                assert sorted(m.parent.id for m in own) == [m.id for m in above if rule.kind(m) == kind]  # type: ignore[union-attr]
                assert all(m.config == m.parent.config for m in own)  # type: ignore[union-attr]


def test_a_selecting_class_breeds_from_its_best_and_from_a_better_foreigner() -> None:
    foreigners: Counter[str] = Counter()
    for seed in range(6):
        rule, generations = finished(simulated(13, 11, 4, seed, evidence=1.0, rule=CLASSES))
        for above, members in itertools.pairwise(generations):
            for kind in range(3):
                if not rule.selects(kind, members[0].generation):
                    continue
                best = sorted(m for m in above if rule.kind(m) == kind)
                foreign = 0
                for child in (m for m in members if rule.kind(m) == kind):
                    parent = child.parent
                    assert parent is not None
                    if rule.kind(parent) == kind:
                        assert parent in best[: rule.parents_of(kind)]
                        continue
                    foreign += 1
                    assert parent < best[0]
                    assert child.index > 0
                    greedier = rule.greedier(rule.kind(parent), kind)
                    foreigners["weights" if greedier else "both"] += 1
                    assert (child.config == best[0].config) == greedier
                assert foreign <= rule.shares[kind] // 4
    assert foreigners["weights"] > 0
    assert foreigners["both"] > 0


def test_no_lineage_waits_for_another_between_selections() -> None:
    """One member of generation 0 takes for ever: all others of a class that does not select yet go on."""
    made = simulated(6, 3, 6, 0, rule=("classes", {"periods": [3]}))
    task = made.task
    slow: Callable[[Node, Any], VirtualInterval] = task

    def train(member: Node, parent: Any) -> VirtualInterval:
        done = slow(member, parent)
        return VirtualInterval(done.state, done.score, 100.0 if member.path == (2,) else 1.0)

    made.task = train
    made.run()
    begun = {made.engine.tree.members[f.member].path: f.t for f in made.facts if type(f).__name__ == "Started"}
    assert all(begun[i, 0] == 1.0 for i in range(6) if i != 2)
    assert begun[2, 0] == 100.0


def test_at_most_so_many_of_a_family_become_parents() -> None:
    made = simulated(16, 6, 1, 4, evidence=1.0, rule=("capped", {"cap": 1})).run()
    for above, below in zip(made.engine.tree.generations[1:], made.engine.tree.generations[2:], strict=False):
        chosen = [made.engine.tree.members[id] for id in below.by_parent]
        families = Counter(m.parent.id for m in chosen if m.parent is not None)
        assert len(chosen) == 4
        assert max(families.values()) == 1 or len(above.by_parent) < 4


def test_the_best_has_children_again_once_it_is_old_enough() -> None:
    made = simulated(9, 8, 3, 0, rule=("returning", {"patience": 2}))
    task: Any = made.task

    def train(member: Node, parent: Any) -> VirtualInterval:
        done = task(member, parent)
        return VirtualInterval(done.state, 1e-6 if member.path == (4,) else done.score, done.seconds)

    made.task = train
    made.run()
    best = made.engine.best
    assert best is not None
    assert best.path == (4,)
    assert {c.generation for c in best.children} == {1, 3, 4, 5, 6, 7}


def test_families_that_do_well_grow() -> None:
    made = simulated(36, 2, 1, 0, rule=("allocated", {}))
    rng = random.Random(0)

    def train(member: Node, parent: Any) -> VirtualInterval:
        base = member.path[0] % 2 * 0.3 + member.index * 0.001 if member.parent is None else 0.1
        good = member.parent is not None and member.parent.path[0] % 4 == 0
        return VirtualInterval(None, base + 1.0 - 0.5 * good + 1e-4 * rng.random(), 1.0)

    made.task = train
    made.run()
    counts = {id: n for id, n in made.engine.tree.generations[1].by_parent.items()}
    good = [n for id, n in counts.items() if made.engine.tree.members[id].path[0] % 4 == 0]
    bad = [n for id, n in counts.items() if made.engine.tree.members[id].path[0] % 4]
    assert good
    assert bad
    assert min(good) > max(bad)


def test_what_classes_cannot_do_is_refused() -> None:
    base = {"space": SPACE, "score": "loss", "mode": "min", "population": 9, "generations": 5}
    for wrong in ({"selection": "plus"}, {"schedule": "sync"}, {"early_stop": ("generation",)}):
        engine = Engine(Settings(**base, **wrong))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="classes need"):
            Classes(engine.adoption, engine.tree, [1, 2])


def test_a_rule_that_is_replaced_decides_who_is_next() -> None:
    """The ratio goes from many parents to one: the line of next members must come from the new rule, too."""
    made = simulated(16, 4, 1, 0, evidence=1.0)
    engine = made.engine
    genealogy.replace(made, candidates.Cooled(engine.adoption, engine.tree, 1 / 4, 16.0))
    made.run()
    parents = [len(g.by_parent) for g in engine.tree.generations[1:]]
    assert parents == [8, 2, 1]
    assert math.isqrt(int(16 / 0.25)) == 8
