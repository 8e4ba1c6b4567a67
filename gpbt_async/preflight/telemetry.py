"""What a member's process notes about itself while it trains, and sends with its End as plain JSON.

Runs in the member's process, so it imports the standard library only and costs microseconds. It judges nothing: one
member alone cannot tell whether its seed was its own idea; checks.py compares members. Whoever has something to note
there (gpbt.torch, the seeding watch) takes `current`, the telemetry of the member whose process this is.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from .config import MemberConfig, applied_names, missed_names, overwritten_names, read_names

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

#: characters of one text, and entries of one list, that are sent at most: a message has a limit
LONGEST, MOST = 600, 50


class Telemetry:
    """One member's. config: whose reads are told."""

    def __init__(self, config: MemberConfig) -> None:
        self.config = config
        #: member.parent was looked at; and used, as a path (parent.py)
        self.parent_seen = self.parent_used = False
        #: how often the score was reported, and its first value
        self.reports, self.first = 0, 0.0
        #: place → fingerprint of the split made there, "" = several (splits.py)
        self.splits: dict[str, str] = {}
        #: models in which `load_state_dict` has found nothing, with a name of theirs and one of the file's (loading.py)
        self.unmatched: list[tuple[Any, str, str]] = []
        #: some numbers of the weights that were loaded; and whether those saved last are the same (weights.py)
        self.sample: dict[str, Any] = {}
        self.unchanged = False
        #: called before this is sent: what shows only when the training function has returned
        self.last_words: list[Callable[[], None]] = []
        #: generator ("python", "numpy", "torch") → (seed it was given last, the user's line), by the script
        self.seeds: dict[str, tuple[str, str]] = {}
        #: hyperparameter → (value that gpbt.torch applied, value found in the optimizer at the end)
        self.values: dict[str, tuple[float, float]] = {}
        #: found by gpbt.torch in this process: (code, subject, text, remedy)
        self.findings: list[tuple[str, str, str, str]] = []
        #: names of threads that still ran when the training function had returned
        self.threads: list[str] = []

    def find(self, code: str, subject: str, text: str, remedy: str = "") -> None:
        """Something that is wrong for certain. code: as in findings.py. subject: what it is about, a short name."""
        found = (code, subject[:LONGEST], text[:LONGEST], remedy[:LONGEST])
        if found not in self.findings and len(self.findings) < MOST:
            self.findings.append(found)

    def reported(self, score: float) -> None:
        """The score has been reported."""
        if not self.reports:
            self.first = float(score)
        self.reports += 1

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
            "parent_seen": self.parent_seen,
            "parent_used": self.parent_used,
            "reports": self.reports,
            "first": self.first if math.isfinite(self.first) else None,
            "splits": {place[:LONGEST]: seen for place, seen in list(splits.items())[:MOST] if seen},
            "seeds": {name: [seed[:LONGEST], place[:LONGEST]] for name, (seed, place) in self.seeds.items()},
            "values": {name: list(pair) for name, pair in list(self.values.items())[:MOST]},
            "findings": [list(found) for found in self.findings],
            "threads": self.threads[:MOST],
        }


def busy(threads: list[threading.Thread]) -> list[str]:
    """The names of those that still work, and do so for some milliseconds: one that ends a task is let end it."""
    for pause in (0.0, 0.001, 0.004):
        if threads:
            time.sleep(pause)
        threads = [thread for thread in threads if thread.is_alive() and not _idles(thread)]
    return [thread.name for thread in threads]


def _idles(thread: threading.Thread) -> bool:
    """Does this thread belong to an executor that has nothing to do? Libraries keep some, and Python ends them."""
    frame = sys._current_frames().get(thread.ident or 0)
    where = frame.f_code if frame is not None else None
    if where is not None and where.co_name == "_worker" and where.co_filename.endswith("concurrent/futures/thread.py"):
        queues: Any = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})
        return thread not in queues or bool(queues[thread].empty())  # at work, what it calls would be on top
    return type(thread).__name__ == "_ExecutorManagerThread" and not getattr(thread, "pending_work_items", True)


#: of the member whose process this is; None in a process that is none
current: Telemetry | None = None
