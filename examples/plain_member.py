"""plain.py as a member of a population: the same script, six lines changed.

gpbt-async launch examples/plain_member.py --population 8 --generations 4
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.optim import SGD

import gpbt_async as gpbt

EPOCHS = 3
BATCH = 64


def load():
    """Images and labels, as (training, validation)."""
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, validation = order[:1400], order[1400:]
    return (images[train], labels[train]), (images[validation], labels[validation])


def build():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train_epoch(model, optimizer, images, labels):
    model.train()
    for batch in torch.randperm(len(images)).split(BATCH):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model, images, labels):
    model.eval()
    logits = model(images)
    accuracy = (logits.argmax(1) == labels).float().mean()
    return F.cross_entropy(logits, labels).item(), accuracy.item()


def train(member):
    training, validation = load()
    model = build()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    gpbt.torch.begin(member, model, optimizer)
    for epoch in range(EPOCHS):
        train_epoch(model, optimizer, *training)
        loss, accuracy = evaluate(model, *validation)
        print(f"epoch {epoch}: validation loss {loss:.4f}, accuracy {accuracy:.3f}")
        member.report(loss=loss, accuracy=accuracy)
    gpbt.torch.save(member, model, optimizer)


experiment = gpbt.Experiment(train, space={"lr": gpbt.Float(1e-3, 1, log=True)}, score="loss", mode="min")
