"""scikit-learn: SGDClassifier.partial_fit, a fixed split by random_state, and arrays saved with numpy."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import gpbt_async as gpbt

X, y = load_breast_cancer(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.3, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train, X_val = scaler.transform(X_train), scaler.transform(X_val)


def train(member):
    cfg = member.config
    clf = SGDClassifier(
        loss="log_loss", penalty=cfg["penalty"], alpha=cfg["alpha"], learning_rate="constant", eta0=cfg["eta0"]
    )
    clf.partial_fit(X_train[:2], y_train[:2], classes=np.unique(y))
    if member.parent:
        saved = np.load(member.parent / "weights.npz")
        clf.coef_, clf.intercept_ = saved["coef"], saved["intercept"]
    for _ in range(2):
        order = np.random.permutation(len(X_train))
        for idx in np.array_split(order, 10):
            clf.partial_fit(X_train[idx], y_train[idx])
        member.report(log_loss=log_loss(y_val, clf.predict_proba(X_val)), accuracy=clf.score(X_val, y_val))
    np.savez(member.checkpoint / "weights.npz", coef=clf.coef_, intercept=clf.intercept_)


experiment = gpbt.Experiment(
    train,
    space={
        "alpha": gpbt.Float(1e-6, 1e-1, log=True),
        "eta0": gpbt.Float(1e-4, 1e-1, log=True),
        "penalty": gpbt.Choice(["l2", "l1", "elasticnet"]),
    },
    score="log_loss",
    mode="min",
)
