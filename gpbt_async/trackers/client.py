"""A run's trackers, from the scheduler's side: start a process for each, hear of trouble, and end it with the run.

A tracker's process reads the run's folder by itself (tracker_main.py). The scheduler sends it one line, and hears one
at most, which says what is wrong. So nothing that a tracker does can hold up the event loop, and nothing here raises.

A tracker that raises, hangs, dies or cannot write costs one warning; the run's result is the same with and without it.
At the end of the run a tracker has PATIENCE seconds to report the rest, and is then killed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..processes.helper_process import HelperError, HelperProcess
from .registry import parse_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..processes.helper_process import Spawn
    from ..storage.folder import RunFolder
    from .registry import Spec


#: seconds all trackers together have to report the rest once the run is over
PATIENCE = 10.0


class Tracking:
    """The trackers of one run. wanted: values of `--track`. Raises ExperimentError for one that is none."""

    def __init__(self, wanted: Sequence[str], warn: Callable[[str], object]) -> None:
        self._specs = parse_all(wanted)
        self._warn = warn
        self._processes: list[_TrackerProcess] = []
        self._closing: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> list[str]:
        """The values of `--track` that ask for the same trackers again."""
        return [str(spec) for spec in self._specs]

    def check(self, path: Sequence[str] | None) -> None:
        """Raises ExperimentError when one cannot work here. path: where modules may be; None = not known yet."""
        for spec in self._specs:
            if path is not None or spec.own:
                spec.check(path or ())

    def open(self, spawn: Spawn, folder: RunFolder, path: Iterable[str]) -> None:
        """Start them, without waiting for it. path: where a user's tracker may be imported from."""
        for spec in self._specs:
            self._processes.append(_TrackerProcess(spec, spawn, folder, list(path), self._warn))

    async def close(self) -> None:
        """Wait until they have reported the rest, but not for long; then end their processes. Twice does no harm."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="gpbt-async trackers' end")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await asyncio.gather(*(process.close(PATIENCE) for process in self._processes))


class _TrackerProcess:
    """One tracker's process, from its start to its end. Nothing raises; one warning at most."""

    def __init__(
        self, spec: Spec, spawn: Spawn, folder: RunFolder, path: list[str], warn: Callable[[str], object]
    ) -> None:
        self._spec, self._folder, self._path, self._warn = spec, folder, path, warn
        self._warned = False
        self._process: HelperProcess | None = None
        self._run_ended = False
        self._life = asyncio.create_task(self._live(spawn), name=f"gpbt-async tracker {spec}")

    async def close(self, within: float) -> None:
        self._run_ended = True
        if self._process is not None:
            self._process.end_input()
        await asyncio.wait([self._life], timeout=within)
        if not self._life.done():
            self._trouble(f"it was still at work {within:g} s after the run's end, and was killed")
            self._life.cancel()
            await asyncio.wait([self._life])

    async def _live(self, spawn: Spawn) -> None:
        try:
            process = await self._start(spawn)
            while not self._is_last(await process.receive()):
                pass
            await process.ended()
        except HelperError as error:
            self._trouble(str(error))
        finally:
            if self._process is not None:
                await self._process.end()

    async def _start(self, spawn: Spawn) -> HelperProcess:
        module, name = "gpbt_async.trackers.tracker_main", "its process"
        try:
            self._folder.tracking.mkdir(exist_ok=True)
        except OSError as error:
            raise HelperError(f"{name} could not be started ({error})") from None
        log = str(self._folder.tracking / f"{self._spec.stem}.log")
        hidden = {"CUDA_VISIBLE_DEVICES": ""}  # some trackers would look into the GPUs, which belong to the members
        self._process = process = await HelperProcess.start(spawn, module, name, env=hidden, log=log)
        await process.send({"folder": str(self._folder.path), "tracker": str(self._spec), "path": self._path})
        if self._run_ended:
            process.end_input()
        return process

    def _is_last(self, message: object) -> bool:
        if isinstance(message, dict) and "trouble" in message:
            self._trouble(str(message["trouble"])[:1000])
            return True
        return isinstance(message, dict) and "done" in message

    def _trouble(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            again = f"gpbt-async track {self._folder.shell_name} --to {self._spec.shell_name}"
            self._warn(f"tracker {self._spec}: {what}. The run is not affected; to report what it missed: {again}")
