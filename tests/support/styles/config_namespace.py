"""A config that becomes an argparse.Namespace over the defaults of a parser."""

import argparse

import numpy as np

import gpbt_async as gpbt

A = np.random.default_rng(0).normal(size=(40, 5))
B = A @ np.arange(5.0) + np.random.default_rng(1).normal(size=40)


def parse(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args(argv)


def train(member):
    args = parse([])
    vars(args).update(member.config)
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
