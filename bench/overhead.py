"""What gpbt-async costs and how well it keeps slots busy, measured from outside.

    python bench/overhead.py [noop uneven first memory import digits] [--runs N | --quick] [--json FILE]

Every run here is `python -m gpbt_async launch`, as a user would start it, and is read from what it leaves: plain
journal.jsonl and summary.json. What a figure is compared with is timed in turns with it (A B A B …), so that a noisy
machine is noisy for both; the load average is printed for the same reason. Nothing is asserted: this only measures.
noop, memory and half of first need torch, digits needs scikit-learn too.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import heapq
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "scripts"
HEAVY = ("asyncio", "numpy", "hyperopt", "optuna", "torch", "rich", "typer", "pynvml")
Rows = dict[str, list[float]]


# ---- commands, what they leave, tables


def told(
    *argv: object, cwd: Path, env: dict[str, str] | None = None, beside: Callable[[subprocess.Popen[str]], object] = id
) -> str:
    """What a command prints; `beside` is called once it is started. It ends in any case, and all it started with it."""
    words, pipe = [*map(str, argv)], subprocess.PIPE
    env = {**os.environ, **(env or {})}
    process = subprocess.Popen(words, cwd=cwd, env=env, text=True, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        beside(process)
        out, err = process.communicate()
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\nended with status {process.returncode}:\n{err}")
    return out


def python(code: str, *args: object, cwd: Path) -> str:
    return told(sys.executable, "-c", code, *args, cwd=cwd)


@dataclass
class Trained:
    """A finished run, as its files tell it."""

    began: float  # epoch seconds just before the command was started
    ended: float
    facts: list[dict[str, Any]]
    summary: dict[str, Any]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fact for fact in self.facts if fact.get("fact") == kind]

    @property
    def spans(self) -> list[tuple[float, float]]:
        """When `train` was entered and how long it took, of every member, in the order they were entered."""
        entered = {(f["member"], f["attempt"]): f["t"] for f in self.of("Entered")}
        return sorted((entered[f["member"], f["attempt"]], f["seconds"]) for f in self.of("Trained"))

    @property
    def wall(self) -> float:
        """From the first `train` entered to the last one returned."""
        return max(t + seconds for t, seconds in self.spans) - self.spans[0][0]


def launch(script: Path, *options: object, folder: Path, **how: Any) -> Trained:
    command = [sys.executable, "-m", "gpbt_async", "launch", script, "--name", "it", "--gpus", "none", "--quiet"]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        began = time.time()
        told(*command, *options, cwd=Path(name), **how)
        ended, run = time.time(), Path(name) / "runs" / "it"
        facts = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
        return Trained(began, ended, facts, json.loads((run / "summary.json").read_text()))


def table(unit: str, rows: Rows, against: dict[str, str] | None = None) -> None:
    """Median, least and most of each row; `against` names the row another one is divided by."""
    width = max(map(len, rows))
    print(f"  {'':{width}}  {'median':>9} {'min':>9} {'max':>9}   n  {unit}")
    for name, values in rows.items():
        numbers = " ".join(f"{number:9.3f}" for number in (statistics.median(values), min(values), max(values)))
        line = f"  {name:{width}}  {numbers} {len(values):3}"
        if (other := (against or {}).get(name)) is not None:
            line += f"  × {statistics.median(values) / statistics.median(rows[other]):.2f} of {other}"
        print(line)


# ---- measurements: each prints its table and returns its raw figures


def noop(folder: Path, runs: int | None) -> Rows:
    """noop: what a member costs when it does nothing but pass on a checkpoint of 1 MB, 80 members, 2 slots"""
    rows: Rows = {"gpbt-async": [], "bare fork loop": [], "turnover in gpbt-async": []}
    for _ in range(runs or 3):
        run = launch(SCRIPTS / "noop.py", "--slots", 2, "--searcher", "random", folder=folder)
        rows["gpbt-async"].append(1000 * run.wall / len(run.spans))
        rows["turnover in gpbt-async"].append(run.summary["overhead_ms"])
        with tempfile.TemporaryDirectory(dir=folder) as name:
            rows["bare fork loop"].append(float(told(sys.executable, SCRIPTS / "bare.py", name, cwd=folder)))
    table("ms a member", rows, {"gpbt-async": "bare fork loop"})
    return rows


def makespan(durations: list[float], slots: int) -> float:
    """Of greedy list scheduling without any overhead: each in the slot that is free first."""
    free = [0.0] * slots
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def uneven(folder: Path, runs: int | None) -> Rows:
    """uneven: members of 0.1 to 0.9 s, 80 of them, 2 slots; and every tenth five times as long"""
    rows: Rows = {}
    for seed in range(runs or 5):
        for kind, env in (("uniform", {}), ("with long ones", {"UNEVEN_TAIL": "0.1"})):
            run = launch(SCRIPTS / "uneven.py", "--slots", 2, "--seed", seed, folder=folder, env=env)
            durations = [seconds for _t, seconds in run.spans]
            rows.setdefault(f"{kind}: bound / wall", []).append(makespan(durations, 2) / run.wall)
            rows.setdefault(f"{kind}: busy / (2 wall)", []).append(sum(durations) / (2 * run.wall))
            rows.setdefault(f"{kind}: turnover, ms", []).append(run.summary["overhead_ms"])
            rows.setdefault(f"{kind}: waiting for the searcher, s", []).append(run.summary["idle_s"]["searcher"])
    print("  bound: the measured durations in the order of start, list-scheduled with no overhead and no generations")
    table("", rows)
    return rows


def first(folder: Path, runs: int | None) -> Rows:
    """first: from the command to the first `train` entered; beside it, from `python` to the script imported"""
    rows: Rows = {}
    code = "import runpy, sys, time; runpy.run_path(sys.argv[1]); print(time.time())"
    scripts = {"without torch": SCRIPTS / "uneven.py", "with torch": SCRIPTS / "noop.py"}
    for _ in range(runs or 5):
        for kind, script in scripts.items():
            run = launch(script, "--population", 2, "--generations", 1, folder=folder)
            rows.setdefault(f"{kind}: first train", []).append(run.spans[0][0] - run.began)
            began = time.time()
            imported = float(python(code, script, cwd=folder))
            rows.setdefault(f"{kind}: import", []).append(imported - began)
    table("s", rows, {f"{kind}: first train": f"{kind}: import" for kind in scripts})
    return rows


ROLES = {
    "gpbt_async.member.zygote_main": "zygote",
    "gpbt_async.searchers.searcher_main": "searcher",
    "guardian": "guardian",
    "launch": "scheduler",
}
BESIDE = {"scheduler": "asyncio", "guardian": "sys", "zygote": "torch", "searcher": "hyperopt"}


def sample(run: str, scheduler: int) -> dict[str, float]:
    """MB of every process of a run but its members: resident, and with shared pages divided among their sharers."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):  # another user's, or it has just ended
            words = (place / "cmdline").read_bytes()
            if place.name != str(scheduler) and run.encode() not in words + (place / "environ").read_bytes():
                continue
            role = next(name for key, name in ROLES.items() if key.encode() in words)
            above = (place / "stat").read_text().rpartition(")")[2].split()[1]
            if role == "zygote" and b"gpbt_async.member.zygote_main" in Path(f"/proc/{above}/cmdline").read_bytes():
                continue  # a fork of it: a member
            for _field, key, kilobytes in re.findall(r"^((R|P)ss): +(\d+)", (place / "smaps_rollup").read_text(), re.M):
                found[f"{role}: {key}SS"] = int(kilobytes) / 1024
    return found


def memory(folder: Path, runs: int | None) -> Rows:
    """memory: of each process of a run of 80 members with the searcher `local`; beside it, of one import"""
    rows: Rows = {}
    against = {f"{role}: RSS": f"import {module}: RSS" for role, module in BESIDE.items()}
    for _ in range(runs or 1):
        samples: list[dict[str, float]] = []

        def watch(process: subprocess.Popen[str], samples: list[dict[str, float]] = samples) -> None:
            while process.poll() is None:
                time.sleep(0.05)
                for declared in folder.glob("*/runs/it/experiment.json"):
                    samples.append(sample(json.loads(declared.read_text())["run"], process.pid))

        launch(SCRIPTS / "noop.py", "--slots", 2, "--searcher", "local", folder=folder, beside=watch)
        for role, module in BESIDE.items():
            for key in (f"{role}: RSS", f"{role}: PSS"):
                rows.setdefault(key, []).append(max(each.get(key, 0.0) for each in samples))
            code = f"import {module}; print(next(x.split()[1] for x in open('/proc/self/smaps_rollup') if 'Rss' in x))"
            rows.setdefault(f"import {module}: RSS", []).append(int(python(code, cwd=folder)) / 1024)
    table("MB, the most of all samples", rows, against)
    return rows


def importing(folder: Path, runs: int | None) -> Rows:
    """import: a fresh interpreter from start to end, with one import in it"""
    codes = ("import gpbt_async", "import asyncio", "pass")
    rows: Rows = {code: [] for code in codes}
    for turn in range((runs or 20) + 1):
        for code in codes:
            began = time.perf_counter()
            python(code, cwd=folder)
            if turn:  # the first of each is for the disk's cache
                rows[code].append(1000 * (time.perf_counter() - began))
    table("ms", rows, {"import gpbt_async": "import asyncio"})
    loaded = python("import gpbt_async, sys; print(*sys.modules)", cwd=folder).split()
    print(f"  heavy modules it loads: {', '.join(name for name in HEAVY if name in loaded) or 'none'}")
    return rows


def digits(folder: Path, runs: int | None) -> Rows:
    """digits: examples/digits.py as it stands, from command to exit"""
    rows: Rows = {}
    for _ in range(runs or 1):
        run = launch(HERE.parent / "examples" / "digits.py", folder=folder)
        best = run.summary["best_member"]
        metrics = next(f["metrics"] for f in run.of("Trained") if f["member"] == best)
        durations = [seconds for _t, seconds in run.spans]
        for name, value in {
            "command to exit, s": run.ended - run.began,
            "first train entered to last returned, s": run.wall,
            "the same without overhead (bound), s": makespan(durations, run.summary["slots"]),
            "utilisation": run.summary["utilisation"],
            "median interval, s": statistics.median(durations),
            "turnover, ms": run.summary["overhead_ms"],
            "best member: score": run.summary["score"],
            "best member: validation accuracy": metrics["accuracy"],
            "best member: test accuracy": metrics["test_accuracy"],
        }.items():
            rows.setdefault(name, []).append(value)
    table("", rows, {"first train entered to last returned, s": "the same without overhead (bound), s"})
    return rows


MEASUREMENTS = {"noop": noop, "uneven": uneven, "first": first, "memory": memory, "import": importing, "digits": digits}


def main() -> None:
    parser = argparse.ArgumentParser(description="What gpbt-async costs, measured from outside.")
    parser.add_argument("names", nargs="*", choices=MEASUREMENTS, help="all of them without")
    parser.add_argument("--runs", type=int, metavar="N", help="of each measurement, instead of its own number")
    parser.add_argument("--quick", action="store_const", const=1, dest="runs", help="one run, one seed, of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where to put temporary folders: the disk to measure")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    # as an installation does: where PYTHONDONTWRITEBYTECODE is set, every process would compile the package again
    compileall.compile_dir(HERE.parent / "gpbt_async", quiet=1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="gpbt-bench-", dir=options.dir) as name:
            for measurement in options.names or MEASUREMENTS:
                before, began = os.getloadavg()[0], time.monotonic()
                print(MEASUREMENTS[measurement].__doc__, flush=True)
                rows = MEASUREMENTS[measurement](Path(name).resolve(), options.runs)
                after, seconds = os.getloadavg()[0], time.monotonic() - began
                print(f"  load average {before:.2f}, then {after:.2f}; {os.cpu_count()} cores; {seconds:.0f} s\n")
                figures[measurement] = {"load": [before, after], "seconds": seconds, "figures": rows}
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if options.json is not None:
            options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
