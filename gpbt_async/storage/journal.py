"""The journal: the facts of a run, one JSON line each, only ever appended. It is the run; all else is derived from it.

It makes two promises, for two kinds of crash. **A killed process loses no fact**: `append` is one synchronous write of
some microseconds, so a fact is in the page cache before any code acts on it. **A power failure loses no fact that a
caller has waited for**: `await durable()` returns when all earlier facts are on the disk. Each append starts a sync in
the journal's own thread. While one fdatasync runs, later facts wait for the next one, which they share (group commit).
So facts are on the disk after one or two syncs, even if no caller waits.

A line is `{"n": 12, "fact": ..., ..., "crc": "89abcdef"}`; the first line of a file is a header instead of a fact.

* A last line without its newline was torn by a crash: no caller relied on it. Readers ignore it, and opening the
  journal for appending cuts it off.
* Any other line that differs from the line as written is damage. `n` reveals lost and doubled lines, and `crc` reveals
  flipped bits, even in a line that is still valid JSON. A damaged journal raises JournalError: no run resumes from it.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..codec import from_json, to_json
from ..errors import JournalError
from .files import reserve, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import BinaryIO, Self

    from ..events import Fact


#: the layout of the lines and the rules by which the engine replays them; a reader refuses any other format
FORMAT = 2
#: bytes reserved on the disk for the next facts: some thousand, so that members can end when the disk is full
AHEAD = 1 << 20

#: bytes of a journal that are read at a time: a long run's is much larger than what becomes of it
BLOCK = 1 << 20
#: length of a line's end, `,"crc":"89abcdef"}`
_SEAL = 18

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder().raw_decode


def _seal(flat: Mapping[str, object]) -> bytes:
    body = _encode(flat)[:-1].encode("ascii")
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def _unseal(line: bytes) -> dict[str, object]:
    """The object a line (without its newline) holds, or ValueError. (With its crc, which is no field of any fact.)"""
    if line[-_SEAL:] != b',"crc":"%08x"}' % zlib.crc32(line[:-_SEAL]):
        raise ValueError("the line is not as it was written")
    text = line.decode("ascii")
    flat, end = _decode(text)  # json.loads would first guess an encoding and look for blanks: half as fast
    if not isinstance(flat, dict) or end != len(text):
        raise ValueError("no JSON object")
    return flat


def read(path: Path | str) -> list[Fact]:
    """The facts of a journal that another process may be writing. Takes no lock. Raises JournalError."""
    return JournalReader(path).more()


class JournalReader:
    """Reads a journal from its start; each `more()` returns the facts since the last one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.offset = 0  # where the last whole line read so far ends
        self.lines = 0  # whole lines read so far, the header among them; so the next fact's n is lines - 1
        self.version = ""  # of the gpbt-async that began the journal

    def more(self) -> list[Fact]:
        """The facts that were not returned yet; none while there is no file. Raises JournalError."""
        return list(self.facts())

    def facts(self) -> Iterator[Fact]:
        """The same, one by one as they are read: of a large journal only a block is in memory at a time."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(error) from error
        with file:
            while lines := self._lines(file):
                for line in lines:
                    fact = self._read(line)
                    self.lines += 1
                    self.offset += len(line) + 1
                    if fact is not None:
                        yield fact

    def _lines(self, file: BinaryIO) -> list[bytes]:
        """The next whole lines: as many as a block holds, or one that is longer. None at the end."""
        size = BLOCK
        try:
            while True:
                file.seek(self.offset)
                data = file.read(size)
                *lines, _ = data.split(b"\n")  # what follows the last newline is torn, or still being written
                if lines or len(data) < size:
                    return lines
                size *= 2
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> JournalError:
        return JournalError(f"cannot read the journal {self.path}: {error.strerror}")

    def _read(self, line: bytes) -> Fact | None:
        """The fact of the next line; None for the header."""
        try:
            if self.lines:
                return self._fact(line)
            self._header(line)
        except (ValueError, RecursionError) as error:
            where = f"{self.path}, line {self.lines + 1}"
            remedy = "bring the journal back from a copy, or launch a new run; the best so far is in"
            remedy = f"{remedy} {self.path.with_name('best')}"
            raise JournalError(f"{where}: {error}: {line[:60]!r}; {remedy}") from None
        return None

    def _header(self, line: bytes) -> None:
        flat = _unseal(line)
        self.version = str(flat.get("version"))[:80]
        if flat.get("journal") != FORMAT:
            raise JournalError(
                f"{self.path} was written by gpbt-async {self.version} in format {flat.get('journal')!r:.20}, but this "
                f"version reads only format {FORMAT}: use that version for this run, or launch a new one"
            )

    def _fact(self, line: bytes) -> Fact:
        flat = _unseal(line)
        expected = self.lines - 1
        if flat.get("n") != expected:
            raise ValueError(f"fact {flat.get('n')!r:.20} where {expected} is expected: lines were lost or doubled")
        try:
            return from_json(flat)
        except ValueError as error:
            raise ValueError(f"{error} (the journal was begun by gpbt-async {self.version})") from None


class Journal:
    """A run's journal, open for appending. One writer: the holder of the run's lock, in one thread."""

    def __init__(self, path: Path, fd: int, size: int, facts: list[Fact], count: int) -> None:
        self.path = path
        self._fd = fd
        #: the disk is full, and half of the reserved space is used
        self.low = False
        self._reserved = 0
        self._size = size  # the file's size between appends; it ends in a newline
        self._facts = facts
        self._n = count
        self._broken = ""  # why the promises cannot be kept any more, or ""
        self._reserve()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gpbt-journal")
        self._mutex = threading.Lock()
        self._next: Future[None] | None = None  # a sync that has not begun, and so covers all that is written
        self._last: Future[None] | None = None  # the sync that covers the last fact: _next, or one that runs or is done

    @classmethod
    def open(
        cls, path: Path | str, *, version: str = "", replay: Callable[[Iterator[Fact]], object] | None = None
    ) -> Journal:
        """Open the journal at `path`, or begin it. Checks every line, cuts off a torn last one. Raises JournalError.

        version: of this package, for the header of a new journal. replay: takes the facts that are in the journal, all
        of them, as they are read; without it, the method `replay` returns them.
        """
        reader = JournalReader(path)
        facts: list[Fact] = []
        (replay or facts.extend)(reader.facts())
        size = reader.offset
        try:
            fd = os.open(reader.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, size)
                if not reader.lines:
                    size = _write(fd, _seal({"journal": FORMAT, "version": version}), 0)
                os.fsync(fd)
                sync(reader.path.parent)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise JournalError(f"cannot open the journal {reader.path}: {error.strerror}") from error
        return cls(reader.path, fd, size, facts, max(0, reader.lines - 1))

    def replay(self) -> list[Fact]:
        """The facts that were in the journal when it was opened, in order; once, as they are not kept after that."""
        facts, self._facts = self._facts, []
        return facts

    def append(self, fact: Fact) -> None:
        """Write the fact; from now on it survives this process. Raises JournalError: then the journal is as it was."""
        if self._broken:
            raise JournalError(self._broken)
        line = _seal({"n": self._n, **to_json(fact)})
        try:
            self._size = _write(self._fd, line, self._size)
        except OSError as error:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:  # half a line stays, and a whole one after it would be damage
                self._broken = f"the journal {self.path} ends in half a line that cannot be removed"
            raise JournalError(f"cannot write to the journal {self.path}: {error.strerror}") from error
        self._n += 1
        self._reserve()
        with self._mutex:
            if self._next is None:
                self._next = self._last = self._pool.submit(self._sync)

    def _reserve(self) -> None:
        if self._size + AHEAD // 2 > self._reserved:
            self.low = not reserve(self._fd, self._size, AHEAD)
            self._reserved = self._reserved if self.low else self._size + AHEAD

    async def durable(self) -> None:
        """Return when everything appended before this call is on the disk. Raises JournalError."""
        covering = self._last
        if covering is not None and not covering.done():
            # shielded: other callers share this sync, so cancelling one of them must not cancel it
            with suppress(OSError):
                await asyncio.shield(asyncio.wrap_future(covering))
        if self._broken:
            raise JournalError(self._broken)

    def _sync(self) -> None:
        with self._mutex:
            self._next = None  # before the call, which may miss facts from now on: they start another
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            # the kernel may have dropped the pages, and reports that only once: no later sync can repair this
            self._broken = f"cannot make the journal {self.path} durable: {error.strerror}"
            raise

    def close(self) -> None:
        """Wait for running syncs, then close. May be called twice."""
        self._pool.shutdown(wait=True)
        if self._fd >= 0:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)  # release the reserved space
            os.close(self._fd)
            self._fd = -1
            self._broken = self._broken or f"the journal {self.path} is closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write(fd: int, data: bytes, size: int) -> int:
    """Append all of it and return the file's new size. On a full disk, a part is written before OSError is raised."""
    size += len(data)
    while data:
        data = data[os.write(fd, data) :]
    return size
