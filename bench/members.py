"""What a member costs when ordinary users write it; beside it the same work without a scheduler, and by peers.

    python bench/members.py [--only digits imports compile noop] [--runs N | --quick] [--json FILE]
                            [--ray PYTHON] [--syne PYTHON] [--optuna PYTHON]

The other benchmarks use scripts written for them. Here models and optimizers are built in a module beside the script,
libraries are imported inside train, trainers import on their first use. Everything is timed in one sitting and in turns
(A B C A B C …), so that a noisy machine is noisy for all; compare ratios and the least of each row, not seconds of two
sittings. A peer runs in an environment of its own, whose interpreter is given; without it the peer is left out.

The surprise is Ray: its processes listen on every network interface, whatever address they are given. So it runs in a
network namespace of its own (`unshare`), and not at all where that cannot be had.
"""

from __future__ import annotations

import argparse
import compileall
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overhead import HERE, Rows, Trained, launch, told

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = HERE / "scripts" / "members"
STARTS = ("zygote", "resident")
SLOTS = 2
#: intervals of the digits network that every contestant trains
INTERVALS = 80
PEERS = {"ray": "Ray Tune", "syne": "Syne Tune", "optuna": "Optuna"}
#: distributions whose versions belong to a figure
VERSIONS = {
    "gpbt": ("torch", "numpy", "scikit-learn", "lightning", "transformers"),
    "ray": ("ray", "torch"),
    "syne": ("syne-tune", "torch"),
    "optuna": ("optuna", "torch"),
}
#: one thread of torch a process, as gpbt-async gives a member of 2 slots on 2 cores
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class Setting:
    """folder: where temporary folders are made. runs: of each contestant. peers: their interpreters, by name."""

    folder: Path
    runs: int
    peers: dict[str, Path]


def table(unit: str, rows: Rows, floors: tuple[str, ...] = ()) -> None:
    """Median, least and most of each row, and its median divided by those of the floors."""
    width = max(map(len, rows))
    heads = " ".join(f"{'× ' + floor:>{len(floor) + 4}}" for floor in floors)
    print(f"  {unit:{width}}  {'median':>9} {'min':>9} {'max':>9}   n  {heads}")
    for name, values in rows.items():
        median = statistics.median(values)
        numbers = " ".join(f"{number:9.3f}" for number in (median, min(values), max(values)))
        ratios = " ".join(f"{median / statistics.median(rows[floor]):{len(floor) + 4}.2f}" for floor in floors)
        print(f"  {name:{width}}  {numbers} {len(values):3}  {ratios}")


# ---- digits


@dataclass
class Work:
    """Seconds: from the first interval to the end of the 80th; of the whole command; of the intervals added up."""

    wall: float
    command: float
    busy: float


def work_of(log: Path, began: float) -> Work:
    command = time.time() - began
    spans = [[float(word) for word in line.split()[:2]] for line in log.read_text().splitlines()]
    if len(spans) < INTERVALS:
        raise SystemExit(f"{log.stem} trained {len(spans)} of {INTERVALS} intervals")
    spans = sorted(spans, key=lambda span: span[1])[:INTERVALS]
    first = min(begin for begin, _end in spans)
    return Work(spans[-1][1] - first, command, sum(end - begin for begin, end in spans))


def namespace() -> list[str] | None:
    """The words before a command that give it a network of its own, with loopback alone; None where that is refused."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and not subprocess.run([*words, "true"], capture_output=True).returncode:
            return [*words, sys.executable, str(SCRIPTS / "loopback.py")]
    return None


def contestants(setting: Setting) -> dict[str, Callable[[Path, dict[str, str]], object]]:
    """What trains the digits network, by name: called with a new folder and the environment that names the log."""

    def command(words: list[object], folder: Path, env: dict[str, str]) -> None:
        told(*words, folder, cwd=folder, env=env)

    def ours(start: str, folder: Path, env: dict[str, str]) -> None:
        launch(SCRIPTS / "digits.py", "--slots", SLOTS, "--start", start, folder=folder, env=env)

    found: dict[str, Callable[[Path, dict[str, str]], object]] = {
        f"gpbt-async {start}": partial(ours, start) for start in STARTS
    }
    for how in ("fork", "resident"):
        found[f"bare {how} loop"] = partial(command, [sys.executable, SCRIPTS / "bare_digits.py", how])
    for name, title in PEERS.items():
        before = namespace() if name == "ray" else []
        if name not in setting.peers:
            print(f"  {title} is left out: --{name} PYTHON is not given")
        elif before is None:
            print(f"  {title} is left out: it listens on every interface, and there is no `unshare -n` for it here")
        else:
            words = [*before, setting.peers[name], SCRIPTS / f"{name}_digits.py"]
            found[title] = partial(command, words)
    return found


def digits(setting: Setting) -> dict[str, Rows]:
    """digits: 80 intervals of about 0.1 s of a network that a module beside the script builds, 2 slots"""
    walls, commands, used, intervals = {}, {}, {}, {}
    them = contestants(setting)
    for _ in range(setting.runs):
        for name, contestant in them.items():
            with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
                log = Path(folder) / f"{name.replace(' ', '-')}.log"
                began = time.time()
                contestant(Path(folder), {**ONE_THREAD, "MEMBERS_LOG": str(log), "RAY_TMPDIR": folder})
                work = work_of(log, began)
            walls.setdefault(name, []).append(work.wall)
            commands.setdefault(name, []).append(work.command)
            used.setdefault(name, []).append(work.busy / (SLOTS * work.wall))
            intervals.setdefault(name, []).append(work.busy / INTERVALS)
    table("first train to the end of the 80th, s", walls, ("bare fork loop", "bare resident loop"))
    table("from the command to its end, s", commands, ("gpbt-async zygote", "gpbt-async resident"))
    table("of that share the slots train", used)
    table("an interval, s", intervals)
    return {"wall": walls, "command": commands, "utilisation": used, "interval": intervals}


# ---- imports, compile, noop


def in_order(run: Trained) -> list[dict[str, Any]]:
    """The Trained facts of a run in the order in which their members entered train."""
    entered = {(fact["member"], fact["attempt"]): fact["t"] for fact in run.of("Entered")}
    return sorted(run.of("Trained"), key=lambda fact: entered[fact["member"], fact["attempt"]])


def imports(setting: Setting) -> dict[str, Rows]:
    """imports: seconds that members spend importing while they train; "later": from the (slots + 2)nd member on"""
    rows: Rows = {}
    scripts = {"scikit-learn in train": "sklearn_inside", "Lightning": "lightning_module", "HF Trainer": "hf_trainer"}
    for _ in range(setting.runs):
        for title, script in scripts.items():
            run = launch(SCRIPTS / f"{script}.py", "--slots", SLOTS, folder=setting.folder, env=ONE_THREAD)
            spent = [fact["start"]["imports"] for fact in in_order(run)]
            later = spent[SLOTS + 1 :]
            rows.setdefault(f"{title}: first member", []).append(spent[0])
            rows.setdefault(f"{title}: later, median", []).append(statistics.median(later))
            rows.setdefault(f"{title}: later, most", []).append(max(later))
    table("s", rows)
    return {"imports": rows}


def compiling(setting: Setting) -> dict[str, Rows]:
    """compile: frames that torch.compile (CPU, inductor) compiles in a member, 12 members, 2 slots"""
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "g++"), "clang++")):
        print("  left out: inductor needs a C++ compiler, and there is none here")
        return {}
    rows: Rows = {}
    for _ in range(setting.runs):
        for start in STARTS:
            run = launch(SCRIPTS / "compiled.py", "--slots", SLOTS, "--start", start, folder=setting.folder)
            facts = in_order(run)
            # every slot has trained once when as many members have begun as there are slots
            for when, some in (("first of each slot", facts[:SLOTS]), ("later members", facts[SLOTS:])):
                frames = [fact["metrics"]["frames"] for fact in some]
                rows.setdefault(f"{start}: {when}: frames, most", []).append(max(frames))
                rows.setdefault(f"{start}: {when}: s", []).append(statistics.median(fact["seconds"] for fact in some))
    table("", rows)
    return {"compile": rows}


def noop(setting: Setting) -> dict[str, Rows]:
    """noop: ms a member that only reads and writes a checkpoint of 1 MB, 80 members, 2 slots"""
    rows: Rows = {}
    scripts = {"torch": SCRIPTS.parent / "noop.py", "no torch": SCRIPTS / "noop_bytes.py"}
    for _ in range(setting.runs):
        for title, script in scripts.items():
            for start in STARTS:
                options = ("--slots", SLOTS, "--searcher", "random", "--start", start)
                run = launch(script, *options, folder=setting.folder, env=ONE_THREAD)
                rows.setdefault(f"{start}, {title}", []).append(1000 * run.wall / len(run.spans))
        with tempfile.TemporaryDirectory(dir=setting.folder) as name:
            bare = told(sys.executable, SCRIPTS.parent / "bare.py", name, cwd=setting.folder, env=ONE_THREAD)
        rows.setdefault("bare fork loop, torch", []).append(float(bare))
    table("ms a member", rows, ("bare fork loop, torch",))
    return {"noop": rows}


MEASUREMENTS = {"digits": digits, "imports": imports, "compile": compiling, "noop": noop}


# ---- the command


def surroundings(setting: Setting) -> dict[str, Any]:
    """Date, machine and versions: without them a figure says nothing."""
    code = (
        "import sys; from importlib.metadata import version; "
        "print(sys.version.split()[0], *(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ')"
    )
    versions = {}
    for name, python in {"gpbt": Path(sys.executable), **setting.peers}.items():
        versions[name] = told(python, "-c", code, *VERSIONS[name], cwd=setting.folder).strip()
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{os.cpu_count()} cores, {model}, {memory} GiB, Linux {platform.release()}",
        "versions": versions,
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a member costs, as ordinary users write it.")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), metavar="NAME")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of each contestant (3)")
    parser.add_argument("--quick", action="store_const", const=1, dest="runs", help="one run of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where to put temporary folders")
    for name, title in PEERS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="PYTHON", help=f"an interpreter that has {title} and torch")
    return parser.parse_args()


def main() -> None:
    args = options()
    # as an installation does: where PYTHONDONTWRITEBYTECODE is set, every process would compile the package again
    compileall.compile_dir(HERE.parent / "gpbt_async", quiet=1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    figures: dict[str, Any] = {}
    try:
        # a short path: Ray puts sockets below it, whose paths may have 107 characters
        with tempfile.TemporaryDirectory(prefix="gm-", dir=args.dir) as name:
            # absolute, and not resolved: what a link of a virtual environment names is not that environment
            peers = {name: Path.cwd() / getattr(args, name) for name in PEERS if getattr(args, name) is not None}
            setting = Setting(Path(name).resolve(), args.runs, peers)
            figures = surroundings(setting)
            print(*(f"{key}: {value}" for key, value in figures.items()), sep="\n", end="\n\n")
            for measurement in args.only:
                before, began = os.getloadavg()[0], time.monotonic()
                print(MEASUREMENTS[measurement].__doc__, flush=True)
                rows = MEASUREMENTS[measurement](setting)
                load, seconds = [before, os.getloadavg()[0]], time.monotonic() - began
                print(f"  load average {load[0]:.2f}, then {load[1]:.2f}; {seconds:.0f} s\n", flush=True)
                figures[measurement] = {"load": load, "seconds": seconds, "figures": rows}
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if args.json is not None:
            args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
