"""Members that are programs in any language: their command line, and the metrics file they write.

A program does not speak the wire: it gets arguments and environment variables, appends JSON lines to a file, and exits.
This module reads that file as a stream of Reports. The surprise is that it polls: a plain file offers nothing to await.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

from ..errors import Advice
from . import wire
from .wire import Exit
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


#: seconds between two looks at the file
POLL = 0.2
#: bytes read in one turn of the event loop: some milliseconds' worth of JSON
PIECE = 1 << 16
#: a number without its leading zero, which JSON does not allow
_BARE = re.compile(rb"[:,\[]\s*(-?)(\.[0-9]{1,20})")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def fill(argv: Sequence[str], config: Mapping[str, object], reserved: Mapping[str, object]) -> list[str]:
    """Replace {name} by its value in each argument; {{ and }} are braces. Raises KeyError for an unknown name."""
    values = {**config, **reserved}

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        value = values[match[1]]
        return repr(value) if isinstance(value, float) else "" if value is None else str(value)

    return [_BRACES.sub(replace, word) for word in argv]


def missing(command: Sequence[str], cwd: str) -> str:
    """Why a member's program cannot be started, in a few words; empty if it seems that it can.

    It is looked for as the guardian's exec does: from the members' folder, along our own PATH.
    """
    if any(match[1] is not None for match in _BRACES.finditer(command[0])):
        return ""  # it depends on the config
    (program,) = fill(command[:1], {}, {})
    if os.sep not in program:
        path = [os.path.join(cwd, place) for place in os.environ.get("PATH", os.defpath).split(os.pathsep)]
        exists = shutil.which(program, path=os.pathsep.join(path)) is not None
        return "" if exists else "there is no such program in PATH: install it, or give its path, as './solver'"
    file = os.path.normpath(os.path.join(cwd, program))
    if not os.path.isfile(file):
        what = "is not a file" if os.path.exists(file) else "does not exist"
        return f"{file} {what}: a program's path is taken from the folder that launch is called in"
    return "" if os.access(file, os.X_OK) else f"{file} is not executable: chmod +x it"


class Program(Worker):
    """A Worker without a socket: its start is Enter, its metrics file the Reports, status 0 its return."""

    def __init__(self, *args: Any, metrics: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tail = Tail(metrics)
        self._poll: asyncio.TimerHandle | None = None
        #: whether it is dead, and all it wrote has been read
        self._all_read = False
        self.hello.set_result(True)

    @property
    def unread(self) -> int:
        return self._tail.unread

    def begin(self, begin: wire.Begin) -> None:
        self.begun = begin
        self._handle(wire.Enter(time.monotonic()))
        self._look()

    def _look(self) -> None:
        for message in self._tail.read():
            self._push(message)
        if not self.dead:
            self._poll = self._loop.call_later(0.0 if self._tail.behind else POLL, self._look)

    def _on_death(self) -> None:
        super()._on_death()
        if self.begun is not None:
            self._look()

    async def _until_gone(self) -> None:
        """Then read what it wrote last, a turn's worth at a time: the iteration calls this until all is read."""
        await super()._until_gone()
        if self.end is None and (self.exit_status == 0 or self._stopping is not None):
            self.end = wire.End(Exit.RETURNED if self.exit_status == 0 else Exit.STOPPED, self._died_at)
            if self.exit_status == 0:
                self._returned()
        while not self._messages and not self._all_read:
            self._messages.extend(self._tail.read())
            if not self._tail.behind:
                self._all_read = True
                self._messages.extend(self._tail.finish())
                self._messages.extend([self.end] if self.end is not None else ())
            await asyncio.sleep(0)

    async def stop(self, reason: str, patience: float = 10.0, grace: float | None = None) -> None:
        """SIGTERM at once, since a program reads no messages; then, as for any member, SIGKILL."""
        self._signal_group(signal.SIGTERM)
        await super().stop(reason, 0.0, patience + (self._grace if grace is None else grace))

    def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        self._tail.close()
        super().close()


class Tail:
    """A growing file of JSON lines as messages: Reports, and an Advice for each line that is none.

    The program may put anything at that path: what is no regular file costs one Advice and is never read, since reading
    a pipe that has no writer would block the event loop.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        #: whether there was more than a turn's worth
        self.behind = False
        #: how many lines were no reports
        self.unread = 0
        self._file: int | None = None
        self._refused = False
        self._rest = b""

    def read(self) -> Iterator[wire.Report | Advice]:
        """Messages of what was added, at most a turn's worth."""
        if self._file is None and not self._refused:
            yield from self._open()
        data = self._more()
        self.behind = len(data) == PIECE
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._message(line)
        if len(self._rest) > wire.LIMIT:
            self._rest = self._rest[-1:]  # the end of the line alone will not be taken for a report
            self.unread += 1
            yield Advice(f"{self.path}: a line is longer than {wire.LIMIT} bytes")

    def _message(self, line: bytes) -> Iterator[wire.Report | Advice]:
        if not line.strip():
            return
        try:
            yield wire.Report(wire.numbers(wire.loads(line, strict=False)), time.monotonic())
        except wire.WireError as error:
            self.unread += 1
            bare = _BARE.search(line)  # as the calculator bc writes them
            digit = f"numbers in JSON begin with a digit: {bare[1].decode()}0{bare[2].decode()}" if bare else ""
            yield Advice(f"metrics file: {error}", digit)

    def _more(self) -> bytes:
        try:
            return os.read(self._file, PIECE) if self._file is not None else b""
        except OSError:  # a file server does not answer: the next look may succeed
            return b""

    def finish(self) -> Iterator[wire.Report | Advice]:
        """The message behind the last newline, once the program is dead."""
        rest, self._rest = self._rest, b""
        yield from self._message(rest)

    def _open(self) -> Iterator[wire.Report | Advice]:
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        except OSError as error:
            self._refused = True
            yield Advice(f"{self.path}: {error.strerror}: no metrics are read from it")
            return
        if stat.S_ISREG(os.fstat(file).st_mode):
            self._file = file
        else:
            os.close(file)
            self._refused = True
            yield Advice(f"{self.path} is no regular file: no metrics are read from it; append JSON lines to one")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
