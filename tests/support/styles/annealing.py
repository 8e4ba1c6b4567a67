"""A numpy solver: simulated annealing of a round trip, the best of its lineage being kept and scored."""

import numpy as np

import gpbt_async as gpbt

CITIES = np.random.default_rng(0).random((25, 2))


def length(tour):
    return np.linalg.norm(CITIES[tour] - CITIES[np.roll(tour, -1)], axis=1).sum()


def train(member):
    if member.parent is None:
        current = np.random.permutation(len(CITIES))
        best = current
    else:
        saved = np.load(member.parent / "tours.npz")
        current, best = saved["current"], saved["best"]
    now = length(current)
    for step in range(600):
        temperature = member.config["temperature"] * member.config["cooling"] ** (step / 600)
        i, j = sorted(np.random.randint(len(CITIES), size=2))
        candidate = current.copy()
        candidate[i : j + 1] = candidate[i : j + 1][::-1]
        then = length(candidate)
        if then < now or np.random.rand() < np.exp((now - then) / temperature):
            current, now = candidate, then
            if now < length(best):
                best = current
        if step % 200 == 199:
            member.report(length=length(best), current=now)
    np.savez(member.checkpoint / "tours.npz", current=current, best=best)


experiment = gpbt.Experiment(
    train,
    space={"temperature": gpbt.Float(1e-3, 1, log=True), "cooling": gpbt.Float(1e-3, 1, log=True)},
    score="length",
    mode="min",
)
