"""For members that train with PyTorch: begin where the parent left off, apply a config, leave a checkpoint.

    gpbt.torch.begin(member, model, optimizer)      # the parent's weights and momenta, this member's config
    …train…
    gpbt.torch.save(member, model, optimizer)

`save` and `load` also take a folder, and then work without a run. A checkpoint has two files: model.pt, the weights
alone, which `torch.load(…, weights_only=True)` reads anywhere (or model.safetensors, on request); and state.pt, the
rest: optimizers, schedulers, random numbers, and what you add. Nothing is unpickled that could run code: `save` refuses
everything but tensors and plain values.

Two things differ from `load_state_dict`. An optimizer keeps *its own* hyperparameters and takes over only its
accumulated state (momenta, step counts), because the parent's learning rate is not the child's; an optimizer of another
kind than the parent's starts afresh. And a member does not continue its parent's random numbers, because all siblings
would draw the same: it is seeded already. This module imports torch, so the core never imports it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from .member import lr_schedulers, weights
from .member.api import Member
from .member.config import MemberConfig, peek
from .member.optimizers import govern
from .member.parameter_groups import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .schedule import Schedule
    from .space import Config, Scalar

    Place = Member | str | os.PathLike[str]
    #: one, several, or none
    Optimizers = Optimizer | Sequence[Optimizer] | None

__all__ = ["apply", "begin", "ensemble", "load", "save"]

lr_schedulers.watch()

MODEL, SAFE, STATE = "model.pt", "model.safetensors", "state.pt"


def begin(
    member: Member,
    model: nn.Module,
    optimizer: Optimizers = None,
    scheduler: Any = None,
    *,
    state: Literal["keep", "reset"] = "keep",
) -> dict[str, Any]:
    """Begin a member's interval: load its parent's checkpoint, if it has one, then apply its config to the optimizer.

    optimizer, scheduler: one, a list, or None. Names of the config that the optimizer does not have are left to the
    script. state: "keep" the accumulated state of the parent's optimizer, or "reset" it. A scheduler need not be
    passed, and may be made before or after (see `apply`); it is not loaded, but starts again with every interval, from
    this config's learning rate. Returns the `more` of `save`, {} in generation 0. Raises as `load` and `apply`.
    """
    if state not in ("keep", "reset"):
        raise ValueError(f"state is {state!r}: must be 'keep' or 'reset'")
    more = load(member, model, optimizer if state == "keep" else None)
    for one in _listed(optimizer):
        if settings(member.config, one):
            govern(member.config, one, _listed(scheduler), member.telemetry)
    return more


class Along:
    """A training loop's place in a schedule, for `hf` and `lightning`: applies each interval's config as it begins.

    also: then called with the interval's number and config, for values that no optimizer has.
    """

    def __init__(self, schedule: Schedule, also: Callable[[int, Config], object] | None = None) -> None:
        self._schedule, self._also = schedule, also
        self.restart()

    def restart(self) -> None:
        """A training begins."""
        self._interval = -1

    def step(self, step: int, steps: int, optimizer: Optimizers, scheduler: Any = None) -> None:
        """Call it before step number `step` of `steps`, counted from 0; a step beyond the last counts as the last."""
        interval = self._schedule.interval(min(step, steps - 1), steps)
        if interval != self._interval:
            self._interval, config = interval, self._schedule[interval]
            for one in _listed(optimizer):
                apply(config, one, scheduler)
            if self._also is not None:
                self._also(interval, config)


def save(
    where: Place,
    model: nn.Module,
    optimizer: Optimizers = None,
    scheduler: Any = None,
    rng: bool = True,
    *,
    safetensors: bool = False,
    **more: Any,
) -> None:
    """Write a checkpoint: into the member's, or into a folder, which is created; files there are replaced whole.

    optimizer, scheduler: one, a list, or None. rng: also save the state of python's, numpy's and torch's random
    numbers. safetensors: write the weights as model.safetensors (needs the package). more: tensors and plain values
    (numbers, strings, None, lists, tuples, dicts) by name, which `load` returns. Raises TypeError for anything else.
    """
    folder = where.checkpoint if isinstance(where, Member) else Path(where)
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {
        "format": 1,
        "optimizers": [{"kind": _kind(one), "state": one.state_dict()} for one in _listed(optimizer)],
        "schedulers": [one.state_dict() for one in _listed(scheduler)],
        "rng": _random_state() if rng else None,
        "more": more,
    }
    _check_plain(state["schedulers"], "scheduler")
    _check_plain(state["optimizers"], "optimizer")
    for name, value in more.items():
        _check_plain(value, name)
    bare = _unwrapped(model)
    if isinstance(where, Member):
        with contextlib.suppress(Exception):  # weights of an unusual kind are saved all the same
            weights.saved(where.telemetry, bare.state_dict(), lambda: _parents_weights(where))
    _save_weights(folder, bare, safetensors)
    _write(folder / STATE, lambda path: torch.save(state, path))


def load(
    where: Place,
    model: nn.Module,
    optimizer: Optimizers = None,
    scheduler: Any = None,
    rng: bool | None = None,
    *,
    strict: bool = True,
) -> dict[str, Any]:
    """Read what `save` wrote: the checkpoint of the member's parent (nothing in generation 0), or that in a folder.

    An optimizer keeps its hyperparameters (learning rate, weight decay, …) and takes over the accumulated state; it
    starts afresh if none was saved, or one of another kind. A scheduler continues where the saved one was, from its own
    base learning rates. rng: also continue the saved random numbers; None = from a folder yes, from a parent no.
    strict: as in Module.load_state_dict. Returns the `more` of `save`.

    Raises FileNotFoundError if the folder holds no such checkpoint, RuntimeError if the weights do not fit the model.
    """
    folder = where.parent if isinstance(where, Member) else Path(where)
    if folder is None:
        return {}
    bare = _unwrapped(model)
    _load_weights(folder, bare, strict)
    if isinstance(where, Member):
        with contextlib.suppress(Exception):
            weights.loaded(where.telemetry, bare)
    if not (folder / STATE).exists():  # weights alone, from elsewhere
        return {}
    state = _read(folder / STATE)
    for one, saved in zip(_listed(optimizer), state["optimizers"], strict=False):
        if saved["kind"] == _kind(one):
            _load_accumulated(one, saved["state"])
    for one, saved in zip(_listed(scheduler), state["schedulers"], strict=False):
        _continue(one, saved)
    if state["rng"] is not None and (rng if rng is not None else not isinstance(where, Member)):
        _set_random_state(state["rng"])
    more: dict[str, Any] = state["more"]
    return more


def ensemble(
    where: Member | Sequence[str | os.PathLike[str]], model: nn.Module, predict: Callable[[], Tensor]
) -> Tensor:
    """The mean of the predictions of several checkpoints: those of member.parents, or those in these folders.

    The model gets the weights of each in turn, and predict() returns its predictions (of a classifier: probabilities).
    With one checkpoint, these are the predictions. Raises as `load`, and ValueError if there is no checkpoint.
    """
    folders = where.parents if isinstance(where, Member) else where
    total: Tensor | None = None
    for folder in folders:
        load(folder, model, rng=False)
        predicted = predict()
        total = predicted if total is None else total + predicted
    if total is None:
        raise ValueError("ensemble: there is no checkpoint to predict with")
    return total / len(folders)


def apply(
    config: Mapping[str, Scalar], optimizer: Optimizer, scheduler: Any = None, *, reset: bool = False
) -> list[str]:
    """Set the optimizer's values from a config in its parameter groups; returns torch's names of those set.

    These are all that its groups have: lr (or learning_rate), weight_decay, momentum, betas (as beta1 and beta2), eps,
    … A group that differs by design stays different. lr and weight_decay: groups keep their proportions, the first
    one's value becoming the config's, and a zero beside others stays zero; where all have weight_decay 0, groups of
    biases and norms alone keep it. Other options: a group that differs from the first keeps its value. A multiplier in
    the group itself (lr_mult, weight_decay_mult, NAME_mult) comes before all these rules: the config's value times it.

    Schedulers follow, passed or not, made before or later: the learning rate is at each step as if the optimizer had
    been made with the config's lr. OneCycleLR's and CyclicLR's peak (max_lr) becomes the config's. scheduler: one, or a
    list; needed only for one that cannot be found. reset: forget momenta and step counts. Raises ValueError if the
    config and the optimizer have no name in common, and for a scheduler that would overwrite a value; TypeError for a
    value that must be a number and is not.
    """
    names = govern(config, optimizer, _listed(scheduler))
    if reset:
        optimizer.state.clear()
    return names


# ---- weights


def _save_weights(folder: Path, model: nn.Module, safetensors: bool) -> None:
    if safetensors:
        _write(folder / SAFE, lambda path: _safetensors().save_model(model, path))
        (folder / MODEL).unlink(missing_ok=True)
    else:
        state = model.state_dict()
        _check_plain(state, "model.state_dict()")
        _write(folder / MODEL, lambda path: torch.save(state, path))
        (folder / SAFE).unlink(missing_ok=True)


def _load_weights(folder: Path, model: nn.Module, strict: bool) -> None:
    if (folder / SAFE).exists():
        _safetensors().load_model(model, folder / SAFE, strict=strict)
    elif (folder / MODEL).exists():
        model.load_state_dict(_read(folder / MODEL), strict=strict)
    else:
        raise FileNotFoundError(
            f"{folder} has neither {MODEL} nor {SAFE}: gpbt_async.torch.save has not written it; read it with the "
            "function that has"
        )


def _parents_weights(member: Member) -> dict[str, Tensor]:
    folder = member.parent
    if folder is None:
        return {}
    there = (folder / MODEL).exists()
    weights: dict[str, Tensor] = _read(folder / MODEL) if there else _safetensors().load_file(folder / SAFE)
    return weights


# ---- optimizers and schedulers


def _load_accumulated(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load momenta and step counts, and keep the hyperparameters."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    # with its own options: torch casts step counts by them
    groups = [{**mine, "params": other["params"]} for mine, other in zip(own, saved["param_groups"], strict=False)]
    kept = groups if len(own) == len(saved["param_groups"]) else saved["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": kept})


def _continue(scheduler: Any, saved: dict[str, Any]) -> None:
    """Continue where the saved scheduler was, with this one's own base learning rates."""
    bases = list(getattr(scheduler, "base_lrs", ()))
    before, last = saved.get("base_lrs"), saved.get("_last_lr")
    scheduler.load_state_dict(saved)
    bare = lr_schedulers.unwrapped(scheduler)
    groups = bare.optimizer.param_groups
    if bases and before and last and len(bases) == len(before) == len(last) == len(groups):
        for group, base, saved_base, saved_lr in zip(groups, bases, before, last, strict=True):
            group["initial_lr"] = base
            group["lr"] = base * saved_lr / saved_base if saved_base else base
    lr_schedulers.rebase(bare, groups)


# ---- random numbers


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": [], "numpy": None}
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        state["cuda"] = cuda.get_rng_state_all()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = (str(kind), [int(k) for k in keys], *(x.item() if hasattr(x, "item") else x for x in rest))
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["numpy"] is not None:
        import numpy

        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), *rest))


# ---- small things


def _listed(one: Any) -> list[Any]:
    """One, a list, or None, as a list."""
    return [] if one is None else list(one) if isinstance(one, list | tuple) else [one]


def _kind(optimizer: Optimizer) -> str:
    return type(lr_schedulers.unwrapped(optimizer)).__name__


def _unwrapped(model: nn.Module) -> nn.Module:
    """A model without the wrappers of torch.compile and parallel training."""
    inner: Any = getattr(model, "_orig_mod", model)
    parallel = type(inner).__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
    bare: nn.Module = inner.module if parallel else inner
    return bare


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_plain(value: object, name: str) -> None:
    """Raise TypeError for a value that cannot be read without unpickling; the error names it."""
    if isinstance(value, dict) and type(value) in (dict, OrderedDict, Counter, MemberConfig):
        for key, item in peek(value).items():
            _check_plain(key, f"a key of {name}")
            _check_plain(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple) and type(value) in (list, tuple, torch.Size):
        for i, item in enumerate(value):
            _check_plain(item, f"{name}[{i}]")
    elif type(value) not in (int, float, str, bool, type(None)) and not isinstance(value, torch.Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        remedy = "value.item()" if hasattr(value, "item") else "convert it, or write a file of your own"
        raise TypeError(
            f"{name} is a {kind}, which cannot be read back safely: save tensors and plain values ({remedy})"
        )


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole, and never through a hard link that another folder shares."""
    beside = path.with_name(f".{path.name}.part")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("safetensors is not installed: pip install safetensors") from None
    return safetensors.torch
