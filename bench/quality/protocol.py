"""What is run, and what may be looked at when: tuning and confirmation kept apart. bench/README.md says why.

Fixed before there were results. Everything that is tried, chosen or tuned is tried on TUNING tasks and seeds. The HELD
tasks and the CONFIRMATION seeds are for `confirm` alone, which is run once, with FINALISTS that were named before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .methods import CHOSEN, FACTORS, HISTORY, MAIN, PBT, RATIO, STOPS, TRIED, Method

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TUNING = ("digits", "mnist1d", "landscape")
HELD = ("tabular", "boosting", "annealing", "quadratic")
#: for choosing; and for a second look at what was chosen, on seeds that have chosen nothing
TUNING_SEEDS, SECOND_SEEDS = range(20), range(20, 100)
CONFIRMATION_SEEDS = range(1000, 1100)

#: what each block's methods are compared with
REFERENCE = "pbt"
#: ours, to be confirmed beside the product's default; named here, in a commit of its own, before `confirm` is run
FINALISTS: tuple[Method, ...] = ()


@dataclass(frozen=True)
class Block:
    """slots: 0 stands for as many as there are members."""

    methods: tuple[Method, ...]
    tasks: tuple[str, ...] = TUNING
    slots: tuple[int, ...] = (8,)
    seeds: range = TUNING_SEEDS


@dataclass(frozen=True)
class Case:
    task: str
    method: Method
    slots: int
    seed: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes a row this case's: not the method's name, which may be another in another block."""
        return self.task, self.method.digest, self.slots, self.seed


BLOCKS = {
    "main": Block(MAIN),
    "pbt": Block(PBT),
    "history": Block(HISTORY),
    "ratio": Block(RATIO),
    "factors": Block(FACTORS),
    "tried": Block(TRIED),
    "stops": Block(STOPS),
    "evidence": Block(tuple(m for m in FACTORS if m.name.startswith("evidence")), ("digits", "landscape"), (0,)),
    "slots": Block(
        tuple(m for m in MAIN if m.name not in ("ray pb2", "bohb", "tpe + asha", "ray pbt, half")),
        ("digits", "landscape"),
        (1, 2, 0),
    ),
    "second": Block(CHOSEN, seeds=SECOND_SEEDS),
    "confirm": Block((*MAIN, *FINALISTS), (*TUNING, *HELD), (8,), CONFIRMATION_SEEDS),
}


def reference() -> Method:
    return next(m for m in MAIN if m.name == REFERENCE)


def default() -> Method:
    """The product's."""
    return MAIN[0]


def cases(name: str, seeds: Iterable[int], methods: Iterable[str] = (), tasks: Iterable[str] = ()) -> Iterator[Case]:
    """The block's cases, seed by seed, so that what is interrupted is balanced. Raises ValueError for other seeds."""
    block = BLOCKS[name]
    wanted, over = set(methods), set(tasks)
    for seed in seeds:
        if seed not in block.seeds:
            raise ValueError(f"seed {seed} is not one of block {name!r}: those are {block.seeds}")
        for task in block.tasks:
            for slots in block.slots:
                for method in block.methods:
                    if (not wanted or method.name in wanted) and (not over or task in over):
                        yield Case(task, method, slots, seed)
