"""A watch over torch's three `load_state_dict`: do they restore values of the parent by mistake, or nothing at all?

An optimizer's state holds its hyperparameters too. A child that makes its optimizer with the config's learning rate and
then loads the parent's state trains at the parent's learning rate, and so a whole lineage trains at its root's. The
same happens with a scheduler's state, which holds the base learning rates. And `Module.load_state_dict(strict=False)`
accepts a state in which not one name matches (`module.` of DataParallel, `_orig_mod.` of torch.compile): the child then
starts from nothing.

So this module wraps the three methods in the member's process, once torch is imported. A wrapper compares the values
before and after the load, which costs microseconds. If an optimizer lost a value of the config, the watch looks again
at its first step, since most scripts have set the value again by then. A value belongs to the config only if its name
fits, too: a dropout of 0.1 is no learning rate of 0.1.

A wrapper runs inside the script's call. The call returns or raises as without it, and the wrapper itself must not
raise.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from . import hooks, telemetry
from .config import peek

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..space import Scalar
    from .telemetry import Telemetry


#: schedulers that compute a learning rate from the base ones; the others change the current one
FROM_BASE = frozenset({"LambdaLR", "CosineAnnealingWarmRestarts"})
#: an optimizer's option → what else a config may call it, in words
SYNONYMS = {
    "lr": ["learning rate"],
    "weight_decay": ["wd"],
    "beta1": ["beta 1"],
    "beta2": ["beta 2"],
}
#: with one of these words a name means something about the value, not the value: lr_decay, min_lr
ABOUT = frozenset({
    "decay", "gamma", "factor", "mult", "multiplier", "scale", "ratio", "power", "min", "minimum", "end", "final",
    "warmup", "schedule", "scheduler", "step", "steps", "epoch", "epochs", "patience", "policy", "type",
})  # fmt: skip


#: (group, option[, index in a tuple]) of a value in an optimizer's groups
Where = tuple[Any, ...]


class LostValue(NamedTuple):
    """A value of the config that an optimizer had before a state was loaded, and has no longer.

    restored: the values that came with the state: the option's, and for a learning rate the base's.
    """

    name: str
    where: Where
    value: float
    restored: list[float]


def watch() -> None:
    """From now on note what torch loads, in this process and those forked from it, once torch is imported."""
    hooks.after_import("torch.nn.modules.module", lambda module: _watch(module.Module, _load_module))
    hooks.after_import("torch.optim.optimizer", lambda module: _watch(module.Optimizer, _load_optimizer))
    hooks.after_import("torch.optim.lr_scheduler", _watch_schedulers)


def _watch_schedulers(module: Any) -> None:
    for name in ("LRScheduler", "LambdaLR"):  # the second has a method of its own
        if hasattr(module, name):
            _watch(getattr(module, name), _load_scheduler)


def _watch(kind: Any, around: Any) -> None:
    """around: called with the telemetry, the object, the state, and a function that loads it."""

    def loading(loads: Any) -> Any:
        def load_state_dict(self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            current = telemetry.current
            if current is None:
                return loads(self, state_dict, *args, **kwargs)
            return around(current, self, state_dict, lambda: loads(self, state_dict, *args, **kwargs))

        return load_state_dict

    hooks.wrap(kind, "load_state_dict", loading)


# ---- models


def _load_module(notes: Telemetry, model: Any, state: Mapping[str, object], load: Any) -> Any:
    result = load()
    with contextlib.suppress(Exception):
        missing: list[str] = getattr(result, "missing_keys", [])
        unexpected: list[str] = getattr(result, "unexpected_keys", [])
        if state and missing and len(unexpected) >= len(state):
            _note_unmatched(notes, model, missing[0], unexpected[0])
        else:
            notes.unmatched = [unmatched for unmatched in notes.unmatched if not _is_retry(model, *unmatched[0])]
    return result


def _note_unmatched(notes: Telemetry, model: Any, models: str, files: str) -> None:
    inner = _inner(model)
    if any(of() is inner for (of, _), *_ in notes.unmatched):
        return
    notes.unmatched.append(((weakref.ref(inner), type(model).__name__), models, files))
    if _report_unmatched not in (getattr(final, "func", None) for final in notes.last_words):
        notes.last_words.append(functools.partial(_report_unmatched, notes))


def _is_retry(model: Any, of: Any, kind: str) -> bool:
    """Is a load into this model another attempt at that one, or at the model that the script has made in its place?"""
    first = of()
    return first is _inner(model) or (first is None and kind in (type(model).__name__, type(_inner(model)).__name__))


def _inner(model: Any) -> Any:
    """A model without the wrappers of compiling and parallel training, which prefix its weights' names."""
    for name in ("_orig_mod", "module"):
        inside = model._modules.get(name)
        if inside is not None and len(model._modules) == 1:
            return _inner(inside)
    return model


def _report_unmatched(notes: Telemetry) -> None:
    for (_, kind), models, files in notes.unmatched:
        notes.find(
            "GPBT016",
            kind,
            f"{kind}.load_state_dict(…, strict=False) found none of the model's weights in the state: the model has "
            f"{models!r}, the file {files!r}; it started from nothing",
            "give the names the same prefix (save model.module or model._orig_mod, or strip it), and load strictly",
        )


# ---- optimizers and schedulers


def _load_optimizer(notes: Telemetry, optimizer: Any, state: Any, load: Any) -> Any:
    before: list[tuple[str, Where, float]] = []
    with contextlib.suppress(Exception):
        if not optimizer.state:  # an optimizer that has trained here goes back to a state of the script's own
            before = _of_config(peek(notes.config), optimizer)
    result = load()
    with contextlib.suppress(Exception):
        after = dict(_values(optimizer))
        lost = []
        for name, where, value in before:
            if where in after and not _same(after[where], value):
                base = optimizer.param_groups[where[0]].get("initial_lr") if where[1] == "lr" else None
                restored = [after[where], *([float(base)] if base is not None else [])]
                lost.append(LostValue(name, where, value, restored))
        if lost:
            _look_at_first_step(notes, optimizer, lost)
    return result


def _of_config(config: Mapping[str, Scalar], optimizer: Any) -> list[tuple[str, Where, float]]:
    """(hyperparameter, where it is in the groups, its value) of what an optimizer has from the config."""
    return [
        (name, where, value)
        for where, value in _values(optimizer)
        for name, searched in config.items()
        if _is_number(searched) and searched and _same(searched, value) and _fits(name, *where[1:])
    ]


def _look_at_first_step(notes: Telemetry, optimizer: Any, lost: list[LostValue]) -> None:
    waiting = [lost]  # a hook cannot remove itself while hooks are called

    def look(*_: Any) -> None:
        if waiting:
            with contextlib.suppress(Exception):
                _look(notes, optimizer, waiting.pop())

    optimizer.register_step_pre_hook(look)


def _look(notes: Telemetry, optimizer: Any, lost: list[LostValue]) -> None:
    values = dict(_values(optimizer))
    for name, where, wanted, restored in lost:
        # a scheduler that is made later begins from the base rate that came with the state, not from the lr set
        value = values.get(where, wanted)
        if not _same(value, wanted) and any(_same(value, old) for old in restored):
            code = f"for group in optimizer.param_groups: {_assignment(name, *where[1:])}"
            _report_restored(notes, name, wanted, value, f"optimizer.load_state_dict restored {where[1]}", code)


def _assignment(name: str, key: str, index: int | None = None) -> str:
    """The Python by which a script sets the config's value in a group."""
    config = f"member.config[{name!r}]"
    if key == "lr":
        return f"group['lr'] = group['initial_lr'] = {config}"
    if key == "betas":
        return "group['betas'] = " + (f"(group['betas'][0], {config})" if index else f"({config}, group['betas'][1])")
    return f"group[{key!r}] = {config}"


def _load_scheduler(notes: Telemetry, scheduler: Any, state: Any, load: Any) -> Any:
    before: list[float] = []
    with contextlib.suppress(Exception):
        before = list(getattr(scheduler, "base_lrs", ()))
    result = load()
    with contextlib.suppress(Exception):
        after = list(getattr(scheduler, "base_lrs", ()))
        if not FROM_BASE.isdisjoint(kind.__name__ for kind in type(scheduler).__mro__):
            searched = {n: v for n, v in peek(notes.config).items() if _is_number(v) and v and _fits(n, "lr")}
            for i, (own, loaded) in enumerate(zip(before, after, strict=False)):
                for name in [n for n, v in searched.items() if _same(v, own) and not _same(own, loaded)]:
                    place = (scheduler, i, scheduler.last_epoch)
                    notes.last_words.append(functools.partial(_look_at_base, notes, name, own, loaded, *place))
    return result


def _look_at_base(
    notes: Telemetry, name: str, wanted: float, restored: float, scheduler: Any, i: int, epoch: int
) -> None:
    if scheduler.last_epoch > epoch and _same(scheduler.base_lrs[i], restored):
        several = " * len(scheduler.base_lrs)" if len(scheduler.base_lrs) > 1 else ""
        code = f"scheduler.base_lrs = [member.config[{name!r}]]{several}"
        _report_restored(notes, name, wanted, restored, "scheduler.load_state_dict restored base_lrs", code)


def _report_restored(notes: Telemetry, name: str, wanted: float, restored: float, what: str, code: str) -> None:
    notes.find(
        "GPBT015",
        name,
        f"the config's {name} is {wanted:.4g}, and the training ran at {restored:.4g}: {what} as it was when the "
        "checkpoint was written",
        f"use gpbt.torch.begin, or set the config's value again after loading: {code}",
    )


def _fits(name: str, key: str, index: int | None = None) -> bool:
    """May a hyperparameter of this name be what an optimizer's group has under this key (and index, of a tuple)?

    learning_rate, head_lr and optimizer.lr may be lr; lr_decay may not.
    """
    if name == key:
        return True
    key = f"beta{index + 1}" if key == "betas" and index is not None else key
    for form in (key.replace("_", " "), *SYNONYMS.get(key, ())):
        wanted, has = Counter(form.split()), Counter(_words(name))
        if wanted <= has and ABOUT.isdisjoint(has - wanted):
            return True
    return False


def _words(name: str) -> list[str]:
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[^a-z0-9]+", " ", parts.lower()).split()


def _values(optimizer: Any) -> Iterator[tuple[Where, float]]:
    """(where, value) of every single number in an optimizer's groups."""
    for i, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key in ("params", "initial_lr"):
                continue
            for j, item in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
                if _is_number(item):
                    yield ((i, key) if j is None else (i, key, j)), float(item)
                elif getattr(item, "ndim", None) == 0:
                    yield (i, key), float(item)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: float, b: float) -> bool:
    return math.isclose(float(a), float(b), rel_tol=1e-9)
