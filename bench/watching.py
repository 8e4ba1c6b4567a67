"""What watching GPUs costs the scheduler: its processor time while eight members sleep, on eight GPUs and on none.

    python bench/watching.py [--runs N] [--seconds N] [--json FILE]

The GPUs are the tests' stub of NVML (tests/nvml_stub.c, needs a C compiler) behind the real binding: it reads a small
file on each call, which a driver does not do, and a driver may take longer than it, which nobody could measure here.
The two kinds of run take turns; processor time is what the kernel says of the scheduler's threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def compiled(folder: Path) -> Path:
    library = folder / "libnvidia-ml.so.1"
    source = HERE.parent / "tests" / "nvml_stub.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source], check=True)
    (folder / "state").write_text(
        "".join(f"gpu 0 GPU-{i:08} NVIDIA A100\nmem GPU-{i:08} 40960 0 0\n" for i in range(8))
    )
    return library


def used(pid: int) -> float:
    """Seconds of processor time of all threads so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(options: list[str], folder: Path, seconds: float) -> float:
    """Percent of one core over so many seconds that begin once all members are in."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        script = HERE / "scripts" / "sleeping.py"
        command = [sys.executable, "-m", "gpbt_async", "launch", str(script), "--name", "it", "--quiet", *options]
        environ = os.environ | {"NVML_STUB_STATE": str(folder / "state")}
        run = subprocess.Popen(command, cwd=name, env=environ, start_new_session=True)
        try:
            journal = Path(name, "runs", "it", "journal.jsonl")
            while not journal.exists() or journal.read_text().count('"Entered"') < 8:
                if run.poll() is not None:
                    raise SystemExit(f"the run ended with status {run.returncode}")
                time.sleep(0.1)
            time.sleep(5.0)  # what has just started settles
            before, began = used(run.pid), time.monotonic()
            time.sleep(seconds)
            after, lasted = used(run.pid), time.monotonic() - began
        finally:
            run.terminate()
            run.wait()
    return 100 * (after - before) / lasted


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--runs", type=int, default=3)
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--json", type=Path)
    args = asked.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {"8 GPUs": ["--nvml-library", str(compiled(folder))], "CPU": ["--gpus", "none", "--slots", "8"]}
        for _ in range(args.runs):
            for kind, options in kinds.items():
                rows.setdefault(kind, []).append(measure(options, folder, args.seconds))
    print(f"percent of one core over {args.seconds:g} s; load average {os.getloadavg()[0]:.1f}")
    for row, values in rows.items():
        print(f"  {row:8} median {statistics.median(values):6.3f}  min {min(values):6.3f}  max {max(values):6.3f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
