"""Members that fill a disk, hang, or check what they are given; told how by the environment."""

import os
import signal
import subprocess
import time

import gpbt_async as gpbt

HANGS = os.environ.get("HANGS", "")
KIB = int(os.environ.get("KIB", "4"))


def train(member):
    if HANGS and member.id == 2 and member.attempt == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        while HANGS == "silent":
            time.sleep(1)
        while True:
            member.report(score=0.0)
            time.sleep(0.01)
    if os.path.exists("gone"):
        raise FileNotFoundError("the data are gone")
    if member.parent is not None:
        assert (member.parent / "weights").read_bytes().startswith(b"of ")
    (member.checkpoint / "weights").write_bytes(b"of %d " % member.id + os.urandom(KIB << 10))
    while os.path.exists("hold") or (member.generation and os.path.exists("hold children")):
        time.sleep(0.01)
    member.report(score=member.config["x"])


experiment = gpbt.Experiment(
    train,
    space={"x": gpbt.Float(0.0, 1.0)},
    score="score",
    mode="max",
    population=int(os.environ.get("POPULATION", "6")),
    generations=3,
    searcher="random",
)
