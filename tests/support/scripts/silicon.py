"""Members that use a real GPU: each holds half a GiB of it for a second and tells which one it sees."""

import os
import time

import torch

import gpbt_async as gpbt


def train(member):
    held = torch.zeros(1 << 27, device=member.device)  # 512 MiB
    end = time.monotonic() + float(os.environ.get("SECONDS", "1"))
    while time.monotonic() < end:
        held += 1
    torch.cuda.synchronize()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    print(f"saw {torch.cuda.device_count()} {uuid} told {os.environ['CUDA_VISIBLE_DEVICES']}", flush=True)
    (member.checkpoint / "weights").write_text(str(held[0].item()))
    member.report(score=member.config["x"])


experiment = gpbt.Experiment(
    train, space={"x": gpbt.Float(0.0, 1.0)}, score="score", mode="max", population=6, generations=1, searcher="random"
)
