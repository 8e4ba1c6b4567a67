"""Members that do nothing but read their parent's megabyte and write their own, without torch."""

import gpbt_async as gpbt

WEIGHTS = bytes(1_000_000)


def train(member):
    weights = (member.parent / "model.bin").read_bytes() if member.parent is not None else WEIGHTS
    member.report(score=member.config["x"])
    (member.checkpoint / "model.bin").write_bytes(weights)


space = {"x": gpbt.Float(0, 1)}
experiment = gpbt.Experiment(train, space=space, score="score", mode="max", population=8, generations=10)
