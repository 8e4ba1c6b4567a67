"""Where searchers run: light asks in a thread of this room, heavy ones in the searcher process, asked from here.

The searcher process exists because importing hyperopt takes a second and a hundred megabytes, and a suggestion some
hundredths of a second more: none of it may happen beside the event loop. Nor may anything a user's searcher does, which
is imported there and nowhere else. What the process does is in answering.py; it speaks JSON lines over a socket:

    → {"space": …, "searcher": "tpe", "path": […]}    first line
    → {"id": 7, "ask": …}                             one at a time; without "ask": can you work?
    ← {"id": 7, "config": …}             or           (null, where nothing was asked for)
      {"id": 7, "error": "ValueError: …"}             the searcher raised      or
      {"id": 7, "unusable": "searcher 'a:B': …"}      there is no such searcher, whatever is asked

and ends when the socket does. Its stdout is not ours. `path` is where a user's searcher may be imported from, before
all this process knows. An Ask is pure, so nothing is lost with the process: one that dies, answers nonsense or does not
answer in time is killed, started again, and asked again.

The process works on one ask at a time, and so only one is sent at a time, the others waiting here: an ask's time is its
own, a process that dies has died of this ask, and no line is cut in two by a caller that is cancelled, because an
exchange, once begun, runs to its end in a task of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from ..ask import path_text
from ..errors import LaunchError, SearcherError
from ..processes.linux import THREADS
from . import registry

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ..ask import Ask
    from ..space import Config, Space


#: starts `argv()` with FD in its environment, and gives our end of the socket and the pidfd, which then are Asking's.
#: It may raise LaunchError or OSError, which counts as a try.
Spawn = Callable[[], Awaitable[tuple[socket.socket, int]]]

#: the environment variable that holds the number of the socket the searcher process has inherited
FD = "GPBT_FD"
#: how often an ask is tried before the run gives up
TRIES = 3
#: no answer is longer; what is, is nonsense
LONGEST = 1 << 24

T = TypeVar("T")


def argv(ahead: str = "") -> list[str]:
    """The command line of the searcher process. It imports from where this process does, not from its own folder.

    ahead: a package to import before the process is told what it is for, if it can be.
    """
    path = [os.path.abspath(entry or ".") for entry in sys.path]
    program = f"import sys; sys.path[:] = {path!r}\n"
    if ahead:
        program += "import contextlib, warnings; warnings.simplefilter('ignore')\n"
        program += f"with contextlib.suppress(Exception): import {ahead}\n"
    program += "from gpbt_async.searchers.searcher_main import main; main()"
    return [sys.executable, "-P", "-c", program]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The searcher process's: one thread in every numerical library, as the cores belong to the members."""
    return {**inherited, **dict.fromkeys(THREADS, "1"), FD: "3"}


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


class _Unusable(Exception):
    """The process cannot be used any more; the text says why."""


class _Raised(Exception):
    """The searcher itself raised; the text is what."""


class _Process:
    """A searcher process from outside. Owns the socket and the pidfd; after `end` the process is dead."""

    def __init__(self, connection: socket.socket, pidfd: int) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._pidfd = pidfd
        self._received = bytearray()

    async def send(self, line: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._connection, line)
        except OSError as error:
            raise _Unusable(f"the searcher process died ({registry.said(error)})") from None

    async def receive(self) -> Any:
        """The next message. Raises _Unusable when none can come, or what comes is not JSON."""
        loop, looked_at = asyncio.get_running_loop(), 0
        while (end := self._received.find(b"\n", looked_at)) < 0:
            looked_at = len(self._received)
            if looked_at > LONGEST:
                raise _Unusable("the searcher process answers without end")
            try:
                chunk = await loop.sock_recv(self._connection, 1 << 16)
            except OSError as error:
                raise _Unusable(f"the searcher process died ({registry.said(error)})") from None
            if not chunk:
                raise _Unusable("the searcher process died")
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise _Unusable(f"the searcher process answers nonsense: {line[:80]!r}") from None

    async def end(self) -> None:
        """Kill the process and see it dead. It has nothing to save."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd < 0:
            self._connection.close()
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._connection.close()  # not before: it would end by itself, in its own way and time
            await _readable(pidfd)
        finally:
            os.close(pidfd)


async def _readable(fd: int) -> None:
    """Wait until `fd` is readable, but not for long: what survives SIGKILL hangs in the kernel."""
    loop = asyncio.get_running_loop()
    dead: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, dead.cancel)
    try:
        await asyncio.wait([dead], timeout=5.0)
    finally:
        loop.remove_reader(fd)


class SearcherClient:
    """Asks one searcher over one space. `open` it early, `close` it at the end; any number of asks at a time.

    spawn: starts a searcher process, see Spawn. timeout: seconds a try of an ask may take, > 0, the start of the
    process included. path: folders a user's searcher may be imported from, the script's first. Raises SearcherError
    for a name that is none, ExperimentError when a package is missing; then SearcherError from `suggest`, and nothing
    else but cancellation.
    """

    def __init__(
        self, space: Space, searcher_name: str, spawn: Spawn, timeout: float = 60.0, path: Iterable[str] = ()
    ) -> None:
        self._space = space
        self._name = searcher_name
        foreign = registry.foreign(searcher_name)
        self._searcher = None if foreign else registry.make(searcher_name)
        self._path = [os.path.abspath(entry or ".") for entry in path] if foreign else []
        self._spawn = spawn
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpbt-searcher")
        self._turn = asyncio.Lock()  # whoever holds it, and nobody else, touches _process and _asked
        self._process: _Process | None = None
        self._asked = 0
        self._exchanges: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Start the process now, if this searcher may need it. A failure here is met again, and told, by `suggest`."""
        if registry.may_be_heavy(self._name):
            with contextlib.suppress(_Unusable, TimeoutError):
                await self._to_its_end(self._open())

    async def check(self) -> None:
        """Have a user's searcher loaded, which takes as long as its imports do. Raises SearcherError if it cannot."""
        if registry.foreign(self._name):
            try:
                await self._to_its_end(self._loaded())
            except (_Unusable, TimeoutError) as error:
                cause = f"could not be loaded within {self._timeout:g} s"
                cause = f"could not be loaded: {error}" if isinstance(error, _Unusable) else cause
                raise SearcherError(f"searcher {self._name!r} {cause}") from None

    async def suggest(self, ask: Ask, wanted: Callable[[], bool] = lambda: True) -> Config | None:
        """The searcher's answer, inside the space; None if it was not `wanted` any more when its turn came.

        Raises SearcherError.
        """
        if not ask.space:
            return self._space.clip({})  # constants alone: there is nothing to search
        if registry.heavy(self._name, ask):
            config = await self._to_its_end(self._heavy(ask, wanted))
            if config is None:
                return None
        else:
            config = await self._light(ask)
        try:
            return self._space.clip(config)
        except (ValueError, OverflowError, AttributeError) as error:
            raise self._error(ask, f"suggested {config!r}, which is not in the space: {error}") from None

    async def close(self) -> None:
        """Give up what is being asked and end the process. Asks still waiting are cancelled."""
        for task in self._exchanges:
            task.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._drop()

    async def _light(self, ask: Ask) -> Config:
        assert self._searcher is not None, "a user's searcher is always heavy"
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(
                loop.run_in_executor(self._thread, self._searcher.suggest, ask), self._timeout
            )
        except TimeoutError:
            raise self._error(ask, f"did not answer within {self._timeout:g} s") from None
        except Exception as error:
            raise self._error(ask, f"raised {registry.said(error)}") from error

    async def _heavy(self, ask: Ask, wanted: Callable[[], bool]) -> Config | None:
        raised = False
        cause = ""
        async with self._turn:
            if not wanted():
                return None  # withdrawn while others were answered: those behind it need not wait for it too
            for _ in range(TRIES):
                try:
                    async with asyncio.timeout(self._timeout):
                        return await self._exchange(ask)
                except _Raised as error:
                    cause = f"raised {error}"
                    if raised:
                        break
                    raised = True
                except (_Unusable, TimeoutError) as error:
                    cause = f"did not answer within {self._timeout:g} s"
                    if isinstance(error, _Unusable):
                        cause = f"gave no answer in {TRIES} tries: {error}"
                    await self._drop()
                except BaseException:
                    await self._drop()  # cancelled in mid-exchange
                    raise
        raise self._error(ask, cause)

    async def _exchange(self, ask: Ask) -> Config:
        # thousands of kin are milliseconds of JSON: not in the loop
        answer = await self._answer(lambda number: _line({"id": number, "ask": ask.to_json()}))
        if isinstance(answer.get("config"), dict):
            config: Config = answer["config"]
            return config
        raise _Unusable(f"the searcher process answers nonsense: {str(answer)[:80]}")

    async def _answer(self, words: Callable[[int], bytes]) -> dict[str, Any]:
        """What the process says to a line that bears a number. Raises SearcherError, _Raised, _Unusable."""
        process = await self._started()
        self._asked += 1
        number = self._asked
        line = await asyncio.get_running_loop().run_in_executor(self._thread, words, number)
        await process.send(line)
        answer = await process.receive()
        if isinstance(answer, dict) and answer.get("id") == number:
            if "unusable" in answer:
                raise SearcherError(answer["unusable"])
            if "error" in answer:
                raise _Raised(answer["error"])
            return answer
        raise _Unusable(f"the searcher process answers nonsense: {str(answer)[:80]}")

    async def _loaded(self) -> None:
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._answer(lambda number: _line({"id": number}))
            except BaseException:
                await self._drop()
                raise

    async def _open(self) -> None:
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._started()
            except BaseException:
                await self._drop()  # it may have been told half of its first line
                raise

    async def _started(self) -> _Process:
        """The process, started if there is none. It reads its first asks once it has imported what it needs."""
        if self._process is None:
            try:
                connection, pidfd = await self._spawn()
            except (LaunchError, OSError) as error:
                raise _Unusable(f"the searcher process could not be started: {registry.said(error)}") from None
            self._process = _Process(connection, pidfd)
            hello = {"space": self._space.to_json(), "searcher": self._name, "path": self._path}
            await self._process.send(_line(hello))
        return self._process

    async def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` in a task that outlives its caller's cancellation; `close` cancels it."""
        task = asyncio.ensure_future(work)
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        # the callback also looks at the outcome, so that one nobody waits for any more is not reported as lost
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return await asyncio.shield(task)

    def _error(self, ask: Ask, cause: str) -> SearcherError:
        return SearcherError(f"searcher {self._name!r}, asked for member {path_text(ask.path)}: {cause}")
