"""The network of the module beside this script as members: nothing here says what training imports on its first use."""

import network

import gpbt_async as gpbt


def train(member):
    member.report(loss=network.interval(member.parent, member.checkpoint, member.config["lr"]))


space = {"lr": gpbt.Float(1e-3, 1.0, log=True)}
experiment = gpbt.Experiment(train, space=space, score="loss", mode="min", population=8, generations=10)
