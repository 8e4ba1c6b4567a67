"""A run read from its folder by a process that does not run it: its state, what it does now, and its best member.

Everything comes from the journal, replayed through the engine, so a reader knows what the scheduler knew after the same
facts. A run that is being written right now is read up to its last whole line. Nothing is locked, nothing is changed.

The one surprise: some causes are known to the scheduler only. Why a member has no process yet (it has not started, or
its parent's checkpoint has not been read again) is in no fact, so `member_waits_for` names both.
"""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING, Any

from .. import events
from ..ask import path_text
from ..engine.engine import Engine
from ..engine.tree import LONGEST_DELAY, State
from ..errors import FolderError
from ..storage.folder import RunFolder, locate
from ..storage.gpu_report import read_gpus
from ..storage.journal import JournalReader
from ..storage.run_config import RunConfig
from . import results
from .history import History
from .usage import Usage, replay

if TYPE_CHECKING:
    from pathlib import Path

    from ..engine.tree import Node
    from ..events import Fact
    from ..experiment import Settings
    from .results import Best


def open_run(run: str, runs: Path) -> RunFolder:
    return RunFolder.open(locate(run, runs))


class RunReader:
    """A run as its journal tells it now. history: remember also what happened when, and what each slot did.

    `more` goes on reader where the last look ended. Raises FolderError and JournalError.
    """

    def __init__(self, folder: RunFolder, *, history: bool = False) -> None:
        self.folder = folder
        self.history = History()
        self.record = RunConfig.read(folder.experiment)
        assert self.record.settings is not None
        self._remember = history
        self._reader = JournalReader(folder.journal)
        self.engine = Engine(self.record.settings)
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
        for fact in replay(facts, self.engine, self.usage, self.folder.journal):
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
                self.history.fold(fact, self.engine)
        return bool(facts)

    @property
    def settings(self) -> Settings:
        """Those in force: as the run was begun, and what was adopted since."""
        return self.engine.settings

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
        if self.engine.ended is not None:
            return "failed" if self.engine.ended.reason else "finished"
        return "interrupted"


def brief(folder: RunFolder, reader: RunReader | None = None) -> dict[str, Any]:
    """One line about a run; a damaged one is told as damaged, and does not hide the others.

    reader: one that was kept, so that the journal need not be read again.
    """
    try:
        return _brief(reader or RunReader(folder))
    except (FolderError, KeyError, TypeError, ValueError) as error:
        return {"run": folder.name, "state": "damaged", "error": str(error)}


def _brief(reader: RunReader) -> dict[str, Any]:
    tree, s = reader.engine.tree, reader.settings
    return {
        "run": reader.folder.name,
        "state": reader.state,
        "paused": reader.why_paused,
        "paused_by_hand": reader.state == "running" and bool(reader.usage.by_hand),
        "members": sum(g.settled for g in tree.generations),
        "of": s.population * s.generations,
        "metric": s.score,
        "score": tree.best.score if tree.best else None,
        "best_member": tree.best.id if tree.best else None,
        "t": reader.last.t if reader.last else None,
        "findings": results.findings(reader.engine),
    }


def detail(folder: RunFolder) -> dict[str, Any]:
    """All that can be told about one run: generations, what trains, what waits and for what."""
    reader = RunReader(folder)
    engine, tree, s = reader.engine, reader.engine.tree, reader.settings
    told = present(reader)
    left = [m for m in tree.members if not m.state.settled] if engine.ended is not None else []
    return {
        **_brief(reader),
        "folder": str(folder.path),
        "typed": folder.typed,
        "holder": folder.locked(),
        "reason": engine.ended.reason if engine.ended else reader.why_interrupted,
        "options": reader.record.options.to_json(),
        "options_typed": reader.record.options.typed(),
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
        "never_begun": [m.id for m in left if m.id not in reader.begun],
        "given_up": [m.id for m in left if m.id in reader.begun],
        "summary": results.summary(engine, reader.usage.so_far(), run=folder.name),
    }


def present(reader: RunReader) -> dict[str, Any]:
    """What the run does just now: what trains and since when, what waits and for what, its GPUs and free slots."""
    engine, state, now = reader.engine, reader.state, time.time()
    report = read_gpus(reader.folder) if state == "running" else None
    gpus, queue = (report.gpus, report.waiting) if report is not None else ((), None)
    given = engine.training if state == "running" else []  # a slot is meant for each, and not all have it yet
    training = [m for m in given if m.slot is not None]
    waiting: list[dict[str, Any]] = [
        {
            "member": m.id,
            "generation": m.generation,
            "attempt": m.attempt,
            "for": member_waits_for(reader, m, queue is not None, now),
            "after": m.reason or None,
        }
        for m in given
        if m.slot is None
    ]
    whats = {State.WAITING: "a slot", State.TRAINED: "its checkpoint to be published"}
    for kind, what in whats.items() if engine.ended is None else ():
        waiting += [
            {"member": m.id, "generation": m.generation, "for": what, "after": m.reason or None}
            for m in engine.tree.members
            if m.state is kind
        ]
    free = max(0, engine.slots - len(given))
    until, since = slot_waits_for(reader) if state == "running" and free else ("", None)
    return {
        "training": [
            {
                "slot": m.slot,
                "member": m.id,
                "path": path_text(m.path),
                "generation": m.generation,
                "attempt": m.attempt,
                "seconds": now - reader.entered[m.id] if m.id in reader.entered else None,
                "config": m.config,
            }
            for m in training
        ],
        "waiting": waiting,
        "to_retry": [m.id for m in engine.to_retry] if state != "running" else [],
        "reopens": state == "failed" and engine.reopens,
        "gpus": gpus,
        "waiting_for_gpus": queue,
        "slots": engine.slots,
        "free_slots": free if state == "running" else None,
        "free_because": engine.idle_cause() if state == "running" and free else None,
        "free_until": until,
        "free_since": since,
    }


def best(folder: RunFolder) -> Best:
    """The best so far. Raises FolderError when there is none, or its checkpoint is not there."""
    found: Best | None = None
    for _ in range(2):  # a run going on may have found a better one since, and deleted this one's checkpoint
        member = RunReader(folder).engine.best
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


def member_waits_for(reader: RunReader, waiting: Node, gpu: bool, now: float) -> str:
    """What a member waits for that is to have a slot: the first that holds, in the order in which it waits.

    gpu: do members wait for a GPU?
    """
    left = reader.ended.get(waiting.id, 0.0) + waiting.retry_delay - now
    if 0 < left <= LONGEST_DELAY:
        return f"the end of its pause before attempt {waiting.attempt}"
    if reader.usage.by_hand:
        return "the end of the pause"
    if reader.usage.paused:
        return "room on the disk"
    words = ["a GPU"] if gpu else []
    if waiting.parent is not None and waiting.parent.id not in reader.fresh:
        words.append("its parent's checkpoint, of an earlier session, to be read again")
    return ", or ".join([*words, "its process to start"])


def slot_waits_for(reader: RunReader) -> tuple[str, float | None]:
    """What a free slot waits for, as far as can be said by name and number; and since when, if it is an answer."""
    engine, tree, s = reader.engine, reader.engine.tree, reader.settings
    cause = engine.idle_cause()
    here = next((i for i, g in enumerate(tree.generations) if not g.full), 0)
    if cause == "searcher":
        ask = next(iter(engine.asks.values()), None)
        return _asked(reader, ask) if ask is not None else ("the searcher", None)
    if cause == "checkpoint":
        return "checkpoints to be published", None
    if cause == "evidence" and engine.termination.doubtful:
        return _doubt(reader), None
    if cause == "evidence" and (not here or engine.selection.evident(here - 1)):
        return "an elder sibling to end, as schedule is sync", None
    if cause == "evidence":
        settled, wanted = tree.generations[here - 1].settled, engine.selection.evidence(here - 1)
        return f"{wanted} of {s.population} in generation {here - 1} to end ({settled} have)", None
    if len(engine.training) >= engine.width:
        return f"nothing: no more than the population of {s.population} train at a time", None
    return "nothing: all members have been issued", None


def _doubt(reader: RunReader) -> str:
    """Why no new member begins, while nothing has shown that the script works."""
    ending = reader.engine.termination
    if ending.scoreless:
        first, score = ending.scoreless[0].id, reader.settings.score
        return f"the members in training to end: member {first} ended without its score {score!r}, and perhaps all do"
    return f"the members in training to end: member {ending.failed[0].id} has failed for good, and perhaps all do"


def _asked(reader: RunReader, ask: events.Suggest) -> tuple[str, float]:
    """The member that the searcher was asked for, and when."""
    since = max(reader.opened, reader.times[ask.since - 1] if ask.since else 0.0)
    return f"the searcher, asked for member {path_text(ask.path)}", since
