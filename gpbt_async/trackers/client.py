"""A run's trackers, from the scheduler's side: start a process for each, hear what is wrong, and end it with the run.

All that passes here is a first line and, at the worst, one that says what is wrong: what a tracker is told, it reads
from the run's folder by itself (teller.py). So nothing a tracker does can hold up the loop, and nothing here raises.

One warning is all that ever comes of a tracker that raises, hangs, dies or cannot write; the run's result is the same
with and without it. At the end of the run its process has PATIENCE seconds to tell the rest, and is then killed. It
bears the run's mark and hangs below the guardian, like every process of the run.
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
from ..processes.linux import THREADS
from .registry import parse_all

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence

    from ..storage.folder import RunFolder
    from .registry import Spec


#: seconds all trackers together have to tell the rest once the run is over, and the kernel has to kill one
PATIENCE, DEADLINE = 10.0, 5.0
#: no message is longer
LONGEST = 1 << 16


class Spawn(Protocol):
    """Starts a program whose descriptor 3 is a socket: our end of it, and the pidfd. May raise LaunchError, OSError."""

    async def __call__(self, argv: Sequence[str], env: dict[str, str], log: str) -> tuple[socket.socket, int]: ...


class Tracking:
    """The trackers of one run. wanted: as `--track` says them. Raises ExperimentError for what is none."""

    def __init__(self, wanted: Sequence[str], warn: Callable[[str], object]) -> None:
        self._specs = parse_all(wanted)
        self._warn = warn
        self._followed: list[_Process] = []
        self._closing: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> list[str]:
        """As it is to be asked for again."""
        return [str(spec) for spec in self._specs]

    def check(self, path: Sequence[str] | None) -> None:
        """Raises ExperimentError when one cannot work here. path: where modules may be; None = not known yet."""
        for spec in self._specs:
            if path is not None or spec.own:
                spec.check(path or ())

    def open(self, spawn: Spawn, folder: RunFolder, path: Iterable[str]) -> None:
        """Start them, without waiting for it. path: where a user's tracker may be imported from."""
        for spec in self._specs:
            self._followed.append(_Process(spec, spawn, folder, list(path), self._warn))

    async def close(self) -> None:
        """Let them tell the rest, but not for long; then no process of theirs is left. Twice does no harm."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="gpbt-async trackers' end")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._followed:
            await asyncio.gather(*(process.close(PATIENCE) for process in self._followed))


class _Process:
    """One tracker's process, from its start to its end. Nothing raises; one warning at most."""

    def __init__(
        self, spec: Spec, spawn: Spawn, folder: RunFolder, path: list[str], warn: Callable[[str], object]
    ) -> None:
        self._spec, self._folder, self._path, self._warn = spec, folder, path, warn
        self._warned = False
        self._socket: socket.socket | None = None
        self._pidfd = -1
        self._over = False
        self._life = asyncio.create_task(self._live(spawn), name=f"gpbt-async tracker {spec}")

    async def close(self, within: float) -> None:
        self._over = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(1)  # SHUT_WR: nothing more comes from us
        await asyncio.wait([self._life], timeout=within)
        if not self._life.done():
            self._trouble(f"it was still at work {within:g} s after the run's end, and was killed")
            self._kill()
            await asyncio.wait([self._life], timeout=DEADLINE)
            self._life.cancel()
            await asyncio.wait([self._life])

    async def _live(self, spawn: Spawn) -> None:
        try:
            await self._started(spawn)
            if not await self._heard():
                self._trouble("its process died")
        except (LaunchError, OSError) as error:
            self._trouble(f"its process could not be started ({error})")
        finally:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    async def _started(self, spawn: Spawn) -> None:
        self._folder.tracking.mkdir(exist_ok=True)
        log = self._folder.tracking / f"{self._spec.stem}.log"
        path = [os.path.abspath(entry or ".") for entry in sys.path]
        program = f"import sys; sys.path[:] = {path!r}\nfrom gpbt_async.trackers.tracker_main import main; main()"
        # the cores belong to the members, and so do the GPUs, which some trackers would look into
        env = {**os.environ, **dict.fromkeys(THREADS, "1"), "CUDA_VISIBLE_DEVICES": "", "GPBT_FD": "3"}
        self._socket, self._pidfd = await spawn([sys.executable, "-P", "-c", program], env, str(log))
        self._socket.setblocking(False)
        hello = {"folder": str(self._folder.path), "tracker": str(self._spec), "path": self._path}
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, json.dumps(hello).encode() + b"\n")
        if self._over:
            self._socket.shutdown(1)

    async def _heard(self) -> bool:
        """Until its process is dead. False if it died of something it had not told."""
        assert self._socket is not None
        loop, received, told = asyncio.get_running_loop(), b"", False
        while True:
            try:
                data = await loop.sock_recv(self._socket, 1 << 12)
            except ConnectionError:
                data = b""
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                told |= self._message(line)
            if len(received) > LONGEST:
                self._trouble("it sends nonsense")
                self._kill()
                return True
            if not data:
                break
        await _dead(self._pidfd)
        return told

    def _message(self, line: bytes) -> bool:
        """Is it the last one?"""
        try:
            message: Any = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if isinstance(message, dict) and "trouble" in message:
            self._trouble(str(message["trouble"])[:1000])
            return True
        return isinstance(message, dict) and "done" in message

    def _trouble(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            again = f"gpbt-async track {self._folder.typed} --to {self._spec.typed}"
            self._warn(f"tracker {self._spec}: {what}. The run is not affected; what it missed is told by: {again}")

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


async def _dead(pidfd: int) -> None:
    """Wait until the process is dead: its end of the socket may be closed long before."""
    loop = asyncio.get_running_loop()
    dead: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not dead.done():
            dead.set_result(None)

    loop.add_reader(pidfd, wake)
    try:
        await dead
    finally:
        loop.remove_reader(pidfd)
