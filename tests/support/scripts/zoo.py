"""A training script whose behaviour is chosen by its config: everything a member may do to us."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading

from gpbt_async.errors import Stopped
from gpbt_async.experiment import Experiment
from gpbt_async.space import Float

print("imported")


def returns(member):
    print("training")
    member.report(score=member.config.get("value", 1.0), nan=float("nan"))
    (member.checkpoint / "env.json").write_text(json.dumps({**os.environ, "cwd": os.getcwd()}))


def raises(member):
    raise TypeError("no such layer")


def raises_in_report(member):
    member.report(score="high")


def exits_3(member):
    sys.exit(3)


def exits_0(member):
    sys.exit(0)


def segfaults(member):
    print("about to crash")
    os.kill(os.getpid(), signal.SIGSEGV)


def vanishes(member):
    os._exit(0)


def stops_itself(member):
    member.report(score=1.0)
    raise Stopped("bad luck")


def reports_until_stopped(member):
    while True:
        member.report(score=0.5)


def pauses(member):
    with contextlib.suppress(Stopped):  # does what it is asked not to
        member.report(score=0.5)
    while True:
        signal.pause()


def ignores_term(member):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pauses(member)


def draws(member):
    member.report(score=random.random(), bits=random.getrandbits(32))


def _sleep(**kwargs):
    return subprocess.Popen(["sleep", "1000"], **kwargs).pid


def _double_fork():
    """A daemon: its parent is dead, its session its own, its environment empty."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            os.execve("/bin/sleep", ["sleep", "1000"], {})
        os._exit(0)
    os.wait()
    return int(os.read(read, 20))


def _litter(member):
    member.report(plain=_sleep(), session=_sleep(start_new_session=True), daemon=_double_fork())


def litters_and_returns(member):
    _litter(member)


def litters_and_pauses(member):
    _litter(member)
    pauses(member)


def litters_and_crashes(member):
    _litter(member)
    member._sock.recv(1)  # the test says when
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_loaders(member):
    """What a DataLoader leaves: daemonic workers; and one that is not, which Python would wait for."""
    context = multiprocessing.get_context("fork")
    loaders = [context.Process(target=signal.pause, daemon=daemon) for daemon in (True, False)]
    for loader in loaders:
        loader.start()
    member.report(**{f"p{n}": loader.pid for n, loader in enumerate(loaders)})


def reports_from_a_fork(member):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def report():
        try:
            member.report(score=1.0)
        except RuntimeError as error:
            queue.put(str(error))

    process = context.Process(target=report)
    process.start()
    (member.checkpoint / "said").write_text(queue.get())
    process.join()
    member.report(score=0.0)


def writes_in_a_thread(member):
    """Not daemonic: Python waits for it at its end, and so do we."""
    go = threading.Event()

    def write():
        go.wait()
        (member.checkpoint / "late").write_text("written")

    threading.Thread(target=write).start()
    threading.Timer(0.05, go.set).start()


def never_ends(member):
    threading.Thread(target=threading.Event().wait).start()


def fails_with_a_thread(member):
    never_ends(member)
    raise TypeError("no such layer")


def tells_its_config(member):
    member.report(length=len(member.config["text"]))


def train(member):
    globals()[member.config["do"]](member)


experiment = Experiment(train, space={"value": Float(0.0, 1.0)}, score="score", mode="max")
