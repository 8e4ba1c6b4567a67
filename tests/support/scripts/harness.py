"""What the tests of processes share: a Begin in a folder of its own, and questions about other processes."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

from gpbt_async.processes import wire

SCRIPTS = Path(__file__).parent
ZOO = SCRIPTS / "zoo.py"


def begin(folder: Path, member: int = 0, attempt: int = 1, seed: int = 0, **config: Any) -> wire.Begin:
    place = folder / f"member-{member}-{attempt}"
    (place / "checkpoint").mkdir(parents=True)
    return wire.Begin(
        member=member, attempt=attempt, generation=0, seed=seed, config=config, parent=None,
        checkpoint=str(place / "checkpoint"), metrics=str(place / "metrics.jsonl"), log=str(place / "log.txt"),
        cwd=None, device="cpu", threads=1, env={}, score="score",
    )  # fmt: skip


def dead(pidfd: int, within: float = 0.0) -> bool:
    """Whether a process is dead, waiting a while if need be."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within * 1000))


class Watch:
    """Holds processes by pidfd, so that their death can be waited for and their pids cannot mean somebody else."""

    def __init__(self, *pids: int) -> None:
        self.fds = {pid: os.pidfd_open(pid) for pid in map(int, pids)}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds.values():
            os.close(fd)

    def alive(self, within: float = 0.0) -> list[int]:
        """Those that are still not dead after a while."""
        return [pid for pid, fd in self.fds.items() if not dead(fd, within)]
