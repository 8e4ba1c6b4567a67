"""A member that is not a Python program: valley.awk, which every machine can run, descends a curved valley.

    gpbt-async launch examples/valley.py

The run searches a schedule of learning rate and momentum. The program gets its parent's and its own folder by
environment variables (`gpbt-async guide member`), and its config by {placeholders}. Its output goes to the member's
log.
"""

from pathlib import Path

import gpbt_async as gpbt

PROGRAM = Path(__file__).resolve().with_name("valley.awk")

experiment = gpbt.Experiment(
    command=["awk", "-v", "lr={lr}", "-v", "momentum={momentum}", "-f", str(PROGRAM)],
    space={"lr": gpbt.Float(1e-5, 1e-2, log=True), "momentum": gpbt.Float(0.0, 0.99)},
    score="height", mode="min", population=8, generations=6, resources=gpbt.Resources(gpus=0),
)  # fmt: skip
