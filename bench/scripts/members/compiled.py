"""A network under torch.compile (inductor), made anew by every member; each reports what it has made torch compile."""

import torch
from torch._dynamo.utils import counters

import gpbt_async as gpbt

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :1] * X[:, 1:2]


def compiled():
    return counters["frames"]["total"], counters["stats"]["unique_graphs"]


def train(member):
    frames, graphs = compiled()
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=member.config["lr"])
    if member.parent is not None:
        model.load_state_dict(torch.load(member.parent / "model.pt", weights_only=True))
    fast = torch.compile(model)
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(fast(X), Y)
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), member.checkpoint / "model.pt")
    now = compiled()
    member.report(mse=float(loss), frames=now[0] - frames, graphs=now[1] - graphs)


space = {"lr": gpbt.Float(1e-4, 1e-1, log=True)}
experiment = gpbt.Experiment(train, space=space, score="mse", mode="min", population=4, generations=3)
