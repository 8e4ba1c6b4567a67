"""One picture of a run as plain data: what a user interface knows of the run, and the lines that show it.

`ViewState` holds what the view knows. Nearly everything is read from the engine when it is drawn; events only add what
the engine does not keep (reports, when a member began to train, warnings). So a view that was too slow and missed some
events is correct again with its next frame.

`frame` returns lines of styled text, without rich and without a terminal. It decides what is shown in how many lines;
rich measures, crops and draws each line (terminal.py, notebook.py). The table of slots is aligned here and not by
rich's Table, whose rows cannot have a text across several columns, as a free slot and a long config need. A frame takes
well under a millisecond, because the run's own loop waits for it.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from .. import events
from ..ask import path_text
from ..engine.tree import State
from ..formatting import counted, duration, near, number, parts, percent, score_text
from . import text as text_module
from .text import config_line, crop, gpu_lines, short_model, waiting_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..analysis.run_summary import Summary
    from ..analysis.usage import Usage
    from ..devices.slots import Slot
    from ..engine.engine import Engine
    from ..engine.tree import Node
    from ..experiment import Settings
    from ..storage.folder import RunFolder
    from ..storage.gpu_report import DeviceStatus, GpuQueue
    from .text import Line


#: more slots, or generations, than this are summarized
MANY_SLOTS, MANY_GENERATIONS = 16, 12
#: rows are left out in this many steps when the terminal is low
LEVELS = 5
#: why a slot is free: Engine.idle_cause → text
WHY = {
    "searcher": "waiting for the searcher",
    "checkpoint": "waiting for checkpoints to be published",
    "evidence": "waiting for members of the generation above",
    "no_work": "nothing left to train",
}
#: a generation's bar: of the members of each kind, in this order, the glyph, its style, and the word in the legend
BAR = (
    ("█", "green", ""),
    ("▓", "cyan", "publishing"),
    ("▒", "blue", "training"),
    ("×", "red", "failed"),
    ("-", "yellow", "stopped"),
    ("·", "dim", ""),
)


class SlotRows(Protocol):
    """What the view reads of a run's slots."""

    def __len__(self) -> int: ...
    @property
    def slots(self) -> tuple[Slot, ...]: ...
    def rows(self) -> list[DeviceStatus]: ...
    def waiting(self) -> GpuQueue | None: ...


class RunView(Protocol):
    """What the view reads of a Run."""

    warnings: list[str]
    how: events.RunStatus | None

    @property
    def settings(self) -> Settings: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def slots(self) -> SlotRows | None: ...
    @property
    def folder(self) -> RunFolder: ...
    @property
    def name(self) -> str: ...
    def summary(self) -> Summary: ...
    def __aiter__(self) -> AsyncIterator[events.Event]: ...


# ---- what the view knows


class ViewState:
    """A run, and what its events say that the engine does not keep. now: the clock of the facts, in seconds."""

    def __init__(self, run: RunView, now: Callable[[], float]) -> None:
        self.run, self.now, self.start = run, now, now()
        #: of each member that trains: when it entered the training function, and the score it reported last
        self.entered: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.failures = 0
        self.reason = ""
        #: the last warnings and failures
        self.alerts: deque[tuple[str, str]] = deque(((text, "yellow") for text in run.warnings), maxlen=2)
        #: warnings and remedies that have been shown
        self.warned = set(run.warnings)
        #: when utilisation and pace were computed, and both
        self._used = (-math.inf, 0.0, 0.0)

    def hear(self, event: events.Event) -> str:
        """Take in an event; return the text of the warning or failure in it, or ""."""
        alert, failures, ended = "", self.failures, self.run.engine.ended
        match event:
            case events.Entered(member=id):
                self.entered[id] = event.t
            case events.Reported(member=id):
                self.entered.setdefault(id, event.t)
                if self.run.settings.score in event.metrics:
                    self.last[id] = event.metrics[self.run.settings.score]
            case (
                events.Trained(member=id)
                | events.StoppedEarly(member=id)
                | events.Failed(member=id)
                | events.Lost(member=id)
            ):
                self.entered.pop(id, None)
                self.last.pop(id, None)
                alert = self._ended(event)
            case events.Warned(text=text) if text not in self.warned:
                self.warned.add(text)
                alert = text
            case events.Found(code=code, text=text, remedy=remedy) if not (ended and ended.reason):  # which says it
                alert = f"{code}: {text}" + (f"; {remedy}" if remedy else "")
            case events.Paused(by_hand=True):
                alert = event.sentence(self.run.folder.shell_name)  # each time
            case events.Closed():
                self.reason = event.reason
        if alert:
            if self.alerts and self.alerts[-1][0].split(" failed")[0] == alert.split(" failed")[0]:
                self.alerts.pop()  # the same member's attempt before
            self.alerts.append((alert, "red" if self.failures > failures else "yellow"))
        return alert

    def _ended(self, event: events.OfMember) -> str:
        member = self.run.engine.tree.members[event.member]
        if isinstance(event, events.Lost):
            return f"member {member.id} was lost (attempt {event.attempt}) and starts again: {event.reason}"
        if isinstance(event, events.Failed):
            self.failures += 1
            final = " for good" if member.state is State.FAILED and member.attempt == event.attempt else ""
            why, remedy = parts(event.reason)
            repeated = remedy in self.warned
            self.warned.add(remedy)
            return f"member {member.id} failed{final} (attempt {event.attempt}): {why if repeated else event.reason}"
        if not isinstance(event, events.Trained) or (event.score is not None and math.isfinite(event.score)):
            return ""
        self.failures += 1
        return f"member {member.id} failed for good: {member.reason}"

    @property
    def settled(self) -> int:
        """Members in a terminal state."""
        return sum(g.settled for g in self.run.engine.tree.generations)

    @property
    def total(self) -> int:
        return sum(g.size for g in self.run.engine.tree.generations)

    @property
    def paused(self) -> bool:
        """Has a person paused the run, so that no member begins?"""
        return self.run.how is None and bool(self.run.usage.by_hand)

    def crowd(self) -> list[str]:
        """How many members train, and how many wait for a slot."""
        training = self.run.engine.training
        waiting = sum(m.slot is None for m in training)
        return [f"{len(training) - waiting} training", *([f"{waiting} waiting"] if waiting else [])]

    def used(self) -> tuple[float, float]:
        """(Utilisation in [0, 1], members a second) so far; computed every two seconds, as it reads the whole run."""
        if self.now() - self._used[0] >= 2 or self.run.engine.ended is not None:
            usage = self.run.usage.so_far()
            self._used = (self.now(), usage.utilisation, self.settled / usage.wall if usage.wall else 0.0)
        return self._used[1:]

    def progress(self) -> list[str]:
        """Members done, utilisation and pace, as far as they are known."""
        share, rate = self.used()
        texts = [f"{self.settled} of {counted(self.total, 'member')}"]
        if self.paused:  # utilisation and pace would not change
            return [*texts, "paused"]
        if share:
            texts.append(f"{percent(share)} of {counted(self.run.engine.slots, 'slot')} used")
        if rate:
            texts.append(f"{number(rate * 60)} members/min")
        return texts

    def left(self) -> str:
        """The time that the run still needs, as text; "" if it is unknown."""
        engine = self.run.engine
        if self.paused:
            return ""
        seconds = list(islice((m.seconds for m in reversed(engine.tree.members) if m.seconds > 0), 200))
        if engine.ended is not None or not seconds:
            return ""
        mean, now = statistics.fmean(seconds), self.now()
        begun = sum(min(1.0, (now - self.entered.get(m.id, now)) / mean) for m in engine.training)
        at_once = engine.width * max(0.2, self.used()[0])
        return text_module.estimate_text(text_module.estimate(self.total - self.settled - begun, seconds, at_once))


# ---- the lines


def frame(view: ViewState, width: int, height: int) -> list[Line]:
    """The run in fewer than `height` lines, with as much detail as there is room for.

    Lines are composed for `width` columns, and may still be wider: the renderer crops them.
    """
    lines: list[Line] = []
    over = view.run.how is not None or view.run.engine.ended is not None
    for level in range(LEVELS):
        blocks = [_header(view, width), _generations(view, width, level > 0)]
        if not over:
            blocks[1:1] = [_gpus(view, level), _slots(view, width, level)]
            blocks.append(_best(view, width))
        blocks.append([[alert] for alert in view.alerts])
        space: list[Line] = [] if level == LEVELS - 1 else [[]]
        lines = [line for block in blocks if block for line in (*space, *block)][len(space) :]
        if len(lines) < height:
            break
    return lines[: max(1, height - 1)]


def _header(view: ViewState, width: int) -> list[Line]:
    s = view.run.settings
    goal = (
        f"{s.score}, {'higher' if s.mode == 'max' else 'lower'} is better" if width >= 80 else f"{s.score} ({s.mode})"
    )
    # nothing is aligned to the right: a line that ends at the border is torn when the terminal gets narrower
    times = "  ".join(text for text in (duration(view.now() - view.start), view.left()) if text)
    second: Line = [(" · ".join(view.progress()), "yellow" if view.paused else "")]
    if view.failures:
        second.append((f" · {counted(view.failures, 'failed attempt')}", "red"))
    return [[(crop(view.run.name, width // 2), "bold"), (f"  {goal}", "dim"), (f"  {times}", "")], second]


def _gpus(view: ViewState, level: int) -> list[Line]:
    """A line for each GPU, or only for those that are set aside; and what waits for one."""
    pool = view.run.slots
    rows = pool.rows() if pool is not None else []
    if level > 2:
        rows = [row for row in rows if row.reason]
    waiting = waiting_text(pool.waiting(), view.now()) if pool is not None and rows else ""
    return [*gpu_lines(rows, view.now()), *([[(waiting, "yellow")]] if waiting else [])]


@dataclass(frozen=True)
class _Columns:
    """How wide the columns of the slots are. tall: configs stand in a row of their own."""

    name: int
    score: int
    config: int
    tall: bool

    @classmethod
    def of(cls, names: list[str], settings: Settings, width: int, level: int) -> _Columns:
        name = min(max([4, *map(len, names)]), max(8, width // 6))
        room = width - name - 46
        # decided by the hyperparameters' names, not by their values: the layout must not change from member to member
        tall = level < 2 and sum(len(each) + 9 for each in settings.space) > room
        score = max(9, min(len(settings.score), 20 if tall else 9))
        return cls(name, score, width - name - 4 if tall else max(4, room), tall)

    def head(self, score: str) -> Line:
        columns = f"{'slot':{self.name}}  member  gen  path       {crop(score, self.score):>{self.score}}     time"
        return [(columns + ("" if self.tall else "  config"), "dim")]


def _slots(view: ViewState, width: int, level: int) -> list[Line]:
    """A row for each slot, or two where the configs need it and there is room; only counts if there are many slots."""
    engine, settings, pool = view.run.engine, view.run.settings, view.run.slots
    slots = pool.slots if pool is not None else ()
    count = max(len(slots), len(pool)) if pool is not None else 0
    held = {m.slot: m for m in engine.training if m.slot is not None}
    starting = len(engine.training) - len(held)
    idle, begins = WHY[engine.idle_cause()], "paused" if view.paused else "starting"
    if level > 2 or count > MANY_SLOTS:
        return _slot_counts(view, count, list(held.values()), f"{starting} {begins}" if starting else "", idle)
    names = [short_model(slot.name) for slot in slots]
    columns = _Columns.of(names, settings, width, level)
    lines: list[Line] = [columns.head(settings.score)]
    for slot, name in zip(slots, names, strict=True):
        row: Line = [(f"{crop(name, columns.name):{columns.name}}  ", "bold")]
        member = held.get(slot.index)
        if member is not None:
            lines += _slot_rows(view, member, row, columns)
            continue
        lines += [[*row, (begins if starting > 0 else idle, "dim")], *([[]] if columns.tall else [])]
        starting -= 1
    if count > len(slots):  # only GPUs that are leased are listed
        text = f"{count - len(slots)} more: " + (begins if starting > 0 else idle)
        lines.append([(f"{'':{columns.name}}  ", ""), (text, "dim")])
    return lines


def _slot_rows(view: ViewState, member: Node, name: Line, columns: _Columns) -> list[Line]:
    """The row, or the two rows, of a slot with a member. name: the first column."""
    since = view.entered.get(member.id)
    parent = member.parent.config if member.parent is not None else None
    config = config_line(view.run.settings.space.searched(member.config), parent, columns.config)
    row: Line = [
        *name,
        (f"{member.id:>6}  {member.generation:>3}  {crop(path_text(member.path), 9, left=True):9}  ", ""),
        (f"{score_text(view.last.get(member.id)):>{columns.score}}  ", "cyan"),
        (f"{duration(view.now() - since) if since is not None else 'starts':>7}", "dim"),
    ]
    if columns.tall:
        return [row, [(" " * (columns.name + 4), ""), *config]]
    return [[*row, ("  ", ""), *config]]


def _slot_counts(view: ViewState, count: int, training: list[Node], starting: str, idle: str) -> list[Line]:
    free = count - len(view.run.engine.training)
    states = [f"{len(training)} training", starting, f"{free} {idle}" if free > 0 else ""]
    lines: list[Line] = [[(counted(count, "slot"), "bold"), ("  " + ", ".join(text for text in states if text), "")]]
    if training:
        by_generation = sorted(Counter(m.generation for m in training).items())
        longest = min(training, key=lambda m: view.entered.get(m.id, math.inf))
        text = ", ".join(f"{n} in generation {g}" for g, n in by_generation)
        if longest.id in view.entered:
            text += f"; the longest: member {longest.id} for {duration(view.now() - view.entered[longest.id])}"
        lines.append([(text, "dim")])
    return lines


def _generations(view: ViewState, width: int, short: bool) -> list[Line]:
    """A row for each generation; if short, only for those that have begun and are not done, and a line for the rest."""
    tree = view.run.engine.tree
    first, last = 0, len(tree.generations)
    lines: list[Line] = []
    if short or last > MANY_GENERATIONS:
        first = next((i for i, g in enumerate(tree.generations) if not g.complete), last)
        last = max([i + 1 for i, g in enumerate(tree.generations) if g.issued and i >= first], default=first)
    if first:
        best = min((m for g in range(first) if (m := tree.best_of(g))), default=None)
        text = "generation 0 done" if first == 1 else f"generations 0–{first - 1} done"
        lines.append([(text, "green"), (f"  best {score_text(best.score if best else None)}", "")])
    lines += [_generation(view, index, min(25, max(len(BAR), width - 32))) for index in range(first, last)]
    if last < len(tree.generations):
        lines.append([(counted(len(tree.generations) - last, "generation") + " to come", "dim")])
    return lines


def _generation(view: ViewState, index: int, cells: int) -> Line:
    tree = view.run.engine.tree
    n = tree.generations[index].size
    states = Counter(m.state for m in tree.generations[index].members)
    waiting = sum(m.state is State.TRAINING and m.slot is None for m in tree.generations[index].members)
    states[State.TRAINING] -= waiting
    counts = [states[s] for s in (State.FINISHED, State.TRAINED, State.TRAINING, State.FAILED, State.STOPPED)]
    shares = text_module.bar([*counts, n - sum(counts)], cells // n * n or cells)
    line: Line = [(f"gen {index:>2}  ", "dim")]
    line += [(glyph * share, style) for (glyph, style, _), share in zip(BAR, shares, strict=True) if share]
    best = tree.best_of(index)
    line.append((f"  {tree.generations[index].settled:>{len(str(n))}} of {n}", ""))
    line.append((f"  best {score_text(best.score)}" if best else "", "bold" if best and best is tree.best else ""))
    line += [(f"  {c} {word}", style) for c, (_, style, word) in zip(counts, BAR, strict=False) if c and word]
    line += [(f"  {waiting} waiting", "dim")] if waiting else []
    return line


def _best(view: ViewState, width: int) -> list[Line]:
    best = view.run.engine.best
    if best is None:
        return [[("best  ", "dim"), ("no member has finished yet", "dim")]]
    parent = best.parent.config if best.parent is not None else None
    config = view.run.settings.space.searched(best.config)
    where = near(view.run.folder.member(best.id).checkpoint)
    return [
        [
            ("best  ", "dim"),
            (score_text(best.score), "bold green"),
            (f"  member {best.id}", "bold"),
            (f", generation {best.generation}", ""),
        ],
        [("      ", ""), *config_line(config, parent, width - 6)],
        [("      ", ""), (crop(where, width - 6, left=True), "dim")],
    ]
