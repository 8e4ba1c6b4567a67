"""A network for scikit-learn's digits, its optimizer and its checkpoint, in a module of their own, as people keep them.

An interval of training takes about 0.1 s on one core. Every peer of members.py calls these functions and nothing else,
and `fit` writes when it began and ended, so that all of them are timed by the same clock.
"""

import os
import time

import torch
from sklearn.datasets import load_digits
from torch import nn

_images, _labels = load_digits(return_X_y=True)
X, Y = torch.tensor(_images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(_labels)
#: rows for training; the others are for validation
TRAIN = 1200


def build(lr):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )
    return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def fit(model, optimizer):
    """Train for one interval; returns the validation loss."""
    began = time.time()
    for _ in range(3):
        for rows in torch.randperm(TRAIN).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model(X[TRAIN:]), Y[TRAIN:]))
    log = os.open(os.environ["MEMBERS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{began} {time.time()} {os.getpid()}\n".encode())
    os.close(log)
    return loss


def save(folder, model, optimizer):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, os.path.join(folder, "model.pt"))


def load(folder, model, optimizer):
    """Read weights and momentum; the learning rate stays that of the config."""
    saved, lr = torch.load(os.path.join(folder, "model.pt"), weights_only=True), optimizer.param_groups[0]["lr"]
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    optimizer.param_groups[0]["lr"] = lr


def interval(parent, folder, lr):
    """Build, read the parent's checkpoint if there is one, train, write a checkpoint; returns the loss."""
    model, optimizer = build(lr)
    if parent is not None:
        load(parent, model, optimizer)
    loss = fit(model, optimizer)
    save(folder, model, optimizer)
    return loss
