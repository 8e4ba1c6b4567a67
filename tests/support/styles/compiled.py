"""A torch.compile'd model: trained through its wrapper, saved and loaded without it. (This backend compiles fast.)"""

import torch
import torch.nn.functional as F

import gpbt_async as gpbt

G = torch.Generator().manual_seed(0)
X = torch.randn(256, 8, generator=G)
Y = X[:, :1] * X[:, 1:2]


def train(member):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    model = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    gpbt.torch.begin(member, model, optimizer)
    for _ in range(20):
        loss = F.mse_loss(model(X[:192]), Y[:192])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        member.report(mse=F.mse_loss(model(X[192:]), Y[192:]))
    gpbt.torch.save(member, model, optimizer)


experiment = gpbt.Experiment(train, space={"lr": gpbt.Float(1e-4, 1e-1, log=True)}, score="mse", mode="min")
