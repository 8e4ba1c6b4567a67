"""A DataLoader of two workers, whose dataset reads its augmentation from the config in the worker."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

import gpbt_async as gpbt


class Noisy(Dataset):
    def __init__(self, config):
        self.config = config
        g = torch.Generator().manual_seed(0)
        self.x = torch.randn(256, 8, generator=g)
        self.y = (self.x.sum(1, keepdim=True) > 0).float()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + self.config["noise"] * torch.randn(8), self.y[i]


def train(member):
    data = Noisy(member.config)
    loader = DataLoader(data, batch_size=32, shuffle=True, num_workers=2)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gpbt.torch.begin(member, model, optimizer)
    for x, y in loader:
        loss = F.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        member.report(loss=F.binary_cross_entropy_with_logits(model(data.x), data.y))
    gpbt.torch.save(member, model, optimizer)


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-3, 1, log=True), "noise": gpbt.Float(0, 1)},
    score="loss",
    mode="min",
)
