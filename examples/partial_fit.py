"""Any model that learns a bit at a time: scikit-learn's SGDClassifier, an interval being two passes of `partial_fit`.

    gpbt-async launch examples/partial_fit.py
    gpbt-async best partial_fit-1 --merge

What it has learnt is three arrays and a step count, saved without pickle. With models that can only be pickled, save
what they are made of: a checkpoint is whatever files the training function writes.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

import gpbt_async as gpbt

PASSES = 2
CLASSES = np.arange(10)


def load_split():
    """The same 1200 images to learn from, and 597 to be judged by, in every run."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    learn, judge = order[:1200], order[1200:]
    return images[learn] / 16, labels[learn], images[judge] / 16, labels[judge]


X, Y, X_JUDGE, Y_JUDGE = load_split()  # loaded once, and shared by every member


def build(c, folder):
    """A model with what is in a checkpoint's folder; None = an untrained one."""
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=c["eta0"], alpha=c["alpha"])
    model.partial_fit(X[:1], Y[:1], classes=CLASSES)  # makes the arrays there are to be filled
    if folder is not None:
        with np.load(folder / "model.npz", allow_pickle=False) as learnt:
            model.coef_, model.intercept_, model.t_ = learnt["coef"], learnt["intercept"], float(learnt["t"])
    return model


def train(member):
    c = member.config
    model = build(c, member.parent)
    for _ in range(PASSES):
        order = np.random.permutation(len(X))  # numpy is seeded already, differently in every member
        for batch in np.array_split(order, len(X) // c["batch"]):
            model.partial_fit(X[batch], Y[batch])
        loss = log_loss(Y_JUDGE, model.predict_proba(X_JUDGE), labels=CLASSES)
        member.report(loss=loss, accuracy=model.score(X_JUDGE, Y_JUDGE))
    np.savez(member.checkpoint / "model.npz", coef=model.coef_, intercept=model.intercept_, t=model.t_)


def validate(member):
    """For `best --merge` and `best --ensemble`: the mean prediction of the checkpoints in member.parents."""
    models = [build(member.config, folder) for folder in member.parents]
    predictions = np.mean([model.predict_proba(X_JUDGE) for model in models], axis=0)
    loss = log_loss(Y_JUDGE, predictions, labels=CLASSES)
    member.report(loss=loss, accuracy=np.mean(CLASSES[predictions.argmax(axis=1)] == Y_JUDGE))


experiment = gpbt.Experiment(
    train,
    space={
        "eta0": gpbt.Float(1e-4, 1.0, log=True),
        "alpha": gpbt.Float(1e-7, 1e-2, log=True),
        "batch": gpbt.Choice([50, 100, 400]),
    },
    score="loss", mode="min", population=8, generations=5, resources=gpbt.Resources(gpus=0), validate=validate,
)  # fmt: skip
