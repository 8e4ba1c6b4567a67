"""A long life in small: 20,000 members that do nothing, and what becomes of the scheduler that runs them.

    python bench/endurance.py [--population 200] [--generations 100] [--dir DIR] [--json FILE]

Every thousand members, from outside: the scheduler's resident memory (Pss and Rss), open descriptors, threads, wall
time and its own CPU time a member. (The wall time is everybody's on this machine; the CPU time is the scheduler's.)
Then what a member's place in the tree takes, by replaying the journal. Exit status 1 unless memory grew by less than
20 MB from member 2,000 on, descriptors and threads stayed, and the time a member of the last quarter is within 10 % of
the second's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: MB that may come on top from member 2,000 on, and the share the time a member may change by
GROWTH, DRIFT = 20.0, 0.10


@dataclass
class Sample:
    members: int
    t: float
    pss: float
    rss: float
    #: the most open descriptors since the last sample: spares and members come and go
    fds: int
    threads: int
    cpu: float


def sample(pid: int, members: int, fds: int) -> Sample:
    place = Path(f"/proc/{pid}")
    status = (place / "status").read_text()
    kilobytes = re.search(r"^Pss: +(\d+)", (place / "smaps_rollup").read_text(), re.M)
    rss, threads = (re.search(rf"^{name}:\s+(\d+)", status, re.M) for name in ("VmRSS", "Threads"))
    if not (kilobytes and rss and threads):
        raise ProcessLookupError(pid)
    ticks = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
    return Sample(
        members,
        time.monotonic(),
        int(kilobytes[1]) / 1024,
        int(rss[1]) / 1024,
        fds,
        int(threads[1]),
        sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
    )


def watch(process: subprocess.Popen[bytes], journal: Path, every: int, show: bool = True) -> list[Sample]:
    """A sample each time so many more members have been published; the journal is read as it grows."""
    samples: list[Sample] = []
    seen, offset, rest, fds = 0, 0, b"", 0
    while process.poll() is None:
        select.select([], [], [], 0.02)
        with contextlib.suppress(OSError):
            fds = max(fds, len(os.listdir(f"/proc/{process.pid}/fd")))
        if not journal.exists():
            continue
        with open(journal, "rb") as file:
            file.seek(offset)
            data = file.read()
        offset += len(data)
        *lines, rest = (rest + data).split(b"\n")
        seen += sum(b'"fact":"Published"' in line for line in lines)
        if seen >= (len(samples) + 1) * every:
            try:
                samples.append(sample(process.pid, seen, fds))
                fds = 0
            except OSError:
                break  # it has just ended
            if show:
                row(samples)
    return samples


def row(samples: list[Sample]) -> None:
    last = samples[-1]
    wall, cpu = per_member(samples[-2:]) if len(samples) > 1 else (float("nan"), float("nan"))
    memory = f"{last.pss:7.1f} {last.rss:7.1f}"
    print(f"  {last.members:7} {memory} {last.fds:5} {last.threads:7} {wall:9.2f} {cpu:9.2f}", flush=True)


def per_member(samples: list[Sample]) -> tuple[float, float]:
    """Milliseconds a member from the first of these samples to the last: on the clock, and of the scheduler's CPU."""
    first, last = samples[0], samples[-1]
    members = max(1, last.members - first.members)
    return 1000 * (last.t - first.t) / members, 1000 * (last.cpu - first.cpu) / members


def tree_bytes(folder: Path) -> tuple[float, float]:
    """What tree and account hold for each member, traced while the journal is replayed in a fresh process."""
    code = (
        "import sys, tracemalloc\n"
        "from pathlib import Path\n"
        "from gpbt_async.storage.journal import read\n"
        "from gpbt_async.storage.run_config import RunConfig\n"
        "from gpbt_async.analysis.run_fold import RunFold\n"
        "tracemalloc.start()\n"
        "folder = Path(sys.argv[1])\n"
        "replay = RunFold(RunConfig.read(folder / 'experiment.json').settings)\n"
        "began, _ = tracemalloc.get_traced_memory()\n"
        "facts = read(folder / 'journal.jsonl')\n"
        "for _ in replay.read(facts, 'journal'): fact = None\n"
        "count = len(replay.engine.tree.members)\n"
        "_ = None; facts.clear()\n"
        "both, _ = tracemalloc.get_traced_memory()\n"
        "del replay.usage\n"
        "tree, _ = tracemalloc.get_traced_memory()\n"
        "print((tree - began) / count, (both - tree) / count)\n"
    )
    argv = [sys.executable, "-c", code, folder]
    tree, account = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return float(tree), float(account)


def verdicts(samples: list[Sample], members: int, tree: float) -> list[tuple[bool, str]]:
    early = next((s for s in samples if s.members >= members // 10), samples[0])
    last = samples[-1]
    growth = max(last.pss - early.pss, last.rss - early.rss)
    beside = growth - tree * (last.members - early.members) / (1 << 20)
    quarter = len(samples) // 4
    second, fourth = samples[quarter - 1 : 2 * quarter], samples[3 * quarter - 1 :]
    (wall2, cpu2), (wall4, cpu4) = per_member(second), per_member(fourth)
    wall, cpu = wall4 / wall2 - 1, cpu4 / cpu2 - 1
    fds2, fds4 = max(s.fds for s in second), max(s.fds for s in fourth)
    threads2, threads4 = max(s.threads for s in second), max(s.threads for s in fourth)
    against = "a member, last quarter against the second"
    return [
        (growth < GROWTH, f"memory from member {early.members} on: {growth:+.1f} MB (< {GROWTH:.0f})"),
        (beside < GROWTH, f"of which not in the tree of members, which is kept on purpose: {beside:+.1f} MB"),
        (fds4 <= fds2 + 1, f"most open descriptors in the second quarter {fds2}, in the last {fds4}"),
        (threads4 <= threads2 + 1, f"most threads in the second quarter {threads2}, in the last {threads4}"),
        (abs(wall) <= DRIFT, f"wall time {against}: {wall4:.2f} / {wall2:.2f} ms ({wall:+.1%})"),
        (abs(cpu) <= DRIFT, f"scheduler's CPU time {against}: {cpu4:.2f} / {cpu2:.2f} ms ({cpu:+.1%})"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="20,000 members that do nothing.")
    parser.add_argument("--population", type=int, default=200)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where to put the run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    members = options.population * options.generations
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="gpbt-endurance-", dir=options.dir) as name:
        argv: list[Any] = [sys.executable, "-m", "gpbt_async", "launch", HERE / "scripts" / "tiny.py", "--name", "it"]
        argv += ["--slots", 2, "--population", options.population, "--generations", options.generations, "--quiet"]
        print(f"  {members} members, load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
        print(f"  {'members':>7} {'PSS':>7} {'RSS, MB':>7} {'fds':>5} {'threads':>7} {'ms/member':>9} {'CPU':>9}")
        process = subprocess.Popen([str(word) for word in argv], cwd=name, start_new_session=True)
        try:
            samples = watch(process, Path(name, "runs", "it", "journal.jsonl"), max(1, members // 20))
            if process.wait():
                raise SystemExit(f"the run ended with status {process.returncode}")
        finally:
            process.terminate()
            process.wait()
        tree, account = tree_bytes(Path(name, "runs", "it"))
        told = verdicts(samples, members, tree)
        for right, text in told:
            print(f"  {'ok  ' if right else 'FAIL'} {text}")
        print(f"  bytes a member: {tree:.0f} in the tree, {account:.0f} in the account of time")
        print(f"  load average {os.getloadavg()[0]:.1f}")
    if options.json is not None:
        figures = {"samples": [asdict(s) for s in samples], "verdicts": told, "tree": tree}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if all(right for right, _ in told) else 1)


if __name__ == "__main__":
    main()
