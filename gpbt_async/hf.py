"""For scripts that train with Hugging Face's Trainer: two callbacks.

`MemberCallback(member)` makes a member of an existing script: it begins from the parent's checkpoint, applies the
config to the optimizer, reports all logged metrics, those of evaluations too (`eval_loss`), and leaves a checkpoint.
`ScheduleCallback` trains along the schedule that an earlier run found, without a run. Both are thin: gpbt_async.torch
does the work.

This module imports transformers, so the core never imports it; use it as `gpbt.hf`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .schedule import Schedule
from .torch import Along, begin, save

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from .member.api import Member
    from .space import Config


try:
    from transformers import TrainerCallback, set_seed
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "gpbt_async.hf needs transformers: pip install 'gpbt-async[hf]'", name="transformers"
    ) from None

__all__ = ["MemberCallback", "ScheduleCallback"]


class MemberCallback(TrainerCallback):
    """Makes a Trainer's training a member: `Trainer(…, callbacks=[MemberCallback(member)])`.

    One train() is one interval: num_train_epochs or max_steps are the interval's, save_strategy may be "no", and the
    score is a logged metric, say "eval_loss" with eval_strategy "epoch". Values of the config that no optimizer has
    (a dropout) are left to the script. state: "keep" the accumulated state of the parent's optimizer, or "reset" it.

    A Trainer seeds python, numpy and torch with TrainingArguments.seed (42) when it is made, which would give all
    members the same order of examples and the same dropout. So the callback replaces TrainingArguments.seed by the
    member's seed; for that, pass the callback to the Trainer's constructor. A data_seed of the script's stays.
    """

    def __init__(self, member: Member, *, state: Literal["keep", "reset"] = "keep") -> None:
        self._member, self._state = member, state

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        args.seed = self._member.seed % (1 << 32)
        set_seed(args.seed)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        begin(self._member, model, optimizer, lr_scheduler, state=self._state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, object] | None = None, **_: Any) -> None:
        metrics = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if metrics and state.is_world_process_zero:
            self._member.report(**metrics)

    def on_train_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            save(self._member, model, optimizer, lr_scheduler)


class ScheduleCallback(TrainerCallback):
    """Trains along a schedule: its intervals are equal shares of the optimizer's steps.

    schedule: a Schedule, or an argument of `Schedule.load`. also: called with the interval's number and config whenever
    one begins, for values that no optimizer has.
    """

    def __init__(
        self,
        schedule: Schedule | str | os.PathLike[str] | Iterable[Mapping[str, object]],
        also: Callable[[int, Config], object] | None = None,
    ) -> None:
        self._along = Along(Schedule.load(schedule), also)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._along.restart()

    def on_step_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **_: Any
    ) -> None:
        self._along.step(state.global_step, state.max_steps, [optimizer], lr_scheduler)
