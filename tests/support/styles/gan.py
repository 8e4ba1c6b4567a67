"""A GAN: generator and discriminator in one container, an optimizer for each, both handed to begin and save."""

import torch
from torch import nn

import gpbt_async as gpbt


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))


def real(n):
    angle = torch.rand(n) * 6.2832
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


def distance(gan):
    """How far the samples' radii and means are from the ring's."""
    with torch.no_grad():
        fake = gan.generator(torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)))
    return (fake.norm(dim=1) - 1).abs().mean() + fake.mean(0).norm()


def train(member):
    gan, bce = Gan(), nn.BCEWithLogitsLoss()
    opt_g = torch.optim.Adam(gan.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(gan.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    gpbt.torch.begin(member, gan, [opt_g, opt_d])
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
    for step in range(60):
        fake = gan.generator(torch.randn(64, 4))
        loss_d = bce(gan.discriminator(real(64)), ones * (1 - member.config["smoothing"]))
        loss_d = loss_d + bce(gan.discriminator(fake.detach()), zeros)
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        loss_g = bce(gan.discriminator(fake), ones)
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        if step % 20 == 19:
            member.report(distance=distance(gan), loss_g=loss_g, loss_d=loss_d)
    gpbt.torch.save(member, gan, [opt_g, opt_d])


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-4, 1e-2, log=True), "smoothing": gpbt.Float(0, 0.3)},
    score="distance",
    mode="min",
)
