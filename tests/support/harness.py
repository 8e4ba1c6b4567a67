"""What tests of whole runs share: the command line as a subprocess, and a run's facts and processes from outside."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run_checker import alive as alive

from gpbt_async.__main__ import main
from gpbt_async.declaration import run_options
from gpbt_async.engine.engine import Engine
from gpbt_async.errors import GPBTError
from gpbt_async.experiment import Settings
from gpbt_async.processes import linux
from gpbt_async.storage import journal

SCRIPTS = Path(__file__).parent / "scripts"
#: seconds that anything here may take on a loaded machine; a test that reaches them has failed
LONG = 60.0


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "gpbt_async", *map(str, args)]


def cli(*args: object, cwd: Path, timeout: float = LONG, env: dict[str, str] | None = None) -> Done:
    """`gpbt-async ARGS` to its end."""
    done = subprocess.run(
        command(*args), cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}
    )
    return Done(done.returncode, done.stdout, done.stderr)


def cli_here(*args: object, cwd: Path) -> Done:
    """`gpbt-async ARGS` in this process, for what only looks at a run, or is refused before anything is started.

    A new interpreter takes a third of a second before it does so. An exception that the command line does not catch is
    raised here.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before, alone, finders = (sys.argv, sys.path, run_options.on_command_line), linux.alone, list(sys.meta_path)
    sys.argv, sys.path = [*command()[2:], *map(str, args)], [str(cwd), *sys.path]
    status: Any = None
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ending:
        status = ending.code
    finally:
        sys.argv, sys.path, run_options.on_command_line = before
        # a command has its process for itself: it takes all orphans for its own, and waits for imports
        linux.alone, sys.meta_path[:] = alone, [finder for finder in sys.meta_path if finder in finders]
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 0)
    text, messages = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return Done(status or 0, text, messages)


def start(*args: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`gpbt-async ARGS`, running. Its own session, as a terminal's foreground group would be."""
    return subprocess.Popen(
        command(*args),
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )


def until(what: Any, timeout: float = LONG) -> Any:
    """The first true value of `what()`, which mostly looks at other processes' files, and so is called often."""
    deadline = time.monotonic() + timeout
    while not (value := what()):
        assert time.monotonic() < deadline, "it never happened"
        select.select([], [], [], 0.005)  # leave the core to the process that is waited for
    return value


def facts(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The journal's facts as plain JSON, without the package's own reader; a torn last line is left out."""
    try:
        text = (folder / "journal.jsonl").read_text()
    except FileNotFoundError:
        return []
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    return [line for line in lines if "fact" in line and kind in (None, line["fact"])]


def check_engines(root: Path) -> int:
    """Replay the journal of every run below a folder, and check the engine that comes out; how many there were.

    A journal that a test has damaged is refused when it is read; that is the test's own matter.
    """
    count = 0
    for path in root.rglob("journal.jsonl"):
        try:
            settings = json.loads((path.parent / "experiment.json").read_text())["settings"]
            engine = Engine(Settings.from_json(settings))
            for fact in journal.read(path):
                engine.handle(fact)
        except (GPBTError, OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        engine.check()
        count += 1
    return count


def run_id(folder: Path) -> str:
    return str(json.loads((folder / "experiment.json").read_text())["run"])


def kill_hard(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def check_folder(folder: Path, population: int, generations: int) -> None:
    """Read a finished run's folder without the package's code: one tree, whole, and nothing left over."""
    started = {f["member"]: f for f in facts(folder, "Started")}
    published = [f["member"] for f in facts(folder, "Published")]
    assert len(published) == len(set(published))
    assert len(started) == population * generations
    depth = {m: f["path"].count("/") for m, f in started.items()}
    assert [list(depth.values()).count(g) for g in range(generations)] == [population] * generations
    by_path = {f["path"]: m for m, f in started.items()}
    assert len(by_path) == len(started)
    seen: set[int] = set()
    for fact in facts(folder):
        if fact["fact"] == "Published":
            seen.add(fact["member"])
        if fact["fact"] == "Started" and fact["parent"] is not None:
            assert fact["parent"] in seen, "a child started before its parent was published"
            assert by_path[fact["path"].rpartition("/")[0]] == fact["parent"]
    left = [p.name for p in folder.rglob("*") if p.name.startswith((".", "attempt-"))]
    assert left == []
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["members"]["finished"] == len(published)
    kept = sorted(p.parent.name for p in folder.glob("members/*/checkpoint"))
    among = summary["choice"]["among"] if summary["choice"] is not None else [summary["best_member"]]
    assert kept == sorted(f"{member:04}" for member in among)
    assert (folder / "best").resolve() == (folder / "members" / f"{summary['best_member']:04}").resolve()
