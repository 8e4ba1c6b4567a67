"""The tracker's process, and the same in the foreground: report one run to one tracker until nothing is left to report.

Each tracker has a process of its own, because whatever a tracker does there, importing for seconds, waiting for a
network, printing, dying, happens neither in the scheduler nor beside another tracker. It leaves the cores to members
where they want them (nice), hangs below the guardian like every process of the run, and speaks over a socket:

    → {"folder": …, "tracker": "mlflow:…", "path": […]}    what to do; `path`: where a user's own may be imported from
    ← {"trouble": "…"}                                     what a person should know; the process may have given up
    ← {"done": true}                                       everything is reported

The scheduler closes its half when the run has ended: the process reports what is left, and ends. How far it came is
kept as a position in the run's folder (follower.py), written whole and under a lock. So two processes never report one
run to one tracker, and the next one continues where this one stopped.

A call that raises is made again, TRIES times in all and after pauses, in which a disk may be emptied or a server come
back. Then the tracker is given up, and the position stays before what was not reported. A second thread reports a call
that does not return.
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
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .registry import Spec


#: how often a call that raises is made, and the pauses between
TRIES, PAUSES = 3, (1.0, 4.0)
#: seconds a call may take before the scheduler hears of it
PATIENCE = 60.0
#: seconds between two looks at the folder, and at least between two positions
POLL, KEEP = 0.25, 0.5


class _Calls(Tracker):
    """A tracker whose calls are made again when they raise. during: the call in progress, and since when."""

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

    def write(self, path: Path, flat: Mapping[str, object]) -> None:
        """Write the position, by the same rule: a disk that is full may be emptied."""
        self._call("writing the position", _write, path, flat)

    def closed(self, *args: Any) -> None:
        self._call("closed", self._of("closed"), *args)


class TrackerFeed:
    """Reports one run to one tracker. live: does the run go on? pause: waits so long, or until the run ends."""

    def __init__(
        self, folder: RunFolder, spec: Spec, live: Callable[[], bool], pause: Callable[[float], object]
    ) -> None:
        self._folder, self._spec, self._live, self._pause = folder, spec, live, pause
        self._position = folder.tracking / f"{spec.stem}.json"
        self._calls = _Calls(pause)
        self._kept = 0.0
        #: set to stop after the current turn
        self.stopped = False

    @property
    def during(self) -> tuple[str, float] | None:
        """The call in progress, and since when."""
        return self._calls.during

    def run(self) -> None:
        """Report everything. Raises TrackerError; FolderError when the run, or the position, cannot be read."""
        if not self._spec.own:
            try:
                find(self._spec)
            except ExperimentError:
                raise
            except (Exception, SystemExit):  # an import may fail for the moment: it is tried again below
                pass
        with explained("cannot make", self._folder.tracking):
            self._folder.tracking.mkdir(exist_ok=True)
        lock = self._lock()
        try:
            self._report()
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
            raise FolderError(f"another process reports {self._folder.name} to {self._spec} already") from None
        return fd

    def _report(self) -> None:
        position: Any = None
        if self._position.exists():
            try:
                position = read_json(self._position)
            except FolderError:
                position = {}  # damaged: report from the start; the tracker leaves out what it has
        self._calls.make(self._spec)
        follower = Follower(self._folder, self._calls, self._folder.tracking, position)
        follower.begin()
        self._keep(follower)
        while True:
            live = self._live()  # asked before the look, which so finds everything that was written until then
            progress = follower.turn()
            if self.stopped or (not progress and not live):
                break
            if time.monotonic() - self._kept > KEEP:
                self._keep(follower)
            if not progress:
                self._pause(POLL)
        self._keep(follower)
        follower.close()

    def _keep(self, follower: Follower) -> None:
        self._calls.write(self._position, follower.position(self._calls.keep()))
        self._kept = time.monotonic()


def _write(path: Path, flat: Mapping[str, object]) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(flat))


def foreground(folder: RunFolder, spec: Spec) -> str:
    """Report in this process, until the run has ended or the user presses Ctrl-C. Returns a message for the user."""
    path = [*RunConfig.read(folder.experiment).import_path, os.getcwd()]
    spec.check(path)
    search_also(path)
    feed = TrackerFeed(folder, spec, lambda: folder.locked() is not None, time.sleep)

    def stop(number: int, _frame: object) -> None:
        feed.stopped = True
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        feed.run()
    except TrackerError as error:
        raise TrackerError(f"tracker {spec}: {error}; the same command continues where this one stopped") from error
    if feed.stopped:
        raise KeyboardInterrupt
    return f"all of {folder.name} is reported to {spec}"


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

        def say(message: Mapping[str, object]) -> None:
            with contextlib.suppress(OSError):
                scheduler.send(message)

        feed = TrackerFeed(
            RunFolder(hello["folder"]), parse(hello["tracker"]), live, lambda s: poll.poll(int(s * 1000))
        )
        threading.Thread(target=_watch, args=(feed, say, over), daemon=True).start()
        try:
            feed.run()
        except GPBTError as error:
            over.set()
            say({"trouble": str(error)})
            traceback.print_exception(error)
            raise SystemExit(1) from None
        over.set()
        say({"done": True})


def _watch(feed: TrackerFeed, say: Callable[[Mapping[str, object]], None], over: threading.Event) -> None:
    """Report a call that does not return."""
    while not over.wait(1.0):
        during = feed.during
        if during is not None and time.monotonic() - during[1] > PATIENCE:
            say({"trouble": f"it has not returned from {during[0]} for {PATIENCE:g} s"})
            return
