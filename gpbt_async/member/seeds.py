"""Who seeds again what the member has seeded: python's, numpy's and torch's random numbers.

A member is seeded before its training function runs. `torch.manual_seed(0)` in there gives all members the same
draws: the population then differs by its configs alone, and the noise of one seed is taken for the gain of a config.
So the three seeding functions are wrapped in the member's process: each call notes the seed and the user's line, and
then does what it did. Setting a whole state (`random.setstate`, `numpy.random.set_state`, `torch.random.fork_rng`)
brings back what was there, so it takes the note back, unless that state was captured after the seed. A seed in the
second half of an interval, after other draws (an evaluation's), is no finding. Generators of the script's own
(`torch.Generator()`, `default_rng`) are none of ours: what they draw cannot be seen.

checks.py compares two members: the same seed at the same line under different seeds of theirs is a finding; a seed
that follows the member's is not.
"""

from __future__ import annotations

import functools
import random
import sys
import time
from typing import TYPE_CHECKING, Any

from . import script, telemetry

if TYPE_CHECKING:
    from collections.abc import Callable


def watch() -> None:
    """From now on note who seeds, in this process and those forked from it, once each library is there."""
    _wrap(random, "seed", "python")
    _wrap(random, "setstate", "python", "restores")
    _wrap(random, "getstate", "python", "captures")
    script.after_import("numpy.random", _watch_numpy)
    script.after_import("torch.random", _watch_torch)
    script.after_import("torch", _watch_torch_itself)


def _watch_numpy(numpy_random: Any) -> None:
    _wrap(numpy_random, "seed", "numpy")
    _wrap(numpy_random, "set_state", "numpy", "restores")
    _wrap(numpy_random, "get_state", "numpy", "captures")


def _watch_torch(torch_random: Any) -> None:
    _wrap(torch_random, "manual_seed", "torch")
    _wrap(torch_random, "set_rng_state", "torch", "restores")
    _wrap(torch_random, "get_rng_state", "torch", "captures")


def _watch_torch_itself(torch: Any) -> None:
    """`torch.manual_seed` and the others are the same functions under a second name."""
    for name in ("manual_seed", "set_rng_state", "get_rng_state"):
        wrapped = getattr(sys.modules.get("torch.random"), name, None)
        if wrapped is not None and hasattr(wrapped, "_gpbt_watched"):
            setattr(torch, name, wrapped)


def _fresh(generator: str, seed: int) -> bool:
    """Has nothing been drawn since the member was seeded?"""
    try:
        if generator == "python":
            return bool(random.Random(seed).getstate() == random._inst.getstate())
        if generator == "numpy":
            numpy: Any = sys.modules["numpy.random"]
            mine, now = numpy.RandomState(seed % (1 << 32)).get_state(), numpy.mtrand._rand.get_state()
            return bool(mine[2] == now[2] and (mine[1] == now[1]).all())
        torch: Any = sys.modules["torch"]
        own = torch.Generator()
        own.manual_seed(seed % (1 << 63))
        return bool(torch.equal(own.get_state(), torch.default_generator.get_state()))
    except Exception:  # a library of another version
        return False


def _wrap(module: Any, name: str, generator: str, does: str = "seeds") -> None:
    seeds: Callable[..., Any] | None = getattr(module, name, None)
    if seeds is None or hasattr(seeds, "_gpbt_watched"):
        return

    @functools.wraps(seeds)
    def watched(*args: Any, **kwargs: Any) -> Any:
        now = telemetry.current
        if now is not None:
            value = args[0] if args else next(iter(kwargs.values()), None)
            if does == "seeds":
                at, fresh = time.perf_counter(), _fresh(generator, now.seed)
                place = script.place(sys._getframe(1), generator) or "a line of the script"
                now.seeded(generator, repr(value), place, at, fresh)
            else:
                now.moved(generator, does == "restores")
        return seeds(*args, **kwargs)

    # as functions of the module, which can be pickled: a process pool may be told to seed
    watched.__module__, watched.__qualname__ = module.__name__, name
    watched._gpbt_watched = True  # type: ignore[attr-defined]
    setattr(module, name, watched)
