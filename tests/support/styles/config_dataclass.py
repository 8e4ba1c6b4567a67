"""A config that becomes a dataclass of the script's: Config(**member.config)."""

from dataclasses import dataclass

import numpy as np

import gpbt_async as gpbt

A = np.random.default_rng(0).normal(size=(40, 5))
B = A @ np.arange(5.0) + np.random.default_rng(1).normal(size=40)


@dataclass
class Config:
    lr: float
    decay: float = 0.0
    steps: int = 20


def train(member):
    args = Config(**member.config)
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
