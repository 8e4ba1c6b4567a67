"""lineage.py with a metric that selects no parent, by which the final choice is made."""

import lineage

import gpbt_async as gpbt


def train(member: gpbt.Member) -> None:
    lineage.train(member)
    member.report(holdout=abs(float(member.config["x"]) - 0.5), fold=member.fold(5), rows=len(member.fold(11, of=5)))


experiment = gpbt.Experiment(
    train,
    space=lineage.experiment.settings.space,
    score="loss",
    mode="min",
    choose_by=("holdout", "min"),
    population=6,
    generations=4,
    searcher="random",
    resources=gpbt.Resources(gpus=0),
)
