"""An independent judge of a finished run's folder, which shares no code with gpbt_async.

    python tests/support/run_checker.py RUN_FOLDER     prints each thing that is wrong; exit status 1 if any is

It reads the journal by its own rules (one JSON object a line, n consecutive, crc32 over the line before the crc), tells
the run over again from its facts, and compares with what lies on the disk and which processes live.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

#: facts about an attempt that must be going on
DURING = ("Entered", "Judged", "Trained", "StoppedEarly")
#: settings that a resume may change
SAFE = {"space", "early_stop", "attempts", "stall_timeout", "member_timeout", "silence", "command", "choose_by"}


@dataclass
class Told:
    """A member as the journal tells it."""

    id: int
    path: str
    parent: int | None
    config: dict[str, Any]
    attempt: int = 0
    state: str = "waiting"  # → training → trained → finished; or failed, or stopped
    score: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    failures: int = 0
    hopeless: bool = False  # its last failure was certain: another attempt would fail as well
    losses: int = 0
    judged: bool = False
    published: dict[str, Any] | None = None
    discarded: bool = False
    damaged: int | None = None  # the fact that told so
    started: list[int] = field(default_factory=list)

    @property
    def depth(self) -> int:
        return self.path.count("/")

    @property
    def indexes(self) -> tuple[int, ...]:
        return tuple(map(int, self.path.split("/")))


def check_run(folder: Path | str, marks: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a run that has ended; nothing if all is right. marks: what else its processes bear."""
    return Check(Path(folder), marks).all()


def facts(folder: Path) -> list[dict[str, Any]]:
    """The journal's facts; what is damaged is left out."""
    return Check(folder).read()


def alive(*marks: str) -> list[int]:
    """Processes that carry a mark in environment or command line; zombies are dead, and we ourselves do not count."""
    wanted = [mark.encode() for mark in marks if mark]
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as environ, open(f"/proc/{name}/cmdline", "rb") as cmdline:
                text = environ.read() + b"\0" + cmdline.read()
            if any(mark in text for mark in wanted):
                with open(f"/proc/{name}/stat") as file:
                    state = file.read().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    found.append(int(name))
        except (OSError, IndexError):
            continue
    return found


class Check:
    """One look at one run. `wrong` collects sentences; each method looks at one thing."""

    def __init__(self, folder: Path, marks: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.marks = marks
        self.wrong: list[str] = []
        self.members: dict[int, Told] = {}
        self.suggested: dict[str, list[dict[str, Any]]] = {}
        self.settings: dict[str, Any] = {}
        self.run = ""
        self.told: list[dict[str, Any]] = []
        self.adopted = False  # another space than the run began with
        self.finalists: list[Told] = []  # whose checkpoints are kept

    def say(self, text: str) -> None:
        self.wrong.append(text)

    def all(self) -> list[str]:
        record = self.json("experiment.json")
        if record is None:
            return self.wrong
        self.run, self.settings = str(record["run"]), record["settings"]
        told = self.read()
        self.tell(told)
        self.settle(told)
        self.tree()
        self.counts()
        best = self.best()
        self.checkpoints(best)
        self.folders()
        self.temporaries()
        self.permissions()
        self.processes()
        return self.wrong

    def json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text())
        except (OSError, ValueError) as error:
            self.say(f"{name} cannot be read: {error}")
            return None

    # ---- the journal

    def read(self) -> list[dict[str, Any]]:
        """The facts; every line that is not as it must be is told."""
        try:
            data = (self.folder / "journal.jsonl").read_bytes()
        except OSError as error:
            self.say(f"journal.jsonl cannot be read: {error}")
            return []
        *lines, rest = data.split(b"\n")
        if rest:
            self.say(f"journal.jsonl ends in the middle of a line: {rest[:40]!r}")
        told: list[dict[str, Any]] = []
        expected = 0
        for number, line in enumerate(lines, 1):
            body, _, crc = line.rpartition(b',"crc":"')
            if crc != b'%08x"}' % zlib.crc32(body):
                self.say(f"journal.jsonl, line {number}: its crc32 does not fit")
                expected += number > 1
                continue
            flat = json.loads(body + b"}")
            if number == 1:
                if flat.get("journal") != 2:
                    self.say("journal.jsonl does not begin with its header")
                continue
            if flat["n"] != expected:
                self.say(f"journal.jsonl, line {number}: n is {flat['n']} where {expected} must stand")
            expected = flat["n"] + 1
            told.append(flat)
        return told

    def tell(self, told: list[dict[str, Any]]) -> None:
        """The run over again, fact by fact."""
        self.told = told
        if told and told[0]["fact"] != "Opened":
            self.say(f"the first fact is {told[0]['fact']}, not Opened")
        for n, fact in enumerate(told):
            kind = fact["fact"]
            if kind == "Opened":
                for member in self.members.values():
                    member.hopeless = member.hopeless and not fact.get("retry")
                    if fact.get("retry") and member.state == "failed" and member.score is None:
                        member.state = "waiting"  # it never reported its score
                for member in self.members.values():
                    if member.state == "training":
                        member.state = "waiting"
                        self.orphan(member)
            elif kind == "Suggested":
                self.suggested.setdefault(fact["path"], []).append(fact["config"])
            elif kind == "Adopted":
                self.adopt(n, fact)
            elif kind == "Started":
                self.start(n, fact)
            elif kind == "Damaged":
                self.damage(n, fact)
            elif "attempt" in fact and kind in (*DURING, "Published", "Failed", "Lost"):
                self.happen(n, fact)
            elif kind == "Discarded" and fact["member"] in self.members:
                self.members[fact["member"]].discarded = True
        if not told or told[-1]["fact"] != "Closed" or told[-1]["how"] != "finished":
            last = f"{told[-1]['fact']} {told[-1].get('how', '')}".strip() if told else "nothing"
            self.say(f"the run has not finished: its last fact is {last}")

    def adopt(self, n: int, fact: dict[str, Any]) -> None:
        """Other settings from here on; who is to start, or to start again, lies in the space they have."""
        if any(member.state == "training" for member in self.members.values()) and not self.killed(n):
            self.say(f"fact {n}: Adopted while members train")
        odd = set(fact["settings"]) - SAFE
        if odd:
            self.say(f"fact {n}: {', '.join(sorted(odd))} must not change along a run")
        if "space" in fact["settings"] and set(fact["settings"]["space"]) != set(self.settings["space"]):
            self.say(f"fact {n}: the adopted space has other names")
        self.adopted = self.adopted or "space" in fact["settings"]
        self.settings = {**self.settings, **fact["settings"]}

    def killed(self, n: int) -> bool:
        """Is the next fact of another session? Then those that trained are dead."""
        return next((f["fact"] for f in self.told[n + 1 :] if f["fact"] not in ("Adopted", "Lost")), "") == "Opened"

    def fit(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config of before an adopted space, inside it."""
        space = self.settings["space"]
        return {name: nearest(space[name], config[name]) for name in config} if self.adopted else config

    def damage(self, n: int, fact: dict[str, Any]) -> None:
        """A published checkpoint is lost: no child begins from it any more, and it is not the best."""
        member = self.members.get(fact["member"])
        if member is None or member.published is None:
            self.say(f"fact {n}: Damaged of member {fact['member']}, which was never published")
            return
        member.damaged = n
        for child in self.members.values():
            if child.parent == member.id:
                self.orphan(child)

    def orphan(self, member: Told) -> None:
        above = self.members.get(member.parent) if member.parent is not None else None
        if member.state == "waiting" and above is not None and above.damaged is not None:
            member.state = "failed"

    def start(self, n: int, fact: dict[str, Any]) -> None:
        id, path, parent, config = fact["member"], fact["path"], fact["parent"], fact["config"]
        member = self.members.get(id)
        if member is None:
            member = self.members[id] = Told(id, path, parent, config)
            self.suits(n, member)
        elif (path, parent, config) != (member.path, member.parent, self.fit(member.config)):
            self.say(f"fact {n}: member {id} started again as another one (path, parent or config differ)")
        member.config = config
        member.discarded = False  # what a failed attempt had left was; what this one will write is not
        if member.hopeless:
            self.say(f"fact {n}: member {id} started again after a failure that was certain")
        if member.state != "waiting":
            self.say(f"fact {n}: member {id} started, but it is {member.state}")
        if fact["attempt"] <= member.attempt:
            self.say(f"fact {n}: member {id} started in attempt {fact['attempt']} after attempt {member.attempt}")
        if parent is not None:
            above = self.members.get(parent)
            if above is None or above.published is None:
                self.say(f"fact {n}: member {id} started before its parent {parent} was published")
            elif above.discarded:
                self.say(f"fact {n}: member {id} started after its parent {parent} was discarded")
            elif above.damaged is not None:
                self.say(f"fact {n}: member {id} started after its parent {parent} was found damaged")
        member.state, member.attempt, member.score, member.judged = "training", fact["attempt"], None, False
        member.started.append(n)

    def suits(self, n: int, member: Told) -> None:
        """Is its config the parent's, for a repeat, or else one that was suggested for its path, and in the space?"""
        parent = self.members.get(member.parent) if member.parent is not None else None
        if replay := self.settings.get("replay"):
            if any(member.indexes[1:]) or member.config != replay["schedule"][member.depth]["config"]:
                self.say(f"fact {n}: member {member.id} is no only child with the config of the schedule replayed")
        elif parent is not None and member.indexes[-1] == 0:
            if member.config != self.fit(parent.config):
                self.say(f"fact {n}: member {member.id} repeats member {parent.id}, but not its config")
        elif member.config not in map(self.fit, self.suggested.get(member.path, [])):
            self.say(f"fact {n}: member {member.id} has a config that nobody suggested for {member.path}")
        space = self.settings["space"]
        outside = [name for name in {*space, *member.config} if not inside(space.get(name), member.config.get(name))]
        if outside:
            self.say(f"fact {n}: member {member.id} has a config outside the space: {', '.join(sorted(outside))}")

    def happen(self, n: int, fact: dict[str, Any]) -> None:
        kind, id = fact["fact"], fact["member"]
        member = self.members.get(id)
        if member is None:
            if kind not in ("Failed", "Lost"):  # one may fail before it is started
                self.say(f"fact {n}: {kind} of member {id}, which never started")
            return
        states = {"Published": ("trained",), "Failed": ("training", "trained"), "Lost": ("training", "trained")}
        if member.state not in states.get(kind, ("training",)) or member.attempt != fact["attempt"]:
            if kind in ("Failed", "Lost") and member.state == "waiting":
                return  # its process could not be had: no Started tells of this attempt
            now = f"{member.state} in attempt {member.attempt}"
            self.say(f"fact {n}: {kind} of member {id} in attempt {fact['attempt']}, but it is {now}")
            return
        if kind == "Judged":
            member.judged = True
        elif kind == "Trained":
            member.score = None if fact["score"] is None else float(fact["score"])
            member.metrics = fact["metrics"]
            usable = member.score is not None and math.isfinite(member.score)
            member.state = "trained" if usable else "failed"
        elif kind == "StoppedEarly":
            member.state = "stopped"
        elif kind == "Published":
            member.state, member.published = "finished", fact
        elif kind == "Failed":
            member.state, member.failures, member.losses = "waiting", member.failures + 1, 0
            member.hopeless = bool(fact.get("certain"))
        elif kind == "Lost":
            member.state, member.losses = "waiting", member.losses + 1
        self.orphan(member)

    def settle(self, told: list[dict[str, Any]]) -> None:
        """Who is still on the way at the end? One told to stop early has no fact of its own if it did not obey."""
        median = "median" in self.settings.get("early_stop", ())
        for member in self.members.values():
            if member.state in ("trained", "waiting") and median and member.judged:
                member.state = "stopped"
            elif member.state == "waiting" and (
                member.hopeless or member.failures + member.losses // 10 >= self.settings["attempts"]
            ):
                member.state = "failed"
            elif member.state in ("trained", "waiting", "training"):
                self.say(f"member {member.id} is {member.state} at the end")

    # ---- the tree, what it came to

    def tree(self) -> None:
        paths = Counter(member.path for member in self.members.values())
        for path, times in paths.items():
            if times > 1:
                self.say(f"{times} members have the path {path}")
        for member in self.members.values():
            above = member.path.rpartition("/")[0]
            if above and (member.parent not in self.members or self.members[member.parent].path != above):
                self.say(f"member {member.id} has the path {member.path}, but its parent is {member.parent}")
            elif not above and member.parent is not None:
                self.say(f"member {member.id} is a root, and has a parent")
            if member.indexes[-1] and f"{above}/{member.indexes[-1] - 1}".lstrip("/") not in paths:
                self.say(f"member {member.id} has the path {member.path}, but no elder sibling")
        if sorted([*self.members, *self.unborn()]) != list(range(len(self.members) + len(self.unborn()))):
            self.say(f"members are not numbered from 0 on: {sorted(self.members)}")

    def unborn(self) -> list[int]:
        """Members that were issued and could never start, as their parent was found damaged first."""
        if all(member.damaged is None for member in self.members.values()):
            return []
        try:
            issued = sum(json.loads((self.folder / "summary.json").read_text())["generations"])
        except (OSError, ValueError, LookupError, TypeError):
            return []
        return sorted(set(range(issued)) - set(self.members))

    def counts(self) -> None:
        population, generations = self.settings["population"], self.settings["generations"]
        # may leave out members; so does a replay that broke off
        closes = "generation" in self.settings.get("early_stop", ()) or bool(self.settings.get("replay"))
        issued = len(self.members) + len(self.unborn())
        if issued != population * generations and not closes:
            self.say(f"{issued} members were issued where {population} x {generations} must be")
        per = [sum(m.depth == g for m in self.members.values()) for g in range(generations)]
        closes = closes or bool(self.unborn())
        if self.settings["selection"] == "comma" and not closes and per != [population] * generations:
            self.say(f"the generations have {per} members where each must have {population}")
        states = Counter(member.state for member in self.members.values())
        states["failed"] += len(self.unborn())
        if states["finished"] + states["failed"] + states["stopped"] != issued:
            self.say(f"{issued} members were issued, but {dict(states)} is what became of them")
        summary = self.json("summary.json")
        if summary is None:
            return
        told = summary["members"]
        for name in ("finished", "failed", "stopped"):
            if told[name] != states[name]:
                self.say(f"summary.json: {told[name]} members {name}, by the journal {states[name]}")
        if told["unfinished"]:
            self.say(f"summary.json: {told['unfinished']} members unfinished")
        if summary["how"] != "finished":
            self.say(f"summary.json: the run is {summary['how']}")
        if sum(summary["generations"]) != issued:
            self.say(f"summary.json: generations of {summary['generations']} members, by the journal {issued} in all")

    def best(self) -> Told | None:
        """The best by the journal; summary and schedule must say the same."""
        sign = -1.0 if self.settings["mode"] == "max" else 1.0
        finished = [m for m in self.members.values() if m.published is not None and m.score is not None]
        if not finished:
            self.say("no member was published")
            return None
        if any(m.damaged is not None for m in finished):
            # where the best was lost, the next best may have been let go of before
            finished = [m for m in finished if m.damaged is None and not m.discarded] or finished
        # a replay's best is the best of those who came furthest
        far = max(m.depth for m in finished) if self.settings.get("replay") else 0
        finished = [m for m in finished if m.depth >= far]
        best = self.chosen(sorted(finished, key=lambda m: (sign * (m.score or 0.0), m.depth, m.indexes)))
        summary, schedule = self.json("summary.json"), self.json("schedule.json")
        if summary is not None and (summary["best_member"], summary["score"]) != (best.id, best.score):
            said = f"member {summary['best_member']} with {summary['score']}"
            self.say(f"summary.json: the best is {said}, by the journal member {best.id} with {best.score}")
        line, member = [], best
        while True:
            line.append((member.id, member.path, member.score, member.config))
            if member.parent not in self.members:
                break
            member = self.members[member.parent]
        told = [(s["member"], s["path"], s["score"], s["config"]) for s in (schedule or {}).get("schedule", [])]
        if schedule is not None and told != line[::-1]:
            self.say("schedule.json is not the best member's lineage")
        return best

    def chosen(self, ranked: list[Told]) -> Told:
        """The best, or whom choose_by names among the best of the last generation and the best. (Comma selection.)"""
        self.finalists = ranked[:1]
        if not self.settings.get("choose_by"):
            return ranked[0]
        metric, mode = self.settings["choose_by"]
        k = max(1, math.isqrt(math.floor(self.settings["population"] / self.settings["ratio"])))
        deepest = max(m.depth for m in ranked)
        self.finalists += [m for m in ranked if m.depth == deepest and m is not ranked[0]][
            : k - (ranked[0].depth == deepest)
        ]
        reported = [m for m in self.finalists if isinstance(m.metrics.get(metric), int | float)]
        sign = -1 if mode == "max" else 1
        return min(reported, key=lambda m: sign * m.metrics[metric]) if reported else ranked[0]

    # ---- the disk

    def checkpoints(self, best: Told | None) -> None:
        kept = sorted(self.folder.glob("members/*/checkpoint"))
        for path in kept:
            self.checkpoint(path)
        name = f"{best.id:04}" if best is not None else ""
        wanted = sorted({name, *(f"{m.id:04}" for m in self.finalists), *self.to_combine()})
        if best is not None and [path.parent.name for path in kept] != wanted:
            kept_by = ", ".join(path.parent.name for path in kept) or "nobody"
            also = f", and of {', '.join(wanted)}" if len(wanted) > 1 else ""
            self.say(f"checkpoints are kept of {kept_by}, where only the best's, {name}{also}, must be")
        link = self.folder / "best"
        if best is not None and (not link.is_symlink() or os.readlink(link) != f"members/{name}"):
            where = os.readlink(link) if link.is_symlink() else "nowhere"
            self.say(f"best points at {where}, not at members/{name}")

    def to_combine(self) -> list[str]:
        """The best k of each of the last two generations, where the experiment can validate them."""
        s = self.settings
        if not s.get("validate") or s.get("replay"):
            return []
        assert s["selection"] == "comma", "what is kept with plus selection is not known here"
        k = min(s["population"], max(1, math.isqrt(math.floor(s["population"] / s["ratio"] + 1e-9))))
        sign = -1.0 if s["mode"] == "max" else 1.0
        names: list[str] = []
        for depth in range(max(0, s["generations"] - 2), s["generations"]):
            here = [m for m in self.members.values() if m.depth == depth and m.published is not None]
            here.sort(key=lambda m: (sign * (m.score or 0.0), m.indexes))
            names += [f"{m.id:04}" for m in here[:k] if m.damaged is None]
        return names

    def checkpoint(self, folder: Path) -> None:
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            files = manifest["files"]
            named = {str(file["name"]) for file in files}
        except (OSError, ValueError, LookupError, TypeError) as error:
            self.say(f"{folder}: no whole manifest.json ({error})")
            return
        for file in files:
            try:
                data = (folder / file["name"]).read_bytes()
            except OSError as error:
                self.say(f"{folder}: {file['name']} cannot be read: {error.strerror}")
                continue
            if len(data) != file["size"]:
                self.say(f"{folder}: {file['name']} has {len(data)} bytes, by the manifest {file['size']}")
            elif xxh3_128_hexdigest(data) != file["digest"]:
                self.say(f"{folder}: {file['name']} has another digest than in the manifest")
        lies = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        for extra in sorted(lies - named - {"manifest.json"}):
            self.say(f"{folder}: {extra} is not in the manifest")
        whole = xxh3_128_hexdigest(json.dumps([[f["name"], f["size"], f["digest"]] for f in files]).encode())
        told = self.members[int(folder.parent.name)].published if folder.parent.name.isdigit() else None
        if manifest["digest"] != whole or manifest["size"] != sum(file["size"] for file in files):
            self.say(f"{folder}: the manifest's own digest or size does not fit its files")
        elif told is None:
            self.say(f"{folder}: lies there, but was never published")
        elif (told["digest"], told["size"], f"attempt-{told['attempt']}") != (
            whole,
            manifest["size"],
            manifest["attempt"],
        ):
            self.say(f"{folder}: the manifest is not the one the journal tells of")

    def folders(self) -> None:
        """A member's own files say what the journal says."""
        there = sorted(path.name for path in (self.folder / "members").iterdir())
        if set(there) - {f"{id:04}" for id in self.unborn()} != {f"{id:04}" for id in self.members}:
            self.say(f"members/ holds {len(there)} folders, the journal tells of {len(self.members)} members")
        for member in self.members.values():
            place = self.folder / "members" / f"{member.id:04}"
            try:
                if json.loads((place / "config.json").read_text()) != member.config:
                    self.say(f"{place}/config.json is not the config the journal tells")
            except (OSError, ValueError) as error:
                self.say(f"{place}: {error}")
            reported = scores(place / "metrics.jsonl", self.settings["score"])
            if member.state == "finished" and reported[-1:] != [member.score]:
                self.say(f"{place}/metrics.jsonl does not end with the score the journal tells")

    def temporaries(self) -> None:
        for path in sorted(self.folder.rglob("*")):
            inside = "checkpoint" in path.relative_to(self.folder).parts[:-1]
            if not inside and path.name.startswith((".", "attempt-")):
                self.say(f"{path} was left behind")

    def permissions(self) -> None:
        mode = stat.S_IMODE(self.folder.stat().st_mode)
        if mode != 0o700:
            self.say(f"{self.folder} has the permissions {mode:o}, not 700")

    def processes(self) -> None:
        for pid in alive(self.run, *self.marks):
            try:
                what = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[:80]
            except OSError:
                continue
            self.say(f"process {pid} of the run is alive: {what!r}")


def nearest(dimension: dict[str, Any], value: Any) -> Any:
    """A value that may be of an earlier space, inside this one: between the bounds, and on the grid."""
    if dimension["kind"] == "choice":
        return value
    low, high, step = dimension["low"], dimension["high"], dimension["step"]
    bounded = min(max(value, low), high)
    if dimension["kind"] == "int":
        return low + min(round((bounded - low) / step), (high - low) // step) * step
    if step is None:
        return float(bounded)
    last = int((high - low) / step * (1 + 1e-12))
    return min(low + min(round((bounded - low) / step), last) * step, high)


def inside(dimension: dict[str, Any] | None, value: Any) -> bool:
    if dimension is None:
        return False
    if dimension["kind"] == "choice":
        return value in dimension["options"]
    if isinstance(value, bool) or not isinstance(value, int if dimension["kind"] == "int" else int | float):
        return False
    return bool(dimension["low"] <= value <= dimension["high"])


def scores(path: Path, name: str) -> list[float]:
    """The scores in a metrics file. A member may write there what it likes: what is no report is passed over."""
    found: list[float] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    for line in lines:
        try:
            flat = json.loads(line)
            if name in flat:
                found.append(float(flat[name]))
        except (ValueError, TypeError):
            continue
    return found


def main(folder: str) -> int:
    wrong = check_run(folder)
    for sentence in wrong:
        print(sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tests/support/run_checker.py RUN_FOLDER")
    raise SystemExit(main(sys.argv[1]))
