"""XGBoost: every interval adds trees to the parent's booster (xgb_model=…)."""

import numpy as np
import xgboost as xgb
from sklearn.datasets import load_diabetes

import gpbt_async as gpbt

X, y = load_diabetes(return_X_y=True)
order = np.random.RandomState(0).permutation(len(X))
train_idx, valid_idx = order[:300], order[300:]


def train(member):
    dtrain = xgb.DMatrix(X[train_idx], label=y[train_idx])
    dvalid = xgb.DMatrix(X[valid_idx], label=y[valid_idx])
    params = {
        "objective": "reg:squarederror",
        "eval_metric": "rmse",
        "nthread": 1,
        "seed": member.seed % 2**31,
        **member.config,
    }
    history = {}
    booster = xgb.train(
        params,
        dtrain,
        num_boost_round=5,
        evals=[(dvalid, "valid")],
        evals_result=history,
        verbose_eval=False,
        xgb_model=str(member.parent / "model.json") if member.parent else None,
    )
    for rmse in history["valid"]["rmse"]:
        member.report(rmse=rmse)
    booster.save_model(member.checkpoint / "model.json")


experiment = gpbt.Experiment(
    train,
    space={
        "eta": gpbt.Float(1e-2, 0.5, log=True),
        "max_depth": gpbt.Int(2, 6),
        "subsample": gpbt.Float(0.5, 1),
        "lambda": gpbt.Float(1e-3, 10, log=True),
    },
    score="rmse",
    mode="min",
)
