"""`gpbt-async doctor SCRIPT`: two members and two children, trained for real, and all that can be measured about them.

They are trained by the very rooms of a run: the script is imported by a zygote, a slot is leased, a process forked (or
started afresh), the checkpoint published; only the engine, the searcher and the journal are left out, as there is
nothing to decide. Everything happens in a temporary folder beside the runs, so that the disk is theirs, and nothing of
it is left. What the figures mean, and which of them are a reason to warn, is diagnosis.py's.

The first child has its parent's config *and its parent's seed*, which in a run only the config would be. So a script
that never takes up its parent's checkpoint gives itself away: where it is deterministic the child then reports exactly
what its parent had reported, and where it is not, the kernel knows that no file of the checkpoint was opened. A second
member and a second child of the first differ from it in every dimension of the space and in their seed. The pre-flight
says what only such a pair shows: a child of another shape, a hyperparameter that does nothing, a seed of the script's.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..declaration.address import find
from ..declaration.options import RunOptions
from ..devices.discovery import DeviceOptions, discover
from ..engine.selection import reported
from ..engine.tree import Node
from ..errors import Advice, ExperimentError
from ..experiment import Settings
from ..preflight.checks import Preflight
from ..processes import wire
from ..processes.launcher import Launcher
from ..processes.outcome import reason, tail_of
from ..processes.program import missing
from ..processes.worker import uncancelled
from ..scheduler.admission import Briefing
from ..scheduler.clock import Deadlines
from ..storage.checkpoints import CheckpointError, CheckpointStore
from ..storage.files import bytes_below, explained
from ..storage.folder import RunFolder
from .diagnosis import forecast, warnings
from .probes import Touches, Vitals
from .try_ import fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..devices.slots import Pool, Slot
    from ..findings import Finding
    from ..processes.worker import Worker
    from ..space import Dimension, Scalar


#: seconds between two looks at the GPUs, which in a run are looked at less often
GPU_PERIOD = 0.25
#: lines of a failed member's log that are told
LINES = 30


@dataclass(slots=True)
class TrainedInterval:
    """What was measured of one member. Seconds and bytes; None where it could not be known.

    start_s: from the moment its process was asked for to `train` entered. write_s: in which a file of its checkpoint
    was open to be written. first_report_s: after `train` was entered. silence_s: the longest between two reports, or
    before the first, or behind the last. cores: kept busy on average. read: the files of its parent's checkpoint that
    somebody opened. changed: those that were changed. scores: as reported, in order.
    """

    who: str
    config: Mapping[str, Any]
    start_s: float | None = None
    seconds: float = 0.0
    write_s: float | None = None
    publish_s: float | None = None
    checkpoint_bytes: int | None = None
    files: int = 0
    other_bytes: int = 0
    reports: int = 0
    scores: list[float] = field(default_factory=list)
    first_report_s: float | None = None
    silence_s: float = 0.0
    resident: int = 0
    private: int = 0
    threads: int = 0
    processes: int = 0
    cores: float | None = None
    vram: int | None = None
    read: list[str] | None = None
    changed: list[str] = field(default_factory=list)
    #: what it reported, in words; why it has failed, and the end of its log
    told: str = ""
    error: str = ""
    log: str = ""
    #: what its process noted about itself, and its last metrics
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    died: bool = False
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        flat = {name: getattr(self, name) for name in self.__dataclass_fields__}
        scores, *_ = [flat.pop(name) for name in ("scores", "told", "telemetry", "metrics", "died", "digest")]
        return {**flat, "first_score": scores[0] if scores else None, "score": scores[-1] if scores else None}


class Examination:
    """`run` it once. runs: where the runs would be. sets, seed: of the config. repeat: train the first member twice.

    tell: says what is being done. devices: as of Asked. The rest as of Run.
    """

    def __init__(
        self,
        script: str | os.PathLike[str],
        *,
        runs: Path,
        slots: int | None,
        gpus: str | None,
        start: str | None,
        devices: Mapping[str, Any],
        changes: Mapping[str, Any],
        sets: Sequence[str],
        seed: int,
        repeat: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._script, self._runs, self._start = find(script), Path(os.path.abspath(runs)), start
        self._options = RunOptions(slots=slots, gpus=gpus, **devices)
        self._devices = DeviceOptions.of(self._options)
        self._changes, self._sets, self._seed, self._repeat = changes, sets, seed, repeat
        self._tell = tell
        #: what devices had to say; and the launcher, and the members' reporting
        self._notes: list[str] = []
        self._trouble: list[Advice] = []
        self._settings: Settings
        self._folder: RunFolder
        self._store: CheckpointStore
        self._launcher: Launcher
        self._pool: Pool
        self._briefing: Briefing
        self._checks: Preflight
        self._found: list[Finding] = []

    async def run(self) -> dict[str, Any]:
        """Train two members and two children; what was found. Raises GPBTError when no member could be started."""
        self._script.check()
        async with AsyncExitStack() as stack:
            await self._make_place(stack)
            told = await self._open(stack)
            config = fixed(self._settings.space.sample(random.Random(self._seed)), self._sets, self._settings.space)
            await self._train_family(told, config)
            if "failed" not in told:
                sizes = [row["total"] for row in self._pool.rows() if row["total"]]
                told["expected"] = forecast(self._settings, told, self._folder.path.parent, sizes)
        told["notes"], told["trouble"] = (
            self._notes,
            [{"what": warning.text, "remedy": warning.remedy} for warning in self._trouble],
        )
        told["findings"] = [{"code": f.code, "what": f.text, "remedy": f.remedy} for f in self._found]
        told["warnings"] = warnings(told)
        return told

    # ---- the rooms

    async def _make_place(self, stack: AsyncExitStack) -> None:
        """A folder on the disk that the runs would be on."""
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
            self._tell(str(error))

    async def _open(self, stack: AsyncExitStack) -> dict[str, Any]:
        """Import the script and find the slots; what is known then."""
        cwd = os.getcwd()
        self._launcher = Launcher(secrets.token_hex(8), cwd=cwd, start=self._start, log=self._trouble.append)
        await stack.enter_async_context(self._launcher)
        self._tell(f"importing {self._script.typed}")
        began = time.monotonic()
        declared = await self._launcher.open_script(self._script)
        imported = time.monotonic() - began
        declared_settings = Settings.from_json(declared["experiment"])
        changes = {**self._changes, "resources": self._devices.over(declared_settings.resources)}
        self._settings = settings = declared_settings.with_options(changes)
        if settings.notice:
            self._notes.append(settings.notice)
        if settings.command is not None and (problem := missing(settings.command, cwd)):
            raise ExperimentError(f"command: got {settings.command[0]!r}; {problem}")
        options = self._options
        wanted = self._devices.wanted(
            settings.resources, settings.population,
            gpus=options.gpus, slots=options.slots, nvml_library=options.nvml_library,
        )  # fmt: skip
        self._pool = await discover(wanted, os.environ, warn=self._notes.append, period=GPU_PERIOD)
        stack.push_async_callback(self._pool.close)
        # a verdict on the first report, which nobody here would give
        self._briefing = Briefing(settings.replaced(early_stop=()), self._folder, self._store, cwd)
        self._checks = Preflight(settings)
        self._found += self._checks.declared()
        return {
            "script": self._script.typed,
            "command": settings.command is not None,
            "metric": settings.score,
            "mode": settings.mode,
            "generations": settings.generations,
            "early_stop": list(settings.early_stop),
            "stall_timeout": settings.stall_timeout,
            "member_timeout": settings.member_timeout,
            "import_s": imported,
            "cuda_at_import": declared["cuda"],
            "slots": len(self._pool),
        }

    # ---- members

    async def _train_family(self, told: dict[str, Any], config: dict[str, Any]) -> None:
        space, another = self._settings.space, self._seed + 1
        far = space.clip({name: _other(d, config[name]) for name, d in space.items()})  # with the constants
        far = fixed(far, self._sets, space)
        parent = Node(0, (), 0, 0, None, config, self._seed)
        child = Node(1, (0,), 0, 1, parent, config, self._seed)
        other = Node(2, (), 1, 0, None, far, another)
        far_child = Node(3, (0,), 1, 1, parent, far, another + 1)
        again = Node(4, (), 2, 0, None, config, self._seed)
        family = [("member", parent), ("child", child), ("second member", other), ("second child", far_child)]
        family += [("repeat", again)] if self._repeat else []
        for who, member in family:
            self._tell(f"training the {who}" + (f": {member.config}" if who in ("member", "second member") else ""))
            found = await self._train(who, member, told)
            told[who] = found.to_json()
            told.setdefault("scores", {})[who] = found.scores
            if who != "repeat":
                self._check(member, found)
            if found.error:
                told["failed"] = who
                break
            if who == "child":
                told["parent_damaged"] = await self._store.verify(self._folder.member(0).checkpoint)
        chosen = told["command"] or self._start == "exec"  # then nobody has tried
        told["fork_safe"] = None if chosen else not self._launcher.exec
        told["start"] = "program" if told["command"] else "exec" if self._launcher.exec else "fork"

    def _check(self, member: Node, found: TrainedInterval) -> None:
        """What the pre-flight of a run would say of it."""
        if found.telemetry:
            self._found += self._checks.heard(member, found.telemetry)
        if not found.died:
            self._found += self._checks.scored(member, found.scores[-1] if found.scores else None, found.metrics)
        if found.checkpoint_bytes is not None:
            self._found += self._checks.saved(member, found.checkpoint_bytes, found.digest)

    async def _train(self, who: str, member: Node, told: dict[str, Any]) -> TrainedInterval:
        """One interval of one member, from its slot to its published checkpoint."""
        found = TrainedInterval(who, member.config)
        places = self._folder.member(member.id)
        async with AsyncExitStack() as stack:
            slot = await stack.enter_async_context(self._pool.lease())
            told["device"], told["slot"], told["slot_threads"] = slot.device, slot.name, slot.threads
            begin = self._briefing.begin(member, 1, slot)
            own = self._touches(stack, Path(begin.checkpoint))
            parents = self._touches(stack, Path(begin.parent)) if begin.parent else None
            began = time.monotonic()
            async with await self._launcher.start(begin, argv=self._briefing.argv(begin, member)) as worker:
                self._pool.bind(slot, worker.pid, member.id)
                if slot.evicted is not None:
                    slot.evicted.add_done_callback(lambda _: worker.kill())
                overdue = await self._listen(worker, slot, found, began)
        outcome = worker.outcome
        found.write_s = own.writing if own is not None else None
        if parents is not None:
            found.read = None if parents.missed else sorted(parents.opened)
            found.changed = sorted(parents.changed | parents.written)
        found.error = "" if outcome.how is wire.Exit.RETURNED else overdue or reason(outcome)
        found.died = bool(found.error)
        if not found.error and not (found.scores and math.isfinite(found.scores[-1])):
            found.error = (
                f"{self._settings.score} is {found.scores[-1]}" if found.scores
                else f"never reported {self._settings.score!r}{found.told}"
            )  # fmt: skip
        if not found.error:
            await self._publish(member, found)
        found.log = tail_of(str(places.log), lines=LINES) if found.error else ""
        found.other_bytes = bytes_below(places.path) - bytes_below(places.checkpoint)
        return found

    def _touches(self, stack: AsyncExitStack, folder: Path) -> Touches | None:
        """Watch a folder, its events read as they come; None where that is not to be had."""
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

    async def _listen(self, worker: Worker, slot: Slot, found: TrainedInterval, began: float) -> str:
        """Until it has ended; why it was ended, if it was."""
        vitals = Vitals(worker.pid)
        looking = asyncio.create_task(self._look(vitals, slot, found))
        ending: list[asyncio.Task[None]] = []
        limits = self._settings.stall_timeout, self._settings.member_timeout
        entered = last = time.monotonic()
        reports: list[float] = []
        names: dict[str, None] = {}
        try:
            with Deadlines(*limits, lambda why: ending.append(asyncio.create_task(worker.stop(why, 0.0)))) as deadlines:
                async for message in worker:
                    match message:
                        case wire.Enter(at):
                            found.start_s, entered = at - began, at
                            deadlines.entered()
                        case wire.Report(metrics, at):
                            deadlines.heard()
                            reports.append(at)
                            names |= dict.fromkeys(metrics)
                            found.metrics |= {name: float(value) for name, value in metrics.items()}
                            if self._settings.score in metrics:
                                found.scores.append(float(metrics[self._settings.score]))
                        case wire.End(at=at, telemetry=telemetry):
                            deadlines.close()
                            found.telemetry = telemetry
                            last = at
                            vitals.look()
                        case Advice(text, remedy):
                            self._trouble.append(Advice(f"the {found.who}: {text}", remedy))
        finally:
            looking.cancel()
            await asyncio.wait([looking, *ending])
        last = worker.outcome.at
        found.seconds = max(0.0, last - entered)
        found.reports = len(reports)
        found.told = reported(names, worker.unread)
        found.first_report_s = reports[0] - entered if reports else None
        moments = [entered, *reports, last]
        found.silence_s = max(b - a for a, b in itertools.pairwise(moments))
        found.resident, found.private, found.cores = vitals.resident, vitals.private, vitals.cores
        found.threads, found.processes = vitals.threads, vitals.processes
        return deadlines.overdue

    async def _look(self, vitals: Vitals, slot: Slot, found: TrainedInterval) -> None:
        while True:
            vitals.look()
            used = [row["ours"] for row in self._pool.rows() if row["uuid"] in slot.gpus and row["ours"] is not None]
            if used:
                found.vram = max(found.vram or 0, sum(used))
            await asyncio.sleep(vitals.pause)

    async def _publish(self, member: Node, found: TrainedInterval) -> None:
        places = self._folder.member(member.id)
        found.files = sum(len(names) for _, _, names in os.walk(places.attempt(1)))
        began = time.monotonic()
        try:
            published = await self._store.publish(places.attempt(1), places.checkpoint)
        except CheckpointError as error:
            found.error = str(error)
        else:
            found.publish_s = time.monotonic() - began
            found.checkpoint_bytes, found.digest = published.size, published.digest


def _other(dimension: Dimension, value: Scalar) -> Scalar:
    """Another value of the dimension, half of it away where that is to be had; the same where there is only one."""
    unit = dimension.to_unit(value)
    others = (dimension.from_unit((unit + shift) % 1.0) for shift in (0.5, 0.25, 0.75, 0.9, 0.1))
    return next((other for other in others if other != value), value)
