"""What a member loads from its parent, and what that brings back unasked: torch's three `load_state_dict`.

An optimizer's state holds its hyperparameters too. A child that makes its optimizer with the config's learning rate and
then loads the parent's state trains at the parent's learning rate; a whole lineage trains at its root's. A scheduler's
state holds the base learning rates, with the same end. And `Module.load_state_dict(strict=False)` is content when not
one name matches (`module.` of DataParallel, `_orig_mod.` of torch.compile): the child then starts from nothing.

So the three are wrapped in the member's process, once torch is there. A wrapper compares before and after, which costs
microseconds a load. Only an optimizer in which a value of the config was lost is looked at again, at its first step:
most scripts set the value once more in between, and are right. A value counts as the config's if it equals one there
whose name fits: a dropout of 0.1 is no learning rate of 0.1.

A wrapper runs inside the script's own call. That call returns and raises what it always does; of the wrapper's part
nothing may raise.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from . import script, telemetry
from .config import peek

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


#: schedulers that compute a learning rate from the base ones; the others change the one that is there
FROM_BASE = frozenset({"LambdaLR", "CosineAnnealingWarmRestarts"})
#: what else a config may call what an optimizer's group has, in words
CALLED = {
    "lr": ["learning rate"],
    "weight_decay": ["wd"],
    "beta1": ["beta 1"],
    "beta2": ["beta 2"],
}
#: with one of these words a name is of something about the value, and not of the value: lr_decay, min_lr
ABOUT = frozenset({
    "decay", "gamma", "factor", "mult", "multiplier", "scale", "ratio", "power", "min", "minimum", "end", "final",
    "warmup", "schedule", "scheduler", "step", "steps", "epoch", "epochs", "patience", "policy", "type",
})  # fmt: skip


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
    with contextlib.suppress(Exception):
        missing: list[str] = getattr(result, "missing_keys", [])
        unexpected: list[str] = getattr(result, "unexpected_keys", [])
        if state and missing and len(unexpected) >= len(state):
            _note_unmatched(now, model, missing[0], unexpected[0])
        else:
            now.unmatched = [each for each in now.unmatched if not _is_retry(model, *each[0])]
    return result


def _note_unmatched(now: telemetry.Telemetry, model: Any, mine: str, theirs: str) -> None:
    inner = _inner(model)
    if any(of() is inner for (of, _), *_ in now.unmatched):
        return
    now.unmatched.append(((weakref.ref(inner), type(model).__name__), mine, theirs))
    if _say_unmatched not in (getattr(each, "func", None) for each in now.last_words):
        now.last_words.append(functools.partial(_say_unmatched, now))


def _is_retry(model: Any, of: Any, kind: str) -> bool:
    """Is a load into this model another attempt at that one, or at what the script has made in its place?"""
    first = of()
    return first is _inner(model) or (first is None and kind in (type(model).__name__, type(_inner(model)).__name__))


def _inner(model: Any) -> Any:
    """Without what compiling and parallel training put around a model, and before its weights' names."""
    for name in ("_orig_mod", "module"):
        inside = model._modules.get(name)
        if inside is not None and len(model._modules) == 1:
            return _inner(inside)
    return model


def _say_unmatched(now: telemetry.Telemetry) -> None:
    for (_, kind), mine, theirs in now.unmatched:
        now.find(
            "GPBT016",
            kind,
            f"{kind}.load_state_dict(…, strict=False) found not one of the model's weights in what it was given: the "
            f"model has {mine!r}, the file {theirs!r}; it started from nothing",
            "give the names the same prefix (save model.module or model._orig_mod, or strip it), and load strictly",
        )


# ---- optimizers and schedulers


def _load_optimizer(now: telemetry.Telemetry, optimizer: Any, state: Any, load: Any) -> Any:
    before: list[tuple[str, Any, float]] = []
    with contextlib.suppress(Exception):
        if not optimizer.state:  # one that has trained here already goes back, to what the script has kept
            before = _configs(peek(now.config), optimizer)
    result = load()
    with contextlib.suppress(Exception):
        after = dict(_values(optimizer))
        lost = []
        for name, where, value in before:
            if where in after and not _same(after[where], value):
                base = optimizer.param_groups[where[0]].get("initial_lr") if where[1] == "lr" else None
                lost.append((name, where, value, [after[where]] + ([float(base)] if base is not None else [])))
        if lost:
            _at_first_step(now, optimizer, lost)
    return result


def _configs(config: Mapping[str, Any], optimizer: Any) -> list[tuple[str, Any, float]]:
    """(hyperparameter, where it is in the groups, its value) of what an optimizer has from the config."""
    return [
        (name, where, value)
        for where, value in _values(optimizer)
        for name, searched in config.items()
        if _is_number(searched) and searched and _same(searched, value) and _called(name, *where[1:])
    ]


def _at_first_step(now: telemetry.Telemetry, optimizer: Any, lost: list[tuple[str, Any, float, list[float]]]) -> None:
    """lost: (hyperparameter, where it is in the groups, its value, what was restored: the value, the base rate)."""
    waiting = [lost]  # a hook cannot take itself away while hooks are called

    def look(*_: Any) -> None:
        if waiting:
            with contextlib.suppress(Exception):
                _look(now, optimizer, waiting.pop())

    optimizer.register_step_pre_hook(look)


def _look(now: telemetry.Telemetry, optimizer: Any, lost: list[tuple[str, Any, float, list[float]]]) -> None:
    values = dict(_values(optimizer))
    for name, where, wanted, restored in lost:
        # a scheduler that is made later begins from the base rate that the state has brought, not from the lr set
        value = values.get(where, wanted)
        if not _same(value, wanted) and any(_same(value, each) for each in restored):
            code = f"for group in optimizer.param_groups: {_assignment(name, *where[1:])}"
            _say_restored(now, name, wanted, value, f"optimizer.load_state_dict brought back {where[1]}", code)


def _assignment(name: str, key: str, index: int | None = None) -> str:
    """The Python by which a script sets the config's value in a group."""
    config = f"member.config[{name!r}]"
    if key == "lr":
        return f"group['lr'] = group['initial_lr'] = {config}"
    if key == "betas":
        return "group['betas'] = " + (f"(group['betas'][0], {config})" if index else f"({config}, group['betas'][1])")
    return f"group[{key!r}] = {config}"


def _load_scheduler(now: telemetry.Telemetry, scheduler: Any, state: Any, load: Any) -> Any:
    before: list[float] = []
    with contextlib.suppress(Exception):
        before = list(getattr(scheduler, "base_lrs", ()))
    result = load()
    with contextlib.suppress(Exception):
        after = list(getattr(scheduler, "base_lrs", ()))
        if not FROM_BASE.isdisjoint(kind.__name__ for kind in type(scheduler).__mro__):
            searched = {n: v for n, v in peek(now.config).items() if _is_number(v) and v and _called(n, "lr")}
            for i, (mine, theirs) in enumerate(zip(before, after, strict=False)):
                for name in [n for n, v in searched.items() if _same(v, mine) and not _same(mine, theirs)]:
                    loaded = (scheduler, i, scheduler.last_epoch)
                    now.last_words.append(functools.partial(_look_at_base, now, name, mine, theirs, *loaded))
    return result


def _look_at_base(
    now: telemetry.Telemetry, name: str, wanted: float, restored: float, scheduler: Any, i: int, at: int
) -> None:
    if scheduler.last_epoch > at and _same(scheduler.base_lrs[i], restored):
        code = f"scheduler.base_lrs = [member.config[{name!r}]]" + (
            " * len(scheduler.base_lrs)" if len(scheduler.base_lrs) > 1 else ""
        )
        _say_restored(now, name, wanted, restored, "scheduler.load_state_dict brought back base_lrs", code)


def _say_restored(now: telemetry.Telemetry, name: str, wanted: float, restored: float, what: str, code: str) -> None:
    now.find(
        "GPBT015",
        name,
        f"the config's {name} is {wanted:.4g}, and the training ran at {restored:.4g}: {what} as it was when the "
        "checkpoint was written",
        f"use gpbt.torch.begin, or set the config's value again after loading: {code}",
    )


def _called(name: str, key: str, index: int | None = None) -> bool:
    """May a hyperparameter of this name be what an optimizer's group has under this key (and index, of a tuple)?

    lr is called learning_rate, head_lr or optimizer.lr, too, and lr_decay is another thing.
    """
    if name == key:
        return True
    key = f"beta{index + 1}" if key == "betas" and index is not None else key
    for form in (key.replace("_", " "), *CALLED.get(key, ())):
        wanted, has = Counter(form.split()), Counter(_words(name))
        if wanted <= has and ABOUT.isdisjoint(has - wanted):
            return True
    return False


def _words(name: str) -> list[str]:
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[^a-z0-9]+", " ", parts.lower()).split()


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
