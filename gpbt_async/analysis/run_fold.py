"""The fold of a run's facts: the engine, and beside it where the slots' time went.

Whoever needs a run's state applies its facts one by one, in the journal's order: the scheduler as they happen, a resume
and every reader from the journal. So all of them have the same state after the same facts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.engine import Engine
from ..errors import JournalError
from .usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..events import Command, Fact
    from ..experiment import Settings


class RunFold:
    """The state of a run after the facts that were applied. trail: keep what each slot did (Usage.trail)."""

    def __init__(self, settings: Settings, *, trail: bool = False) -> None:
        self.engine = Engine(settings)
        self.usage = Usage(trail=[] if trail else None)

    @property
    def settings(self) -> Settings:
        """Those in force: as the run began, with what was adopted since."""
        return self.engine.settings

    def apply(self, fact: Fact) -> list[Command]:
        """Account for the next fact; the commands that follow from it. Raises JournalError if it cannot come now."""
        commands = self.engine.handle(fact)
        self.usage.fold(fact, self.engine)
        return commands

    def read(self, facts: Iterable[Fact], journal: object) -> Iterator[Fact]:
        """Apply a journal's facts; yields each when that is done. Raises JournalError, naming `journal`."""
        for fact in facts:
            try:
                self.apply(fact)
            except JournalError as error:
                raise JournalError(f"{journal}: {error}") from None
            yield fact
