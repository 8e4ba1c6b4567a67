"""The loop. One turn of it is the sentence the whole program should read as:

> a fact arrives → it is appended to the journal → the engine handles it → its commands are performed → each
> performance ends in a fact.

Everything happens on the event loop's one thread: a turn is never interrupted, so engine and journal need no lock.
A command becomes a task of one TaskGroup, and the tasks know nothing of each other; what must be decided between
members is decided by the engine. `_train` is a member's life, told from top to bottom.

The one surprise is how little is waited for. A fact is in the kernel's hands before it is acted on, so a killed
scheduler loses nothing; to survive a power failure it must also reach the disk, and for that the journal syncs
behind us. Losing its tail there is harmless, as it only means training a little again, with one exception: a
checkpoint that was deleted because of a lost fact. So only a Discard waits for the disk.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import command, events, searchers, wire
from .asks import path_text
from .checkpoints import CheckpointError
from .files import explained
from .packing import out_of_memory
from .stopping import MEDIAN

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .asking import Asking
    from .asks import Ask
    from .checkpoints import Store
    from .events import Command, Event, Fact
    from .folder import Folder
    from .journal import Journal
    from .launcher import Launcher
    from .lineage import Lineage
    from .slot import Pool, Slot
    from .tree import Member
    from .usage import Usage
    from .worker import Outcome, Worker


#: characters of a failure's reason that the journal and a terminal get; all of it is in the member's log
LONGEST = 500
LATE = (
    "early_stop='median' decides at a member's first report, and members report {!r} only once: "
    "report it earlier too, or it is stopped when all its work is done"
)


class Clock:
    """Seconds since the epoch that never go backwards: the wall clock read once, the monotonic clock ever after.

    Members stamp what they say with the machine's monotonic clock; `at` puts such a stamp on the same scale.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def at(self, monotonic: float) -> float:
        return self._offset + monotonic


class Interrupted(Exception):
    """Ends the task group: the run was asked to stop."""


class Scheduler:
    """Performs the engine's commands until nothing is left, or until told to stop. Rooms come opened, and stay so.

    tell: called with every fact after the engine has handled it, and with Reported and Warned as they come.
    """

    def __init__(
        self,
        *,
        lineage: Lineage,
        usage: Usage,
        journal: Journal,
        folder: Folder,
        store: Store,
        slots: Pool,
        launcher: Launcher,
        asking: Asking,
        clock: Clock,
        cwd: str,
        tell: Callable[[Event], None],
    ) -> None:
        self.lineage = lineage
        self.usage = usage
        self.settings = lineage.settings
        self._journal = journal
        self._folder = folder
        self._store = store
        self._slots = slots
        self._launcher = launcher
        self._asking = asking
        self._clock = clock
        self._cwd = cwd
        self._tell = tell
        self._over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup | None = None
        #: the processes of members in training, by member
        self._workers: dict[int, Worker] = {}
        #: members that ran out of GPU memory beside others, and are to train alone
        self._alone: set[int] = set()
        self._told_of_late_reports = False
        #: set from the first failure or cancellation on: facts still come in, nothing is performed any more
        self._ending = False

    async def run(self, opened: events.Opened) -> str | None:
        """Until the end. Returns "" when finished, the reason when failed, None when interrupted by `stop`.

        When it returns, in whatever way, no member is training and nothing is being written.
        """
        reason: str | None = None
        try:
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    self.turn(opened)
                    self._slots.on_capacity = self._capacity
                    self._slots.on_sample = self._sample
                    self._capacity(len(self._slots))  # it may have changed since the run was opened
                    reason = await self._over
                    if reason is None or reason:
                        raise Interrupted  # members still training are of no use any more
                except BaseException:
                    self._ending = True
                    raise
        except* Interrupted:
            pass
        finally:
            self._slots.on_capacity = lambda _: None
            self._slots.on_sample = lambda _: None
        return reason

    def stop(self) -> None:
        """Stop every member and end; the run can be resumed."""
        if not self._over.done():
            self._over.set_result(None)

    def _capacity(self, slots: int) -> None:
        if slots != self.lineage.slots and not self._ending:
            self.turn(events.Capacity(t=self._clock.now(), slots=slots))

    def _sample(self, gpus: list[dict[str, Any]]) -> None:
        if not self._ending:
            self.turn(events.Sampled(t=self._clock.now(), gpus=tuple(gpus)))

    def turn(self, fact: Fact) -> None:
        self._journal.append(fact)
        commands = self.lineage.handle(fact)
        self.usage.fold(fact, self.lineage)
        if isinstance(fact, events.Published) and self.lineage.best is self.lineage.tree.members[fact.member]:
            self._folder.point_best(fact.member)
        self._tell(fact)
        for wanted in commands:
            self._perform(wanted)

    def _spawn(self, perform: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        async def watched() -> None:
            try:
                await perform(*args)
            except BaseException:
                self._ending = True
                raise

        assert self._tasks is not None
        self._tasks.create_task(watched())

    def _perform(self, wanted: Command) -> None:
        if self._ending:
            return
        match wanted:
            case events.Suggest(path):
                # read off the tree now, in this very turn: a later fact may withdraw the question
                generation = self.lineage.generation_asked(path)
                if generation is None:
                    return
                ask = self.lineage.ask(path, kin=searchers.uses_kin(self.settings.searcher, generation))
                self._spawn(self._suggest, ask, self.lineage.count)
            case events.Start(id, attempt):
                self._spawn(self._train, self.lineage.tree.members[id], attempt)
            case events.Verdict(id, attempt, stop):
                worker = self._workers.get(id)
                if worker is not None and worker.attempt == attempt:
                    if stop:
                        self._spawn(worker.stop, "stopped early: its first report is worse than the median")
                    else:
                        worker.go()
            case events.Publish(id, attempt):
                self._spawn(self._publish, self.lineage.tree.members[id], attempt)
            case events.Discard(id):
                self._spawn(self._discard, id)
            case events.Finish(reason):
                if not self._over.done():
                    self._over.set_result(reason)

    # ---- performances

    async def _suggest(self, ask: Ask, asked: int) -> None:
        config = await self._asking.suggest(ask, lambda: self.lineage.wants(ask.path, ask.generation, asked))
        if config is None:
            return  # withdrawn before its turn came
        self.turn(
            events.Suggested(
                t=self._clock.now(), path=path_text(ask.path), generation=ask.generation, config=config, asked=asked
            )
        )

    async def _train(self, member: Member, attempt: int) -> None:
        """A member's life: a slot, a process, what it says, how it ended."""
        score: float | None = None
        scores = 0
        metrics: dict[str, float] = {}
        names: dict[str, Any]
        entered: float | None = None
        undecided = judged = self._judged(member)
        blame = ""
        async with self._slots.lease(alone=member.id in self._alone) as slot:
            begin = self._begin(member, attempt, slot)
            async with await self._launcher.start(begin, argv=self._argv(begin, member)) as worker:
                self._workers[member.id] = worker
                self._slots.bind(slot, worker.pid, member.id)
                if slot.evicted is not None:
                    slot.evicted.add_done_callback(lambda _: worker.kill())
                self.turn(self._started(member, attempt, slot, worker.pid))
                async for message in worker:
                    match message:
                        case wire.Entered(at):
                            entered = at
                            self.turn(events.Entered(t=self._clock.at(at), member=member.id, attempt=attempt))
                        case wire.Report(values, at):
                            floats = {name: _float(value) for name, value in values.items()}
                            metrics.update(floats)
                            score = floats.get(self.settings.score, score)
                            names = {"t": self._clock.at(at), "member": member.id, "attempt": attempt}
                            self._tell(events.Reported(**names, metrics=floats))
                            scores += self.settings.score in floats
                            if undecided and self.settings.score in floats:
                                undecided = False
                                self.turn(events.Judged(**names, score=floats[self.settings.score]))
                        case wire.Notice(text):
                            self._tell(events.Warned(t=self._clock.now(), text=f"member {member.id}: {text}"))
            del self._workers[member.id]
            outcome = worker.outcome
            if outcome.how == "returned":
                self._slots.returned(slot)
            else:
                blame = await self._blame(member, slot, outcome)
                await self._clear(Path(begin.checkpoint))
        # from here to the fact nothing is awaited: the next member must not get the slot before this one's end is told
        seconds = max(0.0, outcome.at - entered) if entered is not None else 0.0
        names = {"t": self._clock.now(), "member": member.id, "attempt": attempt, "seconds": seconds}
        if outcome.how == "returned":
            if judged and scores == 1 and not self._told_of_late_reports:
                self._told_of_late_reports = True
                self._tell(events.Warned(t=self._clock.now(), text=LATE.format(self.settings.score)))
            self.turn(events.Trained(**names, score=score, metrics=metrics))
        elif blame:
            self.turn(events.Lost(**names, reason=blame))
        elif outcome.how == "stopped":
            self.turn(events.Stopped(**names, score=score, metrics=metrics))
        elif outcome.how == "lost":
            self.turn(events.Lost(**names, reason=_reason(outcome)))
        else:
            self.turn(events.Failed(**names, reason=_reason(outcome)))

    async def _blame(self, member: Member, slot: Slot, outcome: Outcome) -> str:
        """Why an attempt that did not return is lost, not failed, for a reason of its GPU's; empty if it is not."""
        if outcome.how == "stopped" and not (slot.evicted is not None and slot.evicted.done()):
            return ""
        reason = await self._slots.verdict(slot)
        oom = out_of_memory(f"{outcome.error}\n{outcome.tail}") and member.id not in self._alone
        if not reason and oom and self._slots.out_of_memory(slot):
            self._alone.add(member.id)
            reason = f"out of GPU memory beside other members; to be tried alone ({_reason(outcome)})"
        return reason

    async def _publish(self, member: Member, attempt: int) -> None:
        places = self._folder.member(member.id)
        names: dict[str, Any] = {"member": member.id, "attempt": attempt}
        try:
            published = await self._store.publish(places.attempt(attempt), places.checkpoint)
        except CheckpointError as error:
            await self._clear(places.attempt(attempt))
            self.turn(events.Failed(t=self._clock.now(), reason=str(error), **names))
        else:
            self.turn(events.Published(t=self._clock.now(), size=published.size, digest=published.digest, **names))

    async def _discard(self, id: int) -> None:
        await self._journal.durable()
        member = self.lineage.tree.members[id]
        places = self._folder.member(id)
        await self._clear(places.checkpoint, places.attempt(member.attempt))
        self.turn(events.Discarded(t=self._clock.now(), member=id))

    async def _clear(self, *paths: Path) -> None:
        """Delete what nobody needs. What cannot be deleted only takes up room: told, and tried again at a resume."""
        try:
            await self._store.discard(*paths)
        except CheckpointError as error:
            self._tell(events.Warned(t=self._clock.now(), text=str(error)))

    # ---- what a member is told

    def _judged(self, member: Member) -> bool:
        """Does the member's first report wait for a verdict?"""
        return MEDIAN in self.settings.early_stop and member.generation > 0

    def _begin(self, member: Member, attempt: int, slot: Slot) -> wire.Begin:
        places = self._folder.member(member.id)
        scratch = places.attempt(attempt)
        with explained("cannot prepare", places.path):
            places.path.mkdir(exist_ok=True)
            self._store.prepare(scratch)
            places.config.write_text(json.dumps(member.config, indent=1) + "\n")
            if attempt > 1:
                places.metrics.unlink(missing_ok=True)  # what an attempt that does not count has reported
        parent = self._folder.member(member.parent.id).checkpoint if member.parent is not None else None
        return wire.Begin(
            member=member.id,
            attempt=attempt,
            generation=member.generation,
            seed=member.seed,
            config=member.config,
            parent=str(parent) if parent is not None else None,
            checkpoint=str(scratch),
            metrics=str(places.metrics),
            log=str(places.log),
            cwd=self._cwd,
            device=slot.device,
            threads=slot.threads,
            env={**slot.env, "GPBT_CONFIG": str(places.config)},
            score=self.settings.score,
            judged=self._judged(member),
            cpus=sorted(slot.cpus) or None,
        )

    def _argv(self, begin: wire.Begin, member: Member) -> list[str] | None:
        """The command line of a command member, its placeholders filled in."""
        if self.settings.command is None:
            return None
        reserved = {
            "parent": begin.parent or "",
            "checkpoint": begin.checkpoint,
            "metrics": begin.metrics,
            "config": self._folder.member(member.id).config,
            "seed": member.seed,
            "generation": member.generation,
            "member": member.id,
        }
        return command.fill(self.settings.command, member.config, reserved)

    def _started(self, member: Member, attempt: int, slot: Slot, pid: int) -> events.Started:
        return events.Started(
            t=self._clock.now(),
            member=member.id,
            attempt=attempt,
            slot=slot.index,
            pid=pid,
            path=path_text(member.path),
            parent=member.parent.id if member.parent is not None else None,
            config=member.config,
        )


def _float(value: float) -> float:
    """An int of any size as a float: too large is infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _reason(outcome: Outcome) -> str:
    """Why an attempt failed, on one line."""
    text = outcome.error or outcome.how
    if outcome.how == "died" and outcome.status == 0:
        text = "ended without returning from train (exit status 0)"
    if outcome.where:
        text += f" ({outcome.where})"
    last_words = [line for line in outcome.tail.splitlines() if line.strip()]
    if last_words:
        text += f"; its log ends: {last_words[-1].strip()}"
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
