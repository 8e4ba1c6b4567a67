"""The live terminal: what a run is doing now, and in a few lines what it came to.

A face: it reads a Run, decides nothing, and holds nothing up. It writes to stderr only, as stdout belongs to `--json`.
On a terminal it redraws one frame in place; anywhere else (a log file, TERM=dumb) it writes plain lines of what one
would look for there. What is shown is frame.py's and wording.py's; here is how and when it reaches the terminal.

Two surprises. Drawing is not bound to events: they only mark the frame as old, so that a thousand reports a second
cost four frames. And an error of the view's own is logged and ends the view, never the run: training for days must
not die of a closed terminal.

A run told line by line: in a log or a pipe while it goes on, and at the end of every view.

`Plain` is the face where there is no terminal to redraw: each line stands for itself and says when. It never waits
for its reader: what a stopped pager does not take is kept, and the oldest of it dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import sys
import time
from collections import deque
from typing import IO, TYPE_CHECKING, Any, Protocol

from .. import events
from ..engine.tree import State
from ..formatting import clean, config_text, counted, duration, near, number, percent, score_text
from ..preflight.failures import many
from .frame import ViewState, frame
from .text import ASCII, unstyled

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from ..events import Event
    from .frame import RunView
    from .text import Line


log = logging.getLogger("gpbt_async")

#: seconds between two frames when something has changed, and when only the time has
QUICK, SLOW = 0.25, 1.0


async def show(
    run: RunView, *, quiet: bool = False, console: Console | None = None, known: ViewState | None = None
) -> None:
    """Show the run on stderr until it is over, and then what it came to. quiet: only warnings, failures, a bad end.

    known: what is known of it before, where the view comes later than the run.
    """
    await follow(run, lambda memory: _face(memory, quiet, console), known)


async def follow(run: RunView, make: Callable[[ViewState], Renderer], known: ViewState | None = None) -> None:
    """Have a face show the run until it is over; what the face raises ends the face, never the run."""
    coming = aiter(run)  # from now on nothing is missed, however long rich takes to import
    known = known or ViewState(run, clock())
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


async def _tick(face: Renderer, safely: _Guard) -> None:
    while True:
        await asyncio.sleep(QUICK)
        safely(face.tick)


def clock() -> Callable[[], float]:
    """Now, on the scale of the facts' times: the wall clock read once, the monotonic one ever after."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


def _face(known: ViewState, quiet: bool, console: Console | None) -> Renderer:
    if console is not None:
        live, file = console.is_terminal and not console.is_dumb_terminal, console.file
    else:  # FORCE_COLOR makes rich take a log file for a terminal: ask the file itself
        err = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 — as long as the process: somebody closed stderr
        live, file = err.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"), err
    return _Screen(known, console) if live and not quiet else Plain(known, file, quiet)


class Renderer(Protocol):
    """Where a run is shown: opened once, told of every event, asked four times a second to draw, closed at the end."""

    def open(self) -> None: ...
    def hear(self, event: Event) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...
    def give_up(self) -> None:
        """Leave the terminal usable; the run is not over, or the view is."""


class _Guard:
    """Does what a face wants, until that fails once."""

    def __init__(self, face: Renderer) -> None:
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

    def __init__(self, known: ViewState, console: Console | None) -> None:
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


#: seconds between two lines of progress when members have settled, and when none has
PACE, HEARTBEAT = 30.0, 600.0
#: so many failures are told one by one
FAILURES = 5
#: findings of the pre-flight that are repeated at the end
FINDINGS = 8


def accepts(file: IO[str]) -> bool:
    """Can something be written now without waiting? A terminal may be stopped (Ctrl-S), a pager may not read on."""
    try:
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # not a real file: it never waits
        return True


class Plain:
    """Lines for a log: each stands for itself and says when, in time since the start."""

    def __init__(self, known: ViewState, file: IO[str], quiet: bool) -> None:
        self._known, self._file, self._quiet = known, file, quiet
        self._lines: deque[str] = deque(maxlen=1000)
        self._best = known.run.engine.best
        self._done = {i for i in range(known.run.settings.generations) if self._complete(i)}
        self._spoke, self._settled = known.start, known.settled

    def _complete(self, generation: int) -> bool:
        run = self._known.run
        return run.engine.tree.generations[generation].complete

    def _say(self, text: str) -> None:
        self._lines.append(f"[{duration(self._known.now() - self._known.start)}] {text}")
        self._flush()

    def _flush(self, patient: bool = False) -> None:
        while self._lines and (patient or accepts(self._file)):
            text = self._lines.popleft()
            utf = (getattr(self._file, "encoding", None) or "utf-8").lower().startswith("utf")
            print(clean(text) if utf else clean(text).translate(ASCII), file=self._file, flush=True)

    def open(self) -> None:
        if not self._quiet:
            self._say(opening(self._known))
        for text in self._known.run.warnings:
            self._say(f"warning: {text}")

    def hear(self, event: Event) -> None:
        known, failures = self._known, self._known.failures
        alert = known.hear(event)
        if alert and known.failures == failures:
            over = isinstance(event, events.Paused) and not event.reason
            self._say(alert if over else f"warning: {alert}")
        elif alert and failures < FAILURES:
            self._say(alert)
        elif alert and failures == FAILURES:
            self._say("further failures are not told, only counted")
        if not self._quiet and isinstance(event, events.Published | events.Trained | events.Failed):
            self._news()

    def _news(self) -> None:
        known = self._known
        best = known.run.engine.best
        if best is not None and best is not self._best:
            self._best = best
            where = f"member {best.id}, generation {best.generation}, {config_text(best.config)}"
            self._say(f"best {known.run.settings.score} {score_text(best.score)}: {where}")
        for index in range(known.run.settings.generations):
            if index not in self._done and self._complete(index):
                self._done.add(index)
                self._say(_done(known, index))

    def tick(self) -> None:
        self._flush()
        now, settled = self._known.now(), self._known.settled
        if not self._quiet and now - self._spoke >= (PACE if settled != self._settled else HEARTBEAT):
            self._spoke, self._settled = now, settled
            words = [*self._known.progress(), *self._known.crowd(), self._known.left()]
            self._say(", ".join(word for word in words if word))

    def close(self) -> None:
        self._lines += [unstyled(line) for line in (closing(self._known) if not self._quiet else [])]
        if self._quiet and self._known.run.how != "finished":
            self._lines.append(unstyled(closing(self._known)[0]))
        self._flush(patient=True)

    def give_up(self) -> None:
        pass


# ---- the first and the last lines


def _done(known: ViewState, generation: int) -> str:
    tree = known.run.engine.tree
    best = tree.best_of(generation)
    failed = sum(m.state is State.FAILED for m in tree.generations[generation].members)
    stopped = sum(m.state is State.STOPPED for m in tree.generations[generation].members)
    text = f"generation {generation} is done: " + (f"{failed} failed, " if failed else "")
    text += f"{stopped} stopped early, " if stopped else ""
    return text + (f"best {score_text(best.score)} (member {best.id})" if best else "none may be a parent")


def opening(known: ViewState) -> str:
    run, s = known.run, known.run.settings
    gpus = [f"GPU {row.gpu} {row.name}".rstrip() for row in run.slots.rows()] if run.slots is not None else []
    names = gpus or [slot.name for slot in (run.slots.slots if run.slots is not None else ())]
    listed = ", ".join(names) if len(names) <= 8 else f"{names[0]} … {names[-1]}"
    size = f"{counted(s.generations, 'generation')} of {counted(s.population, 'member')}"
    so_far = f", {known.settled} of them done" if known.settled else ""
    slots = f", {counted(len(run.slots), 'slot')} ({listed})" if run.slots is not None else ""
    return f"{run.name}: {s.score} ({s.mode}), {size}{so_far}{slots}, folder {near(run.folder.path)}"


def _but(known: ViewState, findings: int) -> str:
    """Why a run that has finished does not simply say so."""
    failed = [
        f"{len(f.members)} of {f.size} members of generation {f.generation} failed" for f in many(known.run.engine)
    ]
    return " and ".join((*failed[:1], f"the pre-flight has {counted(findings, 'finding')}"))


def closing(known: ViewState) -> list[Line]:
    """How it ended and what it came to: the last lines of every view."""
    run, total = known.run, known.run.summary()
    ended = {"finished": "has finished", "failed": "has failed", "interrupted": "was interrupted"}
    reason = f": {known.reason}" if known.reason and run.how != "finished" else ""
    # what a run failed for says its reason
    findings = [f for f in total["findings"] if run.how != "failed" or f["code"] != "GPBT011"]
    if run.how == "finished" and findings:
        reason = f", but {_but(known, len(findings))}"
    good = "bold red" if run.how != "finished" else "bold yellow" if findings else "bold green"
    lines: list[Line] = [[(f"{run.name} {ended.get(run.how or '', 'has ended unexpectedly')}{reason}", good)]]
    if run.how != "finished" and run.how != "failed" and not run.folder.astray():
        lines[0].append((f"; to go on: gpbt-async resume {run.folder.typed}", ""))

    def add(label: str, text: str, style: str = "") -> None:
        if text:
            lines.append([(f"  {label:10}", "dim"), (text, style)])

    best = run.engine.best
    if best is not None:
        others = {k: number(float(v), 4) for k, v in best.metrics.items() if k != run.settings.score}
        add(
            "best",
            f"{run.settings.score} {score_text(best.score)}, member {best.id}, generation {best.generation}",
            "bold",
        )
        add("config", config_text(best.config))
        add("metrics", ", ".join(f"{k} {v}" for k, v in others.items()))
    kinds = [f"{c} {what}" for what, c in total["members"].items() if c]
    add("members", ", ".join(kinds))
    offered = total["busy_s"] + sum(total["idle_s"].values())
    if offered:
        idle = [
            f"{k.replace('_', ' ')} {percent(v / offered)}" for k, v in total["idle_s"].items() if v > offered / 100
        ]
        used = (
            f"{percent(total['utilisation'])} of {counted(total['slots'], 'slot')} used in {duration(total['wall_s'])}"
        )
        add("slots", used + (f"; idle: {', '.join(idle)}" if idle else ""))
    add("folder", near(run.folder.path))
    for each in findings[:FINDINGS]:
        add(each["code"], each["text"], "yellow")
        add("", each["remedy"])
    if findings:
        more = f"{len(findings) - FINDINGS} more in gpbt-async status {run.folder.typed}; " * (len(findings) > FINDINGS)
        add("", f"{more}what they mean: gpbt-async guide findings", "dim")
    return lines
