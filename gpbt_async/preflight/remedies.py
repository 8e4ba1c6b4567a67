"""Errors that people meet in training functions, and what to do about each: a table of known ones.

Each entry is a function that looks at an exception (its type by name, its text, what it was raised from) and says the
remedy in a sentence, or "". No framework is imported to look; the first entry that knows the error speaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import hydra

if TYPE_CHECKING:
    from collections.abc import Callable

_KNOWN: tuple[Callable[[BaseException], str], ...] = (
    hydra.remedy,
)  # fmt: skip


def remedy(error: BaseException) -> str:
    """What to do about an error of the training function; "" for one that is not known."""
    return next((said for known in _KNOWN if (said := known(error))), "")
