"""`gpbt_async.run_alone`: one member trained in this very process, without a run, so that one file serves both uses.

    if __name__ == "__main__":
        print(gpbt.run_alone(experiment, {"lr": 0.01}))

A script that was an ordinary program before it became a member stays one: no scheduler, no folder, no other process.
The member is seeded as a run's members are; its reports are printed, or passed to a function.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..declaration import standalone
from ..errors import ExperimentError, Stopped
from ..experiment import Experiment
from . import member_main
from .api import Member, printed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..space import Config, Scalar


def run_alone(
    experiment: Experiment | Callable[[Member], object],
    config: Mapping[str, Scalar] | None = None,
    *,
    seed: int = 0,
    parent: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    on_report: Callable[[dict[str, float]], object] | None = None,
) -> dict[str, float]:
    """Train one member in this process, without a run; returns the last value of each reported metric, by name.

    experiment: an Experiment with a training function, or the function itself. config: name → value; an experiment's
    space gives missing values by `seed`, a function alone needs all. seed: whole number >= 0 of the member and of
    python's, numpy's and torch's random numbers. parent: a checkpoint's folder to begin from; None = none. checkpoint:
    the folder to write to; None = a temporary one. device: "cuda" or "cpu"; None = "cuda" if the experiment wants a GPU
    and torch sees one. on_report: called with each report; None = print. Raises ExperimentError.
    """
    standalone.use()
    train, drawn, gpus = _what(experiment, config, seed)
    if parent is not None and not os.path.isdir(parent):
        raise ExperimentError.of("parent", os.fspath(parent), "must be the folder of a checkpoint")
    reported: dict[str, float] = {}

    def receive(metrics: dict[str, float]) -> None:
        reported.update(metrics)
        (on_report or printed)(metrics)

    with ExitStack() as stack:
        if checkpoint is None:
            checkpoint = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpbt-alone-"))
        Path(checkpoint).mkdir(parents=True, exist_ok=True)
        member = Member.local(
            drawn, Path(checkpoint).resolve(), parent=Path(parent).resolve() if parent is not None else None,
            seed=seed, device=device or device_for(gpus), on_report=receive,
        )  # fmt: skip
        member_main.seed(seed, member.device)
        with suppress(Stopped):  # the function itself may raise it to end early
            train(member)
    return reported


def _what(
    experiment: Experiment | Callable[[Member], object], config: Mapping[str, Scalar] | None, seed: int
) -> tuple[Callable[[Any], object], Config, int]:
    """(training function, whole config, GPUs that a member wants)."""
    given = dict(config or {})
    if not isinstance(experiment, Experiment):
        if not callable(experiment):
            raise ExperimentError.of("experiment", experiment, "must be an Experiment, or a training function")
        if config is None:
            raise ExperimentError.of("config", None, "must be given where there is no experiment to draw it from")
        return experiment, given, 1
    if experiment.train is None:
        raise ExperimentError.of("experiment", experiment, "declares a command: run that by hand")
    space = experiment.settings.space
    for name, value in given.items():
        try:  # another value for a constant is outside the space, and yet a person may want to try it
            inside = name in space.constants or (name in space and space[name].clip(value) == value)
        except ValueError:
            inside = False
        if not inside:
            names = ", ".join(space.names)
            must = f"must be in {space[name]!r}" if name in space else f"is no hyperparameter; there are {names}"
            raise ExperimentError.of(f"config[{name!r}]", value, must)
    return experiment.train, {**space.sample(random.Random(seed)), **given}, experiment.settings.resources.gpus


def device_for(gpus: int) -> str:
    """The device on which a member that wants so many GPUs trains in this process."""
    torch = sys.modules.get("torch")
    return "cuda" if gpus and torch is not None and torch.cuda.is_available() else "cpu"
