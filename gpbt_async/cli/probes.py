"""Probes of the doctor: what processes do to the files of a folder (the kernel's inotify), and what they use (psutil).

The doctor must know whether a child reads its parent's checkpoint, and how long a member writes its own. Members may
be in any language, use libraries that never tell Python of a file (HDF5, safetensors), and start processes. Only the
kernel sees all of that. It needs no rights but to read the folder. A run does without: it would need a watch for each
checkpoint.

The surprise: an inotify event has no time. It gets the time at which it is read, so for durations read as soon as the
descriptor is readable. A file made in a new folder before that is seen counts as opened when the folder was made.

What processes use is sampled, so a peak between two looks may be missed, except for the peak that the kernel itself
keeps (of the resident memory of the first process). Private memory is what one more process of its kind takes: a forked
member shares what its script has loaded. To count it, the kernel walks all pages, about 10 ms per GiB; so the time
between looks grows with the time that they take.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

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
    """Watches a folder and all below it from now on. Raises OSError where the kernel has no watch left, or none at all.

    fd: readable when there is something to `read`.
    """

    def __init__(self, folder: Path) -> None:
        #: relative paths of the files that were opened, opened for writing, and changed
        self.opened: set[str] = set()
        self.written: set[str] = set()
        self.changed: set[str] = set()
        #: more happened than the kernel remembers: the sets may be incomplete
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
        """Take in what has happened, without waiting."""
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
        """Seconds in which at least one file was open for writing."""
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


#: seconds between two looks at least, and as a multiple of the time that a look takes
PERIOD, PATIENCE = 0.1, 20.0
#: seconds that looks must span to say how many cores were busy: the kernel counts in hundredths
SHORTEST = 0.5


class Vitals:
    """Of the process `pid` and its descendants. Bytes, seconds; 0 for what was never seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        #: the most memory of the process itself, shared pages included
        self.resident = 0
        #: the most that all processes together did not share, at one look
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
        samples = [sample for pid in (self._pid, *linux.descendants(self._pid)) if (sample := _sample(pid))]
        self.processes = max(self.processes, len(samples))
        self.threads = max(self.threads, sum(sample.threads for sample in samples))
        self.private = max(self.private, sum(sample.private for sample in samples))
        self.resident = max(self.resident, _peak(self._pid))
        used = sum(sample.seconds for sample in samples)
        if used >= self._last[1]:  # else a process has ended
            self._last = (began, used)
            self._first = self._first or self._last
        self.pause = max(PERIOD, PATIENCE * (time.monotonic() - began))

    @property
    def cores(self) -> float | None:
        """How many cores it kept busy on average; None if the looks span too little time to say."""
        if self._first is None or self._last[0] - self._first[0] < SHORTEST:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


class ProcessSample(NamedTuple):
    """private: bytes. seconds: on the cores, of the process and of its children that have ended."""

    threads: int
    private: int
    seconds: float


def _sample(pid: int) -> ProcessSample | None:
    """None if the process is gone, a zombie, or another user's."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            seconds = sum(process.cpu_times()[:4])  # user and system, its own and its children's
            return ProcessSample(process.num_threads(), process.memory_full_info().uss, seconds)
    except psutil.Error:
        return None


def _peak(pid: int) -> int:
    """The most memory that the process itself has had, in bytes; psutil has no such figure on Linux."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:")), 0)
    return 0
