"""Requests to a running scheduler, through its control FIFO: stop, pause, continue, leave a GPU.

A request is one line, such as "stop" or "drain GPU-1234". There is no answer: the client looks into the run's lock and
journal to see the effect. To open a FIFO for writing without blocking fails when no process reads it, so the client
knows immediately whether a scheduler listens.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from ..errors import FolderError
from .files import explained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .folder import RunFolder


class ControlRequest(StrEnum):
    """STOP ends the session. PAUSE begins no member from now on, and GO_ON begins members again. DRAIN takes a GPU from
    the run once its members have finished, DRAIN_NOW at once; RETURN gives it back.
    """

    STOP = "stop"
    PAUSE = "pause"
    GO_ON = "go on"
    DRAIN = "drain"
    DRAIN_NOW = "drain-now"
    RETURN = "return"

    @classmethod
    def parse(cls, line: str) -> tuple[ControlRequest, str] | None:
        """The request, and the GPU that it names or ""; None for a line that is no request."""
        for request in cls:
            if request not in GPU_REQUESTS and line == request:
                return request, ""
            if request in GPU_REQUESTS and line.startswith(f"{request} ") and line != f"{request} ":
                return request, line[len(request) + 1 :]
        return None


GPU_REQUESTS = (ControlRequest.DRAIN, ControlRequest.DRAIN_NOW, ControlRequest.RETURN)


# ---- the client end


def send(folder: RunFolder, request: ControlRequest, gpu: str = "") -> None:
    """gpu: the UUID, for a request about a GPU. Raises FolderError when no scheduler of the run listens."""
    if folder.locked() is None:
        raise FolderError(f"{folder.name} is not running; see gpbt-async status {folder.shell_name}")
    if not write_line(folder.control, f"{request} {gpu}" if gpu else request):
        raise FolderError(f"{folder.name} is locked, but its scheduler does not listen yet; try again in a moment")


def write_line(fifo: Path, line: str) -> bool:
    """Write the line in one piece. False when no process listens at the FIFO, or it is full."""
    data = line.encode() + b"\n"
    if b"\n" in data[:-1] or len(data) > 4096:  # PIPE_BUF: a longer line could be mixed with another client's
        raise ValueError("must be one line of less than 4 KiB")
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # a file in the FIFO's place would take the line, and no process would read it
        return stat.S_ISFIFO(os.fstat(fd).st_mode) and os.write(fd, data) == len(data)
    except (BlockingIOError, BrokenPipeError):
        return False
    finally:
        os.close(fd)


# ---- the server end


class ControlListener:
    """Calls back with each line that is written to the FIFO, from the running event loop, until closed."""

    def __init__(self, fifo: Path, callback: Callable[[str], object]) -> None:
        """Makes the FIFO. Raises FolderError."""
        with explained("cannot listen at", fifo):
            with suppress(FileExistsError):
                os.mkfifo(fifo, 0o600)
            if not stat.S_ISFIFO(os.lstat(fifo).st_mode):
                raise FolderError(f"cannot listen at {fifo}: it is not a FIFO; remove it")
            # opened to write as well: a reader alone would see end-of-file each time a client closes its end
            self._fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._callback, self._rest = callback, b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
        except BlockingIOError:
            return
        self._rest = self._rest[-65536:]  # a client that never ends its line must not fill our memory
        for line in lines:
            self._callback(line.decode(errors="replace"))

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
