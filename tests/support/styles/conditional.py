"""What a Choice decides is read: sgd has a momentum, adam a beta2; neither is read with the other."""

import torch
import torch.nn.functional as F

import gpbt_async as gpbt

G = torch.Generator().manual_seed(0)
X = torch.randn(256, 8, generator=G)
Y = X[:, :1].sin() + 0.1 * torch.randn(256, 1, generator=G)


def make(config, parameters):
    if config["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, lr=config["lr"], momentum=config["momentum"])
    return torch.optim.Adam(parameters, lr=config["lr"], betas=(0.9, config["beta2"]))


def train(member):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    if member.parent is not None:
        model.load_state_dict(torch.load(member.parent / "model.pt", weights_only=True))
    optimizer = make(member.config, model.parameters())
    for _ in range(20):
        loss = F.mse_loss(model(X[:192]), Y[:192])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        member.report(mse=F.mse_loss(model(X[192:]), Y[192:]))
    torch.save(model.state_dict(), member.checkpoint / "model.pt")


experiment = gpbt.Experiment(
    train,
    space={
        "optimizer": gpbt.Choice(["sgd", "adam"]),
        "lr": gpbt.Float(1e-4, 1e-1, log=True),
        "momentum": gpbt.Float(0, 0.95),
        "beta2": gpbt.Float(0.9, 0.9999),
    },
    score="mse",
    mode="min",
)
