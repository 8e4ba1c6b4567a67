"""Members that report some numbers a few steps long, one of which fails once; and trackers that do what none should.

They wait at their first report while the file named by HOLD is there.
"""

import os
import signal
import time
from pathlib import Path

import gpbt_async as gpbt


def train(member):
    assert member.config["name"] in ("a", "b,\n", None)
    past = float((member.parent / "x").read_text()) if member.parent else 0.0
    for step in range(3):
        member.report(score=past + member.config["lr"] * (step + 1), loss=float("nan") if step == 0 else 1 / step)
        if member.id == 2 and member.attempt == 1:
            raise RuntimeError("once")
        while step == 0 and os.path.exists(os.environ.get("HOLD", "")):
            time.sleep(0.01)
    (member.checkpoint / "x").write_text(str(past + member.config["lr"] * 3))


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-3, 1.0, log=True), "name": gpbt.Choice(["a", "b,\n", None])},
    score="score",
    mode="max",
    population=4,
    generations=3,
    searcher="random",
    schedule="sync",
    resources=gpbt.Resources(gpus=0),
)


class Raises:
    def reported(self, member, step, metrics, t):
        raise ValueError("no")


class Hangs:
    def started(self, member):
        while True:
            time.sleep(60)


class Dies:
    def started(self, member):
        os.kill(os.getpid(), signal.SIGKILL)


class Leaves:
    def opened(self, run):
        raise SystemExit("enough")


class Lingers:
    """Hears everything slowly and leaves processes behind."""

    def opened(self, run):
        self.file = open(Path(run.folder) / "tracking" / "lingers", "a")  # noqa: SIM115
        if os.fork() == 0:
            os.setsid()
            while True:
                time.sleep(60)

    def ended(self, member, ending):
        time.sleep(0.01)
        self.file.write(f"{member.id} {ending.state} {ending.score}\n")
        self.file.flush()
