"""The methods by name: which room runs one, with which options. A digest of these says whether a row is theirs.

Options are what a room's `run` takes. What is not given is the room's default, and for the product its own default:
the digest holds the product's settings as they come out, so that rows made under an older default are not taken for
rows of the new one. A change of behaviour that no setting tells of does not change the digest: then delete the rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpbt_async.experiment import PRESETS, Settings
from gpbt_async.space import Float, Space

from . import tasks

if TYPE_CHECKING:
    from .record import Record

#: of the product's settings, those that say what a run does on a given task
TELLING = ("ratio", "searcher", "history", "selection", "evidence", "early_stop", "schedule")


@dataclass(frozen=True)
class Method:
    """n members or trials, T intervals each, of `length` standard intervals.

    generations None: T is the task's own, a whole training.
    """

    name: str
    room: str = "ours"
    options: dict[str, Any] = field(default_factory=dict)
    population: int = 25
    generations: int | None = None
    length: float = 1.0

    def run(self, task: str, slots: int, seed: int) -> Record:
        """One run; slots 0 = as many as there are members."""
        made = tasks.make(task, seed, self.length)
        run = importlib.import_module(f"{__package__}.{self.room}").run
        record: Record = run(
            made,
            seed,
            slots or self.population,
            self.length,
            self.population,
            self.generations or made.generations,
            **self.options,
        )
        return record

    def on(self, task: str) -> Method:
        """This method with the task's T, where it has none of its own: its digest is the one in the task's rows."""
        return dataclasses.replace(self, generations=self.generations or tasks.kind(task).generations)

    @property
    def digest(self) -> str:
        """On a task of ten intervals; `on(task).digest` on any."""
        told = [self.room, self._told(), self.population, self.generations or 10, self.length]
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=4).hexdigest()

    def _told(self) -> dict[str, Any]:
        if self.room != "ours":
            return self.options
        own = {"pending": True, "repeat": True, **self.options}
        chosen: dict[str, Any] = {**PRESETS.get(own.pop("preset", ""), {}), **own}
        kept: dict[str, Any] = {
            name: chosen.pop(name)
            for name in ("pending", "repeat", "cooled", "genealogy", "budget", "keep", "everyone")
            if name in chosen
        }
        s = Settings(space=Space({"x": Float(0, 1)}), score="loss", mode="min", **chosen)
        return {**kept, **{name: getattr(s, name) for name in TELLING}}


def ours(name: str, **options: Any) -> Method:
    return Method(name, "ours", options)


def pbt(name: str, **options: Any) -> Method:
    return Method(name, "pbt", options)


#: the main table
MAIN = (
    ours("gpbt"),
    ours("gpbt, early stop", early_stop=("median",)),
    ours("paper, sync", preset="paper"),
    ours("paper, async", preset="paper", schedule="async"),
    pbt("pbt"),
    pbt("pbt, half", quantile=0.5),
    Method("ray pbt", "ray_tune"),
    Method("ray pbt, half", "ray_tune", {"quantile_fraction": 0.5}),
    Method("ray pb2", "ray_tune", {"scheduler": "pb2"}),
    Method("asha", "full_runs", {"pruner": "asha"}),
    Method("bohb", "full_runs", {"sampler": "tpe", "pruner": "hyperband"}),
    Method("tpe + asha", "full_runs", {"sampler": "tpe", "pruner": "asha"}),
    Method("tpe + median", "full_runs", {"sampler": "tpe", "pruner": "median"}),
    Method("tpe", "full_runs", {"sampler": "tpe"}),
    Method("random", "full_runs"),
)

#: PBT's common settings, from which its best is chosen in tuning; and PBT with parts of ours
PBT = (
    pbt("pbt"),
    pbt("pbt, half", quantile=0.5),
    pbt("pbt, fifth", quantile=0.2),
    pbt("pbt, x0.5 2", factors=(0.5, 2.0)),
    pbt("pbt, half, x0.5 2", quantile=0.5, factors=(0.5, 2.0)),
    pbt("pbt, no resampling", resample=0.0),
    pbt("pbt, fifth, no resampling", quantile=0.2, resample=0.0),
    pbt("pbt, half, resample .1", quantile=0.5, resample=0.1),
    pbt("pbt, barrier", barrier=True),
    pbt("pbt, half, barrier", quantile=0.5, barrier=True),
    pbt("pbt, our step", explore="step"),
    pbt("pbt, half, our step", quantile=0.5, explore="step"),
    pbt("pbt, our step and start", explore="step", start="tpe"),
    pbt("pbt, half, our step and start", quantile=0.5, explore="step", start="tpe"),
)

#: history x searcher; of the others history changes nothing: they do not look at kin, or only in generation 0
HISTORY = (
    *(
        ours(f"{searcher}, {history}", searcher=searcher, history=history)
        for searcher in ("tpe", "kin")
        for history in ("inherit", "reset", "global")
    ),
    *(ours(searcher, searcher=searcher) for searcher in ("local", "perturb", "random")),
)

#: ratio x generations, a whole training being equally long: with T = 20 intervals are half as long
RATIO = (
    *(
        Method(f"ratio {c:g}, T {t}", "ours", {"ratio": c}, 25, t, 10 / t)
        for t in (5, 10, 20)
        for c in (0.25, 0.5, 1.0, 2.0)
    ),
    *(Method(f"pbt, T {t}", "pbt", {}, 25, t, 10 / t) for t in (5, 10, 20)),
)

#: one factor at a time
FACTORS = (
    *(ours(f"evidence {share:g}", evidence=share) for share in (0.0, 0.75, 1.0)),
    *(ours(f"{searcher}, no repeat", searcher=searcher, repeat=False) for searcher in ("local", "tpe", "random")),
    *(ours(f"{searcher}, pending ignored", searcher=searcher, pending=False) for searcher in ("local", "tpe", "kin")),
    ours("local, plus", selection="plus"),
    ours("tpe, plus", searcher="tpe", selection="plus"),
    ours("local, generation stop", early_stop=("generation",)),
    ours("local, both stops", early_stop=("median", "generation")),
)

#: what might be better: candidates.py, and the product's own switches together
TRIED = (
    ours("gpbt"),
    pbt("pbt"),
    *(ours(name.lower(), searcher=f"try:{name}") for name in ("Narrow", "Mirrored", "Successful", "Drifting")),
    *(ours(f"cooled {a:g} {b:g}", cooled=(a, b)) for a, b in ((0.25, 1.0), (0.25, 4.0), (0.5, 2.0))),
    *(ours(f"ratio {c:g}, plus", ratio=c, selection="plus") for c in (0.25, 0.5)),
    Method("early stop, n 35", "ours", {"early_stop": ("median",), "budget": 250}, 35),
    Method("early stop, n 35, ratio .5", "ours", {"early_stop": ("median",), "budget": 250, "ratio": 0.5}, 35),
    ours("kin, ratio .5", searcher="kin", ratio=0.5),
    ours("perturb, ratio .5", searcher="perturb", ratio=0.5),
)


def kin(name: str, ratio: float = 1.0, **options: Any) -> Method:
    return ours(name, genealogy=options) if ratio == 1.0 else ours(name, ratio=ratio, genealogy=options)


_CLASSES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {"rule": ("classes", {"periods": (1, 2, 5)})}),
    (", no migration", {"rule": ("classes", {"periods": (1, 2, 5), "migrate": False})}),
    (", lineage", {"rule": ("classes", {"periods": (1, 2, 5)}), "filter": "lineage"}),
)
#: all classes alike, and one class
_PERIODS = (("1 1 1", (1, 1, 1)), ("2 2 2", (2, 2, 2)), ("2", (2,)))
#: what an evaluation costs, in intervals; environment steps on swingup: 480 of 8192
EVALUATION = 0.06
#: uses of the family tree, each with its twin without kin: genealogy.py, classes.py
KIN = (
    ours("gpbt"),
    pbt("pbt"),
    ours("ratio .5", ratio=0.5),
    kin("lineage", filter="lineage"),
    kin("lineage, chosen by score", filter="lineage", choose="score"),
    kin("lineage, for the choice alone", filter="lineage", ranks=False),
    kin("no kin: filter", filter="generation"),
    kin("no kin: parents evaluated twice", reevaluate=EVALUATION),
    kin("no kin: 10 finalists", choose=(10, EVALUATION)),
    kin("lasting", filter="lineage", noise="tree", choose="score"),
    *(kin(f"classes 1 2 5{name}", **more) for name, more in _CLASSES),
    *(kin(f"no steadiness: {name}", rule=("classes", {"periods": periods})) for name, periods in _PERIODS),
    *(kin(f"at most {cap} of a family", rule=("capped", {"cap": cap})) for cap in (1, 2)),
    kin("return after 2", rule=("returning", {"patience": 2})),
    kin("return after 4", rule=("returning", {"patience": 4})),
    kin("families that do well grow", rule=("allocated", {})),
    kin("lineage, ratio .5", 0.5, filter="lineage"),
    kin("classes 1 2 5, ratio .5", 0.5, rule=("classes", {"periods": (1, 2, 5)})),
)


def stopped(name: str, n: int = 25, **options: Any) -> Method:
    return Method(name, "ours", {"early_stop": ("median",), **options}, n)


#: how much early stopping saves, and at what price; and what is saved spent again, on more members
STOPS = (
    ours("gpbt"),
    stopped("gpbt, early stop"),
    *(stopped(f"keep {q:g}", keep=q) for q in (0.35, 0.25, 0.15)),
    *(stopped(f"keep {q:g} of everyone", keep=q, everyone=True) for q in (0.5, 0.35, 0.25)),
    *(stopped(f"keep {q:g}, ratio .5", keep=q, ratio=0.5) for q in (0.35, 0.25)),
    *(stopped(f"keep {q:g} of everyone, ratio .5", keep=q, ratio=0.5, everyone=True) for q in (0.35, 0.25)),
    stopped("n 35, kin, ratio .5", 35, searcher="kin", ratio=0.5, budget=250),
    stopped("n 42, keep .35, ratio .5", 42, keep=0.35, ratio=0.5, budget=250),
    stopped("n 48, keep .25, ratio .5", 48, keep=0.25, ratio=0.5, budget=250),
    stopped("n 55, keep .25 of everyone, ratio .5", 55, keep=0.25, everyone=True, ratio=0.5, budget=250),
    stopped("n 35, successful, ratio .5", 35, searcher="try:Successful", ratio=0.5, budget=250),
    stopped("n 35, mirrored, ratio .5", 35, searcher="try:Mirrored", ratio=0.5, budget=250),
)

#: the best of `tried`, of `pbt`, of `ratio` and of `stops` on the first seeds, each looked at again on others
CHOSEN = tuple(
    m
    for m in (*TRIED, *PBT[1:], *RATIO, *STOPS[2:])
    if m.name
    in (
        "gpbt",
        "pbt",
        "early stop, n 35",
        "early stop, n 35, ratio .5",
        "kin, ratio .5",
        "successful",
        "pbt, half, our step",
        "pbt, half, our step and start",
        "pbt, half, barrier",
        "ratio 0.25, T 5",
        "n 35, kin, ratio .5",
        "n 35, successful, ratio .5",
        "n 35, mirrored, ratio .5",
        "n 48, keep .25, ratio .5",
        "n 55, keep .25 of everyone, ratio .5",
        "keep 0.25 of everyone, ratio .5",
    )
)

#: on the long tasks: what uses the family tree, and what it is compared with
FAMILY = (
    ours("gpbt"),
    pbt("pbt"),
    Method("random", "full_runs"),
)

#: what else a practitioner would do, or a paper says: each trains 25 · T intervals, T being the task's own
BASELINES2 = (
    Method("cosine", "schedules"),
    Method("linear", "schedules", {"shape": "linear"}),
    Method("step decay", "schedules", {"shape": "step"}),
    Method("cosine, tpe", "schedules", {"sampler": "tpe"}),
    Method("cosine, asha", "schedules", {"pruner": "asha"}),
    Method("linear, asha", "schedules", {"shape": "linear", "pruner": "asha"}),
    Method("mf-pbt", "mf_pbt"),
    Method("mf-pbt, 1 4 10", "mf_pbt", {"periods": (1, 4, 10)}),
    Method("mf-pbt, 1 2 5 10", "mf_pbt", {"periods": (1, 2, 5, 10)}),
    Method("fire-pbt", "fire_pbt"),
    Method("fire-pbt, x.8 1.2", "fire_pbt", {"factors": (0.8, 1.2)}),
    Method("fire-pbt, patient", "fire_pbt", {"patience": 6, "certain": 0.125}),
    pbt("pbt"),
    *(m for m in MAIN if m.room in ("full_runs", "ray_tune")),
)


def _tuned(quantile: float, factors: tuple[float, float], resample: float, every: int = 1) -> Method:
    """A PBT named by its options."""
    name = f"pbt, q {quantile:g}, x{factors[0]:g} {factors[1]:g}, draw {resample:g}, every {every}"
    return pbt(name, quantile=quantile, factors=factors, resample=resample, every=every)


#: PBT's options for longer trainings: all of truncation, factors and drawing anew; and exploiting less often
TUNED_PBT = (
    *(_tuned(q, f, r) for q in (0.2, 0.25, 0.5) for f in ((0.8, 1.2), (0.5, 2.0)) for r in (0.0, 0.1, 0.25)),
    *(_tuned(q, f, r, k) for k in (2, 4) for q in (0.25, 0.5) for f in ((0.8, 1.2), (0.5, 2.0)) for r in (0.0, 0.25)),
    *(Method(f"ray pbt, every {k}", "ray_tune", {"perturbation_interval": k}) for k in (2, 4)),
)
