"""The live terminal: what a run is doing now, and in a few lines what it came to.

A face: it reads a Run, decides nothing, and holds nothing up. It writes to stderr only, as stdout belongs to `--json`.
On a terminal it redraws one frame in place; anywhere else (a log file, TERM=dumb) it writes plain lines of what one
would look for there. What is shown is frame.py's and wording.py's; here is how and when it reaches the terminal.

Two surprises. Drawing is not bound to events: they only mark the frame as old, so that a thousand reports a second
cost four frames. And an error of the view's own is logged and ends the view, never the run: training for days must
not die of a closed terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from .frame import Memory, frame
from .lines import Plain, accepts, closing
from .wording import ASCII, clean, unstyled

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from .events import Event
    from .frame import Watched
    from .wording import Line

log = logging.getLogger("gpbt_async")

#: seconds between two frames when something has changed, and when only the time has
QUICK, SLOW = 0.25, 1.0


async def show(
    run: Watched, *, quiet: bool = False, console: Console | None = None, known: Memory | None = None
) -> None:
    """Show the run on stderr until it is over, and then what it came to. quiet: only warnings, failures, a bad end.

    known: what is known of it before, where the view comes later than the run.
    """
    await follow(run, lambda memory: _face(memory, quiet, console), known)


async def follow(run: Watched, make: Callable[[Memory], Face], known: Memory | None = None) -> None:
    """Have a face show the run until it is over; what the face raises ends the face, never the run."""
    coming = aiter(run)  # from now on nothing is missed, however long rich takes to import
    known = known or Memory(run, clock())
    face = make(known)
    safely = _Guard(face)
    ticking = asyncio.create_task(_tick(face, safely), name="gpbt-async view")
    try:
        safely(face.open)
        async for event in coming:
            safely(face.hear, event)
    except BaseException:
        with contextlib.suppress(Exception):
            face.give_up()
        raise
    else:
        safely(face.close)
    finally:
        ticking.cancel()


async def _tick(face: Face, safely: _Guard) -> None:
    while True:
        await asyncio.sleep(QUICK)
        safely(face.tick)


def clock() -> Callable[[], float]:
    """Now, on the scale of the facts' times: the wall clock read once, the monotonic one ever after."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


def _face(known: Memory, quiet: bool, console: Console | None) -> Face:
    if console is not None:
        live, file = console.is_terminal and not console.is_dumb_terminal, console.file
    else:  # FORCE_COLOR makes rich take a log file for a terminal: ask the file itself
        err = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 — as long as the process: somebody closed stderr
        live, file = err.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"), err
    return _Screen(known, console) if live and not quiet else Plain(known, file, quiet)


class Face(Protocol):
    """Where a run is shown: opened once, told of every event, asked four times a second to draw, closed at the end."""

    def open(self) -> None: ...
    def hear(self, event: Event) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...
    def give_up(self) -> None:
        """Leave the terminal usable; the run is not over, or the view is."""


class _Guard:
    """Does what a face wants, until that fails once."""

    def __init__(self, face: Face) -> None:
        self._face, self._broken = face, False

    def __call__(self, act: Callable[..., None], *args: Any) -> None:
        if self._broken:
            return
        try:
            act(*args)
        except (Exception, SystemExit):  # rich leaves the program when a pipe is broken
            self._broken = True
            log.exception("the view failed; the run goes on without it")
            with contextlib.suppress(Exception, SystemExit):
                self._face.give_up()
                print("gpbt-async: the display failed; the run goes on without it", file=sys.stderr)


class _Screen:
    """One frame, redrawn in place at the end of the terminal."""

    def __init__(self, known: Memory, console: Console | None) -> None:
        from rich.console import Console

        self._known = known
        self._console = console if console is not None else Console(stderr=True)
        self._utf = self._console.encoding.startswith("utf")
        self._live: Live | None = None
        self._old = True
        self._drawn = -SLOW
        self._lines: list[Line] = []
        self._width = 0

    def open(self) -> None:
        from rich.live import Live

        # what the application prints meanwhile appears above the frame, unless stdout goes elsewhere
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
        self._live.start()
        self.tick()

    def hear(self, event: Event) -> None:
        self._known.hear(event)
        self._old = True

    def tick(self) -> None:
        due = self._old or time.monotonic() - self._drawn >= SLOW
        if self._live is not None and due and accepts(self._console.file):
            self._draw(self._live)

    def _draw(self, live: Live) -> None:
        width, height = self._console.size
        if width < self._width:
            self._climb(width)
        self._lines, self._width = frame(self._known, width, height), width
        self._old, self._drawn = False, time.monotonic()
        live.update(_Picture(self._lines, self._spelled), refresh=True)

    def _climb(self, width: int) -> None:
        """Over the rows that a narrowed terminal added by wrapping the last frame's lines; Live knows of none."""
        from rich.cells import cell_len
        from rich.control import Control
        from rich.segment import ControlType

        wrapped = sum(max(0, cell_len(unstyled(line)) - 1) // width for line in self._lines)
        self._console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * wrapped))

    def _spelled(self, text: str) -> str:
        """A text as this terminal can show it, and without what would move its cursor."""
        return clean(text) if self._utf else clean(text).translate(ASCII)

    def close(self) -> None:
        from rich.text import Text

        if self._live is not None:
            self._draw(self._live)
            self.give_up()
            self._console.print()
        for line in closing(self._known):
            text = Text.assemble(*((self._spelled(text), style) for text, style in line))
            self._console.print(text, soft_wrap=True)

    def give_up(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


class _Picture:
    """Lines as rich takes them."""

    def __init__(self, lines: list[Line], spelled: Callable[[str], str]) -> None:
        self._lines, self._spelled = lines, spelled

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for line in self._lines:
            for text, style in line:
                yield Segment(self._spelled(text), console.get_style(style))
            yield Segment.line()
