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
    from collections.abc import Callable, Iterator, Sequence


#: seconds that the imports of one warming may take together
SECONDS = 20.0
#: begins the path of every file through which a process uses an NVIDIA GPU
GPU_FILES = "/dev/nvidia"


class _TookTooLong(BaseException):
    """Not an Exception, so that a package that tries an import and goes on without it does not go on here."""


def warm_up(
    modules: Sequence[str], importing: Callable[[str], object], first_use: bool = False
) -> tuple[dict[str, str], str]:
    """Import the modules. importing: called before each import. first_use: use torch's optimizer once, if it is loaded.

    Returns the skipped modules with the reasons, and the module after which this process must fork no more, or "".
    """
    skipped: dict[str, str] = {}
    before, until = _Before(), time.monotonic() + SECONDS
    for name in modules:
        if name in sys.modules:
            continue
        left = until - time.monotonic()
        if left <= 0:
            skipped[name] = f"there was no time left: all imports together may take {SECONDS:g} s"
            continue
        importing(name)
        try:
            with _time_limit(left):
                importlib.import_module(name)
        except _TookTooLong as error:  # half of it may be loaded, and the import system may hold a lock
            skipped[name] = f"its import {error}"
            return skipped, name
        except (Exception, SystemExit) as error:
            skipped[name] = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if before.leaves(name):
                return skipped, name
        if hazard := before.hazard():
            skipped[name] = hazard
            return skipped, name
    if first_use:
        with contextlib.suppress(Exception):  # a warming that fails leaves a cold start, no more
            _use_optimizer()
    if "numpy" in sys.modules and "numpy" not in before.modules:
        with contextlib.suppress(ImportError):  # it sets members' threads, which numpy has read from our environment
            importlib.import_module("threadpoolctl")
    return skipped, ""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupts Python code after so many seconds. (Native code that does not return is the launcher's to end.)"""

    def interrupt(*_: object) -> None:
        raise _TookTooLong(f"took longer than the {SECONDS:g} s that all imports together may take")

    before = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


class _Before:
    """What this process has before it imports more: what it has then in addition may be a hazard."""

    def __init__(self) -> None:
        self.modules = set(sys.modules)
        self._threads = set(os.listdir("/proc/self/task"))
        self._gpu_files = set(_gpu_files())

    def leaves(self, name: str) -> bool:
        """Whether a failed import has left parts of its package loaded, which a second import would take for whole."""
        package = name.partition(".")[0]
        return any(m.partition(".")[0] == package for m in sys.modules if m not in self.modules)

    def hazard(self) -> str:
        """Why this process must fork no more, "" if it may."""
        new = [task for task in os.listdir("/proc/self/task") if task not in self._threads]
        if new:
            time.sleep(fork_hazards.GHOST)  # a thread that has ended may still be listed
            libraries = {library for task in new if (library := fork_hazards.hazard(int(task))) is not None}
            python = {str(thread.native_id) for thread in threading.enumerate()}
            if libraries or python & set(new):
                named = ", ".join(sorted(library for library in libraries if library))
                return f"its import starts a thread{named and f' ({named})'}, which a fork does not have"
        if set(_gpu_files()) - self._gpu_files:
            return "its import opens a GPU, which a fork cannot use"
        return ""


def _gpu_files() -> Iterator[str]:
    for link in glob.glob("/proc/self/fd/*"):
        with contextlib.suppress(OSError):  # the listing's own has been closed
            if (path := os.readlink(link)).startswith(GPU_FILES):
                yield path


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
