"""Members that play having GPUs: what they take is told to the stub of NVML, and all they do to an independent log.

What they do is said by files in the folder named by PLAY: `log`, appended to; `mib`, what each takes; `seconds`, how
long each trains; `hold`, while it is there members that have started do not end.
"""

import fcntl
import os
import time
from pathlib import Path

import gpbt_async as gpbt

PLAY = Path(os.environ["PLAY"])
STATE = Path(os.environ["NVML_STUB_STATE"])
OPTIONS = dict(line.split("=", 1) for line in (PLAY / "options").read_text().splitlines())


def number(name, default):
    try:
        return float((PLAY / name).read_text())
    except FileNotFoundError:
        return default


def log(*words):
    with open(PLAY / "log", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(" ".join(map(str, words)) + "\n")


def taken(uuid):
    """MiB that the living take of a GPU."""
    total = 0
    for file in Path(f"{STATE}.d").glob("[0-9]*"):
        for line in file.read_text().splitlines():
            _, gpu, pid, mib = line.split()
            if gpu == uuid and Path(f"/proc/{pid}").exists():
                total += int(mib)
    return total


def train(member):
    gpus = [uuid for uuid in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if uuid]
    pid, mib = os.getpid(), int(number("mib", 1000))
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    log(
        "in", pid, member.id, member.attempt, ",".join(gpus) or "-", member.device, os.environ["OMP_NUM_THREADS"], cores
    )
    try:
        with open(PLAY / "memory", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for uuid in gpus:
                if taken(uuid) + mib > number("total", 40960):
                    raise MemoryError("CUDA out of memory. Tried to allocate more than there is")
            (Path(f"{STATE}.d") / str(pid)).write_text("".join(f"proc {uuid} {pid} {mib}\n" for uuid in gpus))
        until = time.monotonic() + number("seconds", 0.05)
        while time.monotonic() < until or (PLAY / "hold").exists():
            if (PLAY / "fail").exists() and member.attempt == 1:
                raise RuntimeError("CUDA error: unspecified launch failure")
            time.sleep(0.005)
        if member.parent is not None:
            assert (member.parent / "weights").read_text()
        (member.checkpoint / "weights").write_text(str(member.id))
        member.report(score=member.config["x"])
    finally:
        log("out", pid, member.id, member.attempt, ",".join(gpus) or "-")


experiment = gpbt.Experiment(
    train,
    space={"x": gpbt.Float(0.0, 1.0)},
    score="score",
    mode="max",
    population=int(OPTIONS.get("population", 8)),
    generations=int(OPTIONS.get("generations", 2)),
    searcher="random",
    resources=gpbt.Resources(gpus=int(OPTIONS.get("gpus", 1))),
)
