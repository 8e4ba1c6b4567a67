"""What Hypothesis draws for tests: spaces and their dimensions, and drivers of engines."""

from __future__ import annotations

import math
import random

from engine_driver import Driver, settings
from hypothesis import assume
from hypothesis import strategies as st

from gpbt_async.declaration.target import Target
from gpbt_async.space import Choice, Float, Int, Space

numbers = st.floats(-1e9, 1e9, allow_subnormal=False) | st.floats(allow_nan=False, allow_infinity=False)
units = st.floats(0.0, 1.0)
seeds = st.integers(0, 2**63 - 1)
scalars = (
    st.text(max_size=5)
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
)


@st.composite
def floats(draw):
    low = draw(numbers)
    high = draw(numbers.filter(lambda x: x != low))
    low, high = min(low, high), max(low, high)
    assume(math.isfinite(high - low))
    log = draw(st.booleans()) if low > 0 and high / low < 1e300 else False
    step = None
    if draw(st.booleans()):
        parts = draw(st.floats(1.0, 1e6))
        step = (high - low) / parts
        assume(0 < step <= high - low and low + step > low and high - step < high)
    return Float(low, high, log=log, step=step)


@st.composite
def ints(draw):
    low = draw(st.integers(-(10**12), 10**12) | st.integers(1, 100))
    high = low + draw(st.integers(1, 10**12) | st.integers(1, 20))
    log = draw(st.booleans()) if low >= 1 else False
    return Int(low, high, log=log, step=draw(st.integers(1, high - low) | st.integers(1, min(5, high - low))))


choices = st.lists(scalars, min_size=2, max_size=6, unique_by=lambda o: (type(o), o)).map(Choice)
dimensions = floats() | ints() | choices
#: some of a space's hyperparameters are constants: a value, or a Choice of one option
constants = scalars | scalars.map(lambda option: Choice([option]))
spaces = st.dictionaries(st.text(min_size=1, max_size=8), dimensions | constants, min_size=1, max_size=5).map(Space)


# ---- engines

VALIDATE = Target("/script.py", None, "validate")
RATIOS = (0.25, 72 / 256, 0.5, 1.0, 2.0, 4.0)


@st.composite
def drivers(draw: st.DrawFn, faults: bool = True, **fixed: object) -> Driver:
    """A driver over a random experiment, slots, order and (perhaps) faults."""
    names = {
        "population": draw(st.integers(1, 12)),
        "generations": draw(st.integers(1, 4)),
        "ratio": draw(st.sampled_from(RATIOS)),
        "history": draw(st.sampled_from(["inherit", "reset", "global"])),
        "selection": draw(st.sampled_from(["comma", "plus"])),
        "evidence": draw(st.sampled_from([0.0, 0.3, 0.75, 1.0])),
        "schedule": draw(st.sampled_from(["async", "sync"])),
        "attempts": draw(st.integers(1, 3)),
        "early_stop": draw(st.sampled_from([(), (), ("median",), ("generation",), ("median", "generation")])),
        "seed": draw(st.integers(0, 3)),
        "validate": draw(st.sampled_from([None, VALIDATE])),
        **fixed,
    }
    faulty = faults and draw(st.booleans())
    return Driver(
        settings(**names),
        slots=draw(st.integers(1, 14)),
        rng=random.Random(draw(st.integers(0, 10**6))),
        fail=0.15 if faulty else 0.0,
        nan=0.1 if faulty else 0.0,
        lose=0.1 if faulty else 0.0,
        certain=0.3 if faulty else 0.0,
        mute=0.15 if faulty and draw(st.booleans()) else 0.0,
        early=0.5 if draw(st.booleans()) else 0.0,
        instead=draw(st.sampled_from([(), ("other",)])),
        ahead=draw(st.sampled_from([None, 0, 1, 5])),
    )
