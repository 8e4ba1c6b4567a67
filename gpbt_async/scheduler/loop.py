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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import events
from ..ask import path_text
from ..engine.tree import State
from ..errors import Advice, FolderError, GPBTError, PreflightError
from ..preflight.checks import Preflight
from ..processes import wire
from ..processes.outcome import reason
from ..searchers import registry
from ..storage.checkpoints import CheckpointError
from .admission import Admission
from .blame import Blame
from .clock import Deadlines
from .disk_budget import is_full
from .watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from ..analysis.usage import Usage
    from ..ask import Ask
    from ..devices.slots import Pool
    from ..engine.engine import Engine
    from ..engine.tree import Node
    from ..events import Command, Event, Fact
    from ..findings import Finding
    from ..processes.launcher import Launcher
    from ..processes.worker import Worker
    from ..searchers.client import SearcherClient
    from ..storage.checkpoints import CheckpointStore
    from ..storage.folder import RunFolder
    from ..storage.journal import Journal
    from .admission import Briefing
    from .clock import Clock
    from .disk_budget import Disk


#: the reason of a pause that somebody asked for
PAUSED = "somebody has paused the run"
LATE = (
    "early_stop='median' decides at a member's first report, and members report {!r} only once: "
    "report it earlier too, or it is stopped when all its work is done"
)


class Interrupted(Exception):
    """Ends the task group: the run was asked to stop."""


class Scheduler:
    """Performs the engine's commands until nothing is left, or until told to stop. Rooms come opened, and stay so.

    tell: called with every fact after the engine has handled it, and with Reported and Warned as they come. strict:
    the first finding of the pre-flight ends the run. silence: findings that are not told, beside the settings' own.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        usage: Usage,
        journal: Journal,
        folder: RunFolder,
        store: CheckpointStore,
        slots: Pool,
        launcher: Launcher,
        asking: SearcherClient,
        briefing: Briefing,
        disk: Disk,
        clock: Clock,
        tell: Callable[[Event], None],
        strict: bool = False,
        silence: Sequence[str] = (),
    ) -> None:
        self.engine = engine
        self.usage = usage
        self.settings = engine.settings  # what a resume adopts was adopted before
        self._journal = journal
        self._folder = folder
        self._store = store
        self._slots = slots
        self._launcher = launcher
        self._asking = asking
        self._clock = clock
        self._briefing, self._disk = briefing, disk
        self._tell, self._strict = tell, strict
        self._over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup | None = None
        #: the processes of members in training, by member
        self._workers: dict[int, Worker] = {}
        #: checkpoints of earlier sessions: whether each is whole, once it has been read
        loop = asyncio.get_running_loop()
        self._doubted = {id: loop.create_future() for id, m in engine.stored.items() if m.state is State.FINISHED}
        self._told_of_late_reports = False
        #: what the pre-flight looks at; its findings are facts
        self.preflight = Preflight(self.settings, silence)
        for fact in engine.findings:
            self.preflight.remember(fact)
        self._watchdog = Watchdog(engine, slots, self._warn)
        self.gate = Admission(slots, disk, briefing, self._watchdog.queued)
        self._blame = Blame(slots, disk, store, self.gate)
        #: set from the first failure or cancellation on: facts still come in, nothing is performed any more
        self._ending = False

    async def run(self, opened: events.Opened) -> str | None:
        """Until the end. Returns "" when finished, the reason when failed, None when interrupted by `stop`.

        When it returns, in whatever way, no member is training and nothing is being written.
        """
        reason: str | None = None
        try:
            async with asyncio.TaskGroup() as self._tasks:
                watching = asyncio.create_task(self._watchdog.watch(), name="gpbt-async watchdog")
                try:
                    self.turn(opened)
                    self._find(self.preflight.declared())
                    if self._strict and self.preflight.found:  # of an earlier session
                        self._refuse(self.preflight.found[0])
                    doubted = [m for m in self.engine.tree.members if m.id in self._doubted]
                    for member in sorted(doubted, key=lambda m: not m.unsettled):  # first, whom children wait for
                        self._spawn(self._verify, member, self._doubted[member.id])
                    self._slots.on_capacity = self._capacity
                    self._slots.on_sample = self._sample
                    self._disk.on_change = self._room
                    self.gate.on_change = self._by_hand
                    if self.gate.paused:
                        self._by_hand(True)
                    self._capacity(len(self._slots))  # it may have changed since the run was opened
                    reason = await self._over
                    if reason is None or reason:
                        raise Interrupted  # members still training are of no use any more
                except BaseException:
                    self._ending = True
                    raise
                finally:
                    watching.cancel()
        except* Interrupted:
            pass
        finally:
            self._slots.on_capacity = lambda _: None
            self._slots.on_sample = lambda _: None
        return reason

    def stop(self, error: GPBTError | None = None) -> None:
        """Stop every member and end, raising the error if there is one; the run can be resumed."""
        if not self._over.done():
            self._over.set_exception(error) if error is not None else self._over.set_result(None)

    def _capacity(self, slots: int) -> None:
        if slots != self.engine.slots and not self._ending:
            self.turn(events.Capacity(t=self._clock.now(), slots=slots))

    def _warn(self, text: str) -> None:
        self._tell(events.Warned(t=self._clock.now(), text=text))

    def _room(self, paused: str, loud: bool) -> None:
        fact = events.Paused(t=self._clock.now(), reason=paused)
        if loud:
            self._warn(fact.told(self._folder.typed))
        if not self._ending:
            self.turn(fact)

    def _by_hand(self, paused: bool) -> None:
        if not self._ending:  # no warning: those are shown once, and a person may pause a run again and again
            self.turn(events.Paused(t=self._clock.now(), reason=PAUSED if paused else "", by_hand=True))

    def _sample(self, gpus: list[dict[str, Any]]) -> None:
        if not self._ending:
            self.turn(events.Sampled(t=self._clock.now(), gpus=tuple(gpus)))

    def turn(self, fact: Fact) -> None:
        if isinstance(fact, events.Failed) and (astray := self._folder.astray()):
            raise FolderError(astray)  # in a folder that was taken away nobody can do what he is to do
        self._journal.append(fact)
        commands = self.engine.handle(fact)
        self.usage.fold(fact, self.engine)
        self._disk.fold(fact)
        if self._journal.low:
            self._disk.tight()
        if isinstance(fact, events.Published | events.Damaged):
            self._point()
        self._tell(fact)
        for wanted in commands:
            self._perform(wanted)
        self._find(self.preflight.fold(fact, self.engine))

    def _find(self, findings: Iterable[Finding]) -> None:
        """Write down what the pre-flight has found; views say it."""
        for each in findings:
            self.turn(events.Found(t=self._clock.now(), **asdict(each)))
            if self._strict:
                self._refuse(each)

    def _refuse(self, finding: Finding) -> None:
        how = f"--silence {finding.code} disagrees, a resume without --strict goes on"
        self.stop(PreflightError(f"{finding.sentence} (--strict; {how})"))

    def _point(self) -> None:
        """Have `best` point at the best. On a full disk it does so later."""
        try:
            if self.engine.best is not None:
                self._folder.point_best(self.engine.best.id)
        except FolderError as error:
            self._warn(str(error))

    def _spawn(self, perform: Callable[..., Coroutine[Any, Any, None]], *args: Any, of: Command | None = None) -> None:
        async def watched() -> None:
            try:
                await perform(*args)
            except BaseException:
                self._ending = True
                raise

        assert self._tasks is not None
        self._watchdog.performed[of] += 1
        # not in `watched`: one that is cancelled before its first step never gets there
        self._tasks.create_task(watched()).add_done_callback(lambda _: self._watchdog.done(of))

    def _perform(self, wanted: Command) -> None:
        if self._ending:
            return
        match wanted:
            case events.Suggest(path):
                # read off the tree now, in this very turn: a later fact may withdraw the question
                generation = self.engine.generation_asked(path)
                if generation is None:
                    return
                ask = self.engine.ask(path, kin=registry.uses_kin(self.settings.searcher, generation))
                self._spawn(self._suggest, ask, self.engine.count, of=wanted)
            case events.Start(id, attempt):
                self._spawn(self._train, self.engine.tree.members[id], attempt, of=wanted)
            case events.Verdict(id, attempt, stop):
                worker = self._workers.get(id)
                if worker is not None and worker.attempt == attempt:
                    if stop:
                        self._spawn(worker.stop, "stopped early: its first report is worse than the median")
                    else:
                        worker.go()
            case events.Publish(id, attempt):
                self._spawn(self._publish, self.engine.tree.members[id], attempt, of=wanted)
            case events.Discard(id):
                self._disk.leave(id)
                self._spawn(self._discard, id, of=wanted)
            case events.Finish(reason):
                if not self._over.done():
                    self._over.set_result(reason)

    # ---- performances

    async def _suggest(self, ask: Ask, asked: int) -> None:
        config = await self._asking.suggest(ask, lambda: self.engine.wants(ask.path, ask.generation, asked))
        if config is None:
            return  # withdrawn before its turn came
        self.turn(
            events.Suggested(
                t=self._clock.now(), path=path_text(ask.path), generation=ask.generation, config=config, asked=asked
            )
        )

    async def _train(self, member: Node, attempt: int) -> None:
        """A member's life: a slot, a process, what it says, how it ended."""
        await asyncio.sleep(member.retry_delay)
        # first: a child of a damaged parent has failed, and must not be waiting for a disk when the run has finished
        if await self._whole(member.parent) and member.state is State.TRAINING:
            await self._attempt(member, attempt)

    async def _attempt(self, member: Node, attempt: int) -> None:
        score: float | None = None
        scores = 0
        metrics: dict[str, float] = {}
        names: dict[str, Any]
        entered: float | None = None
        undecided = judged = self._briefing.judged(member)
        blame = ""
        async with self.gate.passed(member, attempt) as (slot, begin):
            async with await self._launcher.start(begin, argv=self._briefing.argv(begin, member)) as worker:
                self._workers[member.id] = worker
                self._slots.bind(slot, worker.pid, member.id)
                if slot.evicted is not None:
                    slot.evicted.add_done_callback(lambda _: worker.kill())
                self.turn(self._briefing.started(self._clock.now(), member, attempt, slot, worker.pid))
                limits = self.settings.stall_timeout, self.settings.member_timeout
                with Deadlines(*limits, lambda why: self._spawn(worker.stop, why, 0.0)) as deadlines:
                    async for message in worker:
                        match message:
                            case wire.Enter(at):
                                entered = at
                                deadlines.entered()
                                self.turn(events.Entered(t=self._clock.at(at), member=member.id, attempt=attempt))
                            case wire.Report(values, at):
                                deadlines.heard()
                                floats = {name: wire.real(value) for name, value in values.items()}
                                metrics.update(floats)
                                score = floats.get(self.settings.score, score)
                                names = {"t": self._clock.at(at), "member": member.id, "attempt": attempt}
                                self._tell(events.Reported(**names, metrics=floats))
                                if self.settings.score in floats:
                                    scores += 1
                                    if undecided:
                                        undecided = False
                                        self.turn(events.Judged(**names, score=floats[self.settings.score]))
                                    elif self.engine.termination.unsure:
                                        self.turn(events.Scored(**names))
                            case wire.End(how, telemetry=telemetry):
                                deadlines.close()
                                if how is wire.Exit.RETURNED and telemetry:
                                    self._find(self.preflight.heard(member, telemetry))
                            case Advice(text, remedy):
                                self._warn(f"member {member.id}: {text}" + (f"; {remedy}" if remedy else ""))
            del self._workers[member.id]
            outcome = worker.outcome
            if outcome.how is wire.Exit.RETURNED:
                self._slots.returned(slot)
            else:
                scratch = Path(begin.checkpoint)
                blame = await self._blame.lost(member, slot, outcome, scratch, deadlines.overdue)
                outcome = self._blame.explained(outcome, scratch)
                await self._clear(scratch)
        # from here to the fact nothing is awaited: the next member must not get the slot before this one's end is told
        seconds = max(0.0, outcome.at - entered) if entered is not None else 0.0
        names = {"t": self._clock.now(), "member": member.id, "attempt": attempt, "seconds": seconds}
        if outcome.how is wire.Exit.RETURNED:
            if judged and scores == 1 and not self._told_of_late_reports:
                self._told_of_late_reports = True
                self._warn(LATE.format(self.settings.score))
            self.turn(events.Trained(**names, score=score, metrics=metrics, unread=worker.unread))
        elif blame:
            self.turn(events.Lost(**names, reason=blame))
        elif outcome.how is wire.Exit.STOPPED and not deadlines.overdue:
            self.turn(events.StoppedEarly(**names, score=score, metrics=metrics))
        elif outcome.how is wire.Exit.LOST:
            self.turn(events.Lost(**names, reason=reason(outcome)))
        else:
            why = deadlines.overdue or reason(outcome)
            certain = not deadlines.overdue and self._blame.certain(member, outcome, why)
            self.turn(events.Failed(**names, reason=why, certain=certain))

    async def _whole(self, parent: Node | None) -> bool:
        """Is the parent's checkpoint still what was published? Read once a session; one of this session is."""
        if parent is None or parent.id not in self._doubted:
            return True
        return await asyncio.shield(self._doubted[parent.id])

    async def _verify(self, member: Node, told: asyncio.Future[bool]) -> None:
        problem = await self._store.verify(self._folder.member(member.id).checkpoint)
        if problem is not None and member.id in self.engine.stored:  # else it was being deleted
            names: dict[str, Any] = {"member": member.id, "attempt": member.attempt}
            self._warn(f"member {member.id} is no parent any more: {problem}")
            self.turn(events.Damaged(t=self._clock.now(), reason=problem, **names))
        told.set_result(problem is None)

    async def _publish(self, member: Node, attempt: int) -> None:
        places = self._folder.member(member.id)
        names: dict[str, Any] = {"member": member.id, "attempt": attempt}
        while True:
            try:
                published = await self._store.publish(places.attempt(attempt), places.checkpoint)
            except CheckpointError as error:
                if is_full(error):  # what was trained is there; the little that is missing will find room
                    self._disk.full()
                    await self._disk.again()
                    continue
                await self._clear(places.attempt(attempt))
                certain = self._blame.unpublishable(member, error, str(error))
                self.turn(events.Failed(t=self._clock.now(), reason=str(error), certain=certain, **names))
            else:
                self.turn(events.Published(t=self._clock.now(), size=published.size, digest=published.digest, **names))
            return

    async def _discard(self, id: int) -> None:
        await self._journal.durable()
        member = self.engine.tree.members[id]
        places = self._folder.member(id)
        await self._clear(places.checkpoint, places.attempt(member.attempt))
        self.turn(events.Discarded(t=self._clock.now(), member=id))

    async def _clear(self, *paths: Path) -> None:
        """Delete what nobody needs. What cannot be deleted only takes up room: told, and tried again at a resume."""
        try:
            await self._store.discard(*paths)
        except CheckpointError as error:
            self._warn(str(error))
