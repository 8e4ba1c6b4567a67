"""The view of a run in a terminal: what the run does now, and at its end a few lines on the result.

A user interface reads a Run, decides nothing and never delays it. It writes to stderr only, as stdout belongs to
`--json`. On a terminal, `Screen` redraws one frame in place; elsewhere (a log file, TERM=dumb) `Plain` writes lines,
each complete and with its time. frame.py says what is shown; this module says how and when.

Three surprises. Drawing does not follow events: they only mark the frame as old, so a thousand reports a second cost
four frames. An error in the view is logged and ends the view, never the run: training for days must not die of a closed
terminal. And nothing waits for the reader: a stopped terminal gets no new frame, and of the lines that a stopped pager
does not take the oldest are dropped.
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
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

from .. import events
from ..engine.tree import State
from ..events import RunStatus
from ..formatting import clean, config_text, counted, duration, near, number, percent, score_text
from ..preflight.failures import many
from .frame import ViewState, frame
from .summaries import choice_text
from .text import ASCII, unstyled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console, RenderableType
    from rich.live import Live

    from ..events import Event
    from .frame import RunView
    from .text import Line


log = logging.getLogger("gpbt_async")

#: seconds between two frames if something has changed, and if only the time has
QUICK, SLOW = 0.25, 1.0
#: seconds between two lines of progress if members have finished, and if none has
PACE, HEARTBEAT = 30.0, 600.0
#: failures that get a line of their own in a log
FAILURES = 5
#: findings of the pre-flight that are repeated at the end
FINDINGS = 8


class Renderer(Protocol):
    """Where a run is shown: opened once, given every event, asked four times a second to draw, closed at the end."""

    def open(self) -> None: ...
    def hear(self, event: Event) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...
    def give_up(self) -> None:
        """Leave the terminal usable, although the run goes on."""


async def show(
    run: RunView, *, quiet: bool = False, console: Console | None = None, view: ViewState | None = None
) -> None:
    """Show the run on stderr until it is over, and then its result. quiet: only warnings, failures and a bad end.

    view: what is known of the run, if the view starts later than the run.
    """
    await follow(run, lambda state: _renderer(state, quiet, console), view)


async def follow(run: RunView, make: Callable[[ViewState], Renderer], view: ViewState | None = None) -> None:
    """Have a renderer show the run until it is over. An error of the renderer ends the view, never the run."""
    coming = aiter(run)  # from now on no event is missed, however long rich takes to import
    renderer = make(view or ViewState(run, clock()))
    guarded = _Guard(renderer)
    ticking = asyncio.create_task(_tick(renderer, guarded), name="gpbt-async view")
    try:
        guarded(renderer.open)
        async for event in coming:
            guarded(renderer.hear, event)
    except BaseException:
        with contextlib.suppress(Exception):
            renderer.give_up()
        raise
    else:
        guarded(renderer.close)
    finally:
        ticking.cancel()


async def _tick(renderer: Renderer, guarded: _Guard) -> None:
    while True:
        await asyncio.sleep(QUICK)
        guarded(renderer.tick)


class _Guard:
    """Calls a renderer's methods until one of them fails."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer, self._broken = renderer, False

    def __call__(self, method: Callable[..., None], *args: Any) -> None:
        if self._broken:
            return
        try:
            method(*args)
        except (Exception, SystemExit):  # rich leaves the program when a pipe is broken
            self._broken = True
            log.exception("the view failed; the run goes on without it")
            with contextlib.suppress(Exception, SystemExit):
                self._renderer.give_up()
                print("gpbt-async: the display failed; the run goes on without it", file=sys.stderr)


def clock() -> Callable[[], float]:
    """The current time on the scale of the facts: the wall clock read once, from then on the monotonic clock."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


def _renderer(view: ViewState, quiet: bool, console: Console | None) -> Renderer:
    if console is not None:
        live, file = console.is_terminal and not console.is_dumb_terminal, console.file
    else:  # FORCE_COLOR makes rich take a log file for a terminal: ask the file itself
        err = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 — stderr may be closed; open as long as the process
        live, file = err.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"), err
    return Screen(view, console) if live and not quiet else Plain(view, file, quiet)


def accepts(file: IO[str]) -> bool:
    """Can something be written now without waiting? A terminal may be stopped (Ctrl-S), a pager may not read on."""
    try:
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # not a real file: it never waits
        return True


def spelling(encoding: str | None) -> Callable[[str], str]:
    """A function that makes a text safe for a terminal of this encoding: no control characters, ASCII if need be."""
    unicode = (encoding or "utf-8").lower().startswith("utf")
    return clean if unicode else lambda text: clean(text).translate(ASCII)


def picture(lines: Sequence[Line], spell: Callable[[str], str] = clean, *, crop: bool = True) -> RenderableType:
    """Lines for rich, which measures each in cells. crop: to the console's width, else the terminal wraps them."""
    from rich.console import Group
    from rich.text import Text

    overflow: Literal["ellipsis", "ignore"] = "ellipsis" if crop else "ignore"
    spelled = ([(spell(text), style) for text, style in line] for line in lines)
    return Group(*(Text.assemble(*line, no_wrap=True, overflow=overflow) for line in spelled))


class Screen:
    """One frame, redrawn in place at the end of the terminal."""

    def __init__(self, view: ViewState, console: Console | None) -> None:
        from rich.console import Console

        self._view = view
        self._console = console if console is not None else Console(stderr=True)
        self._spell = spelling(self._console.encoding)
        self._live: Live | None = None
        self._old, self._drawn = True, -SLOW
        self._lines: list[Line] = []
        self._width = 0

    def open(self) -> None:
        from rich.live import Live

        # what the application prints meanwhile appears above the frame, unless stdout goes elsewhere
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
        self._live.start()
        self.tick()

    def hear(self, event: Event) -> None:
        self._view.hear(event)
        self._old = True

    def tick(self) -> None:
        due = self._old or time.monotonic() - self._drawn >= SLOW
        if self._live is not None and due and accepts(self._console.file):
            self._draw(self._live)

    def _draw(self, live: Live) -> None:
        width, height = self._console.size
        if width < self._width:
            self._climb(width)
        self._lines, self._width = frame(self._view, width, height), width
        self._old, self._drawn = False, time.monotonic()
        live.update(picture(self._lines, self._spell), refresh=True)

    def _climb(self, width: int) -> None:
        """Move over the rows that a narrowed terminal added by wrapping the last frame: Live does not know of them."""
        from rich.cells import cell_len
        from rich.control import Control
        from rich.segment import ControlType

        cells = (min(cell_len(unstyled(line)), self._width) for line in self._lines)
        wrapped = sum(max(0, count - 1) // width for count in cells)
        self._console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * wrapped))

    def close(self) -> None:
        if self._live is not None:
            self._draw(self._live)
            self.give_up()
            self._console.print()
        self._console.print(picture(closing(self._view), self._spell, crop=False), soft_wrap=True)

    def give_up(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


class Plain:
    """Lines for a log, each complete and with the time since the start."""

    def __init__(self, view: ViewState, file: IO[str], quiet: bool) -> None:
        self._view, self._file, self._quiet = view, file, quiet
        self._spell = spelling(getattr(file, "encoding", None))
        self._lines: deque[str] = deque(maxlen=1000)
        self._best = view.run.engine.best
        self._done = {i for i in range(view.run.settings.generations) if self._complete(i)}
        self._spoke, self._settled = view.start, view.settled

    def _complete(self, generation: int) -> bool:
        return self._view.run.engine.tree.generations[generation].complete

    def _say(self, text: str) -> None:
        self._lines.append(f"[{duration(self._view.now() - self._view.start)}] {text}")
        self._flush()

    def _flush(self, wait: bool = False) -> None:
        while self._lines and (wait or accepts(self._file)):
            print(self._spell(self._lines.popleft()), file=self._file, flush=True)

    def open(self) -> None:
        if not self._quiet:
            self._say(opening(self._view))
        for text in self._view.run.warnings:
            self._say(f"warning: {text}")

    def hear(self, event: Event) -> None:
        failures = self._view.failures
        alert = self._view.hear(event)
        if alert and self._view.failures == failures:
            over = isinstance(event, events.Paused) and not event.reason
            self._say(alert if over else f"warning: {alert}")
        elif alert and failures < FAILURES:
            self._say(alert)
        elif alert and failures == FAILURES:
            self._say("further failures are only counted")
        if not self._quiet and isinstance(event, events.Published | events.Trained | events.Failed):
            self._say_progress()

    def _say_progress(self) -> None:
        """A line for a new best member, and for each generation that is done now."""
        run = self._view.run
        best = run.engine.best
        if best is not None and best is not self._best:
            self._best = best
            where = f"member {best.id}, generation {best.generation}, {config_text(best.config)}"
            how = "chosen, with" if run.engine.final_choice is not None else "best"
            self._say(f"{how} {run.settings.score} {score_text(best.score)}: {where}")
        for index in range(run.settings.generations):
            if index not in self._done and self._complete(index):
                self._done.add(index)
                self._say(_done(self._view, index))

    def tick(self) -> None:
        self._flush()
        now, settled = self._view.now(), self._view.settled
        if not self._quiet and now - self._spoke >= (PACE if settled != self._settled else HEARTBEAT):
            self._spoke, self._settled = now, settled
            texts = [*self._view.progress(), *self._view.crowd(), self._view.left()]
            self._say(", ".join(text for text in texts if text))

    def close(self) -> None:
        lines = [unstyled(line) for line in closing(self._view)]
        if self._quiet:
            lines = lines[:1] if self._view.run.how != RunStatus.FINISHED else []
        self._lines += lines
        self._flush(wait=True)

    def give_up(self) -> None:
        pass


# ---- the first and the last lines


def _done(view: ViewState, generation: int) -> str:
    tree = view.run.engine.tree
    best = tree.best_of(generation)
    failed = sum(m.state is State.FAILED for m in tree.generations[generation].members)
    stopped = sum(m.state is State.STOPPED for m in tree.generations[generation].members)
    text = f"generation {generation} is done: " + (f"{failed} failed, " if failed else "")
    text += f"{stopped} stopped early, " if stopped else ""
    return text + (f"best {score_text(best.score)} (member {best.id})" if best else "no member can be a parent")


def opening(view: ViewState) -> str:
    run, s = view.run, view.run.settings
    gpus = [f"GPU {row.gpu} {row.name}".rstrip() for row in run.slots.rows()] if run.slots is not None else []
    names = gpus or [slot.name for slot in (run.slots.slots if run.slots is not None else ())]
    listed = ", ".join(names) if len(names) <= 8 else f"{names[0]} … {names[-1]}"
    size = f"{counted(s.generations, 'generation')} of {counted(s.population, 'member')}"
    so_far = f", {view.settled} of them done" if view.settled else ""
    slots = f", {counted(len(run.slots), 'slot')} ({listed})" if run.slots is not None else ""
    return f"{run.name}: {s.score} ({s.mode}), {size}{so_far}{slots}, folder {near(run.folder.path)}"


def closing(view: ViewState) -> list[Line]:
    """The last lines of every view: how the run ended, its best member, and where its time went."""
    run, total = view.run, view.run.summary()
    # the reason of a run that failed says what GPBT011 says
    findings = [f for f in total["findings"] if run.how != RunStatus.FAILED or f["code"] != "GPBT011"]
    lines: list[Line] = [_end(view, len(findings))]
    best, offered = run.engine.best, total["busy_s"] + sum(total["idle_s"].values())
    rows: list[tuple[str, str, str]] = []
    if best is not None:
        score = f"{run.settings.score} {score_text(best.score)}"
        others = ", ".join(f"{k} {number(float(v), 4)}" for k, v in best.metrics.items() if k != run.settings.score)
        rows += [
            ("best", f"{score}, member {best.id}, generation {best.generation}", "bold"),
            ("chosen", choice_text(total["choice"]), ""),
            ("config", config_text(best.config), ""),
            ("metrics", others, ""),
        ]
    rows.append(("members", ", ".join(f"{count} {state}" for state, count in total["members"].items() if count), ""))
    if offered:
        share = f"{percent(total['utilisation'])} of {counted(total['slots'], 'slot')}"
        idle = [
            f"{k.replace('_', ' ')} {percent(v / offered)}" for k, v in total["idle_s"].items() if v > offered / 100
        ]
        used = f"{share} used in {duration(total['wall_s'])}" + (f"; idle: {', '.join(idle)}" if idle else "")
        rows.append(("slots", used, ""))
    rows.append(("folder", near(run.folder.path), ""))
    for finding in findings[:FINDINGS]:
        rows += [(finding["code"], finding["text"], "yellow"), ("", finding["remedy"], "")]
    if findings:
        more = f"{len(findings) - FINDINGS} more in gpbt-async status {run.folder.shell_name}; " * (
            len(findings) > FINDINGS
        )
        rows.append(("", f"{more}what they mean: gpbt-async guide findings", "dim"))
    return lines + [[(f"  {label:10}", "dim"), (text, style)] for label, text, style in rows if text]


def _end(view: ViewState, findings: int) -> Line:
    """How the run ended and why. findings: how many the pre-flight has that the line does not say."""
    run = view.run
    ended = {
        RunStatus.FINISHED: "has finished",
        RunStatus.FAILED: "has failed",
        RunStatus.INTERRUPTED: "was interrupted",
    }
    reason = f": {view.reason}" if view.reason and run.how != RunStatus.FINISHED else ""
    if run.how == RunStatus.FINISHED and findings:
        failed = [f"{len(f.members)} of {f.size} members of generation {f.generation}" for f in many(run.engine)]
        pre_flight = f"the pre-flight has {counted(findings, 'finding')}"
        reason = f", but {failed[0]} failed and {pre_flight}" if failed else f", but {pre_flight}"
    style = "bold red" if run.how != RunStatus.FINISHED else "bold yellow" if findings else "bold green"
    line = [(f"{run.name} {ended.get(run.how or RunStatus.RUNNING, 'has ended unexpectedly')}{reason}", style)]
    if run.how not in (RunStatus.FINISHED, RunStatus.FAILED) and not run.folder.moved():
        line.append((f"; to go on: gpbt-async resume {run.folder.shell_name}", ""))
    return line
