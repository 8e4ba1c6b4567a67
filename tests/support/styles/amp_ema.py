"""A torch recipe: autocast and a GradScaler, clipping, EMA weights, and a cosine that runs on across the intervals."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

import gpbt_async as gpbt

TOTAL, STEPS = 300, 30


def batches(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=g)
    return x, (x[:, :4].sum(1) > x[:, 4:8].prod(1)).long()


TRAIN, VALID = batches(512, 0), batches(256, 1)


@torch.no_grad()
def update(ema, model, decay):
    for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def train(member):
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 2)).to(member.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    scaler = torch.amp.GradScaler(member.device, enabled=member.device == "cuda")
    ema, step = copy.deepcopy(model), 0
    more = gpbt.torch.begin(member, model, optimizer)
    if more:
        ema.load_state_dict(more["ema"])
        step = more["step"]
    else:
        ema.load_state_dict(model.state_dict())
    peak = optimizer.param_groups[0]["lr"]
    for _ in range(STEPS):
        optimizer.param_groups[0]["lr"] = peak * 0.5 * (1 + math.cos(math.pi * min(step, TOTAL) / TOTAL))
        pick = torch.randint(len(TRAIN[0]), (64,))
        with torch.autocast(member.device, dtype=torch.bfloat16):
            loss = F.cross_entropy(model(TRAIN[0][pick]), TRAIN[1][pick], label_smoothing=member.config["smoothing"])
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), member.config["clip"])
        scaler.step(optimizer)
        scaler.update()
        update(ema, model, 0.9)
        step += 1
        if step % 15 == 0:
            with torch.no_grad():
                member.report(loss=F.cross_entropy(ema(VALID[0]), VALID[1]), step=step)
    gpbt.torch.save(member, model, optimizer, ema=ema.state_dict(), step=step)


experiment = gpbt.Experiment(
    train,
    space={
        "lr": gpbt.Float(1e-4, 1e-1, log=True),
        "weight_decay": gpbt.Float(1e-5, 1e-1, log=True),
        "clip": gpbt.Float(0.1, 10, log=True),
        "smoothing": gpbt.Float(0, 0.2),
    },
    score="loss",
    mode="min",
)
