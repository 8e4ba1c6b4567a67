"""A run read from its folder by somebody who does not run it: its state, what it does now, and its best member.

Everything comes from the journal, replayed through the engine, so what is told here is what the scheduler knows; a
run that is being written right now is read up to its last whole line. Nothing is locked and nothing is changed.
"""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING, Any

from . import events, results, waits
from .asks import path_text
from .board import notice
from .errors import FolderError
from .folder import Folder, locate
from .folder import runs as all_runs
from .gpulines import gpu_lines, waiting_text
from .history import History
from .journal import Reader
from .lineage import Lineage
from .record import Record
from .tree import State
from .usage import Usage, replay
from .wording import counted, duration, unstyled

if TYPE_CHECKING:
    from pathlib import Path

    from .events import Fact
    from .experiment import Settings
    from .results import Best



def open_run(run: str, runs: Path) -> Folder:
    return Folder.open(locate(run, runs))


class Reading:
    """A run as its journal tells it now. history: remember also what happened when, and what each slot did.

    `more` goes on reading where the last look ended. Raises FolderError and JournalError.
    """

    def __init__(self, folder: Folder, *, history: bool = False) -> None:
        self.folder = folder
        self.history = History()
        self.record = Record.read(folder.experiment)
        assert self.record.settings is not None
        self._remember = history
        self._reader = Reader(folder.journal)
        self.lineage = Lineage(self.record.settings)
        self.usage = Usage(trail=[] if history else None)
        self.last: Fact | None = None
        #: when the attempt under way of a member entered `train`; when its last one came to nothing
        self.entered: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.begun: set[int] = set()
        #: of every fact; of the last Opened; and whose checkpoints were published since
        self.times = array("d")
        self.opened = 0.0
        self.fresh: set[int] = set()
        # the second look, as a run that has just begun may have told of the members meanwhile
        if not self.more() and (members := folder.count_members()) and not self.more():
            raise folder.emptied(members)

    def more(self) -> bool:
        """Take in what the journal has by now; False if nothing is new."""
        facts = self._reader.more()
        for fact in replay(facts, self.lineage, self.usage, self.folder.journal):
            self.last = fact
            self.times.append(fact.t)
            if isinstance(fact, events.Opened):
                self.opened = fact.t
                self.fresh.clear()
            elif isinstance(fact, events.Published):
                self.fresh.add(fact.member)
            elif isinstance(fact, events.Started):
                self.begun.add(fact.member)
                self.entered.pop(fact.member, None)
            elif isinstance(fact, events.Entered):
                self.entered[fact.member] = fact.t
            elif isinstance(fact, events.Failed | events.Lost):
                self.entered.pop(fact.member, None)
                self.ended[fact.member] = fact.t
            if self._remember:
                self.history.fold(fact, self.lineage)
        return bool(facts)

    @property
    def settings(self) -> Settings:
        """Those in force: as the run was begun, and what was adopted since."""
        return self.lineage.settings

    @property
    def why_interrupted(self) -> str:
        """What ended the last session, if it was an error and not somebody's wish."""
        return self.last.reason if self.state == "interrupted" and isinstance(self.last, events.Closed) else ""

    @property
    def why_paused(self) -> str:
        """Why no member begins now, if the run goes on and that is so."""
        return (self.usage.by_hand or self.usage.paused) if self.state == "running" else ""

    @property
    def state(self) -> str:
        """running, finished, failed, or interrupted (killed or stopped: it can be resumed)."""
        if self.folder.locked() is not None:
            return "running"
        if self.lineage.ended is not None:
            return "failed" if self.lineage.ended.reason else "finished"
        return "interrupted"


def brief(folder: Folder, reading: Reading | None = None) -> dict[str, Any]:
    """One line about a run; a damaged one is told as damaged, and does not hide the others.

    reading: one that was kept, to be told as it is.
    """
    try:
        return _brief(reading or Reading(folder))
    except (FolderError, KeyError, TypeError, ValueError) as error:
        return {"run": folder.name, "state": "damaged", "error": str(error)}


def _brief(reading: Reading) -> dict[str, Any]:
    tree, s = reading.lineage.tree, reading.settings
    return {
        "run": reading.folder.name,
        "state": reading.state,
        "paused": reading.why_paused,
        "paused_by_hand": reading.state == "running" and bool(reading.usage.by_hand),
        "members": sum(g.settled for g in tree.generations),
        "of": s.population * s.generations,
        "metric": s.score,
        "score": tree.best.score if tree.best else None,
        "best_member": tree.best.id if tree.best else None,
        "t": reading.last.t if reading.last else None,
        "findings": results.findings(reading.lineage),
    }


def detail(folder: Folder) -> dict[str, Any]:
    """All that can be told about one run: generations, what trains, what waits and for what."""
    reading = Reading(folder)
    lineage, tree, s = reading.lineage, reading.lineage.tree, reading.settings
    told = present(reading)
    left = [m for m in tree.members if not m.state.settled] if lineage.ended is not None else []
    return {
        **_brief(reading),
        "folder": str(folder.path),
        "typed": folder.typed,
        "holder": folder.locked(),
        "reason": lineage.ended.reason if lineage.ended else reading.why_interrupted,
        "generations": [
            {
                "generation": i,
                "issued": g.issued,
                "training": sum(t["generation"] == i for t in told["training"]),
                "finished": sum(m.state is State.FINISHED for m in g.members),
                "stopped": sum(m.state is State.STOPPED for m in g.members),
                "failed": sum(m.state is State.FAILED for m in g.members),
                "of": s.population,
                "best": g.ranking[0].score if g.ranking else None,
            }
            for i, g in enumerate(tree.generations)
        ],
        **told,
        "never_begun": [m.id for m in left if m.id not in reading.begun],
        "given_up": [m.id for m in left if m.id in reading.begun],
        "summary": results.summary(lineage, reading.usage.so_far(), run=folder.name),
    }


def present(reading: Reading) -> dict[str, Any]:
    """What the run does just now: what trains and since when, what waits and for what, its GPUs and free slots."""
    lineage, state, now = reading.lineage, reading.state, time.time()
    gpus = (notice(reading.folder) if state == "running" else None) or {"gpus": [], "waiting": None}
    given = lineage.training if state == "running" else []  # a slot is meant for each, and not all have it yet
    training = [m for m in given if m.slot is not None]
    waiting: list[dict[str, Any]] = [
        {
            "member": m.id,
            "generation": m.generation,
            "attempt": m.attempt,
            "for": waits.member(reading, m, bool(gpus["waiting"]), now),
            "after": m.reason or None,
        }
        for m in given
        if m.slot is None
    ]
    whats = {State.WAITING: "a slot", State.TRAINED: "its checkpoint to be published"}
    for kind, what in whats.items() if lineage.ended is None else ():
        waiting += [
            {"member": m.id, "generation": m.generation, "for": what, "after": m.reason or None}
            for m in lineage.tree.members
            if m.state is kind
        ]
    free = max(0, lineage.slots - len(given))
    until, since = waits.slot(reading) if state == "running" and free else ("", None)
    return {
        "training": [
            {
                "slot": m.slot,
                "member": m.id,
                "path": path_text(m.path),
                "generation": m.generation,
                "attempt": m.attempt,
                "seconds": now - reading.entered[m.id] if m.id in reading.entered else None,
                "config": m.config,
            }
            for m in training
        ],
        "waiting": waiting,
        "to_retry": [m.id for m in lineage.to_retry] if state != "running" else [],
        "reopens": state == "failed" and lineage.reopens,
        "gpus": gpus["gpus"],
        "waiting_for_gpus": gpus["waiting"],
        "slots": lineage.slots,
        "free_slots": free if state == "running" else None,
        "free_because": lineage.idle_cause() if state == "running" and free else None,
        "free_until": until,
        "free_since": since,
    }


def best(folder: Folder) -> Best:
    """The best so far. Raises FolderError when there is none, or its checkpoint is not there."""
    found: Best | None = None
    for _ in range(2):  # a run going on may have found a better one since, and deleted this one's checkpoint
        member = Reading(folder).lineage.best
        found = results.best_of(member, folder.member(member.id).checkpoint if member else None)
        if found is None:
            raise FolderError(f"{folder.name} has no finished member yet: see gpbt-async status {folder.typed}")
        if found.checkpoint.is_dir():
            return found
    assert found is not None
    error = FolderError(
        f"the best of {folder.name} is member {found.member} (score {_score(found.score)}), but its checkpoint is gone:"
        f" {found.checkpoint} was deleted or moved by hand; bring it back from where it was copied to"
    )
    error.exit_status = 1
    raise error


# ---- for people


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def brief_text(found: list[dict[str, Any]]) -> str:
    width = max(len(b["run"]) for b in found)
    lines = []
    for b in found:
        told = b.get("error") or f"{b['members']}/{b['of']} members, best {b['metric']} {_score(b['score'])}"
        told += f"; {counted(len(b['findings']), 'finding')}" if b.get("findings") else ""
        state = "paused" if b.get("paused_by_hand") else b["state"]
        lines.append(f"{b['run']:<{width}}  {state:<11}  {told}")
    return "\n".join(lines)


def detail_text(d: dict[str, Any]) -> str:
    holder = d["holder"]
    with_findings = f", with {counted(len(d['findings']), 'finding')}" if d["findings"] else ""
    lines = [f"{d['run']}: {d['state']}{with_findings}" + (f" (process {holder.get('pid')})" if holder else "")]
    if d["reason"]:
        lines.append(f"  because {d['reason']}")
    lines.append(f"  folder {d['folder']}")
    best_member = "" if d["best_member"] is None else f", member {d['best_member']}"
    lines.append(f"  members {d['members']} of {d['of']}; best {d['metric']} {_score(d['score'])}{best_member}")
    for g in d["generations"]:
        others = "".join(f", {g[kind]} {kind}" for kind in ("training", "stopped", "failed") if g[kind])
        lines.append(
            f"  generation {g['generation']:>3}: {g['finished']:>4} finished of {g['of']}{others}"
            f"; best {_score(g['best'])}"
        )
    for f in d["findings"]:
        lines.append(f"  {f['code']}: {f['text']}")
        lines += [f"    remedy: {f['remedy']}"] if f["remedy"] else []
    if d["findings"]:
        lines.append("  what findings mean: gpbt-async guide findings")
    for t in d["training"]:
        since = "starting" if t["seconds"] is None else f"{t['seconds']:.1f} s"
        config = ", ".join(f"{k}={_short(v)}" for k, v in t["config"].items())
        lines.append(
            f"  slot {t['slot']}: member {t['member']} ({t['path']}, attempt {t['attempt']}), {since}; {config}"
        )
    lines += ["  " + unstyled(line).rstrip() for line in gpu_lines(d["gpus"], time.time())]
    if d["paused"]:
        lines.append("  " + events.Paused(t=0.0, reason=d["paused"], by_hand=d["paused_by_hand"]).told(d["typed"]))
    if d["waiting_for_gpus"]:
        lines.append("  " + waiting_text(d["waiting_for_gpus"], time.time()))
    for w in d["waiting"]:
        after = f" (after {w['after']})" if w.get("after") else ""
        lines.append(f"  member {w['member']} waits for {w['for']}{after}")
    for label, ids in (("never begun", d["never_begun"]), ("begun, and given up", d["given_up"])):
        if ids:
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            lines.append(f"  {label}: member{'s' * (len(ids) > 1)} {', '.join(map(str, ids[:10]))}{more}")
    if d["free_slots"]:
        ago = f" {duration(time.time() - d['free_since'])} ago" if d["free_since"] is not None else ""
        lines.append(f"  {d['free_slots']} slot(s) free, waiting for {d['free_until']}{ago}")
    retry = f"gpbt-async resume {d['typed']} --retry-failed"
    if d["state"] == "interrupted":
        lines.append(f"  go on with: gpbt-async resume {d['typed']}")
    if d["to_retry"] or d["reopens"]:
        which = counted(len(d["to_retry"]), "failed member") if d["to_retry"] else "what has failed"
        lines.append(f"  with the cause mended, {which} can be tried again: {retry}")
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_text(found: Best) -> str:
    lines = [
        f"member {found.member} (generation {found.generation}): score {_score(found.score)}",
        f"checkpoint {found.checkpoint}",
        "metrics " + ", ".join(f"{k}={_score(v)}" for k, v in found.metrics.items()),
        "schedule",
    ]
    for generation, (member, config) in enumerate(zip(found.lineage, found.schedule, strict=True)):
        lines.append(f"  {generation:>3}  member {member}: " + ", ".join(f"{k}={_short(v)}" for k, v in config.items()))
    return "\n".join(lines)
