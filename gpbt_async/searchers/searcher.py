"""The base class of our searchers, and their traits.

A searcher is a pure function: the same Ask gives the same config in any process at any time, so an ask can be repeated
after a crash, and a searcher has no state to restore. Chance comes from `ask.seed` alone. gpbt_async.testing holds the
contract that all of them keep.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from ..ask import Ask
    from ..space import Config, Space


class Searcher(Protocol):
    """The waist: anything that turns an Ask into a config of the ask's space, and is a pure function."""

    def suggest(self, ask: Ask) -> Config: ...


class Random:
    """Uniform in the space. The base of our searchers, whose traits are class attributes."""

    name: ClassVar[str] = "random"
    #: whether it looks at kin and at pending siblings for a root, and for a child of a later generation
    kin_for_roots: ClassVar[bool] = False
    kin_for_children: ClassVar[bool] = False
    #: the numerical library that it learns from kin with, which only the searcher process imports; "" = none
    library: ClassVar[str] = ""
    #: whether it needs the searcher process even for an ask that it can learn nothing from
    always_heavy: ClassVar[bool] = False
    #: the packages it needs, as they are imported
    needs: ClassVar[tuple[str, ...]] = ()

    def suggest(self, ask: Ask) -> Config:
        return ask.space.clip(ask.space.sample(random.Random(ask.seed)))

    @classmethod
    def warm(cls, space: Space) -> None:
        """Do now what the first heavy ask would have to wait for: imports."""


def learns(ask: Ask) -> bool:
    """Is there something to search, and a loss to learn from?"""
    return bool(ask.space) and bool(ask.losses)
