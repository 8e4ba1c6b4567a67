"""A config that becomes a SimpleNamespace, merged with the script's own settings."""

from types import SimpleNamespace

import numpy as np

import gpbt_async as gpbt

A = np.random.default_rng(0).normal(size=(40, 5))
B = A @ np.arange(5.0) + np.random.default_rng(1).normal(size=40)


DEFAULTS = {"steps": 20}


def train(member):
    args = SimpleNamespace(**(DEFAULTS | member.config))
    w = np.load(member.parent / "w.npy") if member.parent is not None else np.random.randn(5)
    for _ in range(args.steps):
        w = (1 - args.lr * args.decay) * w - args.lr * A[:30].T @ (A[:30] @ w - B[:30]) / 30
    member.report(mse=np.square(A[30:] @ w - B[30:]).mean())
    np.save(member.checkpoint / "w.npy", w)


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-3, 0.5, log=True), "decay": gpbt.Float(1e-6, 1e-1, log=True)},
    score="mse",
    mode="min",
)
