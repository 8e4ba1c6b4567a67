"""Where a searcher is asked: light asks in a thread, heavy ones in the searcher process.

The searcher process exists because importing hyperopt takes a second and a hundred megabytes, and a suggestion takes
some hundredths of a second. Neither may happen in the scheduler's process. A user's searcher is also imported only in
the searcher process. The program is searcher_main.py. The messages are

    → {"space": …, "searcher": "tpe", "path": […]}    the first; "path": folders a user's searcher may be imported from
    → {"id": 7, "ask": …}                             one at a time; without "ask" it asks whether the searcher works
    ← {"id": 7, "config": …}             or           (empty, if there was no ask)
      {"id": 7, "error": "ValueError: …"}             the searcher raised      or
      {"id": 7, "unusable": "searcher 'a:B': …"}      there is no such searcher, whatever is asked

The searcher process keeps no state. If it dies, sends an invalid answer, or does not answer in time, the client kills
it, starts it again and repeats the ask.

The surprise: an exchange runs to its end in a task of its own, even if its caller is cancelled. So only one ask is sent
at a time, and no line is cut in two. Each ask has its own time limit, and if the process dies, this ask is the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from ..ask import path_text
from ..errors import SearcherError
from ..formatting import error_line
from ..processes.helper_process import HelperError, HelperProcess
from . import registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping

    from ..ask import Ask
    from ..processes.helper_process import Spawn
    from ..space import Config, Space


#: how often an ask is tried before the run gives up
TRIES = 3

T = TypeVar("T")


class SearcherStarter:
    """Starts searcher processes below the guardian; the first may be started ahead, while the script is imported."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._ahead: asyncio.Task[HelperProcess] | None = None

    def start_ahead(self, name: str) -> None:
        """Start a process now and have it import what the searcher called `name` needs, if that is a library."""
        library = registry.library(name)
        if library:
            self._ahead = asyncio.create_task(self._start(library))

    async def start(self) -> HelperProcess:
        """The process that was started ahead, once; then a new one at each call. Raises HelperError."""
        ahead, self._ahead = self._ahead, None
        return await (ahead if ahead is not None else self._start())

    async def _start(self, ahead: str = "") -> HelperProcess:
        module = "gpbt_async.searchers.searcher_main"
        return await HelperProcess.start(self._spawn, module, "the searcher process", ahead=ahead)

    async def close(self) -> None:
        """End a process that was started ahead and has not been used."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with contextlib.suppress(HelperError, asyncio.CancelledError):
                await (await ahead).end()


class SearcherClient:
    """Asks one searcher over one space. `open` it early, `close` it at the end; any number of asks at a time.

    start: starts a searcher process. timeout: seconds one try of an ask may take, > 0, the start of the process
    included. path: folders a user's searcher may be imported from, the script's first. Raises SearcherError for an
    unknown name, ExperimentError if a package is missing; `suggest` raises SearcherError, and nothing else but
    cancellation.
    """

    def __init__(
        self,
        space: Space,
        searcher_name: str,
        start: Callable[[], Awaitable[HelperProcess]],
        timeout: float = 60.0,
        path: Iterable[str] = (),
    ) -> None:
        self._space = space
        self._name = searcher_name
        foreign = registry.foreign(searcher_name)
        self._searcher = None if foreign else registry.make(searcher_name)
        self._path = [os.path.abspath(entry or ".") for entry in path] if foreign else []
        self._start = start
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpbt-searcher")
        self._turn = asyncio.Lock()  # who holds it may use _process
        self._process: HelperProcess | None = None
        self._exchanges: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Start the process now, if this searcher may need it. A failure is reported by the `suggest` that meets it."""
        if registry.may_be_heavy(self._name):
            with contextlib.suppress(HelperError, TimeoutError):
                await asyncio.shield(self._exchange(self._open()))

    async def check(self) -> None:
        """Have a user's searcher loaded, which takes as long as its imports do. Raises SearcherError if it cannot."""
        if registry.foreign(self._name):
            try:
                await asyncio.shield(self._exchange(self._load()))
            except (HelperError, TimeoutError) as error:
                cause = f": {error}" if isinstance(error, HelperError) else f" within {self._timeout:g} s"
                raise SearcherError(f"searcher {self._name!r} could not be loaded{cause}") from None

    async def suggest(self, ask: Ask, wanted: Callable[[], bool] = lambda: True) -> Config | None:
        """The searcher's config, inside the space; None if it was no longer `wanted` when its turn came.

        Raises SearcherError.
        """
        if not ask.space:
            return self._space.clip({})  # constants alone: there is nothing to search
        if registry.heavy(self._name, ask):
            config = await asyncio.shield(self._exchange(self._ask_process(ask, wanted)))
            if config is None:
                return None
        else:
            config = await self._ask_here(ask)
        try:
            return self._space.clip(config)
        except (ValueError, OverflowError, AttributeError) as error:
            raise self._error(ask, f"suggested {config!r}, which is not in the space: {error}") from None

    async def close(self) -> None:
        """Give up the ask that is out, and end the process. Asks still waiting are cancelled."""
        for task in self._exchanges:
            task.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._drop()

    async def _ask_here(self, ask: Ask) -> Config:
        assert self._searcher is not None, "a user's searcher is always heavy"
        answer = asyncio.get_running_loop().run_in_executor(self._thread, self._searcher.suggest, ask)
        try:
            return await asyncio.wait_for(answer, self._timeout)
        except TimeoutError:
            raise self._error(ask, f"did not answer within {self._timeout:g} s") from None
        except Exception as error:
            raise self._error(ask, f"raised {error_line(error)}") from error

    async def _ask_process(self, ask: Ask, wanted: Callable[[], bool]) -> Config | None:
        cause, raised = "", 0
        async with self._turn:
            if not wanted():
                return None  # withdrawn while it waited
            for _ in range(TRIES):
                try:
                    async with self._running() as process:
                        answer = await process.request(lambda: {"ask": ask.to_json()})
                        _usable(answer)
                        if "error" not in answer:
                            return _config(answer)
                    cause, raised = f"raised {answer['error']}", raised + 1
                    if raised == 2:
                        break
                except TimeoutError:
                    cause = f"did not answer within {self._timeout:g} s"
                except HelperError as error:
                    cause = f"gave no answer in {TRIES} tries: {error}"
        raise self._error(ask, cause)

    async def _open(self) -> None:
        async with self._turn, self._running():
            pass

    async def _load(self) -> None:
        async with self._turn, self._running() as process:
            _usable(await process.request(dict))

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[HelperProcess]:
        """The process, started if there is none, for one try. Whatever fails or takes too long ends the process."""
        try:
            async with asyncio.timeout(self._timeout):
                if self._process is None:
                    self._process = await self._start()
                    hello = {"space": self._space.to_json(), "searcher": self._name, "path": self._path}
                    await self._process.send(hello)  # read once the process has imported what it needs
                yield self._process
        except BaseException:
            await self._drop()
            raise

    def _exchange(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do `work` in a task that outlives its caller, for the caller to shield; `close` cancels it."""
        task = asyncio.create_task(work)
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        # look at the outcome, so that asyncio does not report an error whose caller was cancelled
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return task

    async def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    def _error(self, ask: Ask, cause: str) -> SearcherError:
        return SearcherError(f"searcher {self._name!r}, asked for member {path_text(ask.path)}: {cause}")


def _usable(answer: Mapping[str, object]) -> None:
    if "unusable" in answer:
        raise SearcherError(answer["unusable"])


def _config(answer: Mapping[str, object]) -> Config:
    config: object = answer.get("config")
    if not isinstance(config, dict):
        raise HelperError(f"the searcher process sent an invalid answer: {str(answer)[:80]}")
    return config
