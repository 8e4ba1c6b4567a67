"""Members that misbehave, each in one way and once: bench/faults.py copies this file beside a plan and runs it.

Beside it lie `plan.json` (the experiment's settings, and which member misbehaves how), `log` (when a member began and
ended its training, written by the member) and `done/`, where each misbehaviour leaves a file, so that a member that is
trained again behaves.
"""

import contextlib
import ctypes
import json
import os
import random
import resource
import signal
import stat
import subprocess
import time
from pathlib import Path

import gpbt_async as gpbt

HERE = Path(__file__).resolve().parent
TAG = HERE.name
PLAN = json.loads((HERE / "plan.json").read_text())


def log(*words):
    with open(HERE / "log", "ab", buffering=0) as file:
        file.write((" ".join(map(str, words)) + "\n").encode())


def payload(member):
    """What a member's checkpoint must hold: nothing that any other member's could."""
    return random.Random(f"{TAG} {member}").randbytes(4096)


def load(member):
    """The parent's loss; a member that finds another's checkpoint, or half of one, writes a file that says so."""
    if member.parent is None:
        return 0.5
    parent = int(member.parent.parent.name)
    try:
        told = json.loads((member.parent / "told.json").read_text())
        weights = (member.parent / "deep" / "weights.bin").read_bytes()
        if told["member"] != parent or told["generation"] >= member.generation or weights != payload(parent):
            raise ValueError(f"member {member.id} was given {told}, {len(weights)} bytes, as of its parent {parent}")
    except (OSError, ValueError, KeyError) as error:
        (HERE / f"wrong-{member.id}-{member.attempt}").write_text(f"{type(error).__name__}: {error}")
        raise
    return told["loss"]


# ---- before training


def raises_before(member):
    raise RuntimeError("before the first report")


def exits(member):
    os._exit(0)


def exits_3(member):
    os._exit(3)


def segfaults(member):
    ctypes.string_at(0)


def aborts(member):
    os.abort()


def runs_out_of_memory(member):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), resource.RLIM_INFINITY))
    bytearray(1 << 30)


def ignores_term(member):
    """And takes its time, so that the end of the run meets it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.5)


def leaves_a_session(member):
    subprocess.Popen([f"{TAG}-session", "100000"], executable="/bin/sleep", start_new_session=True)


def leaves_a_daemon(member):
    """Its parent is dead, its session its own, its environment empty: only its name says whose it is."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve("/bin/sleep", [f"{TAG}-daemon", "100000"], {})
        os._exit(0)
    os.wait()


def closes_stdout(member):
    os.close(1)
    os.close(2)


def floods_stdout(member):
    line = b"x" * 4095 + b"\n"
    for _ in range(8192):  # 32 MiB
        os.write(1, line)


def hangs(member):
    """For ever, and no SIGTERM ends it: only a deadline does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


# ---- in and after reporting


def raises_in_report(member):
    member.report(loss="high")


def reports_10_megabytes(member):
    member.report(**{f"metric{n}": 1.0 * n for n in range(500_000)})


def writes_10_megabytes(member):
    """A line that is no report, to the metrics and to the scheduler."""
    line = b"9" * 10_000_000 + b"\n"
    for fd in sockets():
        with contextlib.suppress(OSError), open(os.dup(fd), "wb") as file:
            file.write(line)
    with open(member.checkpoint.parent / "metrics.jsonl", "ab") as file:
        file.write(line)


def writes_garbage(member):
    """To every socket and pipe it has; once as lines, once so that it runs into the next message."""
    chance = random.Random(member.seed)
    for fd in sockets():
        with contextlib.suppress(OSError):
            os.write(fd, b'\n{"how": "returned"}\n[1,2\nnull\n' + chance.randbytes(5000))
            if chance.random() < 0.5:
                os.write(fd, b"\n")


def raises_after(member):
    raise RuntimeError("after the last report")


def crashes_after(member):
    os.kill(os.getpid(), signal.SIGKILL)


def sockets():
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            mode = os.fstat(int(name)).st_mode
            if int(name) > 2 and (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)):
                found.append(int(name))
    return found


BEFORE = (raises_before, exits, exits_3, segfaults, aborts, runs_out_of_memory, ignores_term, leaves_a_session)
BEFORE += (leaves_a_daemon, closes_stdout, floods_stdout, hangs)
DURING = (raises_in_report, reports_10_megabytes, writes_10_megabytes, writes_garbage)
AFTER = (raises_after, crashes_after)


def misbehave(member, stage):
    for misbehaviour in stage:
        if misbehaviour.__name__ in PLAN["members"].get(str(member.id), ()):
            try:
                os.close(os.open(HERE / "done" / f"{member.id}-{misbehaviour.__name__}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            misbehaviour(member)


def train(member):
    log("in", member.id, member.attempt, os.getpid())
    if (HERE / "gone").exists():
        raise FileNotFoundError("the data are gone")
    above = load(member)
    misbehave(member, BEFORE)
    helper = subprocess.Popen(["sh", "-c", "sleep 0.03; true"]) if member.id % 2 else None
    loss = 0.5 * above + (float(member.config["x"]) - 0.3) ** 2
    for step in range(3):
        time.sleep(0.007 + 0.02 * (member.seed % 1000 / 1000))
        member.report(loss=loss, step=step)
        if step == 0:
            misbehave(member, DURING)
    if helper is not None:
        helper.wait()
    (member.checkpoint / "deep").mkdir()
    (member.checkpoint / "deep" / "weights.bin").write_bytes(payload(member.id))
    told = {"member": member.id, "generation": member.generation, "loss": loss}
    (member.checkpoint / "told.json").write_text(json.dumps(told))
    misbehave(member, AFTER)
    log("out", member.id, member.attempt, os.getpid())


experiment = gpbt.Experiment(
    train,
    space={"x": gpbt.Float(0, 1), "n": gpbt.Int(1, 100, log=True), "kind": gpbt.Choice(["a", "b", None])},
    score="loss",
    mode="min",
    resources=gpbt.Resources(gpus=0),
    **PLAN["experiment"],
)
