"""What a process and all it has started use: memory, threads, time on the cores. Told by the kernel (/proc).

For `doctor`. Looked at now and then, so a peak between two looks may be missed, but for the one the kernel keeps itself
(VmHWM, of the process alone). Private memory is what one more of its kind takes: a forked member shares what its
script has loaded with all others. To count it the kernel walks all pages, which takes some 10 ms a GiB; so the time
between looks grows with the time they take.
"""

from __future__ import annotations

import contextlib
import os
import time

from . import processes

#: seconds between two looks, and how many times as long as a look takes it is to be at least
PERIOD, PATIENCE = 0.1, 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Vitals:
    """Of the process `pid` and its descendants. Bytes, seconds; 0 for what was never seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        #: the most it had in memory, shared pages included: what the kernel says of the process itself
        self.resident = 0
        #: the most that was theirs alone, all processes together, at one look
        self.private = 0
        #: the most threads, and the most processes, at one look
        self.threads = self.processes = 0
        #: (monotonic time, seconds on all cores) at the first and the last look
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)
        #: seconds to wait before the next look
        self.pause = PERIOD

    def look(self) -> None:
        began = time.monotonic()
        pids = [self._pid, *processes.descendants(self._pid)]
        fields = [found for pid in pids if (found := _fields(f"/proc/{pid}/status"))]
        self.threads = max(self.threads, sum(each.get("Threads", 0) for each in fields))
        self.processes = max(self.processes, len(fields))
        if fields:
            self.resident = max(self.resident, fields[0].get("VmHWM", 0) << 10)
        private = 0
        for pid in pids:
            found = _fields(f"/proc/{pid}/smaps_rollup")
            private += sum(found.get(name, 0) for name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb")) << 10
        self.private = max(self.private, private)
        used = sum(map(_seconds, pids))
        if used >= self._last[1]:  # else it has gone
            self._last = (began, used)
            self._first = self._first or self._last
        self.pause = max(PERIOD, PATIENCE * (time.monotonic() - began))

    @property
    def cores(self) -> float | None:
        """How many cores it kept busy on average; None if it was not looked at for long enough to say."""
        if self._first is None or self._last[0] - self._first[0] < 50 / _TICKS:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


def _fields(path: str) -> dict[str, int]:
    """The lines "Name:   123 kB" of a file; none if the process is gone, or nobody's to look at."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdecimal():
                found[name] = int(words[0])
    return found


def _seconds(pid: int) -> float:
    """Seconds on the cores, of a process and of its children that have ended."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # the name, in parentheses, may hold anything
        return sum(map(int, fields[11:15])) / _TICKS
    return 0.0
