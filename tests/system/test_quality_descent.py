"""The long tasks of the quality benchmark that SGD trains: the data, the gradients, and what a state keeps."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent.parent.parent / "bench"))

from quality import descent, images, tasks, text

if TYPE_CHECKING:
    from quality.descent import Descent

NAMES = ("text", "images")
#: a config that trains well without a schedule, and one that trains well with one
SHARED = {"momentum": 0.7, "weight_decay": 1e-5, "dropout": 0.0, "batch": 32}
GOOD: dict[str, dict[str, Any]] = {
    "text": {**SHARED, "lr": 0.2, "smoothing": 0.0},
    "images": {**SHARED, "lr": 0.2, "shift": 1},
}


def made(name: str, length: float = 1.0) -> Descent:
    task: Any = tasks.make(name, 0, length)
    return task  # type: ignore[no-any-return]


def trained(task: Descent, config: dict[str, Any], intervals: int) -> Any:
    state: Any = task.initial(0)
    for serial in range(intervals):
        state = task.interval(state, config, serial).state
    return state


def test_every_python_ships_the_same_text() -> None:
    shipped = "\n".join(text.names())
    assert hashlib.sha256(shipped.encode()).hexdigest().startswith("0269d4e9589d6c96")
    assert (len(text.names()), len(shipped)) == (12563, 346044)
    assert text.names()[:2] == ("SPACE", "EXCLAMATION MARK")


def test_an_example_is_a_letter_and_the_eight_before_it() -> None:
    x, y = text.examples(["EM DASH"])
    rows = ["".join(text.ALPHABET[code] for code in (*row, letter)) for row, letter in zip(x, y, strict=True)]
    assert rows[0] == "\n" * 8 + "E"
    assert rows[3] == "\n" * 5 + "EM D"
    assert rows[-1] == "\nEM DASH\n"
    assert len(rows) == len("EM DASH") + 1


def test_a_name_is_in_one_part_and_the_test_names_are_those_of_every_seed() -> None:
    one, other = text.Text(0), text.Text(1)
    assert np.array_equal(one._x_test, other._x_test)
    assert not np.array_equal(one._x, other._x)
    chosen = [name for name in text.names() if name.startswith("GREEK")]
    assert len(set(chosen)) == len(chosen), "no name is twice in the text"
    letters = sum(len(part) for part in (one._y, one._y_val, one._y_test))
    assert letters < sum(len(name) + 1 for name in text.names())


def test_clutter_lies_over_a_whole_digit() -> None:
    x, _ = images.digits()
    drawn = images.draw(x[:50], np.random.default_rng(0)) - images.ZERO
    assert drawn.shape == (50, images.CANVAS, images.CANVAS)
    last = images.CANVAS - images.DIGIT + 1
    for digit, canvas in zip(x, drawn, strict=False):
        places = [
            canvas[top : top + images.DIGIT, left : left + images.DIGIT] for top in range(last) for left in range(last)
        ]
        assert any((place >= digit - 1e-9).all() for place in places)
    assert (drawn.sum(axis=(1, 2)) > x[:50].sum(axis=(1, 2))).mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_loss(name: str) -> None:
    task, config = made(name), {**GOOD[name], "shift": 0}
    weights = trained(task, GOOD[name], 1).weights
    x, y = task._x[:30], task._y[:30]
    found = task.gradient(weights, x, y, config, np.random.default_rng(0))
    for at in np.random.default_rng(1).integers(len(weights), size=60):
        ends = []
        for step in (1e-6, -1e-6):
            moved = weights.copy()
            moved[at] += step
            ends.append(task._loss(moved, x, y))
        assert found[at] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-7)


def test_smoothed_targets_are_what_pulls() -> None:
    z, y, smoothing = np.array([[1.0, 2.0, 0.5]]), np.array([1]), 0.3
    p = np.exp(z) / np.exp(z).sum()
    assert descent.residual(z.copy(), y, smoothing) == pytest.approx(p - np.array([[0.1, 0.8, 0.1]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_that_decays_gives_a_better_model(name: str) -> None:
    """What these tasks are for. The best constant rate that a search found is worse still than this schedule."""
    task, config = made(name), GOOD[name]
    constant, decayed = (task.initial(0) for _ in range(2))
    for serial in range(task.generations):
        share = (1 + math.cos(math.pi * serial / task.generations)) / 2
        constant = task.interval(constant, config, serial).state
        decayed = task.interval(decayed, {**config, "lr": 2 * config["lr"] * share}, serial).state
    assert task.test(decayed) < 0.95 * task.test(constant) < 0.9 * task.test(task.initial(0))


@pytest.mark.parametrize("name", NAMES)
def test_a_polish_is_a_short_decay_that_leaves_the_state_as_it_was(name: str) -> None:
    task, config = made(name), {**GOOD[name], "lr": 0.6}
    state = trained(task, config, 3)
    before = task.evaluate(state, 0)[0]
    assert before == task.interval(trained(task, config, 2), config, 2).val
    polished = task.polished(state, config, 5)
    assert polished < before
    assert task.evaluate(state, 1) == (before, 0.0)
    assert polished == task.polished(state, config, 5) != task.polished(state, config, 6)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_keeps_its_velocity(name: str) -> None:
    task = made(name, 0.1)
    state = trained(task, GOOD[name], 1)
    assert np.abs(state.velocity).max() > 0
    still = state._replace(velocity=np.zeros_like(state.velocity))
    one, other = (task.interval(s, GOOD[name], 9).state.weights for s in (state, still))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_networks_merge_to_the_mean_of_their_weights(name: str) -> None:
    task = made(name, 0.1)
    one, other = (task.interval(task.initial(0), GOOD[name], serial).state for serial in (1, 2))
    merged = task.merged([one, other])
    assert merged is not None
    assert np.allclose(2 * merged.weights, one.weights + other.weights)
    assert np.allclose(2 * merged.velocity, one.velocity + other.velocity)
    assert task.merged([one, None]) is None
    assert task.merged([]) is None


@pytest.mark.parametrize("name", NAMES)
def test_what_diverges_scores_the_ceiling_for_ever(name: str) -> None:
    task, config = made(name, 0.1), GOOD[name]
    state = task.initial(0)
    outcome = task.interval(state._replace(weights=np.full_like(state.weights, np.inf)), config, 0, first=True)
    assert outcome.state is None
    again = task.interval(outcome.state, config, 1, first=True)
    told = (outcome.val, outcome.first, again.val, again.first, task.test(None), task.polished(None, config, 0))
    assert set(told) == {descent.CEILING}
    assert task.evaluate(None, 0) == (descent.CEILING, 0.0)
    assert task.errors(None) == 1.0


@pytest.mark.parametrize("name", ["text", "text40", "images"])
def test_no_config_of_the_space_breaks_a_task(name: str) -> None:
    task = made(name, 0.05)
    for serial in range(12):
        config = task.space.sample(random.Random(serial))
        outcome = task.interval(task.initial(serial), config, serial)
        assert 0 < outcome.val <= descent.CEILING
        assert outcome == dataclasses.replace(outcome, error=0.0)
        assert 0 <= task.errors(outcome.state) <= 1
