"""local and perturb: one step from the parent's config.

perturb is PBT's explore (Jaderberg et al. 2017). local takes a Gaussian step in the unit cube, whose width is drawn
for each child, log-uniform, so that some children stay close to their parent and some go far.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from .searcher import Random
from .tpe import Tpe

if TYPE_CHECKING:
    from ..ask import Ask
    from ..space import Config


#: the narrowest and the widest step, in the unit cube, and how often a category is drawn again
NARROWEST, WIDEST, REDRAW = 0.02, 0.4, 0.2


class Perturb(Random):
    name = "perturb"

    def suggest(self, ask: Ask) -> Config:
        if ask.parent is None:
            return super().suggest(ask)
        return ask.space.clip(ask.space.perturb(ask.parent.config, random.Random(ask.seed)))


class Local(Tpe):
    """Generation 0 as tpe."""

    name = "local"
    kin_for_children = False

    def suggest(self, ask: Ask) -> Config:
        return super().suggest(ask) if ask.parent is None else step(ask, random.Random(ask.seed))


def step(ask: Ask, rng: random.Random) -> Config:
    """One step from the parent's config."""
    assert ask.parent is not None
    width = math.exp(rng.uniform(math.log(NARROWEST), math.log(WIDEST)))
    return ask.space.clip(ask.space.step(ask.parent.config, rng, width, REDRAW))
