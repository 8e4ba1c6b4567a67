"""A torch-free experiment whose checkpoint is the list of configs that led to it."""

import json
import os
import time

import gpbt_async as gpbt


def train(member: gpbt.Member) -> None:
    past = json.loads((member.parent / "past.json").read_text()) if member.parent is not None else []
    past.append(dict(member.config))
    time.sleep(float(os.environ.get("TRAIN_SECONDS", "0")))
    member.report(loss=sum((c["x"] - 0.3) ** 2 for c in past) / len(past), depth=len(past))
    (member.checkpoint / "past.json").write_text(json.dumps(past))


experiment = gpbt.Experiment(
    train,
    space={"x": gpbt.Float(0, 1), "n": gpbt.Int(1, 100, log=True), "kind": gpbt.Choice(["a", "b", None])},
    score="loss",
    mode="min",
    population=6,
    generations=4,
    searcher="random",
    resources=gpbt.Resources(gpus=0),
)
