"""A watch over seeds: does the script seed the random numbers of Python, numpy or torch, which are seeded already?

A member is seeded before its training function runs. `torch.manual_seed(0)` in the function gives all members the same
draws: the population then differs by its configs alone, and the noise of one seed is taken for the gain of a config.
So the three seeding functions are wrapped in the member's process: each call notes the seed and the user's line.
Setting a whole state (`random.setstate`, `numpy.random.set_state`, `torch.random.fork_rng`) restores an earlier
generator, so it removes the note, unless that state was captured after the seed. A seed in the second half of an
interval, after other draws (an evaluation's), is not a finding. Generators of the script's own (`torch.Generator()`,
`default_rng`) are not watched: their draws cannot be seen.

The pre-flight compares two members with different seeds. It is a finding if both set the same seed at the same line. A
seed that the script computes from the member's is none.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

from . import hooks, telemetry, user_code


def watch() -> None:
    """From now on note seeds, in this process and those forked from it, once each library is imported."""
    _watch(random, "python", seeds="seed", restores="setstate", captures="getstate")
    hooks.after_import(
        "numpy.random", lambda it: _watch(it, "numpy", seeds="seed", restores="set_state", captures="get_state")
    )
    hooks.after_import(
        "torch.random",
        lambda it: _watch(it, "torch", seeds="manual_seed", restores="set_rng_state", captures="get_rng_state"),
    )
    hooks.after_import("torch", _watch_torch_names)


def _watch_torch_names(torch: Any) -> None:
    """`torch.manual_seed` and the others are the same functions under a second name."""
    for name in ("manual_seed", "set_rng_state", "get_rng_state"):
        wrapped = getattr(sys.modules.get("torch.random"), name, None)
        if wrapped is not None and hooks.is_wrapped(wrapped):
            setattr(torch, name, wrapped)


def _watch(module: Any, generator: str, *, seeds: str, restores: str, captures: str) -> None:
    """Wrap the functions of these names, by which a generator is seeded, restored and captured."""

    def seeding(function: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            current = telemetry.current
            if current is not None:
                value = args[0] if args else next(iter(kwargs.values()), None)
                at, fresh = time.perf_counter(), _fresh(generator, current.seed)
                place = user_code.place(sys._getframe(1), generator) or "a line of the script"
                current.seeded(generator, repr(value), place, at, fresh)
            return function(*args, **kwargs)

        return watched

    def moving(function: Any, restores: bool) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if telemetry.current is not None:
                telemetry.current.moved(generator, restores)
            return function(*args, **kwargs)

        return watched

    hooks.wrap(module, seeds, seeding)
    hooks.wrap(module, restores, lambda function: moving(function, True))
    hooks.wrap(module, captures, lambda function: moving(function, False))


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
