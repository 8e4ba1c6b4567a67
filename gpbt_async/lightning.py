"""For scripts that train with Lightning: two callbacks.

`MemberCallback(member)` makes a member of an existing script: it begins from the parent's checkpoint, applies the
config to the optimizers, reports all logged metrics after each epoch, and leaves a checkpoint. `ScheduleCallback`
trains along the schedule that an earlier run found, without a run. Both are thin: gpbt_async.torch does the work.

This module imports Lightning (`lightning`, or `pytorch_lightning`), so the core never imports it; use it as
`gpbt.lightning`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from .schedule import Schedule
from .torch import Along, begin, save

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from .member.api import Member
    from .space import Config


try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    try:
        from pytorch_lightning import Callback
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "gpbt_async.lightning needs Lightning: pip install 'gpbt-async[lightning]'", name="lightning"
        ) from None

__all__ = ["MemberCallback", "ScheduleCallback"]


class MemberCallback(Callback):
    """Makes a Trainer's fit a member: `Trainer(max_epochs=…, callbacks=[MemberCallback(member)])`.

    One fit is one interval: max_epochs or max_steps are the interval's, and the Trainer's own checkpoints are not
    needed. Values of the config that no optimizer has (a width, a dropout) are left to the script. state: "keep" the
    accumulated state of the parent's optimizers, or "reset" it.
    """

    def __init__(self, member: Member, *, state: Literal["keep", "reset"] = "keep") -> None:
        self._member, self._state = member, state

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        begin(self._member, pl_module, trainer.optimizers, _schedulers(trainer), state=self._state)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if metrics and trainer.is_global_zero:
            self._member.report(**metrics)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            save(self._member, pl_module, trainer.optimizers, _schedulers(trainer))


class ScheduleCallback(Callback):
    """Trains along a schedule: its intervals are equal shares of the optimizer's steps.

    schedule: a Schedule, or an argument of `Schedule.load`. also: called with the interval's number and config whenever
    one begins, for values that no optimizer has. The Trainer must have an end: max_epochs or max_steps.
    """

    def __init__(
        self,
        schedule: Schedule | str | os.PathLike[str] | Iterable[Mapping[str, object]],
        also: Callable[[int, Config], object] | None = None,
    ) -> None:
        self._along = Along(Schedule.load(schedule), also)
        self._steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 1:
            raise ValueError(f"the Trainer has no end ({steps} steps): give it max_epochs or max_steps")
        self._steps = int(steps)
        self._along.restart()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._along.step(trainer.global_step, self._steps, trainer.optimizers, _schedulers(trainer))


def _schedulers(trainer: Any) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]
