"""The fault drill: small real runs, at least three faults each at random moments, and an independent check at the end.

    python bench/faults.py [--runs N] [--seed S] [--only KIND,…] [--with KIND,…] [--jobs N] [--strict] [--json FILE]

Run number i is drawn from seed S + i: an experiment of 6 x 3 members on two CPU slots. Three kinds of faults happen to
it: *misbehaving members* (scripts/faulty.py), *kills* of its processes, and *disk faults* between a crash and the next
`resume`. The seed fixes which process is killed when (after so many facts, or so long after a start), not which of two
processes is quicker then. After each death of a scheduler every process of the run must be gone within 2 s. The run is
resumed until it ends; then tests/support/run_checker.py checks the folder, and a last `resume` must change nothing.
Exit status 1 if any run failed; its folder is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests" / "support"))

from run_checker import alive, check_run  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

POPULATION, GENERATIONS, SLOTS = 6, 3, 2
#: no session and no clean-up may take longer than this; one that does has failed
LONG = 60.0
#: seconds after a scheduler's death in which all of its processes must be gone, and in which we look for it
CLEAN, LOOK = 2.0, 10.0

#: of processes, while the run goes on
KILLS = (
    "scheduler", "beginning", "midway", "closing", "both", "term", "term_twice", "term_kill", "int", "int_twice",
    "guardian", "zygote", "searcher", "tracker", "member", "grandchild", "freeze", "rival",
)  # fmt: skip
#: kills after which the scheduler is gone, or soon will be
ENDING = set(KILLS[:10])
#: the death of one of these may end a session, which can then be resumed; it should not
HELPERS = {"guardian", "zygote", "searcher"}
#: by name, the module that the process runs
MODULES = {
    "guardian": "gpbt_async.processes.guardian_main",
    "zygote": "gpbt_async.member.zygote_main",
    "searcher": "gpbt_async.searchers.searcher_main",
    "tracker": "gpbt_async.trackers.tracker_main",
}
#: prefixes of files and folders that exist half done, for a moment
TEMPORARY = (".trash-", ".manifest-", ".best", ".summary", ".schedule")
#: of the folder, the script or the data, between a crash and the next resume
DISK_FAULTS = ("torn", "cut", "moved", "touched", "edited", "truncated", "flipped", "gone")
#: of members (scripts/faulty.py)
MISBEHAVIOURS = (
    "raises_before", "exits", "exits_3", "segfaults", "aborts", "runs_out_of_memory", "ignores_term",
    "leaves_a_session", "leaves_a_daemon", "closes_stdout", "floods_stdout", "raises_in_report", "reports_10_megabytes",
    "writes_10_megabytes", "writes_garbage", "raises_after", "crashes_after", "hangs",
)  # fmt: skip
KINDS = (*KILLS, *DISK_FAULTS, *MISBEHAVIOURS)
#: only where asked for: two deaths at once
ON_REQUEST = {"both"}
#: options of a resume: accept an edited script; continue a run that failed
ACCEPT, RETRY = "--changed-script", "--retry-failed"


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "gpbt_async", *map(str, args)]


@dataclass
class Kill:
    """One kill of the plan: once the journal holds `facts` facts, or `after` seconds into a session."""

    kind: str
    facts: int | None
    after: float


@dataclass
class Plan:
    seed: int
    kills: list[Kill]
    disk_faults: list[str]
    misbehaviours: dict[str, list[str]]
    experiment: dict[str, Any]
    start: str
    #: does a tracker follow the run?
    tracked: bool


@dataclass
class Result:
    """The outcome of a run. wrong: sentences, none if all was well."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    #: sessions that ended by themselves, in one sentence, after one of their helper processes was killed: resumable
    gave_up: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    sessions: int = 0
    complete: bool = False
    valid: bool = False
    deaths: int = 0
    #: seconds from each SIGKILL of a scheduler until no process of the run was left; and those left after CLEAN
    clean: list[float] = field(default_factory=list)
    left: int = 0
    #: members trained again after each death
    again: list[int] = field(default_factory=list)
    #: how often a member, by its own log, trained to its end more than once
    twice: int = 0
    seconds: float = 0.0
    folder: str = ""


def draw(seed: int, kinds: Collection[str]) -> Plan:
    """The plan of a seed, among these kinds of faults."""
    chance = random.Random(seed)
    kinds = [kind for kind in KINDS if kind in kinds]
    kills = [kind for kind in kinds if kind in KILLS]
    disk = [kind for kind in kinds if kind in DISK_FAULTS]
    misbehaviours = [kind for kind in kinds if kind in MISBEHAVIOURS]
    weights = [0.4 if kind == "rival" else 3.0 if kind == "scheduler" else 1.0 for kind in kills]
    drawn = chance.choices(kills, weights, k=chance.randint(2, 4)) if kills else []
    if "rival" in drawn:  # it waits for the lock's timeout: once is enough
        drawn = [kind for i, kind in enumerate(drawn) if kind != "rival" or i == drawn.index("rival")]
    # three deaths of guardian or zygote in a row, no member returning between, rightly end a run
    helpers = [i for i, kind in enumerate(drawn) if kind in HELPERS]
    drawn = [kind for i, kind in enumerate(drawn) if i not in helpers[3:]]
    planned = []
    for kind in drawn:
        early = chance.random() < 0.2
        facts = None if early else chance.randint(1, 100)
        if kind in ("beginning", "closing"):
            early, facts = kind == "beginning", None if kind == "beginning" else 1
        after = 0.0 if kind == "beginning" else chance.uniform(0, 0.5) if early else chance.uniform(0, 0.02)
        planned.append(Kill(kind, facts, after))
    if disk and not ENDING & set(drawn):  # there has to be a crash, of a run that has begun
        planned.append(Kill("scheduler", chance.randint(5, 60), 0.0))
    planned.sort(key=lambda kill: (kill.facts or 0, kill.after))
    bad: dict[str, list[str]] = {}
    for kind in chance.sample(misbehaviours, chance.randint(2, 5)) if len(misbehaviours) > 5 else misbehaviours:
        bad.setdefault(str(chance.randrange(POPULATION * GENERATIONS)), []).append(kind)
    experiment = draw_experiment(chance, seed, drawn, disk)
    some = [chance.choice(disk) for _ in range(8)] if disk else []
    start = chance.choices(["zygote", "exec", "resident"], [5, 1, 3])[0]
    tracked = "tracker" in drawn or chance.random() < 0.3
    return Plan(seed, planned, some, bad, experiment, start, tracked)


def draw_experiment(chance: random.Random, seed: int, kills: list[str], disk: list[str]) -> dict[str, Any]:
    """The settings of a run that meets these faults."""
    experiment = {
        "population": POPULATION,
        "generations": GENERATIONS,
        "attempts": 30,  # no member may fail for good by the drill's faults
        "seed": seed,
        "searcher": chance.choices(["quick:Quick", "random", "local"], [7, 2, 1])[0],
        "schedule": chance.choices(["async", "sync"], [3, 1])[0],
        "selection": chance.choices(["comma", "plus"], [5, 1])[0],
        "early_stop": chance.choices([None, "median"], [5, 1])[0],
    }
    if "searcher" in kills:
        experiment["searcher"] = "quick:Quick"
    if "gone" in disk and chance.random() < 0.15:  # only then may members fail for good, and run and all
        experiment["attempts"] = 3
    experiment["stall_timeout"] = 2.0
    return experiment


class Drill:
    """One run, from its launch through its crashes to its check."""

    def __init__(self, plan: Plan, place: Path) -> None:
        self.plan = plan
        self.place = place
        self.tag = place.name
        self.folder = place / "runs" / "r"
        self.script = place / "faulty.py"
        self.result = Result(plan.seed, folder=str(place))
        self.faults: Counter[str] = Counter()
        self.chance = random.Random(f"{plan.seed} on the way")
        self.kills = list(plan.kills)
        self.disk_faults = list(plan.disk_faults)
        self.process: subprocess.Popen[bytes]
        self.began = 0.0
        #: whether the drill ends this session; whether it killed one of its helper processes
        self.ending = self.helper_killed = False
        #: when this session's scheduler was killed, if it was
        self.killed = 0.0
        self.edited = self.failed = False
        self.cuts = 0
        #: a file of the run that was damaged, by its place in the folder, which may be moved; and its former content
        self.hurt: tuple[Path, bytes] | None = None

    def wrong(self, text: str) -> None:
        self.result.wrong.append(text)

    # ---- what is visible from outside

    @property
    def journal(self) -> bytes:
        try:
            return (self.folder / "journal.jsonl").read_bytes()
        except OSError:
            return b""

    def facts(self) -> list[dict[str, Any]]:
        found = []
        for line in self.journal.split(b"\n")[1:-1]:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    @property
    def run(self) -> str:
        try:
            return str(json.loads((self.folder / "experiment.json").read_text())["run"])
        except (OSError, ValueError):
            return ""

    def alive(self) -> list[int]:
        return alive(self.tag, self.run)

    def finished(self) -> bool:
        last = self.facts()[-1:]
        return bool(last) and last[0]["fact"] == "Closed" and last[0]["how"] == "finished"

    def training(self) -> list[int]:
        """The processes of members that train now, as long as they are below our scheduler."""
        pids: dict[int, int] = {}
        for fact in self.facts():
            if fact["fact"] == "Opened":
                pids.clear()
            elif fact["fact"] == "Started":
                pids[fact["member"]] = fact["pid"]
            elif fact["fact"] in ("Trained", "StoppedEarly", "Failed", "Lost"):
                pids.pop(fact["member"], None)
        ours = set(below(self.process.pid))
        return [pid for pid in pids.values() if pid in ours]

    def named(self, name: str) -> list[int]:
        """The guardian, or the processes of that name right below it. (A zygote's members have its command line.)"""
        guardians = [pid for pid in children(self.process.pid) if says(pid, MODULES["guardian"])]
        if name == "guardian":
            return guardians
        return [pid for guardian in guardians for pid in children(guardian) if says(pid, MODULES[name])]

    # ---- a session

    @property
    def options(self) -> list[str]:
        """The options that a resume needs by now."""
        return [ACCEPT] * self.edited + [RETRY] * self.failed

    def spawn(self, *args: object) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "DRILL": self.tag}
        with open(self.place / "stderr", "ab") as stderr:
            stderr.write(f"--- {args}\n".encode())
            stderr.flush()
            return subprocess.Popen(
                command(*args), cwd=self.place, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=stderr, start_new_session=True,
            )  # fmt: skip

    def begin(self) -> None:
        self.result.sessions += 1
        self.ending, self.helper_killed, self.killed = False, False, 0.0
        self.began = time.monotonic()
        if not (self.folder / "experiment.json").exists():
            first = ("launch", self.script, "--slots", SLOTS, "--name", "r", "--quiet", "--start", self.plan.start)
            self.process = self.spawn(*first, *(("--track", "jsonl") if self.plan.tracked else ()))
            return
        self.process = self.spawn("resume", self.folder, "--quiet", *self.options)

    def session(self) -> bool:
        """From a start to an end; True if the run is to be resumed."""
        before = self.printed()
        self.begin()
        try:
            while self.process.poll() is None:
                self.kill_due()
                if time.monotonic() - self.began > LONG:
                    self.wrong(f"session {self.result.sessions} hung: {self.shape()}")
                    return False
                pause(0.002)
            self.gone(self.killed or time.monotonic())
        finally:
            self.end_all()
        return self.judge_session(self.printed()[len(before) :])

    def judge_session(self, stderr: str) -> bool:
        status = self.process.returncode
        if "Traceback (most recent call last)" in stderr and not self.ending:
            self.wrong(f"session {self.result.sessions} printed a traceback: {stderr[-600:]}")
        if status == 0:
            if not self.finished():
                self.wrong("exit status 0, but the journal does not end with a finished run")
            return False
        if self.ending:
            return True
        if status == 2 and self.hurt is not None and "/".join(self.hurt[0].parts[:3]) in stderr:
            path, whole = (
                self.folder / self.hurt[0],
                self.hurt[1],
            )  # the resume noticed it: put the file back, and resume
            path.parent.chmod(0o700)
            path.chmod(0o600)
            path.write_bytes(whole)
            path.chmod(0o444)
            self.hurt = None
            return True
        text = f"session {self.result.sessions} ended by itself with status {status}: {stderr[-600:].strip()}"
        if self.helper_killed and status in (1, 2):
            self.result.gave_up.append(text)
            return True
        self.wrong(text)
        return False

    def printed(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.place / "stderr").read_text(errors="replace")
        return ""

    def gone(self, died: float) -> None:
        """No process of the run may be left soon after a scheduler's end, however it ended."""
        self.result.deaths += self.process.returncode != 0
        left = self.alive()
        reported = not left
        while left and time.monotonic() - died < LOOK:
            if not reported and time.monotonic() - died > CLEAN:
                reported = True
                self.result.left += len(left)
                self.wrong(f"{CLEAN:g} s after the scheduler's end there is: {self.shape()}")
            pause(0.002)
            left = self.alive()
        if self.killed and self.process.returncode == -signal.SIGKILL:
            self.result.clean.append(time.monotonic() - died)

    def shape(self) -> str:
        """The processes that are alive, for a person."""
        return "; ".join(f"{pid} ({state(pid)}) {words(pid)[:90]}" for pid in self.alive()) or "no process"

    def end_all(self) -> None:
        """Whatever happened, end every process of this drill: those that bear its tag."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + LOOK
        while (left := self.alive()) and time.monotonic() < deadline:
            if time.monotonic() > deadline - LOOK + CLEAN:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            pause(0.01)

    # ---- kills

    def kill_due(self) -> None:
        """The next kill, if its moment has come and its process exists."""
        if not self.kills or self.ending:
            return
        now = time.monotonic() - self.began
        for kill in self.kills:
            due = now >= kill.after if kill.facts is None else self.journal.count(b"\n") > kill.facts
            if not due:
                continue
            if kill.facts is not None:
                pause(kill.after)
                kill.after = 0.0
            if getattr(self, f"kill_{kill.kind}")():
                self.faults[kill.kind] += 1
                self.helper_killed |= kill.kind in HELPERS
                self.kills.remove(kill)
                return

    def send(self, *numbers: signal.Signals) -> bool:
        if self.process.poll() is not None:
            return False
        self.ending = True
        for i, number in enumerate(numbers):
            if i:
                pause(self.chance.uniform(0, 0.05))
            self.process.send_signal(number)
        return True

    def kill_scheduler(self) -> bool:
        self.killed = time.monotonic()
        return self.send(signal.SIGKILL)

    def kill_beginning(self) -> bool:
        """The scheduler, just while it writes experiment.json: a moment that must be waited for."""
        record = self.folder / "experiment.json"
        part = record.with_name(".experiment.json.part")
        while self.process.poll() is None and not record.exists():
            if part.exists():
                return self.kill_scheduler()
        return False

    def kill_midway(self) -> bool:
        """The scheduler, just while a file or folder exists half done."""
        wanted = self.chance.choice(TEMPORARY)
        until = time.monotonic() + 0.2
        while self.process.poll() is None and time.monotonic() < until:
            folders = [self.folder, *(self.folder / "members").glob("*")]
            if any(name.startswith(wanted) for folder in folders for name in names(folder)):
                return self.kill_scheduler()
        return False

    def kill_closing(self) -> bool:
        """The scheduler, just when the journal says that the run is over, and its summary may not be written yet."""
        return b'"fact":"Closed"' in self.journal[-600:].rstrip(b"\n").rpartition(b"\n")[2] and self.kill_scheduler()

    def kill_both(self) -> bool:
        """The scheduler, and the guardian, which would clean up behind it."""
        guardian = self.named("guardian")
        return bool(guardian) and self.signal_one(guardian) and self.kill_scheduler()

    def kill_term(self) -> bool:
        return self.send(signal.SIGTERM)

    def kill_term_twice(self) -> bool:
        return self.send(signal.SIGTERM, signal.SIGTERM)

    def kill_term_kill(self) -> bool:
        """SIGTERM, and SIGKILL before the scheduler has ended."""
        return self.send(signal.SIGTERM, signal.SIGKILL)

    def kill_int(self) -> bool:
        return self.send(signal.SIGINT)

    def kill_int_twice(self) -> bool:
        return self.send(signal.SIGINT, signal.SIGINT)

    def signal_one(self, pids: list[int], number: signal.Signals = signal.SIGKILL) -> bool:
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(sorted(pids)), number)
            return True
        return False

    def kill_guardian(self) -> bool:
        return self.signal_one(self.named("guardian"))

    def kill_zygote(self) -> bool:
        return self.signal_one(self.named("zygote"))

    def kill_searcher(self) -> bool:
        return self.signal_one(self.named("searcher"))

    def kill_tracker(self) -> bool:
        return self.signal_one(self.named("tracker"))

    def kill_member(self) -> bool:
        return self.signal_one(self.training())

    def kill_grandchild(self) -> bool:
        return self.signal_one([pid for member in self.training() for pid in below(member)])

    def kill_freeze(self) -> bool:
        return self.signal_one(self.training(), signal.SIGSTOP)

    def kill_rival(self) -> bool:
        """A second scheduler, while the first one holds the run but can do nothing: it must be refused."""
        opened = [fact["pid"] for fact in self.facts() if fact["fact"] == "Opened"]
        if opened[-1:] != [self.process.pid]:
            return False  # it does not hold the run yet
        self.process.send_signal(signal.SIGSTOP)
        try:
            while self.process.poll() is None and state(self.process.pid) != "T":
                pause(0.001)
            if self.process.returncode is not None or self.finished():
                return False  # it is over, or about to be: no process holds the run
            before = self.journal
            done = subprocess.run(
                command("resume", self.folder), cwd=self.place, capture_output=True, text=True, timeout=LONG
            )
            if done.returncode != 2 or "is being run by" not in done.stderr:
                self.wrong(f"a second scheduler was not refused: status {done.returncode}, {done.stderr[-300:]}")
            if self.journal != before:
                self.wrong("a second scheduler wrote to the journal")
            return True
        finally:
            self.process.send_signal(signal.SIGCONT)

    # ---- disk faults

    def between(self) -> None:
        """After a crash, and before the next resume: disk faults."""
        for _ in range(self.chance.randint(0, 2) or (not self.faults.keys() & set(DISK_FAULTS))):
            if self.disk_faults and (self.folder / "experiment.json").exists() and self.journal:
                kind = self.disk_faults.pop()
                if getattr(self, f"fault_{kind}")():
                    self.faults[kind] += 1

    def fault_torn(self) -> bool:
        """The beginning of a line that was being written, as a crash in the middle of it leaves."""
        line = b'{"n":%d,"fact":"Entered","t":1.0,"member":0,"attempt":1,"crc":"00000000"}' % len(self.facts())
        with open(self.folder / "journal.jsonl", "ab") as file:
            file.write(line[: self.chance.randrange(1, len(line) + 1)])
        return True

    def fault_cut(self) -> bool:
        """The last line loses its end, as a power failure leaves it. What follows from it may be done again."""
        data = self.journal
        start = data.rstrip(b"\n").rfind(b"\n") + 1
        if not data.endswith(b"\n") or not start:
            return False
        os.truncate(self.folder / "journal.jsonl", self.chance.randrange(start, len(data) - 1))
        self.cuts += 1
        return True

    def fault_moved(self) -> bool:
        to = self.place / f"elsewhere-{secrets.token_hex(2)}" / "moved"
        to.parent.mkdir()
        self.folder.rename(to)
        self.folder = to
        return True

    def fault_touched(self) -> bool:
        os.utime(self.script)
        return True

    def fault_edited(self) -> bool:
        with open(self.script, "a") as file:
            file.write("\n# edited\n")
        if not self.edited:
            done = subprocess.run(
                command("resume", self.folder), cwd=self.place, capture_output=True, text=True, timeout=LONG,
                env={**os.environ, "DRILL": self.tag},
            )  # fmt: skip
            if done.returncode != 2 or self.script.name not in done.stderr:
                self.wrong(f"an edited script was not refused: status {done.returncode}, {done.stderr[-300:]}")
        self.edited = True
        return True

    def fault_gone(self) -> bool:
        """The members' data are missing during one resume, so all members fail: the run fails, but not for good."""
        if self.plan.experiment["attempts"] > 10 or self.hurt is not None or self.finished():
            return False
        gone = self.place / "gone"
        gone.touch()
        done = subprocess.run(
            command("resume", self.folder, "--quiet", *self.options), cwd=self.place, capture_output=True, text=True,
            timeout=LONG, env={**os.environ, "DRILL": self.tag},
        )  # fmt: skip
        gone.unlink()
        self.result.sessions += 1
        if done.returncode and (
            done.returncode != 1 or RETRY not in done.stderr or "the data are gone" not in done.stderr
        ):
            self.wrong(f"without the data: status {done.returncode}, {done.stderr[-600:]}")
        self.failed = True
        self.disk_faults.clear()
        return True

    def fault_truncated(self) -> bool:
        return self.hurt_checkpoint(lambda data: data[: self.chance.randrange(len(data))])

    def fault_flipped(self) -> bool:
        def flip(data: bytes) -> bytes:
            at = self.chance.randrange(len(data))
            return data[:at] + bytes([data[at] ^ (1 << self.chance.randrange(8))]) + data[at + 1 :]

        return self.hurt_checkpoint(flip)

    def hurt_checkpoint(self, how: Callable[[bytes], bytes]) -> bool:
        files = [path for path in sorted(self.folder.glob("members/*/checkpoint/**/*")) if path.is_file()]
        if not files or self.hurt is not None:
            return False
        path = self.chance.choice(files)
        whole = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(how(whole))
        path.chmod(0o444)
        self.hurt = (path.relative_to(self.folder), whole)
        return True

    # ---- the whole

    def tracker_errors(self) -> list[str]:
        """What the tracker has recorded wrongly, after `track` has sent it what it missed: sentences."""
        done = subprocess.run(
            command("track", self.folder, "--to", "jsonl"), cwd=self.place, capture_output=True, text=True, timeout=LONG
        )
        if done.returncode:
            return [f"`track` failed: {done.stderr[-600:]}"]
        text = (self.folder / "tracking" / "reports.jsonl").read_text()
        recorded = attempts_recorded([json.loads(line) for line in text.splitlines()])
        wrong = []
        last = {fact["member"]: fact for fact in self.facts() if fact["fact"] == "Started"}
        finished = {fact["member"] for fact in self.facts() if fact["fact"] == "Published"}
        for key, lines in recorded.items():
            entries = [(line["event"], line.get("step"), line["t"]) for line in lines]
            if len(entries) != len(set(entries)):
                wrong.append(f"the tracker has member {key[0]}'s attempt {key[1]} twice")
        for id in finished:
            lines = recorded.get((id, last[id]["attempt"]), [])
            # an attempt that the journal has lost with its last lines may have had the same number
            ends = [line for line in lines if line["event"] == "ended" and line["state"] == "finished"]
            steps = {line["step"] for line in lines if line["event"] == "reported"}
            if not 1 <= len(ends) <= 1 + self.cuts or not steps or steps != set(range(len(steps))):
                wrong.append(f"the tracker has of member {id}: {len(ends)} ends, steps {sorted(steps)}")
            elif not any(line["config"] == last[id]["config"] for line in lines if line["event"] == "started"):
                wrong.append(f"the tracker has another config of member {id}")
        return wrong

    def play(self) -> Result:
        began = time.monotonic()
        try:
            while self.session():
                self.between()
                if self.result.sessions > 12:
                    self.wrong("the run never ends")
                    break
            self.result.complete = self.finished()
            self.judge()
        except Exception:
            self.wrong(f"the drill itself failed: {traceback.format_exc()}")
        self.result.seconds = time.monotonic() - began
        done = self.place / "done"
        for path in done.iterdir():
            self.faults[path.name.partition("-")[2]] += 1
        self.result.faults = dict(self.faults)
        return self.result

    def judge(self) -> None:
        if not self.result.complete:
            self.wrong("the run is not complete")
            return
        wrong = check_run(self.folder, (self.tag,))
        wrong += [f"{path.name}: {path.read_text()}" for path in sorted(self.place.glob("wrong-*"))[:3]]
        self.result.valid = not wrong
        self.result.wrong += wrong
        before = self.journal
        last = self.spawn("resume", self.folder, *((ACCEPT,) if self.edited else ()))
        if last.wait(LONG) != 0 or self.journal != before:
            self.wrong(f"a resume of the finished run: status {last.returncode}, journal {len(before)} bytes before, "
                     f"{len(self.journal)} now")  # fmt: skip
        if self.plan.tracked:
            self.result.wrong += self.tracker_errors()
        self.result.again = list(trained_again(self.facts()))
        for times in self.result.again:
            if times > SLOTS + self.cuts:
                self.wrong(f"{times} members were trained again after one death of the scheduler, on {SLOTS} slots")
        ends = Counter(line.split()[1] for line in (self.place / "log").read_text().splitlines() if line[:3] == "out")
        self.result.twice = sum(times - 1 for times in ends.values())
        helpers = sum(self.faults[kind] for kind in HELPERS)
        if self.result.twice > SLOTS * (self.result.deaths + self.cuts + helpers) + self.faults["member"]:
            self.wrong(f"{self.result.twice} times a member trained to its end once more")


def attempts_recorded(lines: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """What a tracker has recorded of each attempt, by (member, attempt)."""
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault((line["member"], line["attempt"]), []).append(line)
    return found


def trained_again(facts: list[dict[str, Any]]) -> Iterator[int]:
    """For each death of a scheduler: how many members whose training had begun were begun again because of it."""
    going: set[int] = set()
    lost: list[set[int]] = []
    owed: dict[int, int] = {}
    for fact in facts:
        match fact["fact"]:
            case "Opened":
                owed |= dict.fromkeys(going, len(lost))
                lost.append(set())
                going.clear()
            case "Started":
                if fact["member"] in owed:
                    lost[owed.pop(fact["member"])].add(fact["member"])
                going.add(fact["member"])
            case "Trained" | "StoppedEarly" | "Failed" | "Lost":
                going.discard(fact["member"])
    for members in lost[1:]:
        yield len(members)


# ---- processes


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    return found


def below(pid: int) -> list[int]:
    found = children(pid)
    for child in found:  # grows on the way
        found += children(child)
    return found


def words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def says(pid: int, what: str) -> bool:
    return what in words(pid)


def state(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "-"


def pause(seconds: float) -> None:
    """Leave the core to the processes that are watched."""
    select.select([], [], [], seconds)


# ---- many runs


def drill(seed: int, kinds: Collection[str], keep: Path | None = None, strict: bool = False) -> Result:
    """One run; its folder is gone afterwards unless it failed."""
    place = Path(tempfile.mkdtemp(prefix=f"drill-{seed}-", dir=keep)).resolve()
    plan = draw(seed, kinds)
    for name in ("faulty.py", "quick.py"):
        shutil.copy(HERE / "scripts" / name, place)
    (place / "done").mkdir()
    (place / "plan.json").write_text(json.dumps({"members": plan.misbehaviours, "experiment": plan.experiment}))
    drawn = {
        "kills": [asdict(kill) for kill in plan.kills],
        "disk_faults": plan.disk_faults,
        "start": plan.start,
        "seed": seed,
    }
    (place / "drill.json").write_text(json.dumps(drawn, indent=1))
    result = Drill(plan, place).play()
    result.wrong += result.gave_up if strict else []
    if not result.wrong:
        shutil.rmtree(place)
        result.folder = ""
    return result


def possible(only: Collection[str] = (), also: Collection[str] = ()) -> list[str]:
    """The kinds to draw from."""
    return [kind for kind in KINDS if kind in only or (not only and (kind not in ON_REQUEST or kind in also))]


def hear_interrupts() -> None:
    """A process that is started in the background ignores SIGINT, and so would all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def table(results: list[Result], repeat: str) -> str:
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result.faults)
    runs = len(results)
    clean = sorted(seconds for result in results for seconds in result.clean)
    again = [times for result in results for times in result.again]
    failed = [result for result in results if result.wrong]
    three = sum(sum(result.faults.values()) >= 3 for result in results)
    rows = [
        ("runs", f"{runs}, {three} of them with 3 faults or more"),
        ("faults", f"{sum(faults.values())}, {sum(faults.values()) / runs:.1f} a run"),
        *((f"  {kind}", str(faults[kind])) for kind in KINDS if faults[kind]),
        ("complete", f"{100 * sum(result.complete for result in results) / runs:.1f} %"),
        ("valid", f"{100 * sum(result.valid for result in results) / runs:.1f} %"),
        ("deaths of a scheduler", str(sum(result.deaths for result in results))),
        (f"processes left {CLEAN:g} s after", str(sum(result.left for result in results))),
    ]
    if clean:
        rows.append(("time to clean after SIGKILL", f"median {statistics.median(clean):.3f} s, max {clean[-1]:.3f} s"))
    if again:
        rows.append(("members trained again", f"a death: mean {statistics.mean(again):.2f}, max {max(again)}"))
    rows.append(("trained to the end once more", str(sum(result.twice for result in results))))
    rows.append(("seconds a run", f"median {statistics.median(result.seconds for result in results):.1f}"))
    rows.append(("sessions that gave up", str(sum(len(result.gave_up) for result in results))))
    rows.append(("failed runs", str(len(failed))))
    lines = [f"{name:32}{value}" for name, value in rows]
    for result in results:
        if result.wrong or result.gave_up:
            how = "FAILED" if result.wrong else "gave up, and was resumed"
            lines += ["", f"seed {result.seed} {how}: {repeat.format(result.seed)}   {result.folder}"]
            lines += [f"    {text}" for text in (*result.wrong, *result.gave_up)]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random faults in small runs, checked independently.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next ones count on")
    parser.add_argument("--only", default="", metavar="KIND,…", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--with", dest="also", default="", metavar="KIND,…", help=f"add: {', '.join(ON_REQUEST)}")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--strict", action="store_true", help="a session that gives up fails its run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where failed runs are kept; else the system's /tmp")
    args = parser.parse_args()
    only, also = (set(filter(None, text.split(","))) for text in (args.only, args.also))
    if unknown := (only | also) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    hear_interrupts()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    kinds = possible(only, also)
    options = "".join(f" --{name} {text}" for name, text in (("only", args.only), ("with", args.also)) if text)
    results = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for result in pool.map(
            lambda seed: drill(seed, kinds, args.keep, args.strict), range(args.seed, args.seed + args.runs)
        ):
            results.append(result)
            how = "FAILED" if result.wrong else "valid"
            faults = ", ".join(f"{kind} {n}" if n > 1 else kind for kind, n in sorted(result.faults.items()))
            print(
                f"seed {result.seed}: {how}, {result.sessions} sessions, {result.seconds:.1f} s: {faults}", flush=True
            )
    print("\n" + table(results, f"python bench/faults.py --runs 1 --seed {{}}{options}"))
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 1 if any(result.wrong for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
