"""PyTorch's MNIST example: argparse, train() and test(), DataLoaders, StepLR recreated per interval; on digits."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import gpbt_async as gpbt


class Net(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(8 * 3 * 3, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = self.dropout(F.relu(self.fc1(torch.flatten(x, 1))))
        return F.log_softmax(self.fc2(x), dim=1)


def train_epoch(args, model, device, train_loader, optimizer, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        loss = F.nll_loss(model(data), target)
        loss.backward()
        optimizer.step()
        if batch_idx % args.log_interval == 0:
            print(
                f"Train Epoch: {epoch} [{batch_idx * len(data)}/{len(train_loader.dataset)}]\tLoss: {loss.item():.6f}"
            )


def test(model, device, test_loader):
    model.eval()
    test_loss, correct = 0.0, 0
    with torch.no_grad():
        for data, target in test_loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            test_loss += F.nll_loss(output, target, reduction="sum").item()
            correct += output.argmax(dim=1).eq(target).sum().item()
    return test_loss / len(test_loader.dataset), correct / len(test_loader.dataset)


def datasets():
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(labels)
    return TensorDataset(images[:700], labels[:700]), TensorDataset(images[1000:1500], labels[1000:1500])


def parse():
    parser = argparse.ArgumentParser(description="PyTorch MNIST Example")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--test-batch-size", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--log-interval", type=int, default=10)
    return parser.parse_args()


def main(member):
    args = parse()
    device = torch.device(member.device)
    dataset1, dataset2 = datasets()
    train_loader = DataLoader(dataset1, batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(dataset2, batch_size=args.test_batch_size)
    model = Net(member.config["dropout"]).to(device)
    if member.parent is not None:
        model.load_state_dict(torch.load(member.parent / "mnist_cnn.pt", weights_only=True))
    optimizer = optim.Adadelta(model.parameters(), lr=member.config["lr"])
    scheduler = StepLR(optimizer, step_size=1, gamma=member.config["gamma"])
    for epoch in range(1, args.epochs + 1):
        train_epoch(args, model, device, train_loader, optimizer, epoch)
        loss, accuracy = test(model, device, test_loader)
        member.report(loss=loss, accuracy=accuracy)
        scheduler.step()
    torch.save(model.state_dict(), member.checkpoint / "mnist_cnn.pt")


experiment = gpbt.Experiment(
    main,
    space={"lr": gpbt.Float(0.1, 3, log=True), "gamma": gpbt.Float(0.5, 1), "dropout": gpbt.Float(0, 0.5)},
    score="loss",
    mode="min",
)
