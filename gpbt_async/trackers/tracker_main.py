"""The tracker's process, and the same in the foreground: tell one tracker of one run until there is nothing to tell.

A process of its own, one for each tracker, because whatever a tracker does there, importing for seconds, waiting for a
network, printing, dying, happens neither in the scheduler nor beside another tracker. It leaves the cores to members
where they want them (nice), hangs below the guardian like every process of the run, and is told over a socket:

    → {"folder": …, "tracker": "mlflow:…", "path": […]}    what to do; `path` is where a user's own may be imported from
    ← {"trouble": "…"}                                     what a person should know; the process may have given up
    ← {"done": true}                                       all is told

The scheduler closing its half is the end of the run: what is there is told, and the process ends. What was told is kept
as a position in the run's folder (following.py), written whole and under a lock, so that two never tell one tracker of
one run, and the next one goes on where this one was.

A call that raises is made again, TRIES times in all and after pauses, in which a disk may be emptied or a server come
back; then the tracker is given up, and the position stays before what was not told. A call that does not return is told
of by a second thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from ..errors import ExperimentError, FolderError, GPBTError, TrackerError
from ..formatting import LONGEST, error_line, shorten
from ..processes.helper_main import FD, SchedulerLink, search_also
from ..storage.files import explained, read_json, replacing
from ..storage.folder import RunFolder
from ..storage.run_config import RunConfig
from ..tracked import Tracker
from .follower import Follower
from .registry import find, make, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .registry import Spec


#: how often a call that raises is made, and the pauses between
TRIES, PAUSES = 3, (1.0, 4.0)
#: seconds a call may take before that is told
PATIENCE = 60.0
#: seconds between two looks, and at least between two positions
POLL, KEEP = 0.25, 0.5


class _Calls(Tracker):
    """A tracker whose calls are made again when they raise. during: the call being made, and since when."""

    def __init__(self, pause: Callable[[float], object]) -> None:
        self._pause = pause
        self.during: tuple[str, float] | None = None
        self._tracker: Any = None

    def make(self, spec: Spec) -> None:
        self._tracker = self._call("its making", make, spec)
        self.forgets = bool(getattr(self._tracker, "forgets", False))

    def _call(self, name: str, function: Callable[..., Any] | None, *args: Any) -> Any:
        if function is None:
            return None
        for tried in range(1, TRIES + 1):
            self.during = name, time.monotonic()
            try:
                return function(*args)
            except (Exception, SystemExit) as error:
                if tried == TRIES:
                    cause = shorten(error_line(error), LONGEST)
                    raise TrackerError(f"it raised {cause} (in {name}, {TRIES} times)") from error
            finally:
                self.during = None
            self._pause(PAUSES[tried - 1])

    def _of(self, name: str) -> Callable[..., Any] | None:
        return getattr(self._tracker, name, None)

    def opened(self, *args: Any) -> None:
        self._call("opened", self._of("opened"), *args)

    def started(self, *args: Any) -> None:
        self._call("started", self._of("started"), *args)

    def reported(self, *args: Any) -> None:
        self._call("reported", self._of("reported"), *args)

    def ended(self, *args: Any) -> None:
        self._call("ended", self._of("ended"), *args)

    def keep(self) -> Any:
        return self._call("keep", self._of("keep"))

    def write(self, path: Path, flat: dict[str, Any]) -> None:
        """The position, by the same rule: a disk that is full may be emptied."""
        self._call("writing down what was told", _write, path, flat)

    def closed(self, *args: Any) -> None:
        self._call("closed", self._of("closed"), *args)


class Teller:
    """One tracker and one run. live: is more to come? pause: wait so long, or until nothing more is to come."""

    def __init__(
        self, folder: RunFolder, spec: Spec, live: Callable[[], bool], pause: Callable[[float], object]
    ) -> None:
        self._folder, self._spec, self._live, self._pause = folder, spec, live, pause
        self._position = folder.tracking / f"{spec.stem}.json"
        self._calls = _Calls(pause)
        self._kept = 0.0
        #: set to leave off after what is being told now
        self.stopped = False

    @property
    def during(self) -> tuple[str, float] | None:
        """The call that is being made, and since when."""
        return self._calls.during

    def run(self) -> None:
        """Until all is told. Raises TrackerError; FolderError when the run, or what was told of it, cannot be read."""
        if not self._spec.own:
            try:
                find(self._spec)
            except ExperimentError:
                raise
            except (Exception, SystemExit):  # what its import raises may pass: it is tried again below
                pass
        with explained("cannot make", self._folder.tracking):
            self._folder.tracking.mkdir(exist_ok=True)
        lock = self._lock()
        try:
            self._tell()
        finally:
            os.close(lock)

    def _lock(self) -> int:
        path = self._position.with_suffix(".lock")
        with explained("cannot lock", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise FolderError(f"another process tells {self._spec} of {self._folder.name} already") from None
        return fd

    def _tell(self) -> None:
        position: Any = None
        if self._position.exists():
            try:
                position = read_json(self._position)
            except FolderError:
                position = {}  # damaged: from the start once more, and nothing twice
        self._calls.make(self._spec)
        follower = Follower(self._folder, self._calls, self._folder.tracking, position)
        follower.begin()
        self._keep(follower)
        while True:
            live = self._live()  # before the look: so what was written until then is found by it
            told = follower.turn()
            if self.stopped or (not told and not live):
                break
            if time.monotonic() - self._kept > KEEP:
                self._keep(follower)
            if not told:
                self._pause(POLL)
        self._keep(follower)
        follower.close()

    def _keep(self, follower: Follower) -> None:
        self._calls.write(self._position, follower.position(self._calls.keep()))
        self._kept = time.monotonic()


def _write(path: Path, flat: dict[str, Any]) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(flat))


def foreground(folder: RunFolder, spec: Spec) -> str:
    """Tell in this very process, until the run is over or somebody presses Ctrl-C. Returns what to tell the person."""
    path = [*RunConfig.read(folder.experiment).import_path, os.getcwd()]
    spec.check(path)
    search_also(path)
    teller = Teller(folder, spec, lambda: folder.locked() is not None, time.sleep)

    def stop(number: int, _frame: object) -> None:
        teller.stopped = True
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        teller.run()
    except TrackerError as error:
        raise TrackerError(f"tracker {spec}: {error}; the same command goes on where this left off") from error
    if teller.stopped:
        raise KeyboardInterrupt
    return f"{spec} was told all of {folder.name}"


# ---- the process


def main() -> None:
    """Report to the tracker that the first line names, until the run has ended and everything is reported."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the scheduler, which then closes the socket
    os.nice(5)
    with SchedulerLink.inherited() as scheduler:
        del os.environ[FD]  # what the tracker starts has no use for it
        if (hello := scheduler.receive()) is None:
            return
        search_also(hello["path"])
        over = threading.Event()
        poll = select.poll()
        poll.register(scheduler.connection, select.POLLIN)

        def live() -> bool:
            return not poll.poll(0)  # the end of the input is all that can still come

        def say(message: dict[str, Any]) -> None:
            with contextlib.suppress(OSError):
                scheduler.send(message)

        teller = Teller(RunFolder(hello["folder"]), parse(hello["tracker"]), live, lambda s: poll.poll(int(s * 1000)))
        threading.Thread(target=_watch, args=(teller, say, over), daemon=True).start()
        try:
            teller.run()
        except GPBTError as error:
            over.set()
            say({"trouble": str(error)})
            traceback.print_exception(error)
            raise SystemExit(1) from None
        over.set()
        say({"done": True})


def _watch(teller: Teller, say: Callable[[dict[str, Any]], None], over: threading.Event) -> None:
    """Report a call that does not return."""
    while not over.wait(1.0):
        during = teller.during
        if during is not None and time.monotonic() - during[1] > PATIENCE:
            say({"trouble": f"it has not returned from {during[0]} for {PATIENCE:g} s"})
            return
