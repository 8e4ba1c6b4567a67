"""What a member loads from its parent, and what that brings back unasked: torch's three `load_state_dict`.

An optimizer's state holds its hyperparameters too. A child that makes its optimizer with the config's learning rate and
then loads the parent's state trains at the parent's learning rate; a whole lineage trains at its root's. A scheduler's
state holds the base learning rates, with the same end. And `Module.load_state_dict(strict=False)` is content when not
one name matches (`module.` of DataParallel, `_orig_mod.` of torch.compile): the child then starts from nothing.

So the three are wrapped in the member's process, once torch is there. A wrapper compares before and after, which costs
microseconds a load. Only an optimizer in which a value of the config was lost is looked at again, at its first step:
most scripts set the value once more in between, and are right.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from .. import script
from . import telemetry
from .config import peek

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: schedulers that compute a learning rate from the base ones; the others change the one that is there
FROM_BASE = frozenset({"LambdaLR", "CosineAnnealingWarmRestarts"})


def watch() -> None:
    """From now on note what torch loads, in this process and those forked from it, once torch is there."""
    script.after_import("torch.nn.modules.module", lambda module: _wrap(module.Module, _load_module))
    script.after_import("torch.optim.optimizer", lambda module: _wrap(module.Optimizer, _load_optimizer))
    script.after_import("torch.optim.lr_scheduler", _watch_schedulers)


def _watch_schedulers(module: Any) -> None:
    for name in ("LRScheduler", "LambdaLR"):  # the second has a method of its own
        kind = getattr(module, name, None)
        if kind is not None and "load_state_dict" in vars(kind):
            _wrap(kind, _load_scheduler)


def _wrap(kind: Any, around: Any) -> None:
    loads = kind.load_state_dict
    if hasattr(loads, "_gpbt_watched"):
        return

    @functools.wraps(loads)
    def load_state_dict(self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        now = telemetry.current
        if now is None:
            return loads(self, state_dict, *args, **kwargs)
        return around(now, self, state_dict, lambda: loads(self, state_dict, *args, **kwargs))

    load_state_dict._gpbt_watched = True  # type: ignore[attr-defined]
    kind.load_state_dict = load_state_dict


# ---- models


def _load_module(now: telemetry.Telemetry, model: Any, state: Mapping[str, Any], load: Any) -> Any:
    result = load()
    missing: list[str] = getattr(result, "missing_keys", [])
    unexpected: list[str] = getattr(result, "unexpected_keys", [])
    nothing = bool(state) and bool(missing) and len(unexpected) >= len(state)
    if not nothing:
        now.unmatched = [each for each in now.unmatched if each[0] is not model]
    elif not any(each[0] is model for each in now.unmatched):
        now.unmatched.append((model, missing[0], unexpected[0]))
        if len(now.unmatched) == 1:
            now.last_words.append(lambda: _say_unmatched(now))
    return result


def _say_unmatched(now: telemetry.Telemetry) -> None:
    for model, mine, theirs in now.unmatched:
        kind = type(model).__name__
        now.find(
            "GPBT016",
            kind,
            f"{kind}.load_state_dict(…, strict=False) found not one of the model's weights in what it was given: the "
            f"model has {mine!r}, the file {theirs!r}; it started from nothing",
            "give the names the same prefix (save model.module or model._orig_mod, or strip it), and load strictly",
        )


# ---- optimizers and schedulers


def _load_optimizer(now: telemetry.Telemetry, optimizer: Any, state: Any, load: Any) -> Any:
    config = peek(now.config)
    before = [
        (name, where, value)
        for where, value in _values(optimizer)
        for name, searched in config.items()
        if _is_number(searched) and searched and _same(searched, value)
    ]
    result = load()
    after = dict(_values(optimizer))
    lost = []
    for name, where, value in before:
        if where in after and not _same(after[where], value):
            base = optimizer.param_groups[where[0]].get("initial_lr") if where[1] == "lr" else None
            lost.append((name, where, value, [after[where]] + ([float(base)] if base is not None else [])))
    if lost:
        _at_first_step(now, optimizer, lost)
    return result


def _at_first_step(now: telemetry.Telemetry, optimizer: Any, lost: list[tuple[str, Any, float, list[float]]]) -> None:
    """lost: (hyperparameter, where it is in the groups, its value, what was restored: the value, the base rate)."""
    waiting = [lost]  # a hook cannot take itself away while hooks are called

    def look(*_: Any) -> None:
        if not waiting:
            return
        for name, where, wanted, restored in waiting.pop():
            # a scheduler that is made later begins from the base rate that the state has brought, not from the lr set
            value = dict(_values(optimizer)).get(where, wanted)
            if not _same(value, wanted) and any(_same(value, each) for each in restored):
                _say_restored(now, name, wanted, value, f"optimizer.load_state_dict brought back {where[1]}")

    optimizer.register_step_pre_hook(look)


def _load_scheduler(now: telemetry.Telemetry, scheduler: Any, state: Any, load: Any) -> Any:
    before = list(getattr(scheduler, "base_lrs", ()))
    result = load()
    after = list(getattr(scheduler, "base_lrs", ()))
    if not FROM_BASE.isdisjoint(kind.__name__ for kind in type(scheduler).__mro__):
        for name, searched in peek(now.config).items():
            for i, (mine, theirs) in enumerate(zip(before, after, strict=False)):
                if _is_number(searched) and searched and _same(searched, mine) and not _same(mine, theirs):
                    loaded = (scheduler, i, scheduler.last_epoch)
                    now.last_words.append(functools.partial(_look_at_base, now, name, mine, theirs, *loaded))
    return result


def _look_at_base(
    now: telemetry.Telemetry, name: str, wanted: float, restored: float, scheduler: Any, i: int, at: int
) -> None:
    if scheduler.last_epoch > at and _same(scheduler.base_lrs[i], restored):
        _say_restored(now, name, wanted, restored, "scheduler.load_state_dict brought back base_lrs")


def _say_restored(now: telemetry.Telemetry, name: str, wanted: float, restored: float, what: str) -> None:
    now.find(
        "GPBT015",
        name,
        f"the config's {name} is {wanted:.4g}, and the training ran at {restored:.4g}: {what} as it was when the "
        "checkpoint was written",
        f"set it again after loading (for group in optimizer.param_groups: group['lr'] = group['initial_lr'] = "
        f"member.config[{name!r}]), or use gpbt.torch.begin",
    )


def _values(optimizer: Any) -> Iterator[tuple[Any, float]]:
    """((group, name[, index]), value) of all that is one number in an optimizer's groups."""
    for i, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key in ("params", "initial_lr"):
                continue
            for j, each in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
                if _is_number(each):
                    yield ((i, key) if j is None else (i, key, j)), float(each)
                elif getattr(each, "ndim", None) == 0:
                    yield (i, key), float(each)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: float, b: float) -> bool:
    return math.isclose(float(a), float(b), rel_tol=1e-9)
