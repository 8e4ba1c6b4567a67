"""What members have imported while they trained, and which of it no process that forks may import.

The launcher keeps this over the deaths of zygotes: each new one imports what members need (member/warm_up.py), without
the modules that would end it or make its forks unsafe. The user is warned once of each thing that keeps imports from
being shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Advice

if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import End

#: seconds of imports in a member that are worth a warning
NOTABLE = 0.1
#: modules that may be found unsafe before zygotes import nothing more for members
MOST_UNSAFE = 3


class LearnedImports:
    """names: in the order in which members imported them. unsafe: of those, what zygotes leave out."""

    def __init__(self, log: Callable[[Advice], object]) -> None:
        self.names: dict[str, None] = {}
        self.unsafe: set[str] = set()
        self._log = log
        self._warned = False

    @property
    def safe(self) -> list[str]:
        """What zygotes may import."""
        return [name for name in self.names if name not in self.unsafe]

    def heard(self, end: End) -> None:
        """A member has returned, and says what it has imported."""
        self.names.update(dict.fromkeys(end.imports))
        if len(self.unsafe) >= MOST_UNSAFE:
            self.unsafe.update(end.imports)
        seconds = end.start.get("imports", 0.0)
        if end.variable and seconds > NOTABLE and not self._warned:
            self._warned = True
            text = f"train sets os.environ[{end.variable!r}] before it imports, so each member imports for itself"
            self._log(Advice(f"{text} ({seconds:.1f} s)", "set the variable at the top of the script"))

    def leave_out(self, name: str, why: str) -> None:
        """No zygote may import this module from now on."""
        self.unsafe.add(name)
        if len(self.unsafe) >= MOST_UNSAFE:  # each costs another import of the script
            self.unsafe.update(self.names)
        self._log(Advice(f"members import {name} each for itself: {why}"))
