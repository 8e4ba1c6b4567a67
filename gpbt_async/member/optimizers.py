"""Optimizers under a config: the config's values stay set, or the script's author learns that they do not.

`govern` sets an optimizer's values from a config, in its schedulers too, and remembers them for as long as the
optimizer lives. What a script does afterwards that would silently undo this is then handled:

    a scheduler is made           it follows the config, or its constructor raises (lr_schedulers.py)
    load_state_dict               restores the parent's hyperparameters with its momenta: the config's are set again;
                                  a state that this optimizer has produced since is the script's rollback, and stays
    add_param_group               a group without a value gets the config's, and not the optimizer's default
    group["lr"] = 0.1             is noted in the member's telemetry, by which the pre-flight finds members with
                                  different configs and the same value (GPBT003)

For the last, a hook looks before the optimizer's 1st, 2nd, 4th, 8th … step. The second to last look counts: it falls
into the second quarter of the interval, where no schedule has reached its floor.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from typing import TYPE_CHECKING, Any

import torch

from . import lr_schedulers, parameter_groups
from . import telemetry as telemetry_module
from .config import mark_applied, peek, script_reads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.optim import Optimizer

    from ..space import Scalar
    from .telemetry import Telemetry


#: a group's keys that belong to its learning rate
_OF_LR = ("lr", "initial_lr", "max_lr", "min_lr")
#: states that an optimizer has produced, of which the last are remembered
_STATES = 4096


class _Governed:
    def __init__(self, config: Mapping[str, Scalar], count: int) -> None:
        self.config = config
        self.telemetry: Telemetry | None = None
        #: name → value, under torch's names
        self.settings: dict[str, Any] = {}
        #: name → multiplier of each group, from when the name was first set
        self.mults: dict[str, parameter_groups.Multipliers] = {}
        #: groups at that time
        self.count = count
        #: learning rates of groups that were added later, at their first step
        self.added: list[float] = []
        #: fingerprints of the states that the optimizer has produced since, the latest last
        self.states: dict[int, None] = {}
        self.steps = 0
        #: names whose value was the config's at the first step
        self.begun: set[str] = set()
        #: values at the last look
        self.seen: dict[str, float] = {}

    def reads(self, name: str) -> bool:
        """Has the script itself read this value from the config, and may use it as it likes?"""
        return any(script_reads(self.config, alias) for alias in parameter_groups.aliases(self.config, name))


_governed: weakref.WeakKeyDictionary[Any, _Governed] = weakref.WeakKeyDictionary()


def govern(
    config: Mapping[str, Scalar], optimizer: Optimizer, given: Sequence[Any] = (), telemetry: Telemetry | None = None
) -> list[str]:
    """Set the optimizer's values from the config; returns torch's names of those set. given: schedulers, if known.

    Raises ValueError if the config and the optimizer have no name in common, and for a scheduler that would overwrite a
    value; TypeError for a value that must be a number and is not.
    """
    bare = lr_schedulers.unwrapped(optimizer)
    settings = parameter_groups.settings(config, bare)
    if not settings:
        has = ", ".join(name for name in bare.param_groups[0] if name != "params")
        raise ValueError(f"config has {', '.join(peek(config)) or 'nothing'}, and the optimizer {has}: none in common")
    governed = _governed.get(bare)
    if governed is None or governed.count != len(bare.param_groups):
        _anchor_added(bare, governed)
        governed = _Governed(config, len(bare.param_groups))
    if governed.settings != settings:
        governed.states = {}  # their hyperparameters come from another config
    governed.config, governed.settings = config, settings
    governed.telemetry = telemetry or governed.telemetry or telemetry_module.current
    governed.steps, governed.seen = 0, {}
    drivers = lr_schedulers.driving(bare, given)
    for driver in drivers:
        _refuse(driver, governed)
    _refuse_relative(bare, settings)
    for name, value in settings.items():
        if name == "lr":
            _set_lr(governed, bare, drivers)
        else:
            if name not in governed.mults:
                governed.mults[name], guess = parameter_groups.multipliers(name, bare.param_groups)
                if guess:
                    _report_guess(governed, len(bare.param_groups))
            parameter_groups.assign(name, value, bare.param_groups, governed.mults[name])
    _set_defaults(bare, settings)
    _attach(bare, governed)
    mark_applied(config, [alias for name in settings for alias in parameter_groups.aliases(config, name)])
    return list(settings)


def _set_lr(governed: _Governed, optimizer: Any, drivers: Sequence[Any]) -> None:
    groups = optimizer.param_groups
    anchors = lr_schedulers.anchors(groups, drivers)
    if any(map(lr_schedulers.absolute, drivers)):
        if governed.reads("lr"):  # the script has built the scheduler from the config's value
            return
        mults, _ = parameter_groups.multipliers("lr", groups, anchors)
    else:
        if "lr" not in governed.mults:
            governed.mults["lr"], _ = parameter_groups.multipliers("lr", groups, anchors)
        mults = governed.mults["lr"]
    lr_schedulers.set_lr(governed.settings["lr"], groups, drivers, mults)


def _anchor_added(optimizer: Any, governed: _Governed | None) -> None:
    """Give groups that were added after a scheduler was made an `initial_lr`, as the scheduler gave the others."""
    first, *others = optimizer.param_groups
    if "initial_lr" not in first:
        return
    added = governed.added if governed is not None else []
    began = dict(zip(range(governed.count, len(others) + 1), added, strict=False)) if governed is not None else {}
    for i, group in enumerate(others, 1):
        if "lr" not in group:
            continue
        group.setdefault("initial_lr", began.get(i, parameter_groups.number(group["lr"])))


def _set_defaults(optimizer: Any, settings: Mapping[str, Scalar]) -> None:
    """Set the values of groups that are added later without a value."""
    defaults = getattr(optimizer, "defaults", {})
    for name, value in settings.items():
        if name in parameter_groups.BETAS and "betas" in defaults:
            parameter_groups.assign(name, value, [defaults], [1.0])
        elif name in defaults:
            defaults[name] = value


def _report_guess(governed: _Governed, count: int) -> None:
    if governed.telemetry is not None:
        governed.telemetry.find(
            "GPBT004",
            "weight_decay",
            f"the optimizer has {count} parameter groups, all with weight_decay=0 and alike in all else: it is unknown "
            "whether one of them should stay without weight decay, and all get the config's",
            'declare it in the groups: {"params": …, "weight_decay_mult": 0} for one without weight decay, 1 for the '
            "others",
        )


# ---- refusals


def _refuse(scheduler: Any, governed: _Governed) -> None:
    """Raise ValueError for a scheduler that would overwrite what the config has set."""
    settings = governed.settings
    if "lr" in settings and not lr_schedulers.follows(scheduler) and not governed.reads("lr"):
        name, alias = lr_schedulers.named(scheduler), parameter_groups.aliases(governed.config, "lr")[0]
        if lr_schedulers.ending(scheduler) is not None:
            raise ValueError(
                f"{name} brings the learning rate to a value of its own (swa_lr), but the config has {alias}: build it "
                f"from member.config[{alias!r}], say swa_lr=0.5 * member.config[{alias!r}]"
            )
        groups = lr_schedulers.unwrapped(scheduler.optimizer).param_groups
        if lr_schedulers.copied(scheduler, groups, but=parameter_groups.number(settings["lr"])):
            raise ValueError(
                f"{name} was made before gpbt.torch.begin and has copied the script's learning rate, but the config "
                f"has {alias}: make it after begin (it then starts from the config's), or build it from "
                f"member.config[{alias!r}]"
            )
    driven = lr_schedulers.cycles(scheduler)
    if driven in settings and not governed.reads(driven):
        raise ValueError(
            f"{lr_schedulers.named(scheduler)} sets {driven} at every step (cycle_momentum=True), but the config has "
            f"{driven}, which would be lost: give the scheduler cycle_momentum=False, or take {driven} out of the space"
        )


def _refuse_relative(optimizer: Any, settings: Mapping[str, Scalar]) -> None:
    if "lr" in settings and any(group.get("relative_step") for group in optimizer.param_groups):
        raise ValueError(
            f"{type(optimizer).__name__} computes its own learning rate (relative_step=True), but the config has one, "
            "which would be lost: make it with relative_step=False, warmup_init=False, and an lr"
        )


def _scheduler_made(scheduler: Any) -> None:
    """A scheduler has been made: if its optimizer is governed already, the scheduler follows."""
    optimizer = lr_schedulers.unwrapped(scheduler.optimizer)
    governed = next((state for other, state in list(_governed.items()) if lr_schedulers.same(other, optimizer)), None)
    if governed is None:
        return
    _refuse(scheduler, governed)
    peaked = lr_schedulers.absolute(scheduler)
    if "lr" in governed.settings and peaked is scheduler:  # a part of another was made before it
        _set_lr(governed, optimizer, [scheduler])


lr_schedulers.listeners.append(_scheduler_made)


# ---- what happens to an optimizer afterwards


def _attach(optimizer: Any, governed: _Governed) -> None:
    """Install our hooks in it. (Some optimizers that wrap others have no hooks, and are left alone.)"""
    attached = optimizer in _governed
    _governed[optimizer] = governed
    if attached or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return
    optimizer.register_step_pre_hook(_look)
    before: dict[str, list[parameter_groups.Group]] = {}
    optimizer.register_load_state_dict_pre_hook(lambda loading, state: _keep(loading, before))
    optimizer.register_load_state_dict_post_hook(lambda loading: _put_back(loading, before))
    optimizer.register_state_dict_post_hook(_remember)


def _keep(optimizer: Any, before: dict[str, list[parameter_groups.Group]]) -> None:
    before["groups"] = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def _put_back(optimizer: Any, before: dict[str, list[parameter_groups.Group]]) -> None:
    """Set the config's values again after a state was loaded with its hyperparameters, unless it was its own state."""
    governed, own = _governed.get(optimizer), before.pop("groups", [])
    if governed is None or len(own) != len(optimizer.param_groups):
        return
    with contextlib.suppress(Exception):  # the call is the script's
        if _fingerprint(optimizer.param_groups) in governed.states:
            return
    bases = (
        [parameter_groups.number(g.get("initial_lr", g.get("lr"))) for g in groups]
        for groups in (own, optimizer.param_groups)
    )
    names = [name for name in governed.settings if name != "lr" and name not in parameter_groups.BETAS]
    if any(name in parameter_groups.BETAS for name in governed.settings):
        names.append("betas")
    if "lr" in governed.settings and not all(map(math.isclose, *bases)):
        names += _OF_LR
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        for name in names:
            if name in kept:
                group[name] = kept[name]
            else:
                group.pop(name, None)  # the parent's initial_lr, from which a scheduler made later would begin


def _remember(optimizer: Any, state: Any) -> None:
    """The optimizer has produced its state, to which the script may roll back."""
    governed = _governed.get(optimizer)
    if governed is None:
        return
    with contextlib.suppress(Exception):  # the call is the script's
        mark = _fingerprint(state["param_groups"])
        governed.states.pop(mark, None)
        governed.states[mark] = None
        if len(governed.states) > _STATES:
            del governed.states[next(iter(governed.states))]


def _fingerprint(groups: Sequence[Any]) -> int:
    """A hash of the hyperparameters: the same for a state, its copy, and the state read from a file."""
    plain = [
        sorted(
            (str(name), repr(value.tolist() if hasattr(value, "tolist") else value))
            for name, value in group.items()
            if name not in ("params", "param_names")
        )
        for group in groups
    ]
    return hash(repr(plain))


def _look(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Called before each step."""
    if torch.compiler.is_compiling():
        return
    governed = _governed.get(optimizer)
    if governed is None:
        return
    governed.steps += 1
    for group in optimizer.param_groups[governed.count + len(governed.added) :]:
        if "lr" not in group or getattr(group["lr"], "is_cuda", False):
            break
        governed.added.append(parameter_groups.number(group["lr"]))
    if governed.steps & (governed.steps - 1) == 0 and governed.telemetry is not None:
        _note(optimizer, governed)


def _note(optimizer: Any, governed: _Governed) -> None:
    """Write the values of the last look into the telemetry, and look again."""
    assert governed.telemetry is not None
    current = {name: value for name in governed.settings if (value := _current(optimizer, governed, name)) is not None}
    if governed.steps == 1:
        applied = governed.settings
        governed.begun = {name for name, value in current.items() if math.isclose(value, float(applied[name]))}
    for name, value in (governed.seen or current).items():
        by = None
        if name == "lr":
            drivers = lr_schedulers.driving(optimizer, search=False)
            peaks = (lr_schedulers.absolute(driver) or lr_schedulers.ending(driver) for driver in drivers)
            own = next(filter(None, peaks), None)
            if own is not None and governed.reads("lr"):  # its own must differ between configs, if not equal them
                value, by = lr_schedulers.own_lr(own), type(own).__name__
            elif drivers and all(map(lr_schedulers.is_known, drivers)):
                governed.telemetry.values.pop(name, None)
                continue
            elif drivers:
                by = type(drivers[0]).__name__
        if by is None and name in governed.begun:
            continue  # a schedule of the script's own, from the config's value down to a floor
        governed.telemetry.values[name] = (float(governed.settings[name]), value, by)
    governed.seen = current


def _current(optimizer: Any, governed: _Governed, name: str) -> float | None:
    """The value now, of the first group with multiplier 1; None if it cannot be read."""
    mults = governed.mults.get(name) or [1.0]
    group = next((g for g, mult in zip(optimizer.param_groups, mults, strict=False) if mult == 1), None)
    if group is None or getattr(group.get(name), "is_cuda", False) or isinstance(governed.settings[name], str | bool):
        return None  # reading it would wait for the GPU, or break a graph that is being captured
    return parameter_groups.value_of(name, group)
