"""Lightning: a LightningModule whose configure_optimizers returns a scheduler too, two epochs an interval."""

import warnings

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gpbt_async as gpbt

warnings.filterwarnings("ignore")


class LitClassifier(pl.LightningModule):
    def __init__(self, hidden_dim=16, learning_rate=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 2))
        self.loss = nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self.net(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


def loaders():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(320, 8, generator=g)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return (
        DataLoader(TensorDataset(x[:256], y[:256]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(x[256:], y[256:]), batch_size=64),
    )


def train(member):
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=member.checkpoint,
        callbacks=[gpbt.lightning.MemberCallback(member)],
    )  # fmt: skip
    trainer.fit(LitClassifier(), *loaders())


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-4, 1e-1, log=True), "weight_decay": gpbt.Float(1e-5, 1e-1, log=True)},
    score="val_loss",
    mode="min",
)
