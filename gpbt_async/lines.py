"""A run told line by line: in a log or a pipe while it goes on, and at the end of every view.

`Plain` is the face where there is no terminal to redraw: each line stands for itself and says when. It never waits
for its reader: what a stopped pager does not take is kept, and the oldest of it dropped.
"""

from __future__ import annotations

import select
from collections import deque
from typing import IO, TYPE_CHECKING

from . import events
from .preflight.failures import many
from .tree import State
from .wording import ASCII, clean, config_text, counted, duration, near, number, percent, score_text, unstyled

if TYPE_CHECKING:
    from .events import Event
    from .frame import Memory
    from .wording import Line

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

    def __init__(self, known: Memory, file: IO[str], quiet: bool) -> None:
        self._known, self._file, self._quiet = known, file, quiet
        self._lines: deque[str] = deque(maxlen=1000)
        self._best = known.run.lineage.best
        self._done = {i for i in range(known.run.settings.generations) if self._complete(i)}
        self._spoke, self._settled = known.start, known.settled

    def _complete(self, generation: int) -> bool:
        run = self._known.run
        return run.lineage.tree.generations[generation].complete

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
        best = known.run.lineage.best
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


def _done(known: Memory, generation: int) -> str:
    tree = known.run.lineage.tree
    best = tree.best_of(generation)
    failed = sum(m.state is State.FAILED for m in tree.generations[generation].members)
    stopped = sum(m.state is State.STOPPED for m in tree.generations[generation].members)
    text = f"generation {generation} is done: " + (f"{failed} failed, " if failed else "")
    text += f"{stopped} stopped early, " if stopped else ""
    return text + (f"best {score_text(best.score)} (member {best.id})" if best else "none may be a parent")


def opening(known: Memory) -> str:
    run, s = known.run, known.run.settings
    gpus = [f"GPU {row['gpu']} {row['name']}".rstrip() for row in run.slots.rows()] if run.slots is not None else []
    names = gpus or [slot.name for slot in (run.slots.slots if run.slots is not None else ())]
    listed = ", ".join(names) if len(names) <= 8 else f"{names[0]} … {names[-1]}"
    size = f"{counted(s.generations, 'generation')} of {counted(s.population, 'member')}"
    so_far = f", {known.settled} of them done" if known.settled else ""
    slots = f", {counted(len(run.slots), 'slot')} ({listed})" if run.slots is not None else ""
    return f"{run.name}: {s.score} ({s.mode}), {size}{so_far}{slots}, folder {near(run.folder.path)}"


def _but(known: Memory, findings: int) -> str:
    """Why a run that has finished does not simply say so."""
    failed = [
        f"{len(f.members)} of {f.size} members of generation {f.generation} failed" for f in many(known.run.lineage)
    ]
    return " and ".join((*failed[:1], f"the pre-flight has {counted(findings, 'finding')}"))


def closing(known: Memory) -> list[Line]:
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

    best = run.lineage.best
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
