"""Members that only sleep, so that what a scheduler uses meanwhile is what watching costs it."""

import time

import gpbt_async as gpbt


def train(member):
    time.sleep(3600)
    (member.checkpoint / "weights").write_text("")
    member.report(score=member.config["x"])


experiment = gpbt.Experiment(
    train, space={"x": gpbt.Float(0.0, 1.0)}, score="score", mode="max", population=8, generations=1, searcher="random"
)
