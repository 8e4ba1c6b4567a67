"""A workstation for tests: GPUs that are a stub of the driver's library (nvml_stub.c), members that pretend to use them
(scripts/playing.py), and runs, each a `gpbt-async launch` of its own.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import SCRIPTS, Done, cli, facts, start
from nvml_state import State, library

if TYPE_CHECKING:
    import subprocess

PLAYING = SCRIPTS / "playing.py"
EIGHT = tuple(f"GPU-{letter * 8}" for letter in "abcdefgh")
A, B, C = EIGHT[:3]


@dataclass
class Entry:
    """A line of the members' own log."""

    what: str
    pid: int
    member: int
    attempt: int
    gpus: tuple[str, ...]
    rest: tuple[str, ...]


class Machine:
    """options: of the members, as playing.py reads them."""

    def __init__(self, folder: Path, *gpus: str, names: str = "NVIDIA A100", **options: int) -> None:
        self.folder = folder
        self.play = folder / "play"
        self.play.mkdir()
        (self.play / "options").write_text("".join(f"{name}={value}\n" for name, value in options.items()))
        self.state = State(folder / "state", *gpus, names=names)
        self.env = {**self.state.environ, "PLAY": str(self.play)}
        self.driver = library()
        self.runs: list[subprocess.Popen[str]] = []

    def say(self, name: str, value: object = "") -> None:
        beside = self.play / f".{name}"
        beside.write_text(str(value))
        beside.replace(self.play / name)

    def unsay(self, name: str) -> None:
        (self.play / name).unlink()

    def cli(self, *args: object) -> Done:
        return cli(*args, cwd=self.folder, env=self.env)

    def launch(self, *args: object) -> Done:
        return self.cli("launch", PLAYING, "--nvml-library", self.driver, "--name", "r", *args)

    def begin(self, *args: object) -> subprocess.Popen[str]:
        command = ("launch", PLAYING, "--nvml-library", self.driver, "--name", "r", *args)
        run = start(*command, cwd=self.folder, env=self.env)
        self.runs.append(run)
        return run

    def log(self) -> list[Entry]:
        path = self.play / "log"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        words = [line.split() for line in lines]
        return [Entry(w[0], int(w[1]), int(w[2]), int(w[3]), tuple(w[4].split(",")), tuple(w[5:])) for w in words]

    def inside(self) -> list[Entry]:
        """The members that train now."""
        inside: dict[int, Entry] = {}
        for entry in self.log():
            if entry.what == "in":
                inside[entry.pid] = entry
            else:
                inside.pop(entry.pid, None)
        return [entry for entry in inside.values() if Path(f"/proc/{entry.pid}").exists()]

    def on(self, uuid: str) -> int:
        return sum(uuid in entry.gpus for entry in self.inside())

    def notice(self) -> dict[str, Any]:
        try:
            report: dict[str, Any] = json.loads((self.folder / "runs/r/gpus.json").read_text())
        except FileNotFoundError:
            return {"gpus": [], "waiting": None}
        return report

    def row(self, uuid: str) -> dict[str, Any]:
        return next((row for row in self.notice()["gpus"] if row["uuid"] == uuid), {"state": None, "members": []})

    def facts(self, kind: str | None = None) -> list[dict[str, Any]]:
        return facts(self.folder / "runs/r", kind)

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "runs/r/summary.json").read_text())
        return summary


def ended(run: subprocess.Popen[str]) -> str:
    """The messages of a run that should have finished."""
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    return err


def crowd(log: list[Entry]) -> dict[str, int]:
    """By GPU, the most members that were ever on it at once, by the members' own log."""
    now: Counter[str] = Counter()
    most: defaultdict[str, int] = defaultdict(int)
    for entry in log:
        for gpu in entry.gpus:
            now[gpu] += 1 if entry.what == "in" else -1
            most[gpu] = max(most[gpu], now[gpu])
    return dict(most)
