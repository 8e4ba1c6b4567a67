"""LightGBM: every interval adds trees to the parent's model (init_model=…)."""

import lightgbm as lgb
import numpy as np
from sklearn.datasets import load_breast_cancer

import gpbt_async as gpbt

X, y = load_breast_cancer(return_X_y=True)
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order], y[order]


def train(member):
    params = {
        "objective": "binary",
        "metric": "binary_logloss",
        "verbosity": -1,
        "num_threads": 1,
        "seed": member.seed % 2**31,
        "learning_rate": member.config["learning_rate"],
        "num_leaves": member.config["num_leaves"],
        "feature_fraction": member.config["feature_fraction"],
    }
    train_set = lgb.Dataset(X[:400], label=y[:400], free_raw_data=False)
    valid_set = lgb.Dataset(X[400:], label=y[400:], reference=train_set, free_raw_data=False)
    evals = {}
    booster = lgb.train(
        params,
        train_set,
        num_boost_round=5,
        valid_sets=[valid_set],
        valid_names=["valid"],
        callbacks=[lgb.record_evaluation(evals)],
        init_model=member.parent / "model.txt" if member.parent else None,
    )
    member.report(logloss=evals["valid"]["binary_logloss"][-1])
    booster.save_model(member.checkpoint / "model.txt")


experiment = gpbt.Experiment(
    train,
    space={
        "learning_rate": gpbt.Float(1e-2, 0.5, log=True),
        "num_leaves": gpbt.Int(4, 31),
        "feature_fraction": gpbt.Float(0.3, 1),
    },
    score="logloss",
    mode="min",
)
