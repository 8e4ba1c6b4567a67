"""What a member's process notes about itself while it trains, and sends with its End as plain JSON.

Runs in the member's process, so it imports the standard library only and costs microseconds. It judges nothing: one
member alone cannot tell whether its seed was its own idea; checks.py compares members. Whoever has something to note
there (gpbt.torch, the seeding watch) takes `current`, the telemetry of the member whose process this is. The scheduler
does not trust what comes: `received` keeps what has the right shape.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from ..processes.wire import LONGEST, MOST
from .config import MemberConfig, applied_names, missed_names, overwritten_names, read_names

if TYPE_CHECKING:
    from collections.abc import Callable


class Telemetry:
    """One member's. config: whose reads are told."""

    def __init__(self, config: MemberConfig) -> None:
        self.config = config
        #: member.parent was looked at; and used, as a path (parent.py)
        self.parent_seen = self.parent_used = False
        #: place → fingerprint of the split made there, "" = several (splits.py)
        self.splits: dict[str, str] = {}
        #: models in which `load_state_dict` has found nothing, with a name of theirs and one of the file's (loading.py)
        self.unmatched: list[tuple[Any, str, str]] = []
        #: some numbers of the weights that were loaded; and whether those saved last are the same (weights.py)
        self.sample: dict[str, Any] = {}
        self.unchanged = False
        #: called before this is sent: what shows only when the training function has returned
        self.last_words: list[Callable[[], None]] = []
        #: the member's own seed; when its training function began
        self.seed, self._begun = 0, time.perf_counter()
        #: generator ("python", "numpy", "torch") → (seed that the script gave it last, the user's line, when first;
        #: 0 if nothing had been drawn before)
        self._seeds: dict[str, tuple[str, str, float]] = {}
        #: generators whose state was captured since they were seeded so
        self._captured: set[str] = set()
        #: hyperparameter → (value that gpbt.torch applied, value found in the optimizer on the way, and the class of
        #: what drives it there, if that is known)
        self.values: dict[str, tuple[float, float, str | None]] = {}
        #: found by gpbt.torch in this process: (code, subject, text, remedy)
        self.findings: list[tuple[str, str, str, str]] = []
        #: names of threads that still ran when the training function had returned
        self.threads: list[str] = []

    def find(self, code: str, subject: str, text: str, remedy: str = "") -> None:
        """Something that is wrong for certain. code: as in findings.py. subject: what it is about, a short name."""
        found = (code, subject[:LONGEST], text[:LONGEST], remedy[:LONGEST])
        if found not in self.findings and len(self.findings) < MOST:
            self.findings.append(found)

    def begin(self) -> None:
        """The training function is about to be called."""
        self._begun = time.perf_counter()

    def seeded(self, generator: str, seed: str, place: str, at: float, fresh: bool) -> None:
        """The script has given the generator this seed, at this line and time. fresh: before anything was drawn."""
        since = self._seeds[generator][2] if generator in self._seeds else 0.0 if fresh else at
        self._seeds[generator] = seed, place, since
        self._captured.discard(generator)

    def own(self, generator: str) -> None:
        """The generator has just got the member's own seed."""
        self._seeds.pop(generator, None)

    def moved(self, generator: str, restores: bool) -> None:
        """The generator's whole state was captured, or set to one that had been."""
        if not restores:
            self._captured.add(generator)
        elif generator not in self._captured:  # what was there before the script's seed is back
            self._seeds.pop(generator, None)

    @property
    def seeds(self) -> dict[str, tuple[str, str]]:
        """The seeds of the script's own that decided most of the interval's draws: not those of an evaluation at its
        end."""
        half = (self._begun + time.perf_counter()) / 2
        return {name: (seed, place) for name, (seed, place, since) in self._seeds.items() if since < half}

    def _mentioned(self) -> list[str]:
        """Hyperparameters that nothing has read or applied so far, and that a function of the script names."""
        from . import script  # not before: a training script pays for what it imports

        config = self.config
        unread = set(config.__dict__["_marks"]) - {*read_names(config), *applied_names(config)}
        return sorted(unread & script.named(unread)) if unread else []

    def to_json(self) -> dict[str, Any]:
        for each in self.last_words:
            with contextlib.suppress(Exception):  # the script has trained; nothing of ours may end it
                each()
        config = self.config
        imported = sys.modules.get(f"{__package__}.splits")
        splits = {**getattr(imported, "imported", {}), **self.splits}
        return {
            "read": read_names(config),
            "applied": applied_names(config),
            "missed": [str(name)[:LONGEST] for name in missed_names(config)][:MOST],
            "overwritten": overwritten_names(config)[:MOST],
            "mentioned": self._mentioned(),
            "parent_seen": self.parent_seen,
            "parent_used": self.parent_used,
            "unchanged": self.unchanged if self.sample else None,
            "splits": {place[:LONGEST]: seen for place, seen in list(splits.items())[:MOST] if seen},
            "seeds": {name: [seed[:LONGEST], place[:LONGEST]] for name, (seed, place) in self.seeds.items()},
            "values": {
                name: [gave, last, by[:LONGEST] if by is not None else None]
                for name, (gave, last, by) in list(self.values.items())[:MOST]
                if math.isfinite(gave) and math.isfinite(last)
            },
            "findings": [list(found) for found in self.findings],
            "threads": [name[:LONGEST] for name in self.threads[:MOST]],
        }


#: of the member whose process this is; None in a process that is none
current: Telemetry | None = None
