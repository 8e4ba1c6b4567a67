"""Shared by all tests: Hypothesis without deadlines, since the machines that run this are shared and noisy; and when a
test ends, every engine that it has used is checked, those of the runs in its folder among them."""

from __future__ import annotations

import compileall
import os
import shutil
import signal
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gpu_machine import Machine
from harness import check_engines
from hypothesis import settings

import gpbt_async
from gpbt_async.engine.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell's `&` has it ignored, which all that is started here would inherit, and many a test sends it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("gpbt", deadline=None, derandomize=False)
settings.load_profile("gpbt")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a third of the time a test waits for a process, or for time to pass."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once, before the workers begin.

    The tests start some thousand interpreters. Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of
    them would compile all that it imports, which is a sixth of the time that the tests take.
    """
    if not hasattr(config, "workerinput"):
        for folder in (*gpbt_async.__path__, Path(__file__).parent / "support"):
            compileall.compile_dir(folder, quiet=2)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    made: list[Machine] = []

    def make(*gpus: str, **options: Any) -> Machine:
        made.append(Machine(tmp_path, *gpus, **options))
        return made[-1]

    yield make
    for run in [run for each in made for run in each.runs]:
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
        run.communicate()


#: the engines that this process has made last
MADE: deque[Engine] = deque(maxlen=16)
_make = Engine.__init__


def _remember(self: Engine, *args: Any, **named: Any) -> None:
    _make(self, *args, **named)
    MADE.append(self)


Engine.__init__ = _remember  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def engines(request: pytest.FixtureRequest) -> Iterator[deque[Engine]]:
    """Engines of this test, which are checked in the end; a test that breaks one on purpose clears this."""
    MADE.clear()
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield MADE
    for engine in MADE:
        if engine.count:  # else its tree was made by hand
            engine.check()
    if folder is not None:
        check_engines(folder)
