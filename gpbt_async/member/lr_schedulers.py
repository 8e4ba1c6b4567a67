"""Learning-rate schedulers: which ones drive an optimizer, and how they follow the config's learning rate.

torch's schedulers copy the learning rate when they are *made*: `base_lrs` in the scheduler, `initial_lr` in the groups.
A `group["lr"]` that is set later holds only until the first `scheduler.step()`. So a scheduler is made to look as if
the optimizer had had the config's learning rate from the beginning, whether the scheduler was made before or after:

    by a factor   LambdaLR, StepLR, CosineAnnealingLR, …: the factor stays, the base becomes the config's. Absolute
                  floors (eta_min, min_lr) stay as the script gives them.
    absolute      OneCycleLR, CyclicLR: the peak (max_lr) becomes the config's, all else keeps its proportion to it.
                  SWALR is refused: its swa_lr is no peak. A script that has itself read the learning rate from the
                  config may build such a scheduler as it likes.
    others'       timm's, say, which are no torch schedulers: refused if they have already copied the learning rate.

Schedulers need not be passed: their constructors are wrapped (`watch`), and the garbage collector knows what refers to
the optimizer. That is cheap in a forked member, where everything from before the fork is frozen. So it does not matter
which of the two is made first. Imports no torch, because the zygote calls `watch` before torch is imported.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import weakref
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from . import hooks, user_code
from .parameter_groups import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .parameter_groups import Group, Multipliers


#: torch's schedulers that were made in this process, with the user's line
_made: weakref.WeakKeyDictionary[Any, tuple[str, int] | None] = weakref.WeakKeyDictionary()
#: called with each of torch's schedulers that is made
listeners: list[Callable[[Any], object]] = []
#: names of attributes that hold an optimizer
_HELD_AS = frozenset(("optimizer", "_optimizer", "base_optimizer", "optim", "original_optimizer"))


# ---- which schedulers drive an optimizer


def watch() -> None:
    """From now on remember all of torch's schedulers that are made, in this process and those forked from it."""
    for module in ("torch.optim.lr_scheduler", "torch.optim.swa_utils"):
        hooks.after_import(module, _watch_classes)


def _watch_classes(module: Any) -> None:
    for kind in list(vars(module).values()):
        if isinstance(kind, type) and issubclass(kind, module.LRScheduler):
            hooks.wrap(kind, "__init__", _remembering)


def _remembering(init: Any) -> Any:
    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        inits = (vars(kind).get("__init__") for kind in type(self).__mro__)
        # only the outermost of torch's __init__s; a class of the user's may come before it
        if next(filter(hooks.is_wrapped, inits), None) is watched:
            frame = user_code.nearest(sys._getframe(1))
            with contextlib.suppress(TypeError):  # a class of the user's that cannot be hashed
                _made[self] = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else None
            for listener in listeners:
                listener(self)

    return watched


def unwrapped(thing: Any) -> Any:
    """An optimizer or a scheduler without Accelerate's wrapper."""
    inside = {"AcceleratedOptimizer": "optimizer", "AcceleratedScheduler": "scheduler"}.get(type(thing).__name__)
    return thing if inside is None else getattr(thing, inside)


def same(one: Any, other: Any) -> bool:
    """Do two optimizers train the same groups? One may be wrapped around the other (Accelerate, Fabric, SAM)."""
    one, other = unwrapped(one), unwrapped(other)
    groups, others = getattr(one, "param_groups", None), getattr(other, "param_groups", None)
    return one is other or bool(groups and others and groups[0] is others[0])


def driving(optimizer: Any, given: Iterable[Any] = (), *, search: bool = True) -> list[Any]:
    """Schedulers of an optimizer, torch's and others', each once, without those that are parts of another one.

    given: some that are known. search: also ask the garbage collector, which knows those made before `watch`.
    """
    candidates = [*map(unwrapped, given), *_made]
    if search:
        candidates += _referring(unwrapped(optimizer))
    found = {id(one): one for one in candidates if same(getattr(one, "optimizer", None), optimizer)}
    inside = {id(part) for one in found.values() for part in parts(one) if part is not one}
    return [one for one in found.values() if id(one) not in inside]


def _referring(optimizer: Any) -> Iterator[Any]:
    """Objects that look like a scheduler and hold this optimizer, or an optimizer that is wrapped around it."""
    owners = _owners(optimizer)
    wrappers = [owner for owner in owners if hasattr(type(owner), "zero_grad") and same(owner, optimizer)]
    kinds: dict[type, bool] = {}
    for one in (*owners, *(owner for wrapper in wrappers for owner in _owners(wrapper)), *_globals()):
        kind = type(one)
        if kind not in kinds:
            kinds[kind] = is_torchs(one) or _looks_like_one(kind)
        if kinds[kind] and (is_torchs(one) or follows(one) or copied(one, optimizer.param_groups)):
            yield one


def _owners(thing: Any) -> list[Any]:
    """Objects that have it as an attribute. (Python keeps attributes in the object, or in its dict.)"""
    referrers = gc.get_referrers(thing)
    dicts = [one for one in referrers if type(one) is dict and not _HELD_AS.isdisjoint(one)]
    ids = set(map(id, dicts))
    holders = gc.get_referrers(*dicts) if dicts else []
    return [one for one in referrers if type(one) is not dict] + [
        one for one in holders if id(getattr(one, "__dict__", None)) in ids
    ]


def _globals() -> Iterator[Any]:
    """The globals of the user's files that called us: frozen in a forked member, and so unknown to `gc`.

    (Going through all modules instead would copy a page for each: ten milliseconds a member.)
    """
    frame, seen = sys._getframe(1), set()
    while frame is not None:
        if id(frame.f_globals) not in seen and user_code.is_users(frame.f_code.co_filename):
            seen.add(id(frame.f_globals))
            yield from list(frame.f_globals.values())
        frame = frame.f_back  # type: ignore[assignment]


def _looks_like_one(kind: type) -> bool:
    name = kind.__name__
    called = "LR" in name or "sched" in name.lower() or "warmup" in name.lower()
    steps = any(callable(getattr(kind, method, None)) for method in ("step", "step_update", "dampen"))
    return called and steps and not hasattr(kind, "zero_grad") and not issubclass(kind, type)


def copied(scheduler: Any, groups: Sequence[Group], but: float | None = None) -> bool:
    """Does it hold, as an attribute or in a list or tuple there, a learning rate that the groups have now?

    If not, it multiplies the current one, or computes its own. but: a learning rate that does not count.
    """
    rates = [group[name] for group in groups for name in ("lr", "initial_lr") if name in group]
    current = [(number(rate), type(rate) is int) for rate in rates if number(rate) and number(rate) != but]
    for value in getattr(scheduler, "__dict__", {}).values():
        for item in value if isinstance(value, list | tuple) else (value,):
            # a whole number is a count, unless the script has given such a learning rate
            if isinstance(item, int | float) and any(
                math.isclose(item, rate, rel_tol=1e-9) and (whole or isinstance(item, float)) for rate, whole in current
            ):
                return True
    return False


def is_torchs(scheduler: Any) -> bool:
    """Is its class one of torch's, or derived from one?"""
    return any(kind.__module__ == "torch.optim.lr_scheduler" for kind in type(scheduler).__mro__)


def parts(scheduler: Any) -> Iterator[Any]:
    """The scheduler, and the schedulers in it (SequentialLR, ChainedScheduler)."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from parts(part)


def named(scheduler: Any) -> str:
    """Its class, and where it was made, if that is known: for messages."""
    place = _made.get(scheduler) if is_torchs(scheduler) else None
    return type(scheduler).__name__ + (f" ({os.path.basename(place[0])}:{place[1]})" if place else "")


# ---- what a scheduler does


def absolute(scheduler: Any) -> Any | None:
    """Of it and its parts the first with a peak of its own, whatever the optimizer has; None if there is none."""
    return next((part for part in parts(scheduler) if _is(part, "OneCycleLR", "CyclicLR")), None)


def ending(scheduler: Any) -> Any | None:
    """Of it and its parts the first that ends at a learning rate of its own (SWALR); None if there is none."""
    return next((part for part in parts(scheduler) if _is(part, "SWALR")), None)


def own_lr(scheduler: Any, group: int = 0) -> float:
    """The learning rate of its own that an `absolute` or `ending` scheduler has for a group."""
    if _is(scheduler, "CyclicLR"):
        return number(scheduler.max_lrs[group])
    return number(scheduler.optimizer.param_groups[group]["swa_lr" if _is(scheduler, "SWALR") else "max_lr"])


def follows(scheduler: Any) -> bool:
    """Can it follow the config's learning rate?"""
    return ending(scheduler) is None and (is_torchs(scheduler) or type(scheduler).__name__ == "GreedyLR")


def is_known(scheduler: Any) -> bool:
    """Is its learning rate certainly the config's times a factor, once it follows?"""
    return all(type(part).__module__.startswith(("torch.optim.", "transformers.")) for part in parts(scheduler))


def cycles(scheduler: Any) -> str | None:
    """The hyperparameter that it sets beside the learning rate: "momentum", "beta1" or None."""
    for part in parts(scheduler):
        if getattr(part, "cycle_momentum", False):
            return "beta1" if getattr(part, "use_beta1", False) else "momentum"
    return None


def _is(scheduler: Any, *names: str) -> bool:
    return any(k.__name__ in names and k.__module__.startswith("torch.optim.") for k in type(scheduler).__mro__)


# ---- following


def anchors(groups: Sequence[Group], drivers: Sequence[Any]) -> list[float]:
    """Of each group the learning rate that the config's replaces: the peak, if there is one, or the base."""
    for driver in drivers:
        if (peaked := absolute(driver)) is not None:
            return [_peak(peaked, i, group) for i, group in enumerate(groups)]
    return [base(group) for group in groups]


def base(group: Group) -> float:
    """The learning rate with which a group began."""
    return number(group.get("initial_lr", group["lr"]))


def _peak(scheduler: Any, index: int, group: Group) -> float:
    try:
        return own_lr(scheduler, index)
    except LookupError:  # a group that was added after the scheduler was made
        return base(group)


def set_lr(value: float, groups: Sequence[Group], drivers: Sequence[Any], mults: Multipliers) -> None:
    """Give the groups the config's learning rate, as if they had had it when their schedulers were made.

    drivers: schedulers, all of which `follow`. mults: of the groups, for their `anchors`.
    """
    old = anchors(groups, drivers)
    new = [anchor if mult is None else value * mult for anchor, mult in zip(old, mults, strict=True)]
    for group, was, now in zip(groups, old, new, strict=True):
        # a scheduler (a warm-up, say) may have changed it already
        moved = drivers and was and math.isfinite(was)
        lr = now * (number(group["lr"]) / was) if moved else now
        if hasattr(group["lr"], "fill_"):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
        for name in ("initial_lr", "max_lr", "min_lr"):  # the last two are OneCycleLR's
            if name in group:
                group[name] = _scaled(group[name], was, now)
    for driver in drivers:
        _scale(driver, old, new)
    if len(drivers) == 1 and getattr(drivers[0], "last_epoch", 0) > 0:
        for group, exact in zip(groups, _course(drivers[0]) or (), strict=False):
            if not hasattr(group["lr"], "fill_"):
                group["lr"] = number(exact)
    remember(drivers, groups)


def _scaled(value: Any, was: float, now: float) -> float:
    value = number(value)
    return now if value == was or not was else value * (now / was)


def _scale(scheduler: Any, old: Sequence[float], new: Sequence[float]) -> None:
    for part in parts(scheduler):
        # of every scheduler; of CyclicLR; of GreedyLR, whose max_lrs are bounds
        for name in ("base_lrs", "max_lrs", "_init_lrs"):
            values = getattr(part, name, None)
            # fewer than groups, if some were added after it was made
            if values is not None and len(values) <= len(old) and (name != "max_lrs" or _is(part, "CyclicLR")):
                setattr(part, name, [_scaled(*each) for each in zip(values, old, new, strict=False)])


def remember(drivers: Iterable[Any], groups: Sequence[Group]) -> None:
    """Set what `get_last_lr` returns."""
    for driver in drivers:
        for part in parts(driver):
            if hasattr(part, "_last_lr"):
                part._last_lr = [number(group["lr"]) for group in groups]


def rebase(scheduler: Any, groups: Sequence[Group]) -> None:
    """Set its base learning rates to the groups' (after another scheduler's state was loaded)."""
    for part in parts(scheduler):
        if hasattr(part, "base_lrs"):
            part.base_lrs = [base(group) for group in groups]
    remember([scheduler], groups)


def _course(scheduler: Any) -> list[Any] | None:
    """Its learning rates at the current step, computed from its base, as floors must not be scaled; None if unknown."""
    if not type(scheduler).__module__.startswith("torch.optim."):
        return None
    if _is(scheduler, "SequentialLR"):
        return _course(scheduler._schedulers[bisect_right(scheduler._milestones, scheduler.last_epoch)])
    if hasattr(scheduler, "_get_closed_form_lr"):
        with contextlib.suppress(ZeroDivisionError):  # total_iters=0
            return list(scheduler._get_closed_form_lr())
        return None
    if _is(scheduler, "LambdaLR", "CosineAnnealingWarmRestarts"):
        scheduler._get_lr_called_within_step = True
        try:
            return list(scheduler.get_lr())
        except ValueError:  # it cannot step either: a group was added after it was made
            return None
        finally:
            scheduler._get_lr_called_within_step = False
    return None
