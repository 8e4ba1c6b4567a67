"""preset="paper" against the authors' algorithm: one tree worked out by hand, one by a plain sequential program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import gpbt_async as gpbt
from gpbt_async.ask import Ask, path_of, path_text
from gpbt_async.experiment import Settings
from gpbt_async.simulate import Simulation, VirtualInterval
from gpbt_async.space import Config, Float, Space

if TYPE_CHECKING:
    from gpbt_async.engine.tree import Node

SPACE = Space({"x": Float(0, 1)})


def x_of(kin: int, generation: int) -> float:
    """A toy searcher: its answer tells how many observations it was shown."""
    return (3 * kin + 7 * generation + 5) % 11 / 10


def loss_of(x: float, parent: float) -> float:
    """A toy objective: deterministic, and inherited by halves."""
    return round(x + parent / 2, 6)


class Toy:
    def __init__(self) -> None:
        self.shown: dict[str, list[str]] = {}

    def suggest(self, ask: Ask) -> Config:
        self.shown[path_text(ask.path)] = [path_text(o.path) for o in ask.kin]
        return {"x": x_of(len(ask.kin), ask.generation)}


def run(population: int, ratio: float, generations: int, slots: int) -> tuple[Simulation, Toy]:
    base = Settings(space=SPACE, score="loss", mode="min", population=population, generations=generations, ratio=ratio)
    toy = Toy()

    def task(member: Node, parent: Any) -> VirtualInterval:
        loss = loss_of(float(member.config["x"]), parent or 0.0)  # type: ignore[arg-type]
        return VirtualInterval(state=loss, score=loss, seconds=1.0 + (member.seed % 7))

    return Simulation(base.replaced(preset="paper"), task, toy, slots).run(), toy


#: path → (x, loss), worked out on paper for n = 6, k = 2, T = 3: kin sizes 0 to 5, then 7, 8, then 10, 11
BY_HAND = {
    "0": (0.5, 0.5), "1": (0.8, 0.8), "2": (0.0, 0.0), "3": (0.3, 0.3), "4": (0.6, 0.6), "5": (0.9, 0.9),
    # parents 2 and 3, three children each, the first repeats
    "2/0": (0.0, 0.0), "2/1": (0.0, 0.0), "2/2": (0.3, 0.3),
    "3/0": (0.3, 0.45), "3/1": (0.0, 0.15), "3/2": (0.3, 0.45),
    # parents 2/0 and 2/1: both 0, the tie goes by path
    "2/0/0": (0.0, 0.0), "2/0/1": (0.5, 0.5), "2/0/2": (0.8, 0.8),
    "2/1/0": (0.0, 0.0), "2/1/1": (0.5, 0.5), "2/1/2": (0.8, 0.8),
}  # fmt: skip
ROOTS = ["0", "1", "2", "3", "4", "5"]
KIN_BY_HAND = {
    "4": ["0", "1", "2", "3"],
    "2/1": [*ROOTS, "2/0"],
    "2/2": [*ROOTS, "2/0", "2/1"],
    "3/1": [*ROOTS, "3/0"],
    "3/2": [*ROOTS, "3/0", "3/1"],
    "2/0/1": [*ROOTS, "2/0", "2/1", "2/2", "2/0/0"],
    "2/0/2": [*ROOTS, "2/0", "2/1", "2/2", "2/0/0", "2/0/1"],
    "2/1/2": [*ROOTS, "2/0", "2/1", "2/2", "2/1/0", "2/1/1"],
}


@pytest.mark.parametrize("slots", [1, 2, 6])
def test_six_members_by_hand(slots: int) -> None:
    simulation, toy = run(6, 1.0, 3, slots)
    tree = {path_text(m.path): (m.config["x"], m.score) for m in simulation.engine.tree.members}
    assert tree == BY_HAND
    for path, kin in KIN_BY_HAND.items():
        assert toy.shown[path] == kin
    assert set(toy.shown) == {p for p in BY_HAND if "/" not in p or not p.endswith("/0")}
    best = simulation.engine.best
    assert best is not None
    assert path_text(best.path) == "2"


def reference(n: int, k: int, generations: int) -> tuple[dict[str, float], dict[str, set[str]]]:
    """The authors' algorithm in their own order, one member after the other, every child naming its parent."""
    losses: dict[str, float] = {}
    xs: dict[str, float] = {}
    shown: dict[str, set[str]] = {}
    history: set[str] = set()
    for i in range(n):
        shown[str(i)] = set(history)
        losses[str(i)] = loss_of(x_of(len(history), 0), 0.0)
        xs[str(i)] = x_of(len(history), 0)
        history.add(str(i))
    pool = [str(i) for i in range(n)]
    histories = dict.fromkeys(pool, frozenset(history))
    for g in range(1, generations):
        mothers = sorted(pool, key=lambda p: (losses[p], path_of(p)))[:k]
        pool, inherited = [], {}
        for rank, mother in enumerate(mothers):
            quota = n // k if rank else n - (k - 1) * (n // k)
            told = set(histories[mother])
            children = [f"{mother}/{i}" for i in range(quota)]
            for i, child in enumerate(children):
                if i:
                    shown[child] = set(told)
                xs[child] = xs[mother] if i == 0 else x_of(len(told), g)
                losses[child] = loss_of(xs[child], losses[mother])
                told.add(child)
            pool += children
            # a child that is chosen takes a copy of its mother's history after all her children were told
            inherited |= dict.fromkeys(children, frozenset(told))
        histories = inherited
    return losses, shown


@pytest.mark.parametrize(("n", "ratio", "k"), [(72, 72 / 256, 16), (72, 0.5, 12), (25, 1.0, 5), (10, 1.0, 3)])
def test_against_the_sequential_algorithm(n: int, ratio: float, k: int) -> None:
    losses, shown = reference(n, k, 4)
    simulation, toy = run(n, ratio, 4, 16)
    assert {path_text(m.path): m.score for m in simulation.engine.tree.members} == losses
    assert {path: set(kin) for path, kin in toy.shown.items()} == shown


def test_where_the_original_takes_a_child_for_anothers() -> None:
    """n = 72, k = 16: 12 children of the best mother, then 4 each. Child number x is not of mother floor(x·k/n)."""
    simulation, _ = run(72, 72 / 256, 2, 4)
    tree = simulation.engine.tree
    mothers = tree.generations[0].ranking[:16]
    assert [len(m.children) for m in mothers] == [12] + [4] * 15
    in_order = [child for mother in mothers for child in mother.children]
    claimed = [mothers[x * 16 // 72] for x in range(72)]
    assert sum(child.parent is not mother for child, mother in zip(in_order, claimed, strict=True)) > 0
    for mother in mothers:
        assert all(child.path[:-1] == mother.path for child in mother.children)


def train(member: gpbt.Member) -> None: ...


def test_the_preset_and_what_is_said_beside_it() -> None:
    paper = gpbt.Experiment(train, space={"x": Float(0, 1)}, score="s", mode="max", preset="paper").settings
    assert (paper.schedule, paper.searcher, paper.history, paper.selection) == ("sync", "tpe", "inherit", "comma")
    mixed = gpbt.Experiment(
        train, space={"x": Float(0, 1)}, score="s", mode="max", preset="paper", searcher="random"
    ).settings
    assert (mixed.schedule, mixed.searcher) == ("sync", "random")
    plain = gpbt.Experiment(train, space={"x": Float(0, 1)}, score="s", mode="max").settings
    assert (plain.schedule, plain.searcher, plain.early_stop) == ("async", "local", ())
    assert plain.replaced(preset="paper", history="reset").history == "reset"
    assert plain.replaced(preset="paper").schedule == "sync"
    with pytest.raises(gpbt.ExperimentError, match=r"preset: got 'papre'; must be one of 'paper'"):
        gpbt.Experiment(train, space={"x": Float(0, 1)}, score="s", mode="max", preset="papre")
