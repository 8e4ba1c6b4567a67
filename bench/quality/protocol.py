"""What is run, and what may be looked at when: tuning and confirmation kept apart. bench/README.md says why.

Fixed before there were results. Everything that is tried, chosen or tuned is tried on TUNING tasks and seeds. The HELD
tasks and the CONFIRMATION seeds are for `confirm` alone, which is run once, with FINALISTS that were named before.

`confirm` is spent: its tasks and seeds have been seen. So there is a second set, the LONG tasks, on which schedules,
greed and noise matter, with seeds of its own; their roles were fixed before any method was run on them, too. `held` is
the part of `confirm2` on tasks that nothing was tuned on; the two share their runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .methods import (
    BASELINES2,
    CHOSEN,
    FACTORS,
    FAMILY,
    HISTORY,
    KIN,
    MAIN,
    PBT,
    RATIO,
    STOPS,
    TRIED,
    TUNED_PBT,
    Method,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TUNING = ("digits", "mnist1d", "landscape")
HELD = ("tabular", "boosting", "annealing", "quadratic")
#: made after `confirm`, to understand it; nothing was chosen by it
AFTER = ("still",)
#: tasks whose schedule matters, made later; before a method is run on a held one it is admitted (admission.py)
LONG_TUNING = ("swingup", "text", "embedding")
LONG_HELD = ("harvest", "images", "text40")
#: made up, to develop uses of the family tree on; no evidence
DEVELOPED = ("trap",)
#: for choosing; and for a second look at what was chosen, on seeds that have chosen nothing
TUNING_SEEDS, SECOND_SEEDS = range(20), range(20, 100)
CONFIRMATION_SEEDS = range(1000, 1040)
#: of the long tasks
CONFIRMATION2_SEEDS = range(2000, 2040)
#: blocks that are run once, with finalists that were named before
ONCE = ("confirm", "held", "confirm2")

#: what each block's methods are compared with
REFERENCE = "pbt"
#: ours, to be confirmed beside the product's default; named here, in a commit of its own, before `confirm` is run
FINALISTS: tuple[Method, ...] = tuple(
    m
    for m in (*TRIED, *STOPS[2:], *PBT)
    if m.name
    in (
        "early stop, n 35, ratio .5",  # the product as it is, and what early stopping saves spent again
        "n 48, keep .25, ratio .5",  # the same with a stricter rule: the best mean rank on the second seeds
        "n 35, kin, ratio .5",  # the first, looking at kin
        "successful",  # the default, looking at kin
        "keep 0.25",  # the default, stopping three of four: the most that was saved at little loss
        "pbt, x0.5 2",  # PBT's best common setting by mean rank over all tuning tasks
        "pbt, half, barrier",  # and over the two supervised ones
    )
)
#: the same for `confirm2`: empty until they are named, and until then `held` and `confirm2` are refused
FINALISTS2: tuple[Method, ...] = ()
#: finalists that look at kin, and what is the same but for that
TWINS = (("n 35, kin, ratio .5", "early stop, n 35, ratio .5"), ("successful", "gpbt"))


@dataclass(frozen=True)
class Family:
    """Comparisons of a method with another whose p values are corrected together."""

    question: str
    pairs: tuple[tuple[Method, Method], ...]


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
        return self.task, self.method.on(self.task).digest, self.slots, self.seed


#: what is asked of the landscape with its drift and without: is the lead due to the drift, to our step, to the loop?
_STILL = ("gpbt", "pbt", "early stop, n 35, ratio .5", "pbt, half, our step", "pbt, half, our step and start")
BLOCKS = {
    "main": Block(MAIN),
    "pbt": Block(PBT),
    "history": Block(HISTORY),
    "ratio": Block(RATIO),
    "factors": Block(FACTORS),
    "tried": Block(TRIED),
    "stops": Block(STOPS),
    "kin": Block(KIN, (*LONG_TUNING, *DEVELOPED)),
    "baselines": Block(BASELINES2, LONG_TUNING),
    "tuned": Block(TUNED_PBT, LONG_TUNING),
    "evidence": Block(tuple(m for m in FACTORS if m.name.startswith("evidence")), ("digits", "landscape"), (0,)),
    "slots": Block(
        tuple(m for m in MAIN if m.name not in ("ray pb2", "bohb", "tpe + asha", "ray pbt, half")),
        ("digits", "landscape"),
        (1, 2, 0),
    ),
    "still": Block(tuple(m for m in CHOSEN if m.name in _STILL), ("landscape", *AFTER), seeds=range(40)),
    "second": Block(CHOSEN, seeds=SECOND_SEEDS),
    "confirm": Block((*MAIN, *FINALISTS), (*TUNING, *HELD), (8,), CONFIRMATION_SEEDS),
    "family": Block(FAMILY, LONG_TUNING),
    "family2": Block(FAMILY, LONG_TUNING, seeds=SECOND_SEEDS),
    "held": Block(FINALISTS2, LONG_HELD, seeds=CONFIRMATION2_SEEDS),
    "confirm2": Block(FINALISTS2, (*LONG_TUNING, *LONG_HELD), seeds=CONFIRMATION2_SEEDS),
}


def reference() -> Method:
    return next(m for m in MAIN if m.name == REFERENCE)


def default() -> Method:
    """The product's."""
    return MAIN[0]


def families(block: str = "confirm") -> tuple[Family, ...]:
    """What is asked of a block that is run once, named before it is run."""
    if block == "confirm":
        return _first()
    mine = [m for m in FINALISTS2 if m.digest != reference().digest]
    return (Family("better than PBT?", tuple((m, reference()) for m in mine)),) if mine else ()


def _first() -> tuple[Family, ...]:
    named = {m.name: m for m in BLOCKS["confirm"].methods}
    ours = (default(), *(m for m in FINALISTS if m.name == "early stop, n 35, ratio .5"))
    whole = [named[name] for name in ("asha", "bohb", "tpe", "random")]
    twins = [(kin, alone) for kin, alone in TWINS if kin in named and alone in named]
    fewer = [m for m in named.values() if m.options.get("early_stop") and "budget" not in m.options]
    return (
        Family("better than PBT?", tuple((m, reference()) for m in (default(), *FINALISTS))),
        Family("better than what keeps one config?", tuple((m, other) for m in ours for other in whole)),
        Family("does kin help?", tuple((named[kin], named[alone]) for kin, alone in twins)),
        Family("what does early stopping cost?", tuple((m, default()) for m in fewer)),
    )


def cases(name: str, seeds: Iterable[int], methods: Iterable[str] = (), tasks: Iterable[str] = ()) -> Iterator[Case]:
    """The block's cases, seed by seed, so that what is interrupted is balanced. Raises ValueError for others."""
    block = BLOCKS[name]
    if not block.methods:
        raise ValueError(f"block {name!r} has no methods yet: name its finalists first, in a commit of its own")
    wanted, over = set(methods), set(tasks)
    for what, asked, has in (("method", wanted, {m.name for m in block.methods}), ("task", over, set(block.tasks))):
        if asked - has:
            some = ", ".join(sorted(asked - has))
            raise ValueError(f"{what} {some}: not in block {name!r}; it has {'; '.join(sorted(has))}")
    for seed in seeds:
        if seed not in block.seeds:
            raise ValueError(f"seed {seed} is not one of block {name!r}: those are {block.seeds}")
        for task in block.tasks:
            for slots in block.slots:
                for method in block.methods:
                    if (not wanted or method.name in wanted) and (not over or task in over):
                        yield Case(task, method, slots, seed)
