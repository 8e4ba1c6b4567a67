"""The command line, killed at its n-th fact: `python crash_at.py MODE N launch ...`.

MODE: "before" its line is written, "half" of the line in, or "after" it has reached the kernel.
"""

import os
import signal
import sys

from gpbt_async.__main__ import main
from gpbt_async.codec import to_json
from gpbt_async.storage import journal

MODE, AT = sys.argv[1], int(sys.argv[2])
sys.argv[1:3] = []
append, count = journal.Journal.append, 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def crashing(self, fact):
    global count
    count += 1
    if count == AT and MODE == "before":
        die()
    if count == AT and MODE == "half":
        line = journal._seal({"n": self._n, **to_json(fact)})
        os.write(self._fd, line[: len(line) // 2])
        die()
    append(self, fact)
    if count == AT:
        die()


journal.Journal.append = crashing
main()
