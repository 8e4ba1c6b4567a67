"""For members that train with PyTorch: begin where the parent left off, apply a config, leave a checkpoint.

    gpbt.torch.begin(member, model, optimizer)      # the parent's weights and momenta, this member's config
    …train…
    gpbt.torch.save(member, model, optimizer)

`save` and `load` also take a folder, and then have nothing to do with runs. Two files: model.pt, the weights alone, as
`torch.load(…, weights_only=True)` reads them anywhere (or model.safetensors, if asked for); and state.pt, all else:
optimizers, schedulers, random numbers, and what you add. Nothing is unpickled that could run code: what is not tensors
and plain values is refused when it is saved.

Two things are done otherwise than `load_state_dict` would. An optimizer keeps *its own* hyperparameters and takes over
only what it has gathered (momenta, step counts), for the parent's learning rate is not the child's; and one of another
kind than the parent's begins afresh. And a member does not go on with its parent's random numbers, or all siblings
would draw the same: it is seeded already. Imports torch, and so is reached as `gpbt.torch`, never by the core.
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

from .member import schedulers, weights
from .member.api import Member
from .member.config import MemberConfig, peek
from .member.groups import settings
from .member.optimizers import govern

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from .schedule import Schedule


if TYPE_CHECKING:
    Place = Member | str | os.PathLike[str]
    #: one, several, or none
    Optimizers = Optimizer | Sequence[Optimizer] | None

__all__ = ["apply", "begin", "load", "save"]

schedulers.watch()

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

    optimizer, scheduler: one, a list, or None. Names of the config that are none of the optimizer's are left to the
    script. state: "keep" what the parent's optimizer has gathered, or "reset" it. A scheduler need not be passed, nor
    made before or after (see `apply`); it is not loaded: it begins anew with every interval, from this config's
    learning rate. Returns what was saved beside (`more` of `save`), nothing in generation 0. Raises as `load` and
    `apply`.
    """
    if state not in ("keep", "reset"):
        raise ValueError(f"state is {state!r}: must be 'keep' or 'reset'")
    more = load(member, model, optimizer if state == "keep" else None)
    for each in _several(optimizer):
        if settings(member.config, each):
            govern(member.config, each, _several(scheduler), member.telemetry)
    return more


class Along:
    """Where a training loop is in a schedule, for `hf` and `lightning`: each interval's config is applied as it begins.

    also: called with the interval's number and config then, for what is no optimizer's.
    """

    def __init__(self, schedule: Schedule, also: Callable[[int, dict[str, Any]], object] | None = None) -> None:
        self._schedule, self._also = schedule, also
        self.restart()

    def restart(self) -> None:
        """A training begins."""
        self._now = -1

    def step(self, step: int, steps: int, optimizer: Optimizers, scheduler: Any = None) -> None:
        """Before step number `step` of `steps`, counted from 0; what is beyond the last counts as the last."""
        interval = self._schedule.interval(min(step, steps - 1), steps)
        if interval != self._now:
            self._now, config = interval, self._schedule[interval]
            for each in _several(optimizer):
                apply(config, each, scheduler)
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
    """Write a checkpoint: into the member's, or into a folder, which is made; files there are replaced whole.

    optimizer, scheduler: one, a list, or None. rng: the state of python's, numpy's and torch's random numbers, too.
    safetensors: write the weights as model.safetensors (needs the package). more: tensors and plain values (numbers,
    strings, None, lists, tuples, dicts) by name, which `load` returns. Raises TypeError, naming it, for anything else.
    """
    folder = where.checkpoint if isinstance(where, Member) else Path(where)
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {
        "format": 1,
        "optimizers": [{"kind": type(_bare(o)).__name__, "state": o.state_dict()} for o in _several(optimizer)],
        "schedulers": [s.state_dict() for s in _several(scheduler)],
        "rng": _random_state() if rng else None,
        "more": more,
    }
    _check_plain(state["schedulers"], "scheduler")
    _check_plain(state["optimizers"], "optimizer")
    for name, value in more.items():
        _check_plain(value, name)
    bare = _bare(model)
    if isinstance(where, Member):
        with contextlib.suppress(Exception):  # of weights of an unusual kind: they are saved all the same
            weights.saved(where.telemetry, bare.state_dict(), lambda: _parents_weights(where))
    if safetensors:
        _write(folder / SAFE, lambda path: _safetensors().save_model(bare, path))
        (folder / MODEL).unlink(missing_ok=True)
    else:
        state_dict = bare.state_dict()
        _check_plain(state_dict, "model.state_dict()")
        _write(folder / MODEL, lambda path: torch.save(state_dict, path))
        (folder / SAFE).unlink(missing_ok=True)
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
    """Read what `save` wrote: the member's parent's checkpoint (nothing in generation 0), or a folder's.

    An optimizer keeps its hyperparameters (learning rate, weight decay, …) and takes over what was gathered; one of
    another kind than was saved, or where none was, begins afresh. A scheduler goes on where the saved one was, from
    its own base learning rates. rng: also go on with the saved random numbers; by default from a folder, not from a
    parent. strict: as in Module.load_state_dict. Returns what was saved beside.

    Raises FileNotFoundError when the folder holds no such checkpoint, RuntimeError when the model is another one.
    """
    folder = where.parent if isinstance(where, Member) else Path(where)
    if folder is None:
        return {}
    bare = _bare(model)
    if (folder / SAFE).exists():
        _safetensors().load_model(bare, folder / SAFE, strict=strict)
    elif (folder / MODEL).exists():
        bare.load_state_dict(_read(folder / MODEL), strict=strict)
    else:
        raise FileNotFoundError(
            f"{folder} has neither {MODEL} nor {SAFE}: it was not written by gpbt_async.torch.save; "
            "read it with what wrote it"
        )
    if isinstance(where, Member):
        with contextlib.suppress(Exception):
            weights.loaded(where.telemetry, bare)
    if not (folder / STATE).exists():  # weights alone, from elsewhere
        return {}
    state = _read(folder / STATE)
    for each, saved in zip(_several(optimizer), state["optimizers"], strict=False):
        if saved["kind"] == type(_bare(each)).__name__:
            _gather(each, saved["state"])
    for each, saved in zip(_several(scheduler), state["schedulers"], strict=False):
        _go_on(each, saved)
    if state["rng"] is not None and (rng if rng is not None else not isinstance(where, Member)):
        _set_random_state(state["rng"])
    more: dict[str, Any] = state["more"]
    return more


def apply(config: Mapping[str, Any], optimizer: Optimizer, scheduler: Any = None, *, reset: bool = False) -> list[str]:
    """Set what of the config is the optimizer's in its parameter groups; returns the names that were.

    That is whatever its groups have: lr (or learning_rate), weight_decay, momentum, betas (as beta1 and beta2), eps, …
    A group that differs by design stays different. lr and weight_decay: groups keep their proportions, the first one's
    becoming the config's, and a zero beside others stays zero; where all have weight_decay 0, groups of biases and
    norms alone stay without. Of all else a group that differs from the first keeps what it has. A multiplier in the
    group itself (lr_mult, weight_decay_mult, NAME_mult) decides before all that: the config's value times it.

    Schedulers follow, whether they are passed or not, and whether they have been made already or will be later: the
    course is as if the optimizer had been made with the config's lr. OneCycleLR's and CyclicLR's peak (max_lr) becomes
    the config's. scheduler: one, or a list; needed only for one that cannot be found. reset: forget momenta and step
    counts. Raises ValueError when none of the config's names is the optimizer's, and for a scheduler that would
    overwrite one; TypeError for what is no number.
    """
    names = govern(config, optimizer, _several(scheduler))
    if reset:
        optimizer.state.clear()
    return names


# ---- optimizers and schedulers


def _gather(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Take over momenta and step counts, and leave the hyperparameters what they are."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    # torch casts step counts by what the groups say of it
    groups = [{**mine, "params": theirs["params"]} for mine, theirs in zip(own, saved["param_groups"], strict=False)]
    kept = groups if len(own) == len(saved["param_groups"]) else saved["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": kept})


def _go_on(scheduler: Any, saved: dict[str, Any]) -> None:
    """Where the saved one was in its course, but between this one's own learning rates."""
    bases = list(getattr(scheduler, "base_lrs", ()))
    before, last = saved.get("base_lrs"), saved.get("_last_lr")
    scheduler.load_state_dict(saved)
    groups = _bare(scheduler).optimizer.param_groups
    if bases and before and last and len(bases) == len(before) == len(last) == len(groups):
        for group, base, theirs, now in zip(groups, bases, before, last, strict=True):
            group["initial_lr"] = base
            group["lr"] = base * now / theirs if theirs else base
    schedulers.rebase(_bare(scheduler), groups)


def _parents_weights(member: Member) -> dict[str, Any]:
    folder = member.parent
    if folder is None:
        return {}
    there = (folder / MODEL).exists()
    state: dict[str, Any] = _read(folder / MODEL) if there else _safetensors().load_file(folder / SAFE)
    return state


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


def _several(one: Any) -> list[Any]:
    return [] if one is None else list(one) if isinstance(one, list | tuple) else [one]


def _bare(thing: Any) -> Any:
    """Without what compiling, parallel training and Accelerate put around a model, an optimizer or a scheduler."""
    if isinstance(thing, torch.nn.Module):
        thing = getattr(thing, "_orig_mod", thing)
        wrapped = type(thing).__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
        return thing.module if wrapped else thing
    return schedulers.bare(thing)


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_plain(value: object, name: str) -> None:
    """Raise TypeError, naming what cannot be read back without unpickling."""
    if isinstance(value, dict) and type(value) in (dict, OrderedDict, Counter, MemberConfig):
        for key, item in peek(value).items():
            _check_plain(key, f"a key of {name}")
            _check_plain(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple) and type(value) in (list, tuple, torch.Size):
        for i, item in enumerate(value):
            _check_plain(item, f"{name}[{i}]")
    elif type(value) not in (int, float, str, bool, type(None)) and not isinstance(value, torch.Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        remedy = "value.item()" if hasattr(value, "item") else "a plain value of it, or a file of your own"
        raise TypeError(
            f"{name} is a {kind}, which cannot be read back safely: save tensors and plain values ({remedy})"
        )


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Whole, and never through a hard link that is somebody else's too."""
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
