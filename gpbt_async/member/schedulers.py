"""Learning-rate schedulers: which ones drive an optimizer, and how they follow when its learning rate is the config's.

torch's schedulers take the learning rate down when they are *made*: `base_lrs` in the scheduler, `initial_lr` in the
groups. Whoever sets `group["lr"]` later trains with it until the first `scheduler.step()` only. So a scheduler is made
to look as if the optimizer had had the config's learning rate from the beginning, whether it was made before or after:

    by a factor   LambdaLR, StepLR, CosineAnnealingLR, …: the factor stays, the base becomes the config's. Absolute
                  floors (eta_min, min_lr) stay what the script says.
    absolute      OneCycleLR, CyclicLR: the peak (max_lr) becomes the config's, all else keeps its proportion to it.
                  SWALR is refused: its swa_lr is no peak. A script that has read the learning rate from the config
                  itself builds such a scheduler as it likes.
    others'       timm's, say, which are no torch schedulers: refused if they have copied the learning rate before.

Schedulers are found without being passed: their constructors are wrapped (`watch`), and what refers to the optimizer
is asked of the garbage collector. That is cheap in a forked member, where all that came with the fork is frozen.
The order of the two never matters then. Imports no torch, for the zygote installs `watch` before torch is there.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
import sys
import weakref
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from . import script
from .groups import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .groups import Group, Multipliers


#: torch's schedulers that were made in this process, with the user's line
_made: weakref.WeakKeyDictionary[Any, tuple[str, int] | None] = weakref.WeakKeyDictionary()
#: called with each of torch's schedulers when it has been made (`optimizers` does so)
heard: list[Callable[[Any], object]] = []


#: what an optimizer is called in what has one
_HELD_AS = frozenset(("optimizer", "_optimizer", "base_optimizer", "optim", "original_optimizer"))


# ---- who drives an optimizer


def watch() -> None:
    """From now on remember all of torch's schedulers that are made, in this process and those forked from it."""
    script.after_import("torch.optim.lr_scheduler", _wrap)
    script.after_import("torch.optim.swa_utils", _wrap)


def _wrap(module: Any) -> None:
    for kind in list(vars(module).values()):
        if isinstance(kind, type) and issubclass(kind, module.LRScheduler) and "__init__" in vars(kind):
            init: Any = kind.__init__  # type: ignore[misc]
            if not hasattr(init, "_gpbt_watched"):
                kind.__init__ = _watched(init)  # type: ignore[misc]


def _watched(init: Any) -> Any:
    @functools.wraps(init)
    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        inits = (vars(kind).get("__init__") for kind in type(self).__mro__)
        # the outermost of torch's: the user's own class may come before it
        if next((each for each in inits if hasattr(each, "_gpbt_watched")), None) is watched:
            with contextlib.suppress(TypeError):  # a class of the user's that cannot be hashed
                _made[self] = _line(sys._getframe(1))
            for hear in heard:
                hear(self)

    watched._gpbt_watched = True  # type: ignore[attr-defined]
    return watched


def _line(frame: Any) -> tuple[str, int] | None:
    while frame is not None and not script.is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else None


def bare(thing: Any) -> Any:
    """Without what Accelerate puts around an optimizer or a scheduler."""
    inside = {"AcceleratedOptimizer": "optimizer", "AcceleratedScheduler": "scheduler"}.get(type(thing).__name__)
    return thing if inside is None else getattr(thing, inside)


def same(one: Any, other: Any) -> bool:
    """Do two optimizers train the same groups? One may be wrapped around the other (Accelerate, Fabric, SAM)."""
    one, other = bare(one), bare(other)
    ours, theirs = getattr(one, "param_groups", None), getattr(other, "param_groups", None)
    return one is other or bool(ours and theirs and ours[0] is theirs[0])


def driving(optimizer: Any, given: Iterable[Any] = (), *, search: bool = True) -> list[Any]:
    """Schedulers of an optimizer, torch's and others', each once; those inside of another are that one's.

    given: some that are known. search: also ask the garbage collector, which sees what was made before `watch`.
    """
    known = [*map(bare, given), *_made]
    if search:
        known += _referring(bare(optimizer))
    found = {id(each): each for each in known if same(getattr(each, "optimizer", None), optimizer)}
    inside = {id(part) for each in found.values() for part in parts(each) if part is not each}
    return [each for each in found.values() if id(each) not in inside]


def _referring(optimizer: Any) -> Iterator[Any]:
    """What looks like a scheduler and has this optimizer, or one that is wrapped around it."""
    owners = _owners(optimizer)
    wrapped = [each for each in owners if hasattr(type(each), "zero_grad") and same(each, optimizer)]
    kinds: dict[type, bool] = {}
    for each in (*owners, *(owner for other in wrapped for owner in _owners(other)), *_globals()):
        kind = type(each)
        if kind not in kinds:
            kinds[kind] = is_torchs(each) or _looks_like_one(kind)
        if kinds[kind] and (is_torchs(each) or follows(each) or copied(each, optimizer.param_groups)):
            yield each


def _owners(thing: Any) -> list[Any]:
    """Objects that have it as an attribute. (Python keeps attributes in the object, or in its dict.)"""
    referring = gc.get_referrers(thing)
    dicts = [each for each in referring if type(each) is dict and not _HELD_AS.isdisjoint(each)]
    ids = set(map(id, dicts))
    holding = gc.get_referrers(*dicts) if dicts else []
    return [each for each in referring if type(each) is not dict] + [
        each for each in holding if id(getattr(each, "__dict__", None)) in ids
    ]


def _globals() -> Iterator[Any]:
    """What stands at the top level of the user's files that called us: frozen in a forked member, unseen by `gc`.

    (Going through all modules instead would copy a page for each: ten milliseconds a member.)
    """
    frame, seen = sys._getframe(1), set()
    while frame is not None:
        if id(frame.f_globals) not in seen and script.is_users(frame.f_code.co_filename):
            seen.add(id(frame.f_globals))
            yield from list(frame.f_globals.values())
        frame = frame.f_back  # type: ignore[assignment]


def _looks_like_one(kind: type) -> bool:
    name = kind.__name__
    called = "LR" in name or "sched" in name.lower() or "warmup" in name.lower()
    steps = any(callable(getattr(kind, each, None)) for each in ("step", "step_update", "dampen"))
    return called and steps and not hasattr(kind, "zero_grad") and not issubclass(kind, type)


def copied(scheduler: Any, groups: Sequence[Group], but: float | None = None) -> bool:
    """Has it, as an attribute or in a list or tuple there, a learning rate that the groups have now?

    One that has none multiplies what it finds, or computes its own. but: a learning rate that does not count.
    """
    rates = [group[name] for group in groups for name in ("lr", "initial_lr") if name in group]
    known = [(number(rate), type(rate) is int) for rate in rates if number(rate) and number(rate) != but]
    for value in getattr(scheduler, "__dict__", {}).values():
        for each in value if isinstance(value, list | tuple) else (value,):
            # a whole number is a count, unless the script has given such a learning rate
            if isinstance(each, int | float) and any(
                math.isclose(each, rate, rel_tol=1e-9) and (whole or isinstance(each, float)) for rate, whole in known
            ):
                return True
    return False


def is_torchs(scheduler: Any) -> bool:
    """One of torch's, or made from one of torch's."""
    return any(kind.__module__ == "torch.optim.lr_scheduler" for kind in type(scheduler).__mro__)


def parts(scheduler: Any) -> Iterator[Any]:
    """It, and all that it consists of (SequentialLR, ChainedScheduler)."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from parts(part)


def named(scheduler: Any) -> str:
    """For people: its class, and where it was made, if that is known."""
    place = _made.get(scheduler) if is_torchs(scheduler) else None
    return type(scheduler).__name__ + (f" ({os.path.basename(place[0])}:{place[1]})" if place else "")


# ---- what it drives


def absolute(scheduler: Any) -> Any | None:
    """Of it and its parts the first whose peak is its own, whatever the optimizer has; None if there is none."""
    return next((part for part in parts(scheduler) if _is(part, "OneCycleLR", "CyclicLR")), None)


def ending(scheduler: Any) -> Any | None:
    """Of it and its parts the first that ends at a learning rate of its own (SWALR); None if there is none."""
    return next((part for part in parts(scheduler) if _is(part, "SWALR")), None)


def own_lr(scheduler: Any, group: int = 0) -> float:
    """The learning rate that an `absolute` or `ending` one has of its own, for a group."""
    if _is(scheduler, "CyclicLR"):
        return number(scheduler.max_lrs[group])
    return number(scheduler.optimizer.param_groups[group]["swa_lr" if _is(scheduler, "SWALR") else "max_lr"])


def follows(scheduler: Any) -> bool:
    """Can it be made to follow the config's learning rate?"""
    return ending(scheduler) is None and (is_torchs(scheduler) or type(scheduler).__name__ == "GreedyLR")


def is_known(scheduler: Any) -> bool:
    """Its course is known to be the config's learning rate times a factor, once it has followed."""
    return all(type(part).__module__.startswith(("torch.optim.", "transformers.")) for part in parts(scheduler))


def cycles(scheduler: Any) -> str | None:
    """The hyperparameter that it drives beside the learning rate: "momentum", "beta1" or None."""
    for part in parts(scheduler):
        if getattr(part, "cycle_momentum", False):
            return "beta1" if getattr(part, "use_beta1", False) else "momentum"
    return None


def _is(scheduler: Any, *names: str) -> bool:
    return any(k.__name__ in names and k.__module__.startswith("torch.optim.") for k in type(scheduler).__mro__)


# ---- following


def anchors(groups: Sequence[Group], drivers: Sequence[Any]) -> list[float]:
    """By group the learning rate that the config's takes the place of: the peak, if there is one, or the base."""
    for driver in drivers:
        one = absolute(driver)
        if one is not None:
            return [_peak(one, i, group) for i, group in enumerate(groups)]
    return [base(group) for group in groups]


def base(group: Group) -> float:
    """The learning rate that a group's course begins from."""
    return number(group.get("initial_lr", group["lr"]))


def _peak(scheduler: Any, index: int, group: Group) -> float:
    try:
        return own_lr(scheduler, index)
    except LookupError:  # a group that was added after the scheduler was made
        return base(group)


def set_lr(value: float, groups: Sequence[Group], drivers: Sequence[Any], mults: Multipliers) -> None:
    """Make the config's learning rate the groups', as if they had had it when their schedulers were made.

    drivers: schedulers, all of which `follow`. mults: of the groups, for their `anchors`.
    """
    old = anchors(groups, drivers)
    new = [have if mult is None else value * mult for have, mult in zip(old, mults, strict=True)]
    for group, was, now in zip(groups, old, new, strict=True):
        # where a scheduler, warming up, say, has brought it just now
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
        for name in ("base_lrs", "max_lrs", "_init_lrs"):  # every one's; CyclicLR's; GreedyLR's, whose max_lrs bound it
            values = getattr(part, name, None)
            # fewer than groups, where some were added after it was made
            if values is not None and len(values) <= len(old) and (name != "max_lrs" or _is(part, "CyclicLR")):
                setattr(part, name, [_scaled(*each) for each in zip(values, old, new, strict=False)])


def remember(drivers: Iterable[Any], groups: Sequence[Group]) -> None:
    """What `get_last_lr` tells."""
    for driver in drivers:
        for part in parts(driver):
            if hasattr(part, "_last_lr"):
                part._last_lr = [number(group["lr"]) for group in groups]


def rebase(scheduler: Any, groups: Sequence[Group]) -> None:
    """Its base learning rates are the groups' (after another one's state was loaded)."""
    for part in parts(scheduler):
        if hasattr(part, "base_lrs"):
            part.base_lrs = [base(group) for group in groups]
    remember([scheduler], groups)


def _course(scheduler: Any) -> list[Any] | None:
    """Its learning rates at its present step from its base, not from its last step: floors are not to be scaled."""
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
        except ValueError:  # it cannot go on either: a group was added after it was made
            return None
        finally:
            scheduler._get_lr_called_within_step = False
    return None
