"""The same 80 intervals without a scheduler: `bare_digits.py fork|resident FOLDER`.

The parent has imported everything and used the optimizer once. "fork" forks a child for every interval, two at a time;
"resident" forks two children, and each takes interval after interval. No search, no selection, nothing durable.
"""

import os
import sys
import time

import network
import torch

HOW, FOLDER, POPULATION, GENERATIONS, SLOTS = sys.argv[1], sys.argv[2], 8, 10, 2
MEMBERS = POPULATION * GENERATIONS


def train(number):
    parent, mine = os.path.join(FOLDER, str(number - POPULATION)), os.path.join(FOLDER, str(number))
    while number >= POPULATION and not os.path.exists(os.path.join(parent, "done")):
        time.sleep(0.001)  # the other process still trains it
    os.makedirs(mine)
    network.interval(parent if number >= POPULATION else None, mine, lr=0.01 * (1 + number % POPULATION))
    with open(os.path.join(mine, "done"), "w"):
        pass


def forked(work):
    if os.fork() == 0:
        work()
        os._exit(0)


def take(queue):
    while number := os.read(queue, 1):
        train(number[0])


model, optimizer = network.build(0.0)
for weight in model.parameters():
    weight.grad = torch.zeros_like(weight)
optimizer.step()
if HOW == "fork":
    for number in range(MEMBERS):
        if number >= SLOTS and os.wait()[1]:
            sys.exit("a child failed")
        forked(lambda number=number: train(number))
else:
    queue, fill = os.pipe()
    os.write(fill, bytes(range(MEMBERS)))
    os.close(fill)
    for _ in range(SLOTS):
        forked(lambda: take(queue))
for _ in range(SLOTS):
    if os.wait()[1]:
        sys.exit("a child failed")
