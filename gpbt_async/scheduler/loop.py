"""The scheduler's main loop. One turn of it is:

> a fact arrives → the journal appends it → the engine handles it and returns commands → each command becomes a task
> → each task ends in a fact.

All of this happens in the event loop's one thread. Nothing interrupts a turn, so engine and journal need no lock. The
tasks belong to one TaskGroup and do not depend on one another: the engine makes every decision that concerns more than
one member. The task `_train` is one attempt of a member, from its start to its end.

The one surprise is that the loop does not wait until a fact is on the disk. The journal writes a fact to the kernel
before the loop acts on it, so a scheduler that is killed loses nothing. The journal syncs to the disk in a thread of
its own, so a power failure may lose the last facts. That is harmless, because a resume trains these members again. It
would do harm if a checkpoint were deleted because of a fact, and the fact were then lost. So a Discard is the only
command that waits until the facts are on the disk.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import events
from ..ask import path_text
from ..engine.tree import State
from ..errors import Advice, FolderError, GPBTError, PreflightError
from ..preflight.checks import Preflight
from ..processes import wire
from ..searchers import registry
from ..storage.checkpoints import CheckpointError
from .admission import Admission, Briefing
from .blame import Blame
from .disk_budget import is_full
from .member_session import MemberSession
from .watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from ..ask import Ask
    from ..devices.slots import Slot
    from ..engine.tree import Node
    from ..events import Command, Event, Fact
    from ..findings import Finding
    from ..processes.worker import Heard, Worker
    from ..storage.checkpoints import CheckpointStore
    from ..storage.gpu_report import DeviceStatus
    from .clock import Clock
    from .open_run import OpenRun


#: members that fail in a process that has trained others, and train in a new one, before residents are given up
ONLY_FRESH = 2
NOT_RESIDENT = (
    f"{ONLY_FRESH} members failed in a process that had trained other members, and trained in a new one: from now on "
    "each member gets a new process; the script keeps something that a second member cannot use: leave out "
    "--start resident"
)
#: the reason of a pause that a person asked for
PAUSED = "the run is paused"
LATE = (
    "early_stop='median' decides at a member's first report, and members report {!r} only once: "
    "report it earlier too, or it is stopped when all its work is done"
)


class Interrupted(Exception):
    """Ends the task group: the run was asked to stop."""


class Scheduler:
    """Performs the engine's commands until nothing is left, or until `stop`. Closes nothing that it was given.

    tell: called with every fact after the engine has handled it, and with Reported and Warned as they come. strict:
    the first finding of the pre-flight ends the run. silence: findings that are not reported, beside the settings' own.
    """

    def __init__(
        self,
        run: OpenRun,
        store: CheckpointStore,
        clock: Clock,
        tell: Callable[[Event], None],
        *,
        strict: bool = False,
        silence: Sequence[str] = (),
    ) -> None:
        state = run.state
        self.engine = state.engine
        self.settings = state.settings  # what a resume adopts was adopted before
        self._apply, self._journal, self._folder = state.apply, state.journal, state.folder
        self._slots, self._launcher, self._searcher, self._disk = run.slots, run.launcher, run.searcher, state.disk
        self._store, self._clock, self._tell, self._strict = store, clock, tell, strict
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[str | None] = loop.create_future()
        self._tasks: asyncio.TaskGroup | None = None
        #: members that failed in a process that had trained others: they get one of their own
        self._fresh: set[int] = set()
        #: those of them that trained to their end there
        self._only_fresh: set[int] = set()
        #: the processes of members in training, by member
        self._workers: dict[int, Worker] = {}
        #: checkpoints of earlier sessions: whether each is whole, once it has been read
        finished = [m for m in self.engine.stored.values() if m.state is State.FINISHED]
        self._doubted: dict[int, asyncio.Future[bool]] = {m.id: loop.create_future() for m in finished}
        self.preflight = Preflight(self.settings, silence)
        for fact in self.engine.findings:
            self.preflight.remember(fact)
        self._briefing = Briefing(self.settings, self._folder, store, state.record.cwd)
        self.admission = Admission(self._slots, self._disk, self._briefing)
        self._watchdog = Watchdog(self.engine, self._slots, lambda: self.admission.queued, self._warn)
        self._blame = Blame(self._slots, self._disk, store)
        self._warned_of_late_reports = False
        #: set from the first failure or cancellation on: facts still come in, no command is performed any more
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
                    self._begin(opened)
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

    def _begin(self, opened: events.Opened) -> None:
        """The first turns; from then on the slots, the disk and the admission report by themselves."""
        self.turn(opened)
        self._record(self.preflight.declared())
        if self._strict and self.preflight.found:  # of an earlier session
            self._refuse(self.preflight.found[0])
        doubted = [m for m in self.engine.tree.members if m.id in self._doubted]
        for member in sorted(doubted, key=lambda m: not m.unsettled):  # first those that children wait for
            self._spawn(self._verify, member, self._doubted[member.id])
        self._slots.on_capacity = self._capacity
        self._slots.on_sample = self._sample
        self._disk.on_change = self._room
        self.admission.on_change = self._by_hand
        if self.admission.paused:
            self._by_hand(True)
        self._capacity(len(self._slots))  # it may have changed since the run was opened

    def stop(self, error: GPBTError | None = None) -> None:
        """Stop every member and end, raising the error if there is one; the run can be resumed."""
        if not self._over.done():
            self._over.set_exception(error) if error is not None else self._over.set_result(None)

    # ---- what the slots, the disk and the admission report

    def _capacity(self, slots: int) -> None:
        if slots != self.engine.slots and not self._ending:
            self.turn(events.Capacity(t=self._clock.now(), slots=slots))

    def _sample(self, gpus: list[DeviceStatus]) -> None:
        if not self._ending:
            self.turn(events.Sampled(t=self._clock.now(), gpus=tuple(gpu.journaled() for gpu in gpus)))

    def _room(self, paused: str, loud: bool) -> None:
        fact = events.Paused(t=self._clock.now(), reason=paused)
        if loud:
            self._warn(fact.sentence(self._folder.shell_name))
        if not self._ending:
            self.turn(fact)

    def _by_hand(self, paused: bool) -> None:
        if not self._ending:  # no warning: a warning is shown once, and a person may pause a run again and again
            self.turn(events.Paused(t=self._clock.now(), reason=PAUSED if paused else "", by_hand=True))
            if paused:  # a person wants the GPUs for something else, or the memory
                self._spawn(self._launcher.end_residents)

    def _warn(self, text: str) -> None:
        self._tell(events.Warned(t=self._clock.now(), text=text))

    # ---- a turn

    def turn(self, fact: Fact) -> None:
        if isinstance(fact, events.Failed) and (moved := self._folder.moved()):
            raise FolderError(moved)  # every member must fail in a folder that was taken away
        commands = self._apply(fact)
        if self._journal.low:
            self._disk.tight()
        if isinstance(fact, events.Published | events.Damaged):
            self._point()
        self._tell(fact)
        for command in commands:
            self._perform(command)
        self._record(self.preflight.fold(fact, self.engine))

    def _record(self, findings: Iterable[Finding]) -> None:
        """Turn what the pre-flight has found into facts."""
        for finding in findings:
            self.turn(events.Found(t=self._clock.now(), **asdict(finding)))
            if self._strict:
                self._refuse(finding)

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

    # ---- commands

    def _perform(self, command: Command) -> None:
        if self._ending:
            return
        match command:
            case events.Suggest(path, generation):
                # read off the tree now, in this very turn: a later fact may withdraw the question
                ask = self.engine.ask(path, kin=registry.uses_kin(self.settings.searcher, generation))
                self._spawn(self._suggest, ask, self.engine.count, of=command)
            case events.Start(id, attempt):
                self._spawn(self._train, self.engine.tree.members[id], attempt, of=command)
            case events.Verdict(id, attempt, stop):
                worker = self._workers.get(id)
                if worker is not None and worker.attempt == attempt:
                    if stop:
                        self._spawn(worker.stop, "stopped early: its first report is worse than the median")
                    else:
                        worker.go()
            case events.Publish(id, attempt):
                self._spawn(self._publish, self.engine.tree.members[id], attempt, of=command)
            case events.Discard(id):
                self._disk.leave(id)
                self._spawn(self._discard, id, of=command)
            case events.Finish(reason):
                if not self._over.done():
                    self._over.set_result(reason)

    def _spawn(self, perform: Callable[..., Coroutine[Any, Any, None]], *args: Any, of: Command | None = None) -> None:
        async def watched() -> None:
            try:
                await perform(*args)
            except BaseException:
                self._ending = True
                raise

        assert self._tasks is not None
        self._watchdog.begun(of)
        # not in `watched`: a task that is cancelled before its first step never gets there
        self._tasks.create_task(watched()).add_done_callback(lambda _: self._watchdog.done(of))

    async def _suggest(self, ask: Ask, asked: int) -> None:
        config = await self._searcher.suggest(ask, lambda: self.engine.wants(ask.path, ask.generation, asked))
        if config is None:
            return  # withdrawn before its turn came
        self.turn(
            events.Suggested(
                t=self._clock.now(), path=path_text(ask.path), generation=ask.generation, config=config, asked=asked
            )
        )

    # ---- training

    async def _train(self, member: Node, attempt: int) -> None:
        """One attempt of a member: a slot, a process, its reports, and how it ended."""
        await asyncio.sleep(member.retry_delay)
        # before a slot: a child of a damaged parent has failed, and must not wait for a disk when the run has finished
        if not await self._whole(member.parent) or member.state is not State.TRAINING:
            return
        alone = self._blame.alone(member)
        async with self.admission.passed(member, attempt, alone) as (slot, begin):
            session, worker = await self._follow(member, attempt, slot, begin)
            outcome, blame = worker.outcome, ""
            if outcome.how is wire.Exit.RETURNED:
                self._slots.returned(slot)
                self._trained_fresh(member)
            else:
                scratch = Path(begin.checkpoint)
                blame = await self._blame.lost(member, slot, outcome, scratch, session.overdue)
                blame = blame or self._blame_of_process(member, worker, session)
                outcome = self._blame.explained(outcome, scratch)
                await self._clear(scratch)
        # from here to the fact nothing is awaited: the next member must not get the slot before this one's last fact
        if outcome.how is wire.Exit.RETURNED and self._briefing.judged(member) and session.scores == 1:
            self._warn_of_late_reports()
        certain = not session.overdue and self._blame.certain(member, outcome, session.why(outcome))
        now = self._clock.now()
        self.turn(session.ended(now, outcome, blame=blame, certain=certain, unread=worker.unread))

    def _blame_of_process(self, member: Node, worker: Worker, session: MemberSession) -> str:
        """A member that failed in a process that had trained others is tried again, once, in a new one."""
        failed = worker.outcome.how in (wire.Exit.RAISED, wire.Exit.DIED) and not session.overdue
        if not (failed and worker.reused):
            return ""
        self._fresh.add(member.id)
        return f"failed in a process that had trained other members: {session.why(worker.outcome)}"

    def _trained_fresh(self, member: Node) -> None:
        """After some members that failed in a used process and train in a new one, each member gets a new one."""
        self._only_fresh |= {member.id} & self._fresh
        if len(self._only_fresh) >= ONLY_FRESH and self._launcher.stays:
            self._launcher.stays = False
            self._launcher.spares(len(self._slots))
            self._spawn(self._launcher.end_residents)
            self._warn(NOT_RESIDENT)

    async def _follow(self, member: Node, attempt: int, slot: Slot, begin: wire.Begin) -> tuple[MemberSession, Worker]:
        """Have a process train the member, and follow it until all of it is gone."""
        asked = time.monotonic()
        argv, fresh = self._briefing.argv(begin, member), member.id in self._fresh
        async with await self._launcher.start(begin, argv=argv, fresh=fresh) as worker:
            self._workers[member.id] = worker
            self._slots.bind(slot, worker.pid, member.id)
            if slot.evicted is not None:
                slot.evicted.add_done_callback(lambda _: worker.kill())
            self.turn(self._briefing.started(self._clock.now(), member, attempt, slot, worker.pid))
            session = MemberSession(
                self.settings, member.id, attempt, asked=asked, end=lambda why: self._spawn(worker.stop, why, 0.0)
            )
            with session:
                async for message in worker:
                    session.hear(message)
                    self._heard(session, message, begin.judged)
        del self._workers[member.id]
        if worker.stays and not worker.dead:
            pid = worker.pid
            self._slots.stays(slot, pid, worker.gone, lambda: self._launcher.end_resident(pid))
            if self.admission.paused or not self._launcher.stays:
                self._spawn(self._launcher.end_residents)
        return session, worker

    def _heard(self, session: MemberSession, message: Heard, judged: bool) -> None:
        """The facts that follow from a message. judged: whether the first score waits for a verdict."""
        member, attempt = session.member, session.attempt
        match message:
            case wire.Enter(at):
                self.turn(events.Entered(t=self._clock.at(at), member=member, attempt=attempt))
            case wire.Report(_, at):
                t, score = self._clock.at(at), session.report.get(self.settings.score)
                self._tell(events.Reported(t=t, member=member, attempt=attempt, metrics=session.report))
                if score is not None and judged and session.scores == 1:
                    self.turn(events.Judged(t=t, member=member, attempt=attempt, score=score))
                elif score is not None and self.engine.termination.unsure:
                    self.turn(events.Scored(t=t, member=member, attempt=attempt))
            case wire.End(wire.Exit.RETURNED, telemetry=telemetry) if telemetry:
                self._record(self.preflight.heard(self.engine.tree.members[member], telemetry))
            case Advice(text, remedy):
                self._warn(f"member {member}: {text}" + (f"; {remedy}" if remedy else ""))

    def _warn_of_late_reports(self) -> None:
        if not self._warned_of_late_reports:
            self._warned_of_late_reports = True
            self._warn(LATE.format(self.settings.score))

    # ---- checkpoints

    async def _whole(self, parent: Node | None) -> bool:
        """Is the parent's checkpoint still as it was published? Read once a session; not if published in this one."""
        if parent is None or parent.id not in self._doubted:
            return True
        return await asyncio.shield(self._doubted[parent.id])

    async def _verify(self, member: Node, whole: asyncio.Future[bool]) -> None:
        problem = await self._store.verify(self._folder.member(member.id).checkpoint)
        if problem is not None and member.id in self.engine.stored:  # else it was being deleted
            self._warn(f"member {member.id} can no longer be a parent: {problem}")
            t, attempt = self._clock.now(), member.attempt
            self.turn(events.Damaged(t=t, member=member.id, attempt=attempt, reason=problem))
        whole.set_result(problem is None)

    async def _publish(self, member: Node, attempt: int) -> None:
        id, places = member.id, self._folder.member(member.id)
        while True:
            try:
                published = await self._store.publish(places.attempt(attempt), places.checkpoint)
            except CheckpointError as error:
                if is_full(error):  # what was trained is on the disk; there will be room for the little that is missing
                    self._disk.full()
                    await self._disk.again()
                    continue
                await self._clear(places.attempt(attempt))
                t, why = self._clock.now(), str(error)
                certain = self._blame.unpublishable(member, error, why)
                self.turn(events.Failed(t=t, member=id, attempt=attempt, reason=why, certain=certain))
            else:
                t, size, digest = self._clock.now(), published.size, published.digest
                self.turn(events.Published(t=t, member=id, attempt=attempt, size=size, digest=digest))
            return

    async def _discard(self, id: int) -> None:
        await self._journal.durable()
        member = self.engine.tree.members[id]
        places = self._folder.member(id)
        await self._clear(places.checkpoint, places.attempt(member.attempt))
        self.turn(events.Discarded(t=self._clock.now(), member=id))

    async def _clear(self, *paths: Path) -> None:
        """Delete what is not needed. What cannot be deleted only takes up room: warn, and try again at a resume."""
        try:
            await self._store.discard(*paths)
        except CheckpointError as error:
            self._warn(str(error))
