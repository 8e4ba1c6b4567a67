"""Members that are programs in any language: their command line, and the metrics file they write.

A program speaks no wire: it gets words and environment variables, appends JSON lines to a file, and exits. So this
module reads that file as a stream of Reports. The surprise is that it polls: a plain file offers nothing to await.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

from . import wire
from .worker import Worker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping, Sequence

POLL = 0.2
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def fill(argv: Sequence[str], config: Mapping[str, Any], reserved: Mapping[str, Any]) -> list[str]:
    """Replace {name} by its value, word by word; {{ and }} are braces. Raises KeyError for an unknown name."""
    values = {**config, **reserved}

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        value = values[match[1]]
        return repr(value) if isinstance(value, float) else "" if value is None else str(value)

    return [_BRACES.sub(replace, word) for word in argv]


def missing(command: Sequence[str], cwd: str) -> str:
    """Why a member's program cannot be started, in a few words; empty if it seems that it can.

    It is looked for as the guardian's exec will: from the members' folder, along our own PATH.
    """
    if any(match[1] is not None for match in _BRACES.finditer(command[0])):
        return ""  # each member's is another one
    (program,) = fill(command[:1], {}, {})
    if os.sep not in program:
        path = [os.path.join(cwd, place) for place in os.environ.get("PATH", os.defpath).split(os.pathsep)]
        there = shutil.which(program, path=os.pathsep.join(path)) is not None
        return "" if there else "there is no such program in PATH: install it, or give its path, as './solver'"
    file = os.path.normpath(os.path.join(cwd, program))
    if not os.path.isfile(file):
        what = "is not a file" if os.path.exists(file) else "does not exist"
        return f"{file} {what}: a program's path is taken from the folder that launch is called in"
    return "" if os.access(file, os.X_OK) else f"{file} is not executable: chmod +x it"


class Program(Worker):
    """A Worker without a socket: Entered is its start, its metrics file are its Reports, status 0 is its return."""

    def __init__(self, *args: Any, metrics: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tail = Tail(metrics)
        self._poll: asyncio.TimerHandle | None = None
        self.hello.set_result(True)

    def begin(self, begin: wire.Begin) -> None:
        self.begun = begin
        self._handle(wire.Entered(time.monotonic()))
        self._look()

    def _look(self) -> None:
        for message in self._tail.read():
            self._push(message)
        if not self.dead:
            self._poll = self._loop.call_later(POLL, self._look)

    def _on_death(self) -> None:
        super()._on_death()
        if self.begun is not None:
            self._look()
            for message in self._tail.finish():
                self._push(message)

    async def _until_gone(self) -> None:
        await super()._until_gone()
        if self.end is None and (self.exit_status == 0 or self._stopping is not None):
            self.end = wire.End("returned" if self.exit_status == 0 else "stopped", self._died_at)
            self._messages.append(self.end)
            if self.exit_status == 0:
                self._returned()

    async def stop(self, reason: str, patience: float = 10.0, grace: float | None = None) -> None:
        """SIGTERM, which is all a program can be told; then, as for any member, SIGKILL."""
        self._signal_group(signal.SIGTERM)
        await super().stop(reason, 0.0, patience + (self._grace if grace is None else grace))

    def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        self._tail.close()
        super().close()


class Tail:
    """A growing file of JSON lines as messages: Reports, and a Notice for each line that is none."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: int | None = None
        self._rest = b""

    def read(self) -> Iterator[wire.Message]:
        while data := self._more():
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield from _message(line)
            if len(self._rest) > wire.LIMIT:
                self._rest = self._rest[-1:]  # without its beginning, it will not be taken for a line
                yield wire.Notice(f"{self.path}: a line is longer than {wire.LIMIT} bytes")

    def finish(self) -> Iterator[wire.Message]:
        """What stands behind the last newline, once nobody writes any more."""
        rest, self._rest = self._rest, b""
        yield from _message(rest)

    def _more(self) -> bytes:
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return b""
        return os.read(self._file, 1 << 18)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _message(line: bytes) -> Iterator[wire.Message]:
    if not line.strip():
        return
    try:
        yield wire.Report(wire.numbers(wire.loads(line, strict=False)), time.monotonic())
    except wire.WireError as error:
        yield wire.Notice(f"metrics file: {error}")
