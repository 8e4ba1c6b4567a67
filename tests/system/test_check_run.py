"""The independent judge can fail: each kind of damage to a valid run's folder is told, and nothing else is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import run_checker
from harness import SCRIPTS, cli, run_id, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Flat = dict[str, Any]


@pytest.fixture(autouse=True)
def engines() -> None:
    """These runs are damaged on purpose: no engine is checked when a test ends."""


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of our own, to its end: 6 x 3 members, nobody failed, and on one slot always the same."""
    place = tmp_path_factory.mktemp("valid")
    done = cli("launch", SCRIPTS / "lineage.py", "--slots", 1, "--name", "r", "--generations", 3, "-q", cwd=place)
    assert done.status == 0, done.err
    return place / "runs" / "r"


class Copy:
    """A run's folder to be damaged. Its members are asked for by what they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header, *self.facts = [json.loads(line) for line in self.lines()]
        self.started = {f["member"]: f for f in self.facts if f["fact"] == "Started"}
        self.best = json.loads((folder / "summary.json").read_text())["best_member"]
        line = {s["member"] for s in json.loads((folder / "schedule.json").read_text())["schedule"]}
        parents = {f["parent"] for f in self.started.values()}
        leaves = [m for m, f in self.started.items() if m not in parents | line]
        deep = [m for m in leaves if self.started[m]["parent"] is not None]
        self.leaf = max(m for m in deep if not self.started[m]["path"].endswith("/0"))
        self.repeat = max(m for m in deep if self.started[m]["path"].endswith("/0"))
        self.parent = min(parents - {None})

    def lines(self) -> list[str]:
        return (self.folder / "journal.jsonl").read_text().split("\n")[:-1]

    def write(self, facts: list[Flat] | None = None, header: Flat | None = None) -> None:
        """The journal anew, numbered and sealed as it must be."""
        numbered = [{**f, "n": n} for n, f in enumerate(self.facts if facts is None else facts)]
        text = "".join(sealed(flat) for flat in [header or self.header, *numbered])
        (self.folder / "journal.jsonl").write_text(text)

    def index(self, kind: str, member: int) -> int:
        return next(i for i, f in enumerate(self.facts) if f["fact"] == kind and f.get("member") == member)

    def member(self, member: int) -> Path:
        return self.folder / "members" / f"{member:04}"

    @property
    def checkpoint(self) -> Path:
        return self.member(self.best) / "checkpoint"

    def edit(self, name: str, **changes: Any) -> None:
        path = self.folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def configure(self, member: int, **values: Any) -> None:
        """Another config, in the journal and in the member's own file."""
        config = self.started[member]["config"]
        config.update(values)
        (self.member(member) / "config.json").write_text(json.dumps(config))


def sealed(flat: Flat) -> str:
    body = json.dumps({k: v for k, v in flat.items() if k != "crc"}, separators=(",", ":"))[:-1]
    return f'{body},"crc":"{zlib.crc32(body.encode()):08x}"}}\n'


@pytest.fixture
def copy(valid: Path, tmp_path: Path) -> Copy:
    folder = tmp_path / "runs" / "r"
    shutil.copytree(valid, folder, symlinks=True, ignore=shutil.ignore_patterns("control"))
    return Copy(folder)


DAMAGE: dict[str, tuple[Callable[[Copy], object], list[str]]] = {}


def damage(*complaints: str) -> Callable[[Callable[[Copy], object]], Callable[[Copy], object]]:
    """What the judge must say of this damage, as patterns, one a sentence."""

    def keep(how: Callable[[Copy], object]) -> Callable[[Copy], object]:
        DAMAGE[how.__name__] = (how, list(complaints))
        return how

    return keep


# ---- the journal


@damage(r"journal.jsonl, line \d+: its crc32 does not fit")
def flipped_digit(copy: Copy) -> None:
    lines = copy.lines()
    number = next(i for i, line in enumerate(lines) if '"Entered"' in line)
    lines[number] = lines[number].replace('"attempt":1', '"attempt":3')
    (copy.folder / "journal.jsonl").write_text("\n".join(lines) + "\n")


@damage(r"journal.jsonl, line \d+: n is \d+ where \d+ must stand")
def lost_line(copy: Copy) -> None:
    lines = copy.lines()
    del lines[next(i for i, line in enumerate(lines) if '"Entered"' in line)]
    (copy.folder / "journal.jsonl").write_text("\n".join(lines) + "\n")


@damage(r"journal.jsonl, line \d+: n is \d+ where \d+ must stand")
def doubled_line(copy: Copy) -> None:
    lines = copy.lines()
    number = next(i for i, line in enumerate(lines) if '"Entered"' in line)
    lines.insert(number, lines[number])
    (copy.folder / "journal.jsonl").write_text("\n".join(lines) + "\n")


@damage("ends in the middle of a line")
def torn_line(copy: Copy) -> None:
    with open(copy.folder / "journal.jsonl", "a") as file:
        file.write('{"n":99,"fact":"Star')


@damage("does not begin with its header")
def another_header(copy: Copy) -> None:
    copy.write(header={"journal": 1})


@damage("the first fact is Suggested, not Opened")
def never_opened(copy: Copy) -> None:
    copy.write(copy.facts[1:])


@damage("the run has not finished: its last fact is Discarded")
def never_closed(copy: Copy) -> None:
    copy.write([f for f in copy.facts if f["fact"] != "Closed"])


@damage("the run has not finished: its last fact is Closed interrupted")
def interrupted(copy: Copy) -> None:
    copy.facts[-1]["how"] = "interrupted"
    copy.write()


# ---- one tree


@damage("2 members have the path", r"has a config that nobody suggested")
def path_of_another(copy: Copy) -> None:
    fact = copy.started[copy.leaf]
    siblings = [f["path"] for m, f in copy.started.items() if f["parent"] == fact["parent"] and m != copy.leaf]
    fact["path"] = next(path for path in siblings if not path.endswith("/0"))
    copy.write()


@damage(r"has the path .*, but its parent is")
def parent_of_another(copy: Copy) -> None:
    fact = copy.started[copy.leaf]
    fact["parent"] = next(m for m, f in copy.started.items() if f["parent"] is None and m != copy.parent)
    facts = [f for f in copy.facts if f["fact"] != "Discarded"]  # its checkpoint is not what is wrong
    copy.write(facts)


@damage(r"has the path .*, but no elder sibling", "has a config that nobody suggested")
def gap_among_siblings(copy: Copy) -> None:
    fact = copy.started[copy.leaf]
    fact["path"] = fact["path"].rpartition("/")[0] + "/99"
    copy.write()


@damage("has a config that nobody suggested")
def config_of_nobody(copy: Copy) -> None:
    copy.configure(copy.leaf, x=0.12345)
    copy.write()


@damage("has a config outside the space: x")
def config_outside(copy: Copy) -> None:
    for fact in copy.facts:
        if fact["fact"] == "Suggested" and fact["path"] == copy.started[copy.leaf]["path"]:
            fact["config"]["x"] = 7.0
    copy.configure(copy.leaf, x=7.0)
    copy.write()


@damage(r"repeats member \d+, but not its config")
def repeat_of_another_config(copy: Copy) -> None:
    copy.configure(copy.repeat, x=0.12345)
    copy.write()


@damage(r"started before its parent \d+ was published")
def published_too_late(copy: Copy) -> None:
    published = copy.facts.pop(copy.index("Published", copy.parent))
    first = next(i for i, f in enumerate(copy.facts) if f["fact"] == "Started" and f["parent"] == copy.parent)
    copy.facts.insert(first + 1, published)
    copy.write()


@damage(r"started after its parent \d+ was discarded")
def discarded_too_early(copy: Copy) -> None:
    parent = next(f["member"] for f in copy.facts if f["fact"] == "Discarded" and copy_has_children(copy, f["member"]))
    discarded = copy.facts.pop(copy.index("Discarded", parent))
    last = max(i for i, f in enumerate(copy.facts) if f["fact"] == "Started" and f["parent"] == parent)
    copy.facts.insert(last, discarded)
    copy.write()


def copy_has_children(copy: Copy, member: int) -> bool:
    return any(f["parent"] == member for f in copy.started.values())


@damage(r"started again as another one")
def trained_again_elsewhere(copy: Copy) -> None:
    again(copy, path=copy.started[copy.leaf]["path"] + "9", attempt=2)


@damage(r"started in attempt 1 after attempt 1")
def trained_again_in_the_same_attempt(copy: Copy) -> None:
    again(copy, attempt=1)


def again(copy: Copy, **changes: Any) -> None:
    at = copy.index("Started", copy.leaf)
    names = {"t": 0.0, "member": copy.leaf, "attempt": 1}
    for fact in copy.facts[at + 1 :]:
        if fact.get("member") == copy.leaf and "attempt" in fact:
            fact["attempt"] = changes["attempt"]
    copy.facts[at + 1 : at + 1] = [{"fact": "Lost", **names, "reason": ""}, {**copy.facts[at], **changes}]
    copy.write()


@damage(
    r"member \d+ started, but it is finished",
    r"member \d+ is training at the end",
    r"18 members were issued, but .* is what became of them",
    "summary.json: 18 members finished, by the journal 17",
)
def trained_after_it_had_finished(copy: Copy) -> None:
    copy.facts.insert(-1, {**copy.started[copy.leaf], "attempt": 2})
    copy.facts = [f for f in copy.facts if f["fact"] != "Discarded"]
    copy.write()


@damage(
    r"Published of member \d+ in attempt 1, but it is training in attempt 1",
    r"member \d+ is training at the end",
    r"18 members were issued, but .* is what became of them",
    "summary.json: 18 members finished, by the journal 17",
)
def published_but_never_trained(copy: Copy) -> None:
    del copy.facts[copy.index("Trained", copy.leaf)]
    copy.write()


@damage(r"Entered of member 50, which never started")
def fact_of_nobody(copy: Copy) -> None:
    copy.facts.insert(-1, {"fact": "Entered", "t": 1.0, "member": 50, "attempt": 1})
    copy.write()


@damage("members are not numbered from 0 on")
def number_left_out(copy: Copy) -> None:
    for fact in copy.facts:
        if fact.get("member") == copy.leaf:
            fact["member"] = 18
    copy.member(copy.leaf).rename(copy.member(18))
    copy.write()


@damage("is a root, and has a parent")
def root_with_a_parent(copy: Copy) -> None:
    roots = [m for m, f in copy.started.items() if f["parent"] is None and not copy_has_children(copy, m)]
    root = max(roots, key=lambda m: copy.index("Started", m))
    before = copy.facts[: copy.index("Started", root)]
    gone = {f["member"] for f in before if f["fact"] == "Discarded"}
    whole = [f["member"] for f in before if f["fact"] == "Published" and f["member"] not in gone]
    copy.started[root]["parent"] = whole[0]  # else the checker rightly says that the parent was discarded, too
    copy.write()


# ---- counts


@damage(
    "17 members were issued where 6 x 3 must be",
    r"the generations have \[.*5.*\] members",
    "summary.json: 18 members finished, by the journal 17",
    "summary.json: generations of",
)
def member_missing(copy: Copy) -> None:
    shutil.rmtree(copy.member(copy.leaf))
    copy.write([f for f in copy.facts if f.get("member") != copy.leaf])


@damage("summary.json: 17 members finished, by the journal 18")
def summary_counts_wrong(copy: Copy) -> None:
    members = json.loads((copy.folder / "summary.json").read_text())["members"]
    copy.edit("summary.json", members={**members, "finished": 17})


@damage("summary.json: 1 members failed, by the journal 0")
def summary_tells_of_a_failure(copy: Copy) -> None:
    members = json.loads((copy.folder / "summary.json").read_text())["members"]
    copy.edit("summary.json", members={**members, "failed": 1})


@damage("summary.json: 2 members unfinished")
def summary_unfinished(copy: Copy) -> None:
    members = json.loads((copy.folder / "summary.json").read_text())["members"]
    copy.edit("summary.json", members={**members, "unfinished": 2})


@damage("summary.json: the run is interrupted")
def summary_interrupted(copy: Copy) -> None:
    copy.edit("summary.json", how="interrupted")


@damage(r"summary.json: the best is member \d+ with")
def another_best(copy: Copy) -> None:
    copy.edit("summary.json", best_member=copy.leaf)


@damage("schedule.json is not the best member's lineage")
def another_schedule(copy: Copy) -> None:
    copy.edit("schedule.json", schedule=[])


@damage("summary.json cannot be read", "summary.json cannot be read")  # by each of two who need it
def no_summary(copy: Copy) -> None:
    (copy.folder / "summary.json").unlink()


# ---- the disk


def rewritten(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


@damage("past.json has another digest than in the manifest")
def bit_flipped(copy: Copy) -> None:
    data = (copy.checkpoint / "past.json").read_bytes()
    rewritten(copy.checkpoint / "past.json", bytes([data[0] ^ 1]) + data[1:])


@damage(r"past.json has \d+ bytes, by the manifest")
def file_truncated(copy: Copy) -> None:
    rewritten(copy.checkpoint / "past.json", (copy.checkpoint / "past.json").read_bytes()[:-1])


@damage("past.json cannot be read: No such file")
def file_gone(copy: Copy) -> None:
    (copy.checkpoint / "past.json").unlink()


@damage("more.bin is not in the manifest")
def file_more(copy: Copy) -> None:
    (copy.checkpoint / "more.bin").write_text("x")


@damage("no whole manifest.json")
def manifest_gone(copy: Copy) -> None:
    (copy.checkpoint / "manifest.json").unlink()


@damage("the manifest is not the one the journal tells of")
def manifest_of_another_attempt(copy: Copy) -> None:
    manifest = json.loads((copy.checkpoint / "manifest.json").read_text())
    rewritten(copy.checkpoint / "manifest.json", json.dumps({**manifest, "attempt": "attempt-9"}).encode())


@damage("the manifest's own digest or size does not fit")
def manifest_of_another_digest(copy: Copy) -> None:
    manifest = json.loads((copy.checkpoint / "manifest.json").read_text())
    rewritten(copy.checkpoint / "manifest.json", json.dumps({**manifest, "digest": "0" * 32}).encode())


@damage(r"checkpoints are kept of \d+, \d+, where only the best's", "the manifest is not the one the journal tells of")
def checkpoint_too_many(copy: Copy) -> None:
    shutil.copytree(copy.checkpoint, copy.member(copy.leaf) / "checkpoint")


@damage("checkpoints are kept of nobody")
def checkpoint_gone(copy: Copy) -> None:
    shutil.rmtree(copy.checkpoint)


@damage(r"best points at members/\d+, not at")
def best_points_elsewhere(copy: Copy) -> None:
    (copy.folder / "best").unlink()
    (copy.folder / "best").symlink_to(f"members/{copy.leaf:04}")


@damage("best points at /")
def best_points_absolutely(copy: Copy) -> None:
    """A folder that is moved takes its best along."""
    (copy.folder / "best").unlink()
    (copy.folder / "best").symlink_to(copy.member(copy.best))


@damage("best points at nowhere")
def best_gone(copy: Copy) -> None:
    (copy.folder / "best").unlink()


@damage("config.json is not the config the journal tells")
def another_config(copy: Copy) -> None:
    copy.edit(f"members/{copy.leaf:04}/config.json", x=0.5)


@damage("metrics.jsonl does not end with the score")
def another_score(copy: Copy) -> None:
    with open(copy.member(copy.leaf) / "metrics.jsonl", "a") as file:
        file.write('{"t": 1.0, "loss": 0.25}\n')


@damage("metrics.jsonl does not end with the score")
def metrics_gone(copy: Copy) -> None:
    (copy.member(copy.leaf) / "metrics.jsonl").unlink()


@damage("No such file or directory: .*config.json")
def config_gone(copy: Copy) -> None:
    (copy.member(copy.leaf) / "config.json").unlink()


@damage("members/ holds 19 folders")
def folder_of_nobody(copy: Copy) -> None:
    (copy.folder / "members" / "0018").mkdir()


@damage("has the permissions 755, not 700")
def open_to_others(copy: Copy) -> None:
    copy.folder.chmod(0o755)


@damage("experiment.json cannot be read")
def no_experiment(copy: Copy) -> None:
    (copy.folder / "experiment.json").unlink()


for name in (
    "members/0003/.trash-checkpoint-00112233",
    "members/0003/.manifest-attempt-1",
    "members/0003/attempt-2",
    ".summary.json.part",
    ".best",
):

    def left_behind(copy: Copy, name: str = name) -> None:
        (copy.folder / name).write_text("x")

    DAMAGE[f"left {name}"] = (left_behind, [re.escape(name) + " was left behind"])


# ---- the tests


def told(sentences: list[str], patterns: list[str]) -> bool:
    """One sentence for each pattern, in whatever order, and no other."""
    left = list(sentences)
    for pattern in patterns:
        found = next((sentence for sentence in left if re.search(pattern, sentence)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def test_a_valid_run_is_valid(copy: Copy) -> None:
    assert run_checker.check_run(copy.folder) == []
    copy.write()  # nor does writing the journal anew change anything
    assert run_checker.check_run(copy.folder) == []


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told(copy: Copy, name: str) -> None:
    how, patterns = DAMAGE[name]
    how(copy)
    sentences = run_checker.check_run(copy.folder)
    assert told(sentences, patterns), sentences


@pytest.fixture
def process(copy: Copy) -> Iterator[Callable[..., int]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(argv: list[str], **environ: str) -> int:
        started.append(subprocess.Popen(argv, executable="/bin/sleep", env=environ))
        return until(lambda: run_checker.alive(run_id(copy.folder)) and started[-1].pid)

    yield start
    for each in started:
        each.kill()
        each.wait()


def test_a_process_is_found_by_its_environment(copy: Copy, process: Callable[..., int]) -> None:
    pid = process(["sleep", "1000"], GPBT_RUN=run_id(copy.folder))
    assert told(run_checker.check_run(copy.folder), [f"process {pid} of the run is alive"])


def test_a_process_is_found_by_its_command_line(copy: Copy, process: Callable[..., int]) -> None:
    pid = process([f"sleeper of {run_id(copy.folder)}", "1000"])
    assert told(run_checker.check_run(copy.folder), [f"process {pid} of the run is alive"])


def test_as_a_program(copy: Copy) -> None:
    program = [sys.executable, run_checker.__file__, str(copy.folder)]
    environ = {**os.environ, "PYTHONPATH": ""}  # it needs nothing of ours
    assert subprocess.run(program, capture_output=True, text=True, env=environ, timeout=60).returncode == 0
    copy.folder.chmod(0o711)
    done = subprocess.run(program, capture_output=True, text=True, env=environ, timeout=60)
    assert (done.returncode, done.stdout) == (1, f"{copy.folder} has the permissions 711, not 700\n")


def test_it_shares_no_code_with_what_it_judges() -> None:
    assert not re.search(r"^\s*(import|from)\s+\S*gpbt_async", Path(run_checker.__file__).read_text(), re.MULTILINE)
