"""What is done to the files of one folder, by whatever process: opened, written, changed. Told by the kernel (inotify).

For `doctor`, which must know whether a child reads its parent's checkpoint and how long a member writes its own, of
members in any language, with libraries that never tell Python of a file (HDF5, safetensors), and of what they start.
Needs no rights but to read the folder. Not for a run: it would cost a watch a checkpoint.

The surprise: an event has no time. What is read here bears the time at which it was read, so whoever wants durations
reads as soon as the descriptor says that there is something. A file that is made in a new folder before that is seen
counts as opened when the folder was made.

What a process and all it has started use: memory, threads, time on the cores. Told by the kernel (/proc).

For `doctor`. Looked at now and then, so a peak between two looks may be missed, but for the one the kernel keeps itself
(VmHWM, of the process alone). Private memory is what one more of its kind takes: a forked member shares what its
script has loaded with all others. To count it the kernel walks all pages, which takes some 10 ms a GiB; so the time
between looks grows with the time they take.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from typing import TYPE_CHECKING

from ..processes import linux

if TYPE_CHECKING:
    from pathlib import Path


_MODIFY, _ATTRIB, _CLOSE_WRITE, _CLOSE_NOWRITE, _OPEN = 0x2, 0x4, 0x8, 0x10, 0x20
_MOVED, _CREATE, _DELETE = 0xC0, 0x100, 0x200
_OVERFLOW, _IS_FOLDER = 0x4000, 0x40000000
_CHANGES = _MODIFY | _ATTRIB | _MOVED | _CREATE | _DELETE
_HEAD = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Touches:
    """Watches a folder and all below it from now on. Raises OSError where the kernel has no more watches, or none.

    fd: readable when there is something to `read`.
    """

    def __init__(self, folder: Path) -> None:
        #: relative paths of the files that were opened, of those opened to be written, and of what was changed
        self.opened: set[str] = set()
        self.written: set[str] = set()
        self.changed: set[str] = set()
        #: more happened than the kernel remembers: what is told here may not be all
        self.missed = False
        self._folder = folder
        self._places: dict[int, tuple[str, float | None]] = {}  # by watch: the folder, and when it was made
        self._open: dict[str, float] = {}
        self._spans: list[tuple[float, float]] = []
        self.fd = _libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC))
        if self.fd < 0:
            raise _error()
        try:
            self._watch("", None)
        except OSError:
            self.close()
            raise

    def _watch(self, below: str, made: float | None) -> None:
        mask = _OPEN | _CLOSE_WRITE | _CLOSE_NOWRITE | _CHANGES
        place = self._folder / below
        watch = _libc.inotify_add_watch(ctypes.c_int(self.fd), os.fsencode(place), ctypes.c_uint32(mask))
        if watch < 0:
            raise _error()
        self._places[watch] = (below, made)
        for entry in os.scandir(place):
            if entry.is_dir(follow_symlinks=False):
                self._watch(os.path.join(below, entry.name), made)

    def read(self, now: float) -> None:
        """Take in what has happened; without waiting."""
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return
            while data:
                watch, mask, _, length = _HEAD.unpack_from(data)
                name = os.fsdecode(data[_HEAD.size : _HEAD.size + length].rstrip(b"\0"))
                data = data[_HEAD.size + length :]
                self._take(watch, mask, name, now)

    def _take(self, watch: int, mask: int, name: str, now: float) -> None:
        self.missed |= bool(mask & _OVERFLOW)
        below, made = self._places.get(watch, ("", None))
        path = os.path.join(below, name)
        if mask & _IS_FOLDER or not name:
            if mask & _CREATE:
                try:
                    self._watch(path, now)
                except OSError:
                    self.missed = True
            return
        if mask & _CHANGES:
            self.changed.add(path)
        if mask & _OPEN:
            self.opened.add(path)
            self._open.setdefault(path, now)
        elif mask & _CLOSE_WRITE:
            self.opened.add(path)
            self.written.add(path)
            self._spans.append((self._open.pop(path, now if made is None else made), now))
        elif mask & _CLOSE_NOWRITE:
            self._open.pop(path, None)

    @property
    def writing(self) -> float:
        """Seconds in which at least one file was open to be written."""
        total, until = 0.0, float("-inf")
        for begin, end in sorted(self._spans):
            total += max(0.0, end - max(begin, until))
            until = max(until, end)
        return total

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


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
        pids = [self._pid, *linux.descendants(self._pid)]
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
