"""The work of noop.py without a scheduler: fork from a warm parent, two at a time, 80 times. Prints ms a child.

No search, no selection, nothing durable, no log: a floor for what a scheduler that forks could cost.
"""

import os
import sys
import time

import torch

FOLDER, POPULATION, GENERATIONS, SLOTS = sys.argv[1], 8, 10, 2
WEIGHTS = torch.zeros(250_000)


def train(member: int) -> None:
    parent = member - POPULATION
    weights = torch.load(f"{FOLDER}/{parent}.pt", weights_only=True) if parent >= 0 else WEIGHTS
    torch.save(weights, f"{FOLDER}/{member}.pt")


torch.set_num_threads(1)
begin = time.perf_counter()
for member in range(POPULATION * GENERATIONS):
    if member >= SLOTS and os.wait()[1]:
        sys.exit("a child failed")
    if os.fork() == 0:
        train(member)
        os._exit(0)
for _ in range(SLOTS):
    os.wait()
print(1000 * (time.perf_counter() - begin) / (POPULATION * GENERATIONS))
