"""Shared by all tests: Hypothesis without deadlines, since the machines that run this are shared and noisy."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from gpu_machine import Machine
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell's `&` has it ignored, which all that is started here would inherit, and many a test sends it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("gpbt", deadline=None, derandomize=False)
settings.load_profile("gpbt")


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
