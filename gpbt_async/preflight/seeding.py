"""Who seeds again what the member has seeded: python's, numpy's and torch's random numbers.

A member is seeded before its training function runs. `torch.manual_seed(0)` in there gives all members the same draws:
the population then differs by its configs alone, and the noise of one seed is taken for the gain of a config. So the
three seeding functions are wrapped in the member's process: each call notes the seed and the user's line, and then does
what it did. Setting a whole state (`random.setstate`, `numpy.random.set_state`, `torch.random.fork_rng`) brings back
what was there, so it takes the note back. Generators of the script's own (`torch.Generator()`, `default_rng`) are none
of ours: what they draw cannot be seen.

checks.py compares two members: the same seed at the same line under different seeds of theirs is a finding; a seed
that follows the member's is not.
"""

from __future__ import annotations

import functools
import random
import sys
from typing import TYPE_CHECKING, Any

from .. import script
from . import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable


def watch() -> None:
    """From now on note who seeds, in this process and those forked from it, once each library is there."""
    _wrap(random, "seed", "python")
    _wrap(random, "setstate", "python", restores=True)
    script.after_import("numpy.random", _watch_numpy)
    script.after_import("torch.random", _watch_torch)
    script.after_import("torch", _watch_torch_itself)


def _watch_numpy(numpy_random: Any) -> None:
    _wrap(numpy_random, "seed", "numpy")
    _wrap(numpy_random, "set_state", "numpy", restores=True)


def _watch_torch(torch_random: Any) -> None:
    _wrap(torch_random, "manual_seed", "torch")
    _wrap(torch_random, "set_rng_state", "torch", restores=True)


def _watch_torch_itself(torch: Any) -> None:
    """`torch.manual_seed` is the same function under a second name."""
    for name in ("manual_seed", "set_rng_state"):
        wrapped = getattr(sys.modules.get("torch.random"), name, None)
        if wrapped is not None and hasattr(wrapped, "_gpbt_watched"):
            setattr(torch, name, wrapped)


def _wrap(module: Any, name: str, generator: str, restores: bool = False) -> None:
    seeds: Callable[..., Any] | None = getattr(module, name, None)
    if seeds is None or hasattr(seeds, "_gpbt_watched"):
        return

    @functools.wraps(seeds)
    def watched(*args: Any, **kwargs: Any) -> Any:
        now = telemetry.current
        if now is not None:
            if restores:
                now.seeds.pop(generator, None)
            else:
                value = args[0] if args else next(iter(kwargs.values()), None)
                place = script.place(sys._getframe(1), generator) or "a line of the script"
                now.seeds[generator] = (repr(value), place)
        return seeds(*args, **kwargs)

    watched._gpbt_watched = True  # type: ignore[attr-defined]
    setattr(module, name, watched)
