"""Tune a small convolutional network on scikit-learn's digits: 1797 real images of 8 × 8 pixels.

With torch and scikit-learn installed (the `examples` extra), about a minute on two cores:

    gpbt-async launch examples/digits.py
    gpbt-async best digits-1 --merge         # one model, the average of several: no further training
    gpbt-async best digits-1 --ensemble 3    # three models, whose predictions are averaged
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD

import gpbt_async as gpbt

EPOCHS = 8  # one interval: what every member trains before it is compared with the others

SPACE = {
    "lr": gpbt.Float(1e-3, 0.3, log=True),
    "momentum": gpbt.Float(0.0, 0.98),
    "weight_decay": gpbt.Float(1e-6, 1e-2, log=True),
    "dropout": gpbt.Float(0.0, 0.6),
    "shift": gpbt.Int(0, 2),  # augmentation: move each image by up to so many pixels
    "batch_size": gpbt.Choice([16, 32, 64, 128]),
}


def load_split() -> list[tuple[Tensor, Tensor]]:
    """Training, validation and test set: the same 1000, 397 and 400 images in every run."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype("float32") / 16
    parts = np.split(np.random.default_rng(0).permutation(len(images)), [1000, 1397])
    return [(torch.from_numpy(images[i]), torch.from_numpy(labels[i])) for i in parts]


# At module level the data is loaded once and shared by every member. It stays on the CPU here: a process
# that has used CUDA cannot be forked.
DATA = load_split()


def build(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(32 * 4 * 4, 10),
    )  # fmt: skip


def shifted(images: Tensor, pixels: int) -> Tensor:
    """Every image moved by its own random offset of at most `pixels` in each direction."""
    windows = F.pad(images, [pixels] * 4).unfold(2, 8, 1).unfold(3, 8, 1)
    down, right = torch.randint(2 * pixels + 1, (2, len(images)), device=images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    model.eval()
    logits = model(images)
    return (logits.argmax(1) == labels).float().mean().item(), F.cross_entropy(logits, labels).item()


@torch.no_grad()
def validate(member: gpbt.Member) -> None:
    """For `best --merge` and `best --ensemble`: train nothing, report what the checkpoints in member.parents score."""
    validation, test = [(x.to(member.device), y.to(member.device)) for x, y in DATA[1:]]
    model = build(member.config["dropout"]).to(member.device).eval()
    metrics = {}
    for part, (images, labels) in {"": validation, "test_": test}.items():
        predictions = gpbt.torch.ensemble(member, model, lambda images=images: model(images).softmax(1))
        metrics[f"{part}accuracy"] = (predictions.argmax(1) == labels).float().mean().item()
        metrics[f"{part}loss"] = F.nll_loss(predictions.log(), labels).item()
    member.report(metrics)


def train(member: gpbt.Member) -> None:
    c = member.config
    (images, labels), validation, test = [(x.to(member.device), y.to(member.device)) for x, y in DATA]
    model = build(c["dropout"]).to(member.device)
    if member.parent is not None:
        weights = torch.load(member.parent / "model.pt", map_location=member.device, weights_only=True)
        model.load_state_dict(weights)
    # Only weights are inherited: momentum gathered under the parent's config says little about this one.
    optimizer = SGD(model.parameters(), lr=c["lr"], momentum=c["momentum"], weight_decay=c["weight_decay"])
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(images), device=member.device).split(c["batch_size"]):
            loss = F.cross_entropy(model(shifted(images[batch], c["shift"])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy, validation_loss = evaluate(model, *validation)
        metrics = {"accuracy": accuracy, "loss": validation_loss}
        if epoch == EPOCHS - 1:  # to be read after the run; nothing is ever selected by it
            metrics["test_accuracy"], _ = evaluate(model, *test)
        member.report(**metrics)
    torch.save(model.state_dict(), member.checkpoint / "model.pt")


# The score is validation loss: accuracy on 397 images soon ties near 1.0 and no longer separates members.
experiment = gpbt.Experiment(
    train, space=SPACE, score="loss", mode="min", population=16, generations=6, validate=validate
)
