"""A torch-free experiment whose checkpoint is the list of configs that led to it."""

import json
import os
import time

import gpbt_async as gpbt


def train(member: gpbt.Member) -> None:
    past = json.loads((member.parent / "past.json").read_text()) if member.parent is not None else []
    past.append(dict(member.config))
    time.sleep(float(os.environ.get("TRAIN_SECONDS", "0")) * (0.4 + 1.2 * (member.seed % 1000 / 1000)))
    member.report(loss=sum((c["x"] - 0.3) ** 2 for c in past) / len(past), depth=len(past))
    (member.checkpoint / "past.json").write_text(json.dumps(past))


def train_in_steps(member: gpbt.Member) -> None:
    """Four reports; the first one tells how it will end."""
    loss = (float(member.config["x"]) - 0.3) ** 2
    for step in range(4):
        member.report(loss=loss, step=step)
        time.sleep(0.02)
    (member.checkpoint / "past.json").write_text("[]")


def train_and_stop_itself(member: gpbt.Member) -> None:
    member.report(loss=1.0)
    raise gpbt.Stopped("bad")


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
