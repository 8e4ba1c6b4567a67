"""The same 80 intervals by Optuna, in two threads: 8 trials of 10 intervals. `optuna_digits.py FOLDER`."""

import os
import sys

import network
import optuna


def objective(trial):
    lr, parent = trial.suggest_float("lr", 1e-3, 1.0, log=True), None
    for step in range(10):
        folder = os.path.join(sys.argv[1], f"{trial.number}-{step}")
        os.makedirs(folder)
        loss = network.interval(parent, folder, lr)
        trial.report(loss, step)
        parent = folder
    return loss


optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.create_study(direction="minimize").optimize(objective, n_trials=8, n_jobs=2)
