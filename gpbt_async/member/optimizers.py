"""Optimizers under a config: what was set stays set, or it is said.

`govern` sets what of a config is an optimizer's, schedulers and all, and remembers it, weakly, for as long as the
optimizer lives. What a script does afterwards and would silently undo it is then seen:

    a scheduler is made           it follows, or is refused there (schedulers.py)
    load_state_dict               brings the parent's hyperparameters with its momenta: the config's are put back; a
                                  state that this optimizer has given since is the script's own rollback, and stays
    add_param_group               a group that names no value gets the config's, and not the optimizer's default
    group["lr"] = 0.1             noted in the member's telemetry, which tells members with different configs and the
                                  same value (preflight.checks, GPBT003)

The last is looked at by a hook before the optimizer's 1st, 2nd, 4th, 8th … step, and what counts is the second to last
look, which falls into the second quarter of the interval: there no schedule has come to its floor.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from typing import TYPE_CHECKING, Any

import torch

from . import groups, schedulers
from . import telemetry as telemetry_module
from .config import mark_applied, peek, script_reads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.optim import Optimizer

    from .telemetry import Telemetry


#: what belongs to a learning rate in a group
_OF_LR = ("lr", "initial_lr", "max_lr", "min_lr")
#: states of an optimizer's own that are remembered
_STATES = 4096


class _Governed:
    def __init__(self, config: Mapping[str, Any], count: int) -> None:
        self.config = config
        self.telemetry: Telemetry | None = None
        #: name → value, under torch's names
        self.settings: dict[str, Any] = {}
        #: name → of each group, as they were when it was set first
        self.mults: dict[str, groups.Multipliers] = {}
        #: groups that were there
        self.count = count
        #: learning rates of groups that were added later, at their first step
        self.added: list[float] = []
        #: fingerprints of the states that the optimizer has given since, the latest last
        self.states: dict[int, None] = {}
        self.steps = 0
        #: names whose value was the config's at the first step
        self.begun: set[str] = set()
        #: values that were looked at last
        self.seen: dict[str, float] = {}

    def reads(self, name: str) -> bool:
        """Has the script read it from the config, and so may have wired it as it likes?"""
        return any(script_reads(self.config, said) for said in groups.said(self.config, name))


_governed: weakref.WeakKeyDictionary[Any, _Governed] = weakref.WeakKeyDictionary()


def govern(
    config: Mapping[str, Any], optimizer: Optimizer, given: Sequence[Any] = (), telemetry: Telemetry | None = None
) -> list[str]:
    """Set what of the config is the optimizer's; returns the names that were. given: its schedulers, if known.

    Raises ValueError when none of the config's names is the optimizer's, and for a scheduler that would overwrite one;
    TypeError for what is no number.
    """
    bare = schedulers.bare(optimizer)
    settings = groups.settings(config, bare)
    if not settings:
        has = ", ".join(name for name in bare.param_groups[0] if name != "params")
        raise ValueError(f"config has {', '.join(peek(config)) or 'nothing'}, and the optimizer {has}: none in common")
    governed = _governed.get(bare)
    if governed is None or governed.count != len(bare.param_groups):
        _anchor_added(bare, governed)
        governed = _Governed(config, len(bare.param_groups))
    if governed.settings != settings:
        governed.states = {}  # their hyperparameters are another config's
    governed.config, governed.settings = config, settings
    governed.telemetry = telemetry or governed.telemetry or telemetry_module.current
    governed.steps, governed.seen = 0, {}
    drivers = schedulers.driving(bare, given)
    for driver in drivers:
        _refuse(driver, governed)
    _refuse_relative(bare, settings)
    for name, value in settings.items():
        if name == "lr":
            _set_lr(governed, bare, drivers)
        else:
            if name not in governed.mults:
                governed.mults[name], guess = groups.multipliers(name, bare.param_groups)
                if guess:
                    _tell_guess(governed, len(bare.param_groups))
            groups.assign(name, value, bare.param_groups, governed.mults[name])
    _set_defaults(bare, settings)
    _attach(bare, governed)
    mark_applied(config, [said for name in settings for said in groups.said(config, name)])
    return list(settings)


def _set_lr(governed: _Governed, optimizer: Any, drivers: Sequence[Any]) -> None:
    if any(schedulers.absolute(each) for each in drivers):
        if governed.reads("lr"):  # the script has built it from the config's
            return
        mults, _ = groups.multipliers("lr", optimizer.param_groups, schedulers.anchors(optimizer.param_groups, drivers))
    else:
        if "lr" not in governed.mults:
            now = schedulers.anchors(optimizer.param_groups, drivers)
            governed.mults["lr"], _ = groups.multipliers("lr", optimizer.param_groups, now)
        mults = governed.mults["lr"]
    schedulers.set_lr(governed.settings["lr"], optimizer.param_groups, drivers, mults)


def _anchor_added(optimizer: Any, governed: _Governed | None) -> None:
    """Give groups that were added after a scheduler was made what it has given the others: where they began."""
    first, *others = optimizer.param_groups
    if "initial_lr" not in first:
        return
    added = governed.added if governed is not None else []
    began = dict(zip(range(governed.count, len(others) + 1), added, strict=False)) if governed is not None else {}
    for i, group in enumerate(others, 1):
        if "lr" not in group:
            continue
        group.setdefault("initial_lr", began.get(i, groups.number(group["lr"])))


def _set_defaults(optimizer: Any, settings: Mapping[str, Any]) -> None:
    """What a group gets that is added later and does not say."""
    defaults = getattr(optimizer, "defaults", {})
    for name, value in settings.items():
        if name in groups.BETAS and "betas" in defaults:
            groups.assign(name, value, [defaults], [1.0])
        elif name in defaults:
            defaults[name] = value


def _tell_guess(governed: _Governed, count: int) -> None:
    if governed.telemetry is not None:
        governed.telemetry.find(
            "GPBT004",
            "weight_decay",
            f"the optimizer has {count} parameter groups, all with weight_decay=0 and alike in all else: whether one "
            "of them is to stay without cannot be told, and all get the config's",
            'declare it in the groups: {"params": …, "weight_decay_mult": 0} for one that is to stay without, 1 for '
            "the others",
        )


# ---- refusals


def _refuse(scheduler: Any, governed: _Governed) -> None:
    """Raise ValueError for a scheduler that would overwrite what the config has set."""
    settings = governed.settings
    if "lr" in settings and not schedulers.follows(scheduler) and not governed.reads("lr"):
        name, said = schedulers.named(scheduler), groups.said(governed.config, "lr")[0]
        if schedulers.ending(scheduler) is not None:
            raise ValueError(
                f"{name} brings the learning rate to a value of its own (swa_lr), and the config has {said}: build it "
                f"from member.config[{said!r}], say swa_lr=0.5 * member.config[{said!r}]"
            )
        its = schedulers.bare(scheduler.optimizer).param_groups
        if schedulers.copied(scheduler, its, but=groups.number(settings["lr"])):
            raise ValueError(
                f"{name} was made before gpbt.torch.begin and has copied the script's learning rate, and the config "
                f"has {said}: make it after begin (it then starts from the config's), or build it from "
                f"member.config[{said!r}]"
            )
    driven = schedulers.cycles(scheduler)
    if driven in settings and not governed.reads(driven):
        raise ValueError(
            f"{schedulers.named(scheduler)} sets {driven} at every step (cycle_momentum=True), and the config has "
            f"{driven}, which would be lost: give the scheduler cycle_momentum=False, or take {driven} out of the space"
        )


def _refuse_relative(optimizer: Any, settings: Mapping[str, Any]) -> None:
    if "lr" in settings and any(group.get("relative_step") for group in optimizer.param_groups):
        raise ValueError(
            f"{type(optimizer).__name__} computes its own learning rate (relative_step=True), and the config has one, "
            "which would be lost: make it with relative_step=False, warmup_init=False, and an lr"
        )


def _heard(scheduler: Any) -> None:
    """A scheduler has been made: if its optimizer is under a config already, it follows."""
    optimizer = schedulers.bare(scheduler.optimizer)
    governed = next((state for each, state in list(_governed.items()) if schedulers.same(each, optimizer)), None)
    if governed is None:
        return
    _refuse(scheduler, governed)
    one = schedulers.absolute(scheduler)
    if "lr" in governed.settings and one is scheduler:  # a part of another has been heard of before
        _set_lr(governed, optimizer, [scheduler])


schedulers.heard.append(_heard)


# ---- what happens to it afterwards


def _attach(optimizer: Any, governed: _Governed) -> None:
    """Look after it from now on. (Some that are wrapped around others have no hooks: they are left alone.)"""
    known = optimizer in _governed
    _governed[optimizer] = governed
    if known or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return
    optimizer.register_step_pre_hook(_look)
    before: dict[str, Any] = {}
    optimizer.register_load_state_dict_pre_hook(lambda mine, state: _keep(mine, before))
    optimizer.register_load_state_dict_post_hook(lambda mine: _put_back(mine, before))
    optimizer.register_state_dict_post_hook(_remember)


def _keep(optimizer: Any, before: dict[str, Any]) -> None:
    before["groups"] = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def _put_back(optimizer: Any, before: dict[str, Any]) -> None:
    """A state has been loaded, hyperparameters and all: those of the config come back, unless it is its own state."""
    governed, own = _governed.get(optimizer), before.pop("groups", [])
    if governed is None or len(own) != len(optimizer.param_groups):
        return
    with contextlib.suppress(Exception):  # the call is the script's
        if _fingerprint(optimizer.param_groups) in governed.states:
            return
    bases = [[groups.number(g.get("initial_lr", g.get("lr"))) for g in each] for each in (own, optimizer.param_groups)]
    names = [name for name in governed.settings if name != "lr" and name not in groups.BETAS]
    if any(name in groups.BETAS for name in governed.settings):
        names.append("betas")
    if "lr" in governed.settings and not all(map(math.isclose, *bases)):
        names += _OF_LR
    for group, mine in zip(optimizer.param_groups, own, strict=True):
        for name in names:
            if name in mine:
                group[name] = mine[name]
            else:
                group.pop(name, None)  # the parent's initial_lr, from which a scheduler made later would begin


def _remember(optimizer: Any, state: Any) -> None:
    """The optimizer has given its state, perhaps to go back to it."""
    governed = _governed.get(optimizer)
    if governed is None:
        return
    with contextlib.suppress(Exception):  # the call is the script's
        mark = _fingerprint(state["param_groups"])
        governed.states.pop(mark, None)
        governed.states[mark] = None
        if len(governed.states) > _STATES:
            del governed.states[next(iter(governed.states))]


def _fingerprint(groups_: Sequence[Any]) -> int:
    """Of hyperparameters: the same for a state, its copy, and what is read back from a file."""
    plain = [
        sorted(
            (str(name), repr(value.tolist() if hasattr(value, "tolist") else value))
            for name, value in group.items()
            if name not in ("params", "param_names")
        )
        for group in groups_
    ]
    return hash(repr(plain))


def _look(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Before a step."""
    if torch.compiler.is_compiling():
        return
    governed = _governed.get(optimizer)
    if governed is None:
        return
    governed.steps += 1
    for group in optimizer.param_groups[governed.count + len(governed.added) :]:
        if "lr" not in group or getattr(group["lr"], "is_cuda", False):
            break
        governed.added.append(groups.number(group["lr"]))
    if governed.steps & (governed.steps - 1) == 0 and governed.telemetry is not None:
        _note(optimizer, governed)


def _note(optimizer: Any, governed: _Governed) -> None:
    """The values of the last look into the telemetry, and a new look."""
    assert governed.telemetry is not None
    now = {name: value for name in governed.settings if (value := _now(optimizer, governed, name)) is not None}
    if governed.steps == 1:
        governed.begun = {name for name, value in now.items() if math.isclose(value, float(governed.settings[name]))}
    for name, value in (governed.seen or now).items():
        gave = float(governed.settings[name])
        by = None
        if name == "lr":
            drivers = schedulers.driving(optimizer, search=False)
            own = next((one for each in drivers if (one := schedulers.absolute(each) or schedulers.ending(each))), None)
            if own is not None and governed.reads("lr"):  # its own must differ between configs, if not equal them
                value, by = schedulers.own_lr(own), type(own).__name__
            elif drivers and all(map(schedulers.is_known, drivers)):
                governed.telemetry.values.pop(name, None)
                continue
            elif drivers:
                by = type(drivers[0]).__name__
        if by is None and name in governed.begun:
            continue  # a course of the script's own, from the config's value down to a floor
        governed.telemetry.values[name] = (gave, value, by)
    governed.seen = now


def _now(optimizer: Any, governed: _Governed, name: str) -> float | None:
    """What the first group that takes the config's value as it is has now."""
    mults = governed.mults.get(name) or [1.0]
    group = next((g for g, mult in zip(optimizer.param_groups, mults, strict=False) if mult == 1), None)
    if group is None or getattr(group.get(name), "is_cuda", False) or isinstance(governed.settings[name], str | bool):
        return None  # reading it would wait for the GPU, or break a graph that is being captured
    return groups.value_of(name, group)
