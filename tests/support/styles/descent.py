"""A numpy solver without any randomness but its start: heavy-ball descent on Rosenbrock's valley, state in JSON."""

import json

import numpy as np

import gpbt_async as gpbt


def train(member):
    lr, momentum = member.config["lr"], member.config["momentum"]
    x, v = np.random.uniform(-2, 2, 2), np.zeros(2)
    if member.parent is not None:
        state = json.loads((member.parent / "state.json").read_text())
        x, v = np.array(state["x"]), np.array(state["v"])
    for _ in range(100):
        gradient = np.array([-2 * (1 - x[0]) - 400 * x[0] * (x[1] - x[0] ** 2), 200 * (x[1] - x[0] ** 2)])
        v = momentum * v - lr * gradient / max(1.0, np.linalg.norm(gradient) / 10)
        x = x + v
    member.report(value=(1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
    (member.checkpoint / "state.json").write_text(json.dumps({"x": x.tolist(), "v": v.tolist()}))


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-5, 1e-2, log=True), "momentum": gpbt.Float(0, 0.95)},
    score="value",
    mode="min",
)
