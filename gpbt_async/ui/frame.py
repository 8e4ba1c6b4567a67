"""One picture of a run: what is known of it, and the lines that show it in a terminal of some size.

`Memory` knows a run: nearly everything is read off the engine when it is drawn. Events only say that something has
changed, and what the engine does not keep: reports, since when a member trains, warnings. So a view that was too slow
and missed some is right again with its next frame. `frame` lays all of it out as plain data, in wording.py's words;
no terminal, no rich. A frame of a usual run costs well under a millisecond, as the run's own loop waits meanwhile.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from .. import events
from ..ask import path_text
from ..engine.tree import State
from ..formatting import counted, duration, near, number, parts, percent, score_text
from . import text as text_module
from .text import config_line, crop, gpu_lines, short_model, waiting_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..analysis.usage import Usage
    from ..devices.slots import Slot
    from ..engine.engine import Engine
    from ..engine.tree import Node
    from ..experiment import Settings
    from ..storage.folder import RunFolder
    from .text import Line


#: more slots, or generations, than this are told in a few lines
MANY_SLOTS, MANY_GENERATIONS = 16, 12
WHY = {
    "searcher": "waiting for the searcher",
    "checkpoint": "waiting for checkpoints to be published",
    "evidence": "waiting for members of the generation above",
    "no_work": "nothing left to train",
}
#: what a generation's bar shows of its members, in order: glyph, style
BAR = (("█", "green"), ("▓", "cyan"), ("▒", "blue"), ("×", "red"), ("-", "yellow"), ("·", "dim"))


class SlotRows(Protocol):
    """What the view reads of a run's slots (slot.Pool)."""

    def __len__(self) -> int: ...
    @property
    def slots(self) -> tuple[Slot, ...]: ...
    def rows(self) -> list[dict[str, Any]]: ...
    def waiting(self) -> dict[str, Any] | None: ...


class RunView(Protocol):
    """What the view reads of a Run."""

    warnings: list[str]
    how: str | None

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
    def summary(self) -> dict[str, Any]: ...
    def __aiter__(self) -> AsyncIterator[events.Event]: ...


# ---- what is known


class ViewState:
    """A run, and what its events told that the engine does not keep."""

    def __init__(self, run: RunView, now: Callable[[], float]) -> None:
        self.run, self.now, self.start = run, now, now()
        #: by member, while it trains: when it entered `train`, and the score it reported last
        self.entered: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.failures = 0
        self.reason = ""
        #: the last warnings and failures
        self.alerts: deque[tuple[str, str]] = deque(((text, "yellow") for text in run.warnings), maxlen=2)
        self.warned = set(run.warnings)
        self._used = (-math.inf, 0.0, 0.0)

    def hear(self, event: events.Event) -> str:
        """Take an event in; return the warning or failure it tells of, or nothing."""
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
            case events.Found(code=code, text=text, remedy=remedy) if not (ended and ended.reason):  # that says it all
                alert = f"{code}: {text}" + (f"; {remedy}" if remedy else "")
            case events.Paused(by_hand=True):
                alert = event.sentence(self.run.folder.typed)  # each time
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
            told = remedy in self.warned  # with the failure before
            self.warned.add(remedy)
            return f"member {member.id} failed{final} (attempt {event.attempt}): {why if told else event.reason}"
        if not isinstance(event, events.Trained) or (event.score is not None and math.isfinite(event.score)):
            return ""
        self.failures += 1
        return f"member {member.id} failed for good: {member.reason}"

    @property
    def settled(self) -> int:
        return sum(g.settled for g in self.run.engine.tree.generations)

    @property
    def total(self) -> int:
        return sum(g.size for g in self.run.engine.tree.generations)

    @property
    def paused(self) -> bool:
        """By a person: no member begins."""
        return self.run.how is None and bool(self.run.usage.by_hand)

    def crowd(self) -> list[str]:
        """How many train, and how many are to and have no slot yet."""
        training = self.run.engine.training
        waiting = sum(m.slot is None for m in training)
        return [f"{len(training) - waiting} training", *([f"{waiting} waiting"] if waiting else [])]

    def used(self) -> tuple[float, float]:
        """Utilisation and members a second so far. A fold over the run: not done anew for every frame."""
        if self.now() - self._used[0] >= 2 or self.run.engine.ended is not None:
            usage = self.run.usage.so_far()
            self._used = (self.now(), usage.utilisation, self.settled / usage.wall if usage.wall else 0.0)
        return self._used[1:]

    def progress(self) -> list[str]:
        """How far, how busy, how fast: as much of it as is known."""
        share, rate = self.used()
        words = [f"{self.settled} of {counted(self.total, 'member')}"]
        if self.paused:  # what was so until then would stand still
            return [*words, "paused"]
        if share:
            words.append(f"{percent(share)} of {counted(self.run.engine.slots, 'slot')} used")
        if rate:
            words.append(f"{number(rate * 60)} members/min")
        return words

    def left(self) -> str:
        """How long it will still take, or nothing while nobody knows."""
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


def frame(known: ViewState, width: int, height: int) -> list[Line]:
    """Everything at once, in fewer than `height` lines: with as much detail as there is room for."""
    lines: list[Line] = []
    over = known.run.how is not None or known.run.engine.ended is not None
    for short in range(5):
        parts = [_header(known, width), _generations(known, width, short > 0)]
        if not over:
            parts[1:1] = [_gpus(known, short), _slots(known, width, short)]
            parts += [_best(known, width)]
        parts += [[[alert] for alert in known.alerts]]
        space: list[Line] = [] if short > 3 else [[]]
        lines = [line for part in parts if part for line in (*space, *part)][len(space) :]
        if len(lines) < height:
            break
    return [text_module.fit(line, width) for line in lines[: max(1, height - 1)]]


def _header(known: ViewState, width: int) -> list[Line]:
    s = known.run.settings
    goal = (
        f"  {s.score}, {'higher' if s.mode == 'max' else 'lower'} is better"
        if width >= 80
        else f"  {s.score} ({s.mode})"
    )
    # nothing is aligned to the right: a line that ends at the border is torn when the terminal gets narrower
    times = "  ".join(text for text in (duration(known.now() - known.start), known.left()) if text)
    second: Line = [(" · ".join(known.progress()), "yellow" if known.paused else "")]
    if known.failures:
        second.append((f" · {counted(known.failures, 'failed attempt')}", "red"))
    return [[(crop(known.run.name, width // 2), "bold"), (goal, "dim"), (f"  {times}", "")], second]


def _gpus(known: ViewState, short: int) -> list[Line]:
    """A line for each GPU, or only for those that are set aside; and what waits for one."""
    pool = known.run.slots
    rows = pool.rows() if pool is not None else []
    if short > 2:
        rows = [row for row in rows if row["reason"]]
    waiting = waiting_text(pool.waiting(), known.now()) if pool is not None and rows else ""
    return [*gpu_lines(rows, known.now()), *([[(waiting, "yellow")]] if waiting else [])]


def _slots(known: ViewState, width: int, short: int) -> list[Line]:
    """A row for each slot, or two where the configs need it and there is room; only counts when there are many."""
    engine, settings = known.run.engine, known.run.settings
    pool = known.run.slots
    slots = pool.slots if pool is not None else ()
    count = max(len(slots), len(pool)) if pool is not None else 0
    held = {m.slot: m for m in engine.training if m.slot is not None}
    starting = len(engine.training) - len(held)
    idle = WHY[engine.idle_cause()]
    begins = "paused" if known.paused else "starting"
    if short > 2 or count > MANY_SLOTS:
        return _slots_folded(known, count, list(held.values()), f"{starting} {begins}" if starting else "", idle)
    names = [short_model(slot.name) for slot in slots]
    wide = min(max([4, *map(len, names)]), max(8, width // 6))
    room = width - wide - 46
    # by the names, not by the present values, as the layout should not change from member to member
    tall = short < 2 and sum(len(name) + 9 for name in settings.space) > room
    metric = max(9, min(len(settings.score), 20 if tall else 9))
    head = f"{'slot':{wide}}  member  gen  path       {crop(settings.score, metric):>{metric}}     time"
    lines: list[Line] = [[(head + ("" if tall else "  config"), "dim")]]
    for slot, name in zip(slots, names, strict=True):
        line: Line = [(f"{crop(name, wide):{wide}}  ", "bold")]
        lines.append(line)
        member = held.get(slot.index)
        if member is None:
            line.append((begins if starting > 0 else idle, "dim"))
            starting -= 1
            lines += [[]] if tall else []
            continue
        since = known.entered.get(member.id)
        line.append((f"{member.id:>6}  {member.generation:>3}  {crop(path_text(member.path), 9, left=True):9}  ", ""))
        line.append((f"{score_text(known.last.get(member.id)):>{metric}}  ", "cyan"))
        line.append((f"{duration(known.now() - since) if since is not None else 'starts':>7}", "dim"))
        parent = member.parent.config if member.parent is not None else None
        config = settings.space.searched(member.config)
        if tall:
            lines.append([(" " * (wide + 4), ""), *config_line(config, parent, width - wide - 4)])
        else:
            line += [("  ", ""), *config_line(config, parent, max(4, room))]
    if count > len(slots):  # of GPUs only those are listed that are leased
        words = f"{count - len(slots)} more: " + (begins if starting > 0 else idle)
        lines.append([(f"{'':{wide}}  ", ""), (words, "dim")])
    return lines


def _slots_folded(known: ViewState, count: int, training: list[Node], starting: str, idle: str) -> list[Line]:
    free = count - len(known.run.engine.training)
    words = [
        f"{len(training)} training",
        starting,
        f"{free} {idle}" if free > 0 else "",
    ]
    lines: list[Line] = [[(counted(count, "slot"), "bold"), ("  " + ", ".join(w for w in words if w), "")]]
    if training:
        by_generation = sorted(Counter(m.generation for m in training).items())
        longest = min(training, key=lambda m: known.entered.get(m.id, math.inf))
        text = ", ".join(f"{n} in generation {g}" for g, n in by_generation)
        if longest.id in known.entered:
            text += f"; the longest: member {longest.id} for {duration(known.now() - known.entered[longest.id])}"
        lines.append([(text, "dim")])
    return lines


def _generations(known: ViewState, width: int, short: bool) -> list[Line]:
    """A row for each, or only for those begun and not done, with a line for those before and after."""
    tree = known.run.engine.tree
    first, last = 0, len(tree.generations)
    lines: list[Line] = []
    if short or last > MANY_GENERATIONS:
        first = next((i for i, g in enumerate(tree.generations) if not g.complete), last)
        last = max([i + 1 for i, g in enumerate(tree.generations) if g.issued and i >= first], default=first)
    if first:
        best = min((m for g in range(first) if (m := tree.best_of(g))), default=None)
        text = "generation 0 done" if first == 1 else f"generations 0–{first - 1} done"
        lines.append([(text, "green"), (f"  best {score_text(best.score if best else None)}", "")])
    for index in range(first, last):
        lines.append(_generation(known, index, min(25, max(len(BAR), width - 32))))
    if last < len(tree.generations):
        lines.append([(counted(len(tree.generations) - last, "generation") + " to come", "dim")])
    return lines


def _generation(known: ViewState, index: int, cells: int) -> Line:
    tree = known.run.engine.tree
    n = tree.generations[index].size
    states = Counter(m.state for m in tree.generations[index].members)
    waiting = sum(m.state is State.TRAINING and m.slot is None for m in tree.generations[index].members)
    states[State.TRAINING] -= waiting
    counts = [states[s] for s in (State.FINISHED, State.TRAINED, State.TRAINING, State.FAILED, State.STOPPED)]
    shares = text_module.bar([*counts, n - sum(counts)], cells // n * n or cells)
    line: Line = [(f"gen {index:>2}  ", "dim")]
    line += [(glyph * share, style) for (glyph, style), share in zip(BAR, shares, strict=True) if share]
    best = tree.best_of(index)
    line.append((f"  {tree.generations[index].settled:>{len(str(n))}} of {n}", ""))
    line.append((f"  best {score_text(best.score)}" if best else "", "bold" if best and best is tree.best else ""))
    words = ("", "publishing", "training", "failed", "stopped")
    line += [(f"  {c} {word}", style) for c, word, (_, style) in zip(counts, words, BAR, strict=False) if c and word]
    line += [(f"  {waiting} waiting", "dim")] if waiting else []
    return line


def _best(known: ViewState, width: int) -> list[Line]:
    best = known.run.engine.best
    if best is None:
        return [[("best  ", "dim"), ("no member has finished yet", "dim")]]
    head = [("best  ", "dim"), (score_text(best.score), "bold green"), (f"  member {best.id}", "bold")]
    parent = best.parent.config if best.parent is not None else None
    config = known.run.settings.space.searched(best.config)
    where = near(known.run.folder.member(best.id).checkpoint)
    return [
        [*head, (f", generation {best.generation}", "")],
        [("      ", ""), *config_line(config, parent, width - 6)],
        [("      ", ""), (crop(where, width - 6, left=True), "dim")],
    ]
