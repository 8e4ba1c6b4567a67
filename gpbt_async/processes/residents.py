"""The resident processes of a run that are idle: each has trained a member and waits for the next.

A process can train a member that belongs in the same *place*: on the same GPUs, with the same cores and threads, since
a CUDA context and thread pools cannot be moved. An idle process costs memory and no time. The next member of its place
takes it. Where its GPU is wanted for something else, the pool of slots ends it.

The surprise is the end of a run. A process may have functions to run at its exit, so it is not killed at first: its
socket is closed, it ends by itself, and only one that does not is killed.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from ..errors import Advice

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import wire
    from .worker import Worker

#: device, environment of the slot, cores, threads
Place: TypeAlias = tuple[object, ...]
#: names of environment variables that differ from member to member
_OF_THE_MEMBER = "GPBT_"


def place_of(begin: wire.Begin) -> Place:
    """Where a member belongs: equal for members that one process may train."""
    environment = tuple(sorted(item for item in begin.env.items() if not item[0].startswith(_OF_THE_MEMBER)))
    return begin.device, environment, tuple(begin.cpus or ()), begin.threads, begin.cwd


class Residents:
    """Idle processes, by their places. The last one to become idle is taken first: its caches are warm.

    log: called once with each kind of warning.
    """

    def __init__(self, log: Callable[[Advice], object]) -> None:
        self._idle: defaultdict[Place, list[Worker]] = defaultdict(list)
        self._log = log
        self._warned: set[str] = set()

    def take(self, place: Place) -> Worker | None:
        """A living process that trained in this place before."""
        idle = self._idle[place]
        while idle:
            worker = idle.pop()
            if worker.waits:
                return worker
            worker.close()
        return None

    def put(self, place: Place, worker: Worker) -> None:
        """A worker whose member is over, and whose process stays."""
        idle, successor = self._idle[place], worker.successor()
        idle.append(successor)

        def died(_: object) -> None:
            if successor in idle:  # else a member has it
                idle.remove(successor)
                successor.close()

        successor.left.add_done_callback(died)

    def heard(self, worker: Worker) -> None:
        """A member has returned: warn if its process does not stay, and of what it has changed for the next members."""
        if worker.changed:
            names = ", ".join(worker.changed[:3]) + (", …" if len(worker.changed) > 3 else "")
            text = f"members change globals of the script ({names}), and later members of the same process find them so"
            self._warn("changed", Advice(text, "set them at the beginning of train, or leave out --start resident"))
        if worker.retires:
            kind = re.sub(r"[0-9]+", "#", worker.retires.partition(":")[0])
            self._warn(kind, Advice(f"a resident process ends after member {worker.member}: {worker.retires}"))

    def _warn(self, kind: str, advice: Advice) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._log(advice)

    def end(self, pid: int) -> None:
        """Kill the idle process with this pid, if there is one."""
        for idle in self._idle.values():
            for worker in idle:
                if worker.pid == pid:
                    worker.kill()

    async def close(self, within: float) -> None:
        """End them all; kill those that have not ended by themselves in so many seconds."""
        workers = [worker for idle in self._idle.values() for worker in idle]
        self._idle.clear()
        await asyncio.gather(*(worker.release(within) for worker in workers))
