"""`gpbt_async.run_alone`: one member trained in this very process, without a run, so that one file serves both.

    if __name__ == "__main__":
        print(gpbt.run_alone(experiment, {"lr": 0.01}))

A script that was an ordinary program before it became a member stays one: no scheduler, no folder, no other process.
The member is seeded as a run's members are; its reports are printed, or handed to whoever asks.
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


def run_alone(
    experiment: Experiment | Callable[[Member], object],
    config: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    parent: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    on_report: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, float]:
    """Train one member in this process, without a run; the last value of everything it reported, by name.

    experiment: an Experiment with a training function, or the function itself. config: name → value; what an
    experiment's space has beside it is drawn from the space by `seed`, and a function alone needs all of it. seed >= 0:
    also of python's, numpy's and torch's random numbers, and the member's own. parent: a checkpoint's folder to begin
    from; None = from nothing. checkpoint: the folder to write to, made if it is not there; None = a temporary one that
    is deleted. device: "cuda" or "cpu"; None = "cuda" where the experiment wants a GPU and torch sees one. on_report:
    called with what is reported; None = it is printed. Raises ExperimentError, and what the function raises.
    """
    standalone.use()
    train, drawn, gpus = _what(experiment, config, seed)
    if parent is not None and not os.path.isdir(parent):
        raise ExperimentError.of("parent", os.fspath(parent), "must be the folder of a checkpoint")
    reported: dict[str, float] = {}

    def heard(metrics: dict[str, Any]) -> None:
        reported.update(metrics)
        (on_report or printed)(metrics)

    with ExitStack() as stack:
        if checkpoint is None:
            checkpoint = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpbt-alone-"))
        Path(checkpoint).mkdir(parents=True, exist_ok=True)
        member = Member.local(
            drawn, Path(checkpoint).resolve(), parent=Path(parent).resolve() if parent is not None else None,
            seed=seed, device=device or device_for(gpus), on_report=heard,
        )  # fmt: skip
        member_main.seed(seed, member.device)
        with suppress(Stopped):  # the function itself has raised it: it has ended early
            train(member)
    return reported


def _what(
    experiment: Experiment | Callable[[Member], object], config: Mapping[str, Any] | None, seed: int
) -> tuple[Callable[[Any], object], dict[str, Any], int]:
    """The function, the whole config, and how many GPUs a member wants."""
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
        try:  # another value for a constant is no point of the space, and what a person may want to try
            inside = name in space.constants or (name in space and space[name].clip(value) == value)
        except ValueError:
            inside = False
        if not inside:
            names = ", ".join(space.names)
            must = f"must be in {space[name]!r}" if name in space else f"is no hyperparameter; there are {names}"
            raise ExperimentError.of(f"config[{name!r}]", value, must)
    return experiment.train, {**space.sample(random.Random(seed)), **given}, experiment.settings.resources.gpus


def device_for(gpus: int) -> str:
    """What a member that wants so many GPUs trains on in this process."""
    torch = sys.modules.get("torch")
    return "cuda" if gpus and torch is not None and torch.cuda.is_available() else "cpu"
