"""Do stored rows come out again? A share of them is run anew, here, and compared.

Rows of this version of the code are those whose digest is a case's of today. Which of them are run is a function of
their case alone, so the same share is the same rows everywhere. What must be equal, to 1e-6 of it, is every loss and
every time; `cpu` and the environment are not compared.

Of a row that comes out otherwise the cause is looked for in this order: the run is no function of its seed (it comes
out otherwise twice here, too); other kernels of OpenBLAS give the stored row (it is run in a process of its own under
each that this processor has); versions and code, of which it says what differs; or it is not known. If all rows of an
environment came out, and twenty of them were tried, its entry in environments.json is written into this one's: from
then on the two are paired.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import driver, environment, protocol, rows, tasks
from .environment import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from .protocol import Case
    from .rows import Row

#: of a row, what is compared
COMPARED = ("val", "test", "error", "spent", "span", "depth", "times", "vals")
EQUAL = 1e-6
#: rows of an environment that must have come out, before it is said to give the same rows as this one
ENOUGH = 20
#: kernels a row may have been made with, by what the processor must have for them
KERNELS = {"Haswell": "avx2", "SkylakeX": "avx512vl", "Sandybridge": "avx", "Nehalem": "sse4_2", "Prescott": "pni"}


@dataclass
class Tally:
    """Of one environment's rows: how many came out, and why others did not."""

    equal: int = 0
    others: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def again(
    folder: Path, share: float, seconds: float = 1e9, tell: Callable[[str], None] = print, least: int = ENOUGH
) -> dict[str, Tally]:
    """Run the share of the folder's rows anew, until the time is over; what came of it by environment."""
    cases = {case.key: case for case in every()}
    known, tallies, until = Known(folder), dict[str, Tally](), time.monotonic() + seconds
    mine = environment.digest(environment.here())
    for row in picked(rows.read_all(folder), share):
        if time.monotonic() >= until:
            break
        case = cases.get(rows.key(row))
        if case is None:
            continue
        tally = tallies.setdefault(rows.environment(row), Tally())
        missing = [use for use in uses(case) if environment.version(use) == "none"]
        if missing:
            tally.skipped.update(missing)
        elif equal(row, made := driver.row_of(case)):
            tally.equal += 1
        else:
            why = cause(case, row, made, known)
            tally.others.append(f"{case.task} {row['method']!r} {case.slots} slots, seed {case.seed}: {why}")
            tell(tally.others[-1])
    for name, tally in tallies.items():
        if name != mine and tally.equal >= least and not tally.others:
            known.note()
            known.same(mine, name, f"{tally.equal} rows of {name} came out again")
    return tallies


def told(tallies: dict[str, Tally]) -> str:
    lines = []
    for name, tally in tallies.items():
        n = tally.equal + len(tally.others)
        lines.append(f"environment {name}: {tally.equal} of {n} rows are equal to {EQUAL:g}")
        lines += [f"  not equal: {other}" for other in tally.others]
        lines += [f"  not run: {n}, which need {package}" for package, n in tally.skipped.items()]
    return "\n".join(lines) or "no row was run"


def every() -> Iterator[Case]:
    """All cases of all blocks that have methods."""
    for name, block in protocol.BLOCKS.items():
        if block.methods and all(task in tasks.WHERE for task in block.tasks):
            yield from protocol.cases(name, block.seeds)


def picked(some: Iterable[Row], share: float) -> list[Row]:
    """The rows whose key is among this share of all keys; never a matter of chance."""
    return [row for row in some if tasks.key("again", *rows.key(row)) < share * 2**63]


def uses(case: Case) -> list[str]:
    return [package for use in (case.method.room, case.task) for package in environment.OWN.get(use, ())]


def equal(one: Row, other: Row) -> bool:
    return all(_same(one.get(name), other.get(name)) for name in COMPARED)


def _same(a: object, b: object) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=EQUAL)
    return a == b


def cause(case: Case, row: Row, made: Row, known: Known) -> str:
    """Why a stored row did not come out, as far as can be found out here."""
    which = next(name for name in COMPARED if not _same(row.get(name), made.get(name)))
    what = f"{which} {_brief(made.get(which))}, stored {_brief(row.get(which))}"
    if not equal(made, driver.row_of(case)):
        return f"{what}: the run is no function of its seed"
    flags = environment.flags()
    for kernels in (name for name, flag in KERNELS.items() if flag in flags):
        if equal(row, elsewhere(case, kernels)):
            return f"{what}: the stored row comes out with OpenBLAS's kernels {kernels}"
    stored = known.entries.get(rows.environment(row))
    differs = environment.differences(environment.here(), stored) if stored else []
    if row.get("code") != made.get("code"):
        differs.append(f"the code is of {made.get('code', 'no commit')}, not {row.get('code', 'named in the row')}")
    return f"{what}: " + ("; ".join(differs) if differs else "the cause is not known")


def elsewhere(case: Case, kernels: str) -> Row:
    """The case's row, made in a process of its own with these kernels; nothing where that fails."""
    code = "import json, pickle, sys; from {0} import driver\n"
    code += "print(json.dumps(driver.row_of(pickle.loads(bytes.fromhex(sys.argv[1])))))"
    ran = subprocess.run(
        [sys.executable, "-c", code.format(__package__), pickle.dumps(case).hex()],
        env={**os.environ, "OPENBLAS_CORETYPE": kernels, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    made: Row = json.loads(ran.stdout.splitlines()[-1]) if not ran.returncode and ran.stdout else {}
    return made


def _brief(value: object) -> str:
    return "as a list" if isinstance(value, list) else f"{value}"
