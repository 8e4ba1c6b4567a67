"""The doctor's check-up: two members and two children, trained for real, and all that can be measured about them.

They are trained by the components of a run. The zygote imports the script, a slot is leased, a process is forked (or
started), the checkpoint is published. Only the engine, the searcher and the journal are left out, as there is nothing
to decide. Everything happens in a temporary folder beside the runs, so that it is on their disk, and nothing is left.

The surprise: the first child has its parent's config *and its parent's seed*; in a run it would share only the config.
This exposes a script that never loads its parent's checkpoint. If the script is deterministic, the child reports
exactly what its parent reported; if it is not, the kernel knows that no file of the checkpoint was opened. A second
member, and a second child of the first member, differ from it in every dimension of the space and in their seeds. Only
such a pair shows the pre-flight a child of another shape, a hyperparameter without effect, or a seed of the script's.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import secrets
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..devices.discovery import discover
from ..devices.request import DeviceRequest, check_options, member_needs
from ..engine.selection import reported
from ..engine.tree import Node
from ..errors import Advice, ExperimentError
from ..experiment import Settings
from ..preflight.checks import Preflight
from ..processes import wire
from ..processes.cancellation import uncancelled
from ..processes.launcher import Launcher
from ..processes.outcome import tail_of
from ..processes.program import missing
from ..scheduler.admission import Briefing
from ..scheduler.member_session import MemberSession
from ..storage.checkpoints import CheckpointError, CheckpointStore
from ..storage.files import bytes_below, explained
from ..storage.folder import RunFolder
from .diagnosis import warnings
from .forecast import expect
from .measurements import FRESH, CheckUp, Problem, TrainedInterval
from .probes import Touches, Vitals
from .single_member import fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..declaration.address import Address
    from ..declaration.run_options import RunOptions
    from ..devices.slots import Pool, Slot
    from ..experiment import Changes
    from ..findings import Finding
    from ..processes.worker import Worker
    from ..space import Dimension, Scalar


#: seconds between two looks at the GPUs; a run looks less often
GPU_PERIOD = 0.25
#: lines of a failed member's log that are shown
LINES = 30


class Examination:
    """`run` it once. runs: where the runs would be. options, changes: as of a launch. sets, seed: of the config.

    repeat: train the first member twice. progress: gets a line about each step.
    """

    def __init__(
        self,
        script: Address,
        *,
        runs: Path,
        options: RunOptions,
        changes: Changes,
        sets: Sequence[str],
        seed: int,
        repeat: bool,
        progress: Callable[[str], None],
    ) -> None:
        self._script, self._runs = script, Path(os.path.abspath(runs))
        self._options, self._changes = options, changes
        self._sets, self._seed, self._repeat = sets, seed, repeat
        self._progress = progress
        #: warnings of the devices; and of the launcher and the members
        self._notes: list[str] = []
        self._trouble: list[Advice] = []
        self._folder: RunFolder
        self._store: CheckpointStore
        self._launcher: Launcher
        self._pool: Pool
        self._briefing: Briefing
        self._checks: Preflight

    async def run(self) -> CheckUp:
        """Train two members and two children. Raises GPBTError when no member could be started."""
        self._script.check()
        async with AsyncExitStack() as stack:
            await self._make_place(stack)
            check_up = await self._open(stack)
            await self._train_family(check_up)
            if not check_up.failed:
                sizes = [row.total for row in self._pool.rows() if row.total]
                check_up.expected = expect(check_up, self._folder.path.parent, sizes)
        check_up.notes = self._notes
        check_up.trouble = [Problem(advice.text, advice.remedy) for advice in self._trouble]
        check_up.warnings = warnings(check_up)
        return check_up

    # ---- the components

    async def _make_place(self, stack: AsyncExitStack) -> None:
        """A folder on the disk that the runs would use."""
        above = next(path for path in (self._runs, *self._runs.parents) if path.is_dir())
        with explained("cannot make a temporary folder in", above):
            place = Path(tempfile.mkdtemp(prefix=".gpbt-doctor-", dir=above))
        self._store = CheckpointStore()
        stack.callback(self._store.close)
        stack.push_async_callback(self._leave_nothing, place)
        self._folder = RunFolder(place)
        self._folder.members.mkdir()

    async def _leave_nothing(self, place: Path) -> None:
        try:
            await uncancelled(self._store.discard(place))
        except CheckpointError as error:
            self._progress(str(error))

    async def _open(self, stack: AsyncExitStack) -> CheckUp:
        """Import the script and find the slots."""
        cwd = os.getcwd()
        self._launcher = Launcher(secrets.token_hex(8), cwd=cwd, start=self._options.start, log=self._trouble.append)
        await stack.enter_async_context(self._launcher)
        self._progress(f"importing {self._script.shell_name}")
        began = time.monotonic()
        declared = await self._launcher.open_script(self._script)
        imported = time.monotonic() - began
        settings = await self._find_slots(stack, Settings.from_json(declared["experiment"]))
        if settings.notice:
            self._notes.append(settings.notice)
        if settings.command is not None and (problem := missing(settings.command, cwd)):
            raise ExperimentError(f"command: got {settings.command[0]!r}; {problem}")
        # early stopping would ask for a verdict on the first report, which nothing here gives
        self._briefing = Briefing(settings.replaced(early_stop=()), self._folder, self._store, cwd)
        self._checks = Preflight(settings)
        return CheckUp(
            script=self._script.shell_name,
            settings=settings,
            import_s=imported,
            cuda_at_import=declared["cuda"],
            slots=len(self._pool),
            findings=[*self._checks.declared()],
        )

    async def _find_slots(self, stack: AsyncExitStack, declared: Settings) -> Settings:
        """Open the devices; the settings with what the options change."""
        resources = member_needs(self._options, declared.resources)
        settings = declared.with_options(self._changes).replaced(resources=resources)
        check_options(self._options)
        request = DeviceRequest.of(self._options, settings.resources, settings.population)
        self._pool = await discover(request, os.environ, warn=self._notes.append, period=GPU_PERIOD)
        stack.push_async_callback(self._pool.close)
        return settings

    # ---- members

    async def _train_family(self, c: CheckUp) -> None:
        for who, member in self._family(c.settings):
            self._progress(f"training the {who}" + (f": {member.config}" if who in ("member", "second member") else ""))
            interval = c.members[who] = await self._train(who, member, c)
            if who not in ("repeat", FRESH):
                c.findings += self._findings(member, interval)
            if interval.error:
                c.failed = who
                break
            if who == "child":
                c.parent_damaged = await self._store.verify(self._folder.member(0).checkpoint)
        command = c.settings.command is not None
        if not command and self._options.start != "exec":  # else no fork was tried
            c.fork_safe = not self._launcher.exec
        fork = "resident" if self._options.start == "resident" else "fork"
        c.start = "program" if command else "exec" if self._launcher.exec and fork == "fork" else fork

    def _family(self, settings: Settings) -> list[tuple[str, Node]]:
        """The members to train, with their roles, parents first."""
        space, seed = settings.space, self._seed
        config = fixed(space.sample(random.Random(seed)), self._sets, space)
        far = space.clip({name: _other(dimension, config[name]) for name, dimension in space.items()})
        far = fixed(far, self._sets, space)
        parent = Node(0, (), 0, 0, None, config, seed)
        family = [
            ("member", parent),
            ("child", Node(1, (0,), 0, 1, parent, config, seed)),
            ("second member", Node(2, (), 1, 0, None, far, seed + 1)),
            ("second child", Node(3, (0,), 1, 1, parent, far, seed + 2)),
        ]
        resident = self._options.start == "resident" and settings.command is None
        if self._repeat or resident:
            family.append(("repeat", Node(4, (), 2, 0, None, config, seed)))
        if resident:  # what the process remembers of the members before shows in the repeat, and not in this one
            family.append((FRESH, Node(5, (), 3, 0, None, config, seed)))
        return family

    def _findings(self, member: Node, interval: TrainedInterval) -> list[Finding]:
        """What the pre-flight of a run would report."""
        found: list[Finding] = []
        if interval.telemetry:
            found += self._checks.heard(member, interval.telemetry)
        if not interval.died:
            last = interval.scores[-1] if interval.scores else None
            found += self._checks.scored(member, last, interval.metrics)
        if not interval.error:
            found += self._checks.saved(member, interval.checkpoint_bytes, interval.digest)
        return found

    async def _train(self, who: str, member: Node, c: CheckUp) -> TrainedInterval:
        """One interval of one member, from its slot to its published checkpoint."""
        interval = TrainedInterval(who, member.config)
        places = self._folder.member(member.id)
        async with AsyncExitStack() as stack:
            slot = await stack.enter_async_context(self._pool.lease())
            c.device, c.slot, c.slot_threads = slot.device, slot.name, slot.threads
            begin = self._briefing.begin(member, 1, slot)
            own = self._touches(stack, Path(begin.checkpoint))
            parents = self._touches(stack, Path(begin.parent)) if begin.parent else None
            began = time.monotonic()
            argv = self._briefing.argv(begin, member)
            async with await self._launcher.start(begin, argv=argv, fresh=who == FRESH) as worker:
                self._pool.bind(slot, worker.pid, member.id)
                if slot.evicted is not None:
                    slot.evicted.add_done_callback(lambda _: worker.kill())
                ending: list[asyncio.Task[None]] = []
                with MemberSession(c.settings, member.id, 1, asked=began, end=_ender(worker, ending)) as session:
                    await self._listen(worker, slot, interval, session)
                await asyncio.gather(*ending)
            if worker.stays and not worker.dead:
                self._pool.stays(slot, worker.pid, worker.gone, lambda: self._launcher.end_resident(worker.pid))
        if session.entered is not None:
            interval.start_s = session.entered - began
        interval.write_s = own.writing if own is not None else None
        if parents is not None:
            interval.read = None if parents.missed else sorted(parents.opened)
            interval.changed = sorted(parents.changed | parents.written)
        interval.error = "" if worker.outcome.how is wire.Exit.RETURNED else session.why(worker.outcome)
        interval.died = bool(interval.error)
        if interval.died and worker.reused:
            interval.error += " (in a process that had trained other members: try it without --start resident)"
        interval.error = interval.error or _unscored(interval, c.settings.score)
        if not interval.error:
            await self._publish(member, interval)
        interval.log = tail_of(str(places.log), lines=LINES) if interval.error else ""
        interval.other_bytes = bytes_below(places.path) - bytes_below(places.checkpoint)
        return interval

    def _touches(self, stack: AsyncExitStack, folder: Path) -> Touches | None:
        """Watch a folder, and read its events as they come; None if the kernel cannot."""
        try:
            touches = Touches(folder)
        except OSError:
            return None
        loop = asyncio.get_running_loop()
        loop.add_reader(touches.fd, lambda: touches.read(time.monotonic()))
        stack.callback(touches.close)
        stack.callback(loop.remove_reader, touches.fd)
        stack.callback(lambda: touches.read(time.monotonic()))
        return touches

    async def _listen(self, worker: Worker, slot: Slot, interval: TrainedInterval, session: MemberSession) -> None:
        """Take in what the member reports until it has ended."""
        vitals = Vitals(worker.pid)
        looking = asyncio.create_task(self._look(vitals, slot, interval))
        reports: list[float] = []
        try:
            async for message in worker:
                session.hear(message)
                match message:
                    case wire.Report(at=at):
                        reports.append(at)
                        if session.scores > len(interval.scores) and session.score is not None:
                            interval.scores.append(session.score)
                    case wire.End(telemetry=telemetry):
                        interval.telemetry = telemetry
                        interval.import_s, interval.parent_s = session.start.get("imports"), session.start.get("parent")
                        vitals.look()
                    case Advice(text, remedy):
                        self._trouble.append(Advice(f"the {interval.who}: {text}", remedy))
        finally:
            looking.cancel()
            await asyncio.wait([looking])
        interval.metrics, interval.reports = session.metrics, len(reports)
        interval.reported = reported(session.metrics, worker.unread)
        interval.resident, interval.private, interval.cores = vitals.resident, vitals.private, vitals.cores
        interval.threads, interval.processes = vitals.threads, vitals.processes
        ended = worker.outcome.at
        entered = session.entered if session.entered is not None else ended
        interval.seconds = max(0.0, ended - entered)
        interval.first_report_s = reports[0] - entered if reports else None
        interval.silence_s = max(b - a for a, b in itertools.pairwise([entered, *reports, ended]))

    async def _look(self, vitals: Vitals, slot: Slot, interval: TrainedInterval) -> None:
        while True:
            vitals.look()
            used = [row.ours for row in self._pool.rows() if row.uuid in slot.gpus and row.ours is not None]
            if used:
                interval.vram = max(interval.vram or 0, sum(used))
            await asyncio.sleep(vitals.pause)

    async def _publish(self, member: Node, interval: TrainedInterval) -> None:
        places = self._folder.member(member.id)
        interval.files = sum(len(names) for _, _, names in os.walk(places.attempt(1)))
        began = time.monotonic()
        try:
            published = await self._store.publish(places.attempt(1), places.checkpoint)
        except CheckpointError as error:
            interval.error = str(error)
        else:
            interval.publish_s = time.monotonic() - began
            interval.checkpoint_bytes, interval.digest = published.size, published.digest


def _ender(worker: Worker, ending: list[asyncio.Task[None]]) -> Callable[[str], object]:
    """Ends the member, with a reason, in a task that is put into `ending`."""
    return lambda why: ending.append(asyncio.create_task(worker.stop(why, 0.0)))


def _unscored(interval: TrainedInterval, score: str) -> str:
    """What is wrong with its last score, or ""."""
    if not interval.scores:
        return f"never reported {score!r}{interval.reported}"
    last = interval.scores[-1]
    return "" if math.isfinite(last) else f"{score} is {last}"


def _other(dimension: Dimension, value: Scalar) -> Scalar:
    """Another value of the dimension, half of it away if possible; the same if there is only one."""
    unit = dimension.to_unit(value)
    others = (dimension.from_unit((unit + shift) % 1.0) for shift in (0.5, 0.25, 0.75, 0.9, 0.1))
    return next((other for other in others if other != value), value)
