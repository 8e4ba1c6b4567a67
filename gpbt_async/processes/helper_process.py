"""A program of ours that runs below the guardian and is talked to over a socket: the searcher process, each tracker.

A user's searcher or tracker may import for seconds, hang or die. It does so in this process, so the event loop goes on.
The program has the import path of the scheduler's process. It uses one thread in every numerical library, because the
cores belong to the members. Both sides send JSON, one message a line (helper_main.py).

Every failure of a helper is a HelperError: it could not be started, died, or sent an invalid answer. Then the caller
ends it: `end` kills the process and waits for its death. The surprise is that this wait has a limit: a process that
survives SIGKILL hangs in the kernel, and must not delay the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LaunchError
from ..formatting import error_line
from .channel import wait_readable
from .helper_main import FD
from .linux import THREADS

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence


#: bytes; no honest message is longer
LONGEST = 1 << 24
#: seconds the kernel may take to kill a process
DEADLINE = 5.0


class HelperError(Exception):
    """The helper cannot be used any more; the text says why."""


class Spawn(Protocol):
    """Starts a program whose descriptor 3 is a socket: our end of it, and the pidfd. May raise LaunchError, OSError."""

    async def __call__(
        self, argv: Sequence[str], env: Mapping[str, str], log: str | None = None
    ) -> tuple[socket.socket, int]: ...


class HelperProcess:
    """A helper as the scheduler sees it. Owns the socket and the pidfd. name: how errors call it."""

    def __init__(self, connection: socket.socket, pidfd: int, name: str) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._pidfd = pidfd
        self._name = name
        self._received = bytearray()
        self._requests = 0

    @classmethod
    async def start(
        cls,
        spawn: Spawn,
        module: str,
        name: str,
        *,
        ahead: str = "",
        env: Mapping[str, str] | None = None,
        log: str | None = None,
    ) -> HelperProcess:
        """Run `main()` of a module of ours. Raises HelperError.

        ahead: a package to import before the first message, if it is installed. env: beside the scheduler's.
        log: the file its output goes to.
        """
        path = [os.path.abspath(entry or ".") for entry in sys.path]
        program = f"import sys; sys.path[:] = {path!r}\n"
        if ahead:
            program += "import contextlib, warnings; warnings.simplefilter('ignore')\n"
            program += f"with contextlib.suppress(Exception): import {ahead}\n"
        program += f"from {module} import main; main()"
        environment = {**os.environ, **dict.fromkeys(THREADS, "1"), **(env or {}), FD: "3"}
        try:
            return cls(*await spawn([sys.executable, "-P", "-c", program], environment, log), name)
        except (LaunchError, OSError) as error:
            raise HelperError(f"{name} could not be started: {error_line(error)}") from None

    async def request(self, make: Callable[[], Mapping[str, object]]) -> dict[str, Any]:
        """Send a message and wait for its answer, which has the same "id". One at a time. Raises HelperError.

        make: returns the message; called in a thread, since a large one takes milliseconds to make and encode.
        """
        self._requests += 1
        number = self._requests
        await self._send(await asyncio.to_thread(lambda: _encode({"id": number, **make()})))
        answer = await self.receive()
        if isinstance(answer, dict) and answer.get("id") == number:
            return answer
        raise HelperError(f"{self._name} sent an invalid answer: {str(answer)[:80]}")

    async def send(self, message: Mapping[str, object]) -> None:
        """Send a message that has no answer. Raises HelperError."""
        await self._send(_encode(message))

    async def _send(self, line: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._connection, line)
        except OSError as error:
            raise HelperError(f"{self._name} died ({error_line(error)})") from None

    async def receive(self) -> Any:
        """The next message. Raises HelperError when there is none, or it is not JSON."""
        loop, searched = asyncio.get_running_loop(), 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > LONGEST:
                raise HelperError(f"{self._name} sent an answer that is too long")
            try:
                chunk = await loop.sock_recv(self._connection, 1 << 16)
            except OSError as error:
                raise HelperError(f"{self._name} died ({error_line(error)})") from None
            if not chunk:
                raise HelperError(f"{self._name} died")
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise HelperError(f"{self._name} sent an invalid answer: {line[:80]!r}") from None

    def end_input(self) -> None:
        """Tell the helper that no message follows: it is to finish its work and end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(1)  # SHUT_WR

    async def ended(self, within: float | None = None) -> bool:
        """Wait until the process is dead: its end of the socket may be closed long before. False if it is not."""
        return self._pidfd < 0 or await wait_readable(self._pidfd, within)

    def kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def end(self) -> None:
        """Kill the process, unless it is dead already, and wait until it is. Twice does no harm."""
        self.kill()
        self._connection.close()  # not before: the helper would end by itself, at its own pace
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            try:
                await wait_readable(pidfd, DEADLINE)
            finally:
                os.close(pidfd)


def _encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"
