"""What the zygote does once, so that no later member has to: imports, and costs of a library's first use.

The first members show which packages training imports (import_watch.py); the zygote imports them while those members
train. It is watched as during the script's own import. A module that starts a thread or opens a GPU must not be loaded
where members are forked: it is reported as a hazard, and the launcher starts another zygote that leaves it out. One
that fails is skipped, and so is what is not done in SECONDS.

The surprise is what is not here. A first backward pass would start a thread in torch, which no fork has, and saves a
member less than 0.01 s. (Measured with torch 2.13; so did everything else that is left out.)
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from . import fork_hazards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


#: seconds that the imports of one warming may take together
SECONDS = 20.0
#: begins the path of every file through which a process uses an NVIDIA GPU
GPU_FILES = "/dev/nvidia"


class _TookTooLong(BaseException):
    """Not an Exception, so that a package that tries an import and goes on without it does not go on here."""


def warm_up(modules: Sequence[str], first_use: bool = False) -> tuple[dict[str, str], str]:
    """Import the modules. first_use: and use torch's optimizer once, if torch is loaded.

    Returns the skipped modules with the reasons, and the module after which this process must fork no more, or "".
    """
    skipped: dict[str, str] = {}
    threads, until = set(os.listdir("/proc/self/task")), time.monotonic() + SECONDS
    for name in modules:
        if name in sys.modules:
            continue
        left = until - time.monotonic()
        if left <= 0:
            skipped[name] = f"there was no time left: all imports together may take {SECONDS:g} s"
            continue
        try:
            with _time_limit(left):
                importlib.import_module(name)
        except (Exception, SystemExit, _TookTooLong) as error:
            skipped[name] = ": ".join(filter(None, (type(error).__name__.strip("_"), str(error))))
        if hazard := _hazard(threads):
            skipped[name] = hazard
            return skipped, name
    if first_use:
        with contextlib.suppress(Exception):  # a warming that fails leaves a cold start, no more
            _use_optimizer()
    return skipped, ""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupts Python code after so many seconds. (Native code that does not return is the launcher's to end.)"""

    def interrupt(*_: object) -> None:
        raise _TookTooLong(f"took longer than the {SECONDS:g} s that all imports together may take")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _hazard(before: set[str]) -> str:
    """Why this process must fork no more, "" if it may. before: the ids of the threads that it had, as in /proc."""
    new = [task for task in os.listdir("/proc/self/task") if task not in before]
    if new:
        time.sleep(fork_hazards.GHOST)  # a thread that has ended may still be listed
        libraries = {library for task in new if (library := fork_hazards.hazard(int(task))) is not None}
        python = {str(thread.native_id) for thread in threading.enumerate()}
        if libraries or python & set(new):
            named = ", ".join(sorted(library for library in libraries if library))
            return f"its import starts a thread{named and f' ({named})'}, which a fork does not have"
    devices = (os.readlink(link) for link in glob.glob("/proc/self/fd/*") if os.path.islink(link))
    if any(device.startswith(GPU_FILES) for device in devices):
        return "its import opens a GPU, which a fork cannot use"
    return ""


def _use_optimizer() -> None:
    """torch's first optimizer, which imports torch._dynamo; and our own modules for it."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "optim"):
        return
    weight = torch.nn.Parameter(torch.zeros(1, device="cpu"))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    weight.grad = torch.zeros(1, device="cpu")
    optimizer.step()
    from . import optimizers, weights

    del optimizers, weights  # saves ten milliseconds in every member that uses gpbt.torch
