"""A dimension in the coordinates of another library's estimator: tpe's hyperopt, and Optuna.

A Choice is given as the indexes of its options, since these libraries take 1, 1.0 and True for one, and a uniform grid
as the indexes 0, 1, … of its points. Everything else is given as its value: `clip` brings what comes back to the grid.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import TYPE_CHECKING

from ..space import Choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..space import Dimension, Scalar


def last_index(d: Dimension) -> int:
    """The index of a grid's last point."""
    assert not isinstance(d, Choice)
    assert d.step is not None
    return round((d.clip(d.high) - d.low) / d.step)


def indexed(d: Dimension, most: float = math.inf) -> bool:
    """Is it given as indexes? Of grids, those with at most `most` points are."""
    return isinstance(d, Choice) or (d.step is not None and not d.log and last_index(d) < most)


def to_coordinate(d: Dimension, value: Scalar, most: float = math.inf) -> float | int:
    if isinstance(d, Choice):
        return d.index(value)
    if d.step is None or not indexed(d, most):
        return d.clip(value)
    return round((d.clip(value) - d.low) / d.step)


def from_coordinate(d: Dimension, coordinate: float, most: float = math.inf) -> Scalar:
    if isinstance(d, Choice):
        return d.options[round(coordinate)]
    if d.step is None or not indexed(d, most):
        return coordinate
    return d.low + round(coordinate) * d.step


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Numerical libraries divide by zero, and warn of it, in the normal course of their work."""
    import numpy as np

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
