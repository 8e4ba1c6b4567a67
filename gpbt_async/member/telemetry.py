"""What a member's process notes about itself while it trains, and sends with its End as plain JSON.

It judges nothing: one member alone cannot show whether its script chose the seed. The scheduler does not trust it:
preflight/observations.py keeps what has the right shape, and compares members. The watches and gpbt.torch write into
`current`, the telemetry of the member whose process this is. It imports the standard library only and costs
microseconds.
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
    """One member's notes. config: its config, which knows what the script has read."""

    def __init__(self, config: MemberConfig) -> None:
        self.config = config
        #: the script has read member.parent; and has used it as a path (parent.py)
        self.parent_seen = self.parent_used = False
        #: the script has asked for one of several folds
        self.folds = False
        #: seconds that loading functions took with files of the parent's checkpoint (parent.py)
        self.parent_seconds = 0.0
        self.parent_folder = ""
        #: place → fingerprint of the split made there, "" = several (split_watch.py)
        self.splits: dict[str, str] = {}
        #: models that no name in a state fitted, each with one of its names and one of the file's (load_watch.py)
        self.unmatched: list[tuple[Any, str, str]] = []
        #: some numbers of the weights that were loaded; and whether the weights saved last equal them (weights.py)
        self.sample: dict[str, object] = {}
        self.unchanged = False
        #: called before this is sent, for what shows only after the training function has returned
        self.last_words: list[Callable[[], None]] = []
        #: the member's own seed; when its training function began
        self.seed, self._begun = 0, time.perf_counter()
        #: generator ("python", "numpy", "torch") → (seed that the script gave it last, the user's line, time of the
        #: first seed, or 0 if nothing had been drawn before)
        self._seeds: dict[str, tuple[str, str, float]] = {}
        #: generators whose state was captured since they were seeded so
        self._captured: set[str] = set()
        #: hyperparameter → (value that gpbt.torch applied, value found in the optimizer during training, and the class
        #: of the scheduler that sets it, if known)
        self.values: dict[str, tuple[float, float, str | None]] = {}
        #: found by gpbt.torch in this process: (code, subject, text, remedy)
        self.findings: list[tuple[str, str, str, str]] = []
        #: names of threads that still ran when the training function had returned
        self.threads: list[str] = []

    def find(self, code: str, subject: str, text: str, remedy: str = "") -> None:
        """Note something that is certainly wrong. code: as in findings.py. subject: a short name of the thing."""
        finding = (code, subject[:LONGEST], text[:LONGEST], remedy[:LONGEST])
        if finding not in self.findings and len(self.findings) < MOST:
            self.findings.append(finding)

    def begin(self) -> None:
        """The training function is about to be called."""
        self._begun = time.perf_counter()

    def seeded(self, generator: str, seed: str, place: str, at: float, fresh: bool) -> None:
        """The script has seeded the generator at this line and time. fresh: before anything was drawn."""
        since = self._seeds[generator][2] if generator in self._seeds else 0.0 if fresh else at
        self._seeds[generator] = seed, place, since
        self._captured.discard(generator)

    def own(self, generator: str) -> None:
        """We have just given the generator the member's own seed."""
        self._seeds.pop(generator, None)

    def moved(self, generator: str, restores: bool) -> None:
        """The generator's whole state was captured; restores: was set to a captured one."""
        if not restores:
            self._captured.add(generator)
        elif generator not in self._captured:  # the state from before the script's seed is back
            self._seeds.pop(generator, None)

    @property
    def seeds(self) -> dict[str, tuple[str, str]]:
        """The script's seeds that decided most of the interval's draws: not those of an evaluation at its end."""
        half = (self._begun + time.perf_counter()) / 2
        return {name: (seed, place) for name, (seed, place, since) in self._seeds.items() if since < half}

    def _mentioned(self) -> list[str]:
        """Hyperparameters that nothing has read or applied so far, although a function of the script names them."""
        from . import user_code  # not before: a training script pays for what it imports

        config = self.config
        unread = set(config.__dict__["_marks"]) - {*read_names(config), *applied_names(config)}
        return sorted(unread & user_code.named(unread)) if unread else []

    def to_json(self) -> dict[str, object]:
        for final in self.last_words:
            with contextlib.suppress(Exception):  # the script has trained; an error of ours must not fail it
                final()
        config = self.config
        split_watch = sys.modules.get(f"{__package__}.split_watch")
        splits = {**getattr(split_watch, "imported", {}), **self.splits}
        return {
            "read": read_names(config),
            "applied": applied_names(config),
            "missed": [str(name)[:LONGEST] for name in missed_names(config)][:MOST],
            "overwritten": overwritten_names(config)[:MOST],
            "mentioned": self._mentioned(),
            "parent_seen": self.parent_seen,
            "parent_used": self.parent_used,
            "folds": self.folds,
            "unchanged": self.unchanged if self.sample else None,
            "splits": {place[:LONGEST]: mark for place, mark in list(splits.items())[:MOST] if mark},
            "seeds": {name: [seed[:LONGEST], place[:LONGEST]] for name, (seed, place) in self.seeds.items()},
            "values": {
                name: [applied, last, by[:LONGEST] if by is not None else None]
                for name, (applied, last, by) in list(self.values.items())[:MOST]
                if math.isfinite(applied) and math.isfinite(last)
            },
            "findings": [list(finding) for finding in self.findings],
            "threads": [name[:LONGEST] for name in self.threads[:MOST]],
        }


#: of the member whose process this is; None in any other process
current: Telemetry | None = None
