"""What a member's process notes about itself while it trains, and sends with its End as plain JSON.

Runs in the member's process, so it imports the standard library only and costs microseconds. It judges nothing: one
member alone cannot tell whether its seed was its own idea; checks.py compares members. Whoever has something to note
there (gpbt.torch, the seeding watch) takes `current`, the telemetry of the member whose process this is.
"""

from __future__ import annotations

from typing import Any

from .config import MemberConfig, applied_names, missed_names, read_names

#: characters of one text, and entries of one list, that are sent at most: a message has a limit
LONGEST, MOST = 600, 50


class Telemetry:
    """One member's. config: whose reads are told."""

    def __init__(self, config: MemberConfig) -> None:
        self._config = config
        #: member.parent was looked at
        self.parent_seen = False
        #: generator ("python", "numpy", "torch") → (seed it was given last, the user's line), by the script
        self.seeds: dict[str, tuple[str, str]] = {}
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

    def to_json(self) -> dict[str, Any]:
        config = self._config
        return {
            "read": read_names(config),
            "applied": applied_names(config),
            "missed": [str(name)[:LONGEST] for name in missed_names(config)][:MOST],
            "parent_seen": self.parent_seen,
            "seeds": {name: [seed[:LONGEST], place[:LONGEST]] for name, (seed, place) in self.seeds.items()},
            "values": {name: list(pair) for name, pair in list(self.values.items())[:MOST]},
            "findings": [list(found) for found in self.findings],
            "threads": self.threads[:MOST],
        }


#: of the member whose process this is; None in a process that is none
current: Telemetry | None = None
