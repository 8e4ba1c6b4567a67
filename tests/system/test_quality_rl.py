"""The benchmark's tasks of reinforcement learning: agents are values, learning is real, returns become losses."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.append(str(BENCH))

from quality import agents, games, rl, tasks  # noqa: E402

#: a config that learns, and after how many intervals its test loss is below which share of an untrained agent's
LEARNS: dict[str, tuple[dict[str, Any], int, float]] = {
    "swingup": (
        {"lr": 0.015, "clip": 0.2, "entropy": 0.03, "lambda": 0.85, "foresight": 0.06, "epochs": 4, "batch": 256},
        12,
        0.6,
    ),
    "harvest": ({"lr": 0.01, "epsilon": 0.1, "lambda": 0.7, "foresight": 0.15, "epochs": 2, "batch": 128}, 12, 0.6),
}
NAMES = sorted(LEARNS)


def arrays(agent: agents.Agent) -> list[np.ndarray]:
    return [agent.weights, agent.moment, agent.square, agent.mean, agent.variance]


def same(one: agents.Agent, other: agents.Agent) -> bool:
    equal = all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))
    return equal and (one.updates, one.count) == (other.updates, other.count)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def trained(name: str, intervals: int, start: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """The task, the state after so many intervals of the config that learns, and that config."""
    task, config = tasks.make(name, 0), LEARNS[name][0]
    state = task.initial(start)
    for i in range(intervals):
        state = task.interval(state, config, i).state
    return task, state, config


def test_an_interval_depends_on_its_arguments_alone_and_leaves_the_state(name: str) -> None:
    task, state, config = trained(name, 1)
    before = [a.copy() for a in arrays(state)]
    one, again, other = (task.interval(state, config, seed, first=True) for seed in (7, 7, 8))
    assert (one.val, one.first, one.error) == (again.val, again.first, again.error)
    assert same(one.state, again.state)
    assert not same(one.state, other.state)
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays(state), strict=True))
    assert task.interval(state, config, 7).first is None


def test_a_child_goes_on_from_the_moments_and_the_normaliser(name: str) -> None:
    task, state, config = trained(name, 2)
    assert state.updates > 0
    bare = agents.fresh(state.weights, len(state.mean))
    assert task.interval(state, config, 5).val != task.interval(bare, config, 5).val


@pytest.mark.slow
def test_learning_beats_an_untrained_agent(name: str) -> None:
    task, state, _ = trained(name, LEARNS[name][1])
    assert task.test(state) < LEARNS[name][2] * task.test(task.initial(0))


def test_an_evaluation_tells_its_own_error(name: str) -> None:
    task, state, config = trained(name, 2)
    outcome = task.interval(state, config, 3)
    assert task.evaluate(outcome.state, 3) == (outcome.val, outcome.error)
    told = np.array([task.evaluate(state, seed) for seed in range(60)])
    spread, error = told[:, 0].std(ddof=1), math.sqrt((told[:, 1] ** 2).mean())
    assert 0.6 < error / spread < 1.6
    assert abs(told[:, 0].mean() - task.test(state)) < 5 * spread / math.sqrt(len(told))


def test_polishing_measures_a_little_more_training_and_leaves_the_state(name: str) -> None:
    task, state, config = trained(name, 2)
    before = [a.copy() for a in arrays(state)]
    polished = task.polished(state, config, 4)
    assert polished == task.polished(state, config, 4)
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays(state), strict=True))
    still = task.polished(state, {**config, "lr": 1e-30}, 4)
    assert polished != still, "a learning rate changes what is measured"
    assert 0 < still <= agents.CEILING


def test_the_mean_of_equal_states_is_that_state(name: str) -> None:
    task, state, config = trained(name, 1)
    assert same(task.merged([state, state, state]), state)
    other = task.interval(state, config, 9).state
    mixed = task.merged([state, other])
    assert np.allclose(mixed.weights, (state.weights.astype(float) + other.weights) / 2, atol=1e-6)
    assert task.merged([state, None]) is None


def test_a_diverged_agent_scores_the_ceiling_for_ever(name: str) -> None:
    task, state, config = trained(name, 1)
    broken = agents.replace(state, weights=np.full_like(state.weights, np.nan))
    outcome = task.interval(broken, config, 0, first=True)
    assert outcome.state is None
    assert outcome.val == outcome.first == task.test(None) == task.polished(None, config, 0) == agents.CEILING
    assert task.evaluate(None, 0) == (agents.CEILING, 0.0)
    assert task.interval(None, config, 1).val == agents.CEILING


def test_any_config_of_the_space_gives_a_loss(name: str) -> None:
    task, rng = tasks.make(name, 3), random.Random(0)
    for start in range(8):
        outcome = task.interval(task.initial(start), task.space.sample(rng), start)
        assert agents.FLOOR <= outcome.val <= agents.CEILING
        assert agents.FLOOR <= task.test(outcome.state) <= agents.CEILING


def test_returns_become_the_share_that_was_missed() -> None:
    loss, error = agents.loss_of(np.array([10.0, 30.0, 20.0]), 40.0)
    assert loss == pytest.approx(0.5)
    assert error == pytest.approx(0.25 / math.sqrt(3))
    assert agents.loss_of(np.full(4, 40.0), 40.0) == (agents.FLOOR, 0.0)
    assert agents.loss_of(np.array([np.nan, 1.0]), 40.0) == (agents.CEILING, 0.0)


def test_ppo_follows_the_gradient_of_its_loss() -> None:
    rng = np.random.default_rng(0)
    n, clip, entropy = 40, 0.2, 0.03
    weights = tasks.make("swingup", 0).initial(0).weights.astype(np.float64)
    weights += 0.1 * rng.standard_normal(len(weights))
    hidden = rl.SwingUp.HIDDEN
    z, actions, gains, aims = rng.standard_normal((n, 5)), *rng.standard_normal((3, n))
    net = rl.Networks(weights, hidden)
    old = rl.density((actions - net.policy(z)) / net.spread, net.log_spread) + 0.2 * rng.standard_normal(n)
    batch = rl.Batch(z, actions, old, gains, aims)

    def loss(w: np.ndarray) -> float:
        net = rl.Networks(w, hidden)
        ratio = np.exp(rl.density((actions - net.policy(z)) / net.spread, net.log_spread) - old)
        surrogate = np.minimum(ratio * gains, np.clip(ratio, 1 - clip, 1 + clip) * gains).mean()
        return float(-surrogate + ((net.value(z) - aims) ** 2).mean() / 2 - entropy * net.log_spread)

    told = net.gradient(batch, clip, entropy)
    for i in [*rng.choice(len(weights), 40, replace=False), *range(len(weights) - 5, len(weights))]:
        step = np.zeros_like(weights)
        step[i] = 1e-6
        assert told[i] == pytest.approx((loss(weights + step) - loss(weights - step)) / 2e-6, rel=1e-3, abs=1e-6)


def test_q_learning_follows_the_gradient_of_its_loss() -> None:
    rng = np.random.default_rng(0)
    hidden, n = games.Harvest.HIDDEN, 30
    weights = tasks.make("harvest", 0).initial(0).weights.astype(np.float64)
    weights += 0.1 * rng.standard_normal(len(weights))
    seen, actions, aims = rng.standard_normal((n, games.INPUTS)), rng.integers(3, size=n), rng.standard_normal(n)

    def loss(w: np.ndarray) -> float:
        return float(((games.Values(w, hidden)(seen)[np.arange(n), actions] - aims) ** 2).mean() / 2)

    told = games.Values(weights, hidden).gradient(seen, actions, aims)
    for i in [*rng.choice(len(weights), 40, replace=False), *range(len(weights) - 5, len(weights))]:
        step = np.zeros_like(weights)
        step[i] = 1e-6
        assert told[i] == pytest.approx((loss(weights + step) - loss(weights - step)) / 2e-6, rel=1e-3, abs=1e-6)


def test_aims_mix_what_came_and_what_was_expected() -> None:
    best, rewards = np.array([[9.0], [2.0], [4.0]]), np.array([[1.0], [0.0]])
    aims = games.aimed(best, rewards, gamma=0.5, lam=0.25)
    assert aims.ravel() == pytest.approx([1.0 + 0.5 * (0.25 * 2.0 + 0.75 * 2.0), 2.0])
    assert games.aimed(best, rewards, gamma=0.5, lam=1.0).ravel() == pytest.approx([1.0 + 0.5 * 2.0, 2.0])


@pytest.mark.parametrize("seed", range(3))
def test_every_piece_of_fruit_can_be_caught_on_firm_ground(seed: int) -> None:
    task: Any = tasks.make("harvest", seed)
    orchards, breeze = games.Orchards(task.breeze), task.breeze
    orchards.SLIP = 1e-12  # type: ignore[misc]
    rng = np.random.default_rng(seed)
    state = orchards.begun(50, rng)
    state[0] = state[1] = 4  # one begins below the lower piece, whose way is in reach
    caught = np.zeros(50)
    for step in range(12 * games.PERIOD):
        basket, lower, _, phase = state
        left = np.array([breeze[games.PERIOD + p :].sum() for p in phase])
        away = (lower + left) % games.WIDTH - basket
        state, landed = orchards.moved(state, np.sign(away) + 1, rng.random((2, 50)))
        caught += landed & (step >= 2 * games.PERIOD)
    assert (caught == 10).all()


def test_the_ground_is_as_slippery_as_it_says() -> None:
    task: Any = tasks.make("harvest", 0)
    state = games.Orchards(task.breeze).begun(30_000, np.random.default_rng(0))
    state[0] = 4
    after, _ = games.Orchards(task.breeze).moved(
        state, np.full(30_000, 2), np.random.default_rng(1).random((2, 30_000))
    )
    shares = np.bincount(after[0], minlength=games.WIDTH)[3:6] / 30_000
    slip = games.Orchards.SLIP
    assert shares == pytest.approx([slip / 3, slip / 3, 1 - slip * 2 / 3], abs=0.005)


def test_advantages_are_the_discounted_sums_of_surprises() -> None:
    values, rewards = np.array([[0.5], [1.0], [2.0]]), np.array([[1.0], [3.0]])
    gains, aims = rl.advantages(values, rewards, gamma=0.5, lam=0.4)
    last = 3.0 + 0.5 * 2.0 - 1.0
    assert gains.ravel() == pytest.approx([1.0 + 0.5 - 0.5 + 0.2 * last, last])
    assert aims == pytest.approx(gains + values[:-1])


def test_a_pole_without_a_push_keeps_its_energy() -> None:
    """The physics: no friction, no force, and the cart far from the ends of the track."""
    carts = rl.Carts(np.array([1.0, 0.2, 0.5, 0.0]))
    carts.STEP = 0.001  # type: ignore[misc]
    state = np.array([[0.0], [0.0], [2.5], [0.0]])

    def energy(state: np.ndarray) -> float:
        _, v, angle, spin = (float(row[0]) for row in state)
        moving = (1.2 * v**2) / 2 + 0.2 * 0.5 * v * spin * math.cos(angle) + 0.2 * 0.25 * spin**2 * (4 / 3) / 2
        return moving + 0.2 * 9.8 * 0.5 * math.cos(angle)

    start, fastest = energy(state), 0.0
    for _ in range(1500):
        state, _ = carts.moved(state, np.zeros(1), np.zeros(1))
        fastest = max(fastest, abs(float(state[3, 0])))
        assert energy(state) == pytest.approx(start, abs=0.01)
    assert fastest > 1, "it swung"
