"""Names and texts that try to break out of a page."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpbt_async.space import Choice, Float, Space

if TYPE_CHECKING:
    from gpbt_async.experiment import Settings

EVIL = "</script><img src=x onerror=alert(1)><!-- <script> \u2028 {{$title}} ${style} %{y} <a href='http://evil'>"


def hostile(s: Settings) -> Settings:
    """The settings with such names for the score, the hyperparameters and an option."""
    name = EVIL + "lr"
    return replace(
        s, score=EVIL, space=Space({name: Float(0, 1), "__proto__": Choice([EVIL, "constructor"]), "=1+1": Float(0, 1)})
    )
