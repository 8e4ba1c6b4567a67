"""scikit-learn: MLPClassifier by partial_fit, recreated from its config, with the parent's weights put into it."""

import numpy as np
from sklearn.datasets import load_iris
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import gpbt_async as gpbt

X, y = load_iris(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0, stratify=y)


def train(member):
    model = MLPClassifier(hidden_layer_sizes=(8,), **member.config)
    model.partial_fit(X_train[:3], y_train[:3], classes=np.arange(3))
    if member.parent is not None:
        with np.load(member.parent / "mlp.npz") as saved:
            model.coefs_ = [saved["w0"], saved["w1"]]
            model.intercepts_ = [saved["b0"], saved["b1"]]
    for epoch in range(5):
        model.partial_fit(X_train, y_train)
        loss = log_loss(y_test, model.predict_proba(X_test))
        member.report(loss=loss, accuracy=model.score(X_test, y_test), epoch=epoch)
    (w0, w1), (b0, b1) = model.coefs_, model.intercepts_
    np.savez(member.checkpoint / "mlp.npz", w0=w0, w1=w1, b0=b0, b1=b1)


experiment = gpbt.Experiment(
    train,
    space={"learning_rate_init": gpbt.Float(1e-4, 1e-1, log=True), "alpha": gpbt.Float(1e-6, 1e-1, log=True)},
    score="loss",
    mode="min",
)
