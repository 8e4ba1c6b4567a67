"""Members that do nothing but restore their parent's megabyte and save their own."""

import torch

import gpbt_async as gpbt

WEIGHTS = torch.zeros(250_000)


def train(member: gpbt.Member) -> None:
    weights = torch.load(member.parent / "model.pt", weights_only=True) if member.parent is not None else WEIGHTS
    member.report(score=member.config["x"])
    torch.save(weights, member.checkpoint / "model.pt")


experiment = gpbt.Experiment(
    train, space={"x": gpbt.Float(0, 1)}, score="score", mode="max", population=8, generations=10
)
