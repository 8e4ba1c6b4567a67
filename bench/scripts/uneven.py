"""Members that sleep 0.1 to 0.9 s, by their seed; with UNEVEN_TAIL set, every tenth or so five times as long."""

import os
import random
import time

import gpbt_async as gpbt

TAIL = float(os.environ.get("UNEVEN_TAIL", "0"))


def train(member: gpbt.Member) -> None:
    drawn = random.Random(member.seed)
    seconds = drawn.uniform(0.1, 0.9)
    time.sleep(5 * seconds if drawn.random() < TAIL else seconds)
    member.report(score=member.config["x"])


experiment = gpbt.Experiment(
    train, space={"x": gpbt.Float(0, 1)}, score="score", mode="max", population=8, generations=10
)
