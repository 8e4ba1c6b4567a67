"""A Lightning module: what a Trainer imports when it first fits is imported inside train."""

import warnings

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gpbt_async as gpbt

warnings.filterwarnings("ignore")


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loaders():
    x = torch.randn(320, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * x[:, 1] > 0).long()
    train, val = TensorDataset(x[:256], y[:256]), TensorDataset(x[256:], y[256:])
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=64)


def train(member):
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=member.checkpoint,
        callbacks=[gpbt.lightning.MemberCallback(member)],
    ).fit(Classifier(), *loaders())  # fmt: skip


space = {"lr": gpbt.Float(1e-4, 1e-1, log=True)}
experiment = gpbt.Experiment(train, space=space, score="val_loss", mode="min", population=6, generations=2)
