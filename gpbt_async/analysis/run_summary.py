"""The results of a run: its best member, its schedule, its summary, and the verdict on a replay.

Pure: reads the engine and the usage, returns plain data that JSON can hold. The scheduler writes it to the run's
folder, the command line prints it, an application reads it from `run.best`.

A *replay* asks whether a schedule, trained along once more, reproduces the score that it was chosen for. The settings
hold that schedule; each of the n roots is the first interval of one replay, and each replay is a stem of only children.
The question is put as a prediction: if the original were one more replay with a fresh seed, where would it lie? In 95
of 100 cases within mean ± t·sd·sqrt(1 + 1/n), with Student's t of n - 1 degrees of freedom. Five replays judge fairly
(t = 2.8), three weakly (4.3), and two not at all (12.7: nearly everything lies within). Where all replays have the very
same score there is no verdict: the seeds changed nothing, or a coarse metric hides what they changed.

The one surprise: the comparison is unfair to replays. The original is the best of many by this very score, and so it is
expected on the better side of them. (A metric that selected nothing, as one on test data, has no such advantage.)
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

from ..ask import path_text
from ..engine.tree import State
from ..findings import Finding, FindingRow
from ..schedule import Interval, Origin, Schedule, ScheduleRecord
from .heldout import ChoiceRow, GapTable, choice_row, gap_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..engine.engine import Engine
    from ..engine.tree import Node
    from ..events import RunStatus
    from ..space import Config
    from ..storage.folder import RunFolder
    from .usage import Usage


@dataclass(frozen=True, slots=True)
class Best:
    """The best published member so far.

    member: its id. generation: from 0. score: as reported. config: its own. schedule: the configs from generation 0 on;
    the last is its own. lineage: the ids of its ancestors from generation 0 on, then its own. metrics: the last values
    that it reported. checkpoint: the folder that it wrote. choice: how a finished run chose it by `choose_by`. gaps:
    metrics on data of their own beside the score, by generation.
    """

    member: int
    generation: int
    score: float
    config: Config
    schedule: tuple[Config, ...]
    lineage: tuple[int, ...]
    metrics: Mapping[str, float]
    checkpoint: Path
    choice: ChoiceRow | None = None
    gaps: Sequence[GapTable] = ()

    def to_json(self) -> BestRow:
        """As a JSON object; the checkpoint is a path."""
        return BestRow(
            member=self.member,
            generation=self.generation,
            score=self.score,
            config=self.config,
            schedule=list(self.schedule),
            lineage=list(self.lineage),
            metrics=dict(self.metrics),
            checkpoint=str(self.checkpoint),
            choice=self.choice,
            gaps=list(self.gaps),
        )


class BestRow(TypedDict):
    """A Best in JSON; the checkpoint is a path."""

    member: int
    generation: int
    score: float
    config: Config
    schedule: list[Config]
    lineage: list[int]
    metrics: dict[str, float]
    checkpoint: str
    choice: ChoiceRow | None
    gaps: list[GapTable]


def best_of(engine: Engine, folder: RunFolder) -> Best | None:
    member = engine.best
    if member is None or member.score is None:
        return None
    return Best(
        member=member.id,
        generation=member.generation,
        score=member.score,
        config=member.config,
        schedule=tuple(member.schedule),
        lineage=tuple(m.id for m in member.ancestry),
        metrics=dict(member.metrics),
        checkpoint=folder.member(member.id).checkpoint,
        choice=choice_row(engine),
        gaps=gap_tables(engine),
    )


def schedule(engine: Engine, run: str | None = None) -> ScheduleRecord:
    """schedule.json: the winning lineage, generation by generation; empty while there is no best member."""
    schedule = winning(engine, run)
    if schedule is None:
        return ScheduleRecord(run=run, member=None, score=None, schedule=[])
    return schedule.to_json()


def winning(engine: Engine, run: str | None) -> Schedule | None:
    """The best member's schedule; None while there is no best."""
    return schedule_of(engine, engine.best, run) if engine.best is not None else None


def schedule_of(engine: Engine, best: Node, run: str | None) -> Schedule:
    """A member's schedule and where it came from."""
    origin = Origin(
        run=run,
        member=best.id,
        score=best.score,
        metric=engine.settings.score,
        mode=engine.settings.mode,
        metrics=dict(best.metrics),
        of=sum(m.state is State.FINISHED for m in engine.tree.members),
    )
    return Schedule.of((Interval(m.config, m.seed, m.score, m.id, path_text(m.path)) for m in best.ancestry), origin)


class BestFinal(TypedDict):
    """The best member of the last generation."""

    member: int
    score: float | None


class MemberCounts(TypedDict):
    """Members by state; `lost` counts attempts."""

    finished: int
    failed: int
    stopped: int
    lost: int
    unfinished: int


class SummaryOrigin(TypedDict, total=False):
    """What only the caller of `summary` knows: the run's folder and state. version: of gpbt-async."""

    run: str
    how: RunStatus | None
    version: str
    disk_bytes: int


class Summary(SummaryOrigin):
    """summary.json. Times in seconds, overhead in milliseconds."""

    score: float | None
    metric: str
    mode: str
    best_member: int | None
    best_generation: int | None
    best_metrics: dict[str, float]
    best_final: BestFinal | None
    choice: ChoiceRow | None
    gaps: list[GapTable]
    members: MemberCounts
    generations: list[int]
    population: int
    slots: int
    wall_s: float
    busy_s: float
    utilisation: float
    idle_s: dict[str, float]
    #: mean seconds before the first report of a member, by what they went into (events.Trained.start)
    start_s: dict[str, float]
    overhead_ms: float | None
    saved_intervals: float
    parents_duration_ratio: float | None
    parents_outside_top_k: float | None
    #: a Comparison
    replay: NotRequired[Mapping[str, object]]
    findings: list[FindingRow]
    seed: int


def summary(engine: Engine, usage: Usage, **origin: Unpack[SummaryOrigin]) -> Summary:
    """summary.json: the run's results and where its time went.

    `usage` must be closed, or a `so_far` copy. wall_s: first `train` entered to last `train` returned, summed over
    sessions; idle_s sums to slots · wall_s - busy_s (with the slots of each session).
    """
    tree, s = engine.tree, engine.settings
    states = [m.state for m in tree.members]
    overhead = usage.overhead
    best = engine.best
    final = tree.best_of(s.generations - 1)
    summary: Summary = {
        "score": best.score if best else None,
        "metric": s.score,
        "mode": s.mode,
        "best_member": best.id if best else None,
        "best_generation": best.generation if best else None,
        "best_metrics": dict(best.metrics) if best else {},
        "best_final": {"member": final.id, "score": final.score} if final else None,
        "choice": choice_row(engine),
        "gaps": gap_tables(engine),
        "members": {
            "finished": states.count(State.FINISHED),
            "failed": states.count(State.FAILED),
            "stopped": states.count(State.STOPPED),
            "lost": sum(m.lost_attempts for m in tree.members),
            "unfinished": sum(not state.settled for state in states),
        },
        "generations": [g.settled for g in tree.generations],
        "population": s.population,
        "slots": usage.slots,
        "wall_s": usage.wall,
        "busy_s": usage.busy,
        "utilisation": usage.utilisation,
        "idle_s": dict(usage.idle),
        "start_s": usage.start,
        "overhead_ms": None if overhead is None else overhead * 1e3,
        "saved_intervals": saved_intervals(engine),
        "parents_duration_ratio": parents_duration_ratio(engine),
        "parents_outside_top_k": parents_outside_top_k(engine),
        "findings": [finding.to_json() for finding in findings(engine)],
        "seed": s.seed,
    }
    if s.replay is not None:
        summary["replay"] = asdict(compared(engine))
    return {**summary, **origin}


def findings(engine: Engine) -> list[Finding]:
    """The pre-flight's findings so far, in order (guide "findings")."""
    return [Finding.of(fact) for fact in engine.findings]


def measures(engine: Engine) -> dict[str, float | None]:
    """The price of going asynchronous, and the gain of early stopping."""
    return {
        "saved_intervals": saved_intervals(engine),
        "parents_duration_ratio": parents_duration_ratio(engine),
        "parents_outside_top_k": parents_outside_top_k(engine),
    }


def saved_intervals(engine: Engine) -> float:
    """What early stopping saved, in intervals.

    A stopped member: 1 - its time in `train` / the mean of its generation's finished members. One never issued: 1.
    (The mean, as the time that a member would have taken is estimated by its expectation: where one interval in ten
    takes five times longer, the median would count a stopped long one as a loss.)
    """
    saved = 0.0
    for generation in engine.tree.generations:
        saved += engine.settings.population - generation.size
        finished = [m.seconds for m in generation.members if m.state is State.FINISHED]
        whole = statistics.mean(finished) if finished else 0.0
        if whole > 0:
            saved += sum(1 - m.seconds / whole for m in generation.members if m.state is State.STOPPED)
    return saved


def parents_duration_ratio(engine: Engine) -> float | None:
    """Mean time in `train` of the parents (each counted once a child) over that of the generation they come from.

    Averaged over generations that have children; below 1, fast configs are favoured. None before there are any.
    """
    tree = engine.tree
    ratios = []
    for above, below in zip(tree.generations, tree.generations[1:], strict=False):
        parents = [m.parent.seconds for m in below.members if m.parent is not None]
        finished = [m.seconds for m in above.members if m.state is State.FINISHED]
        if parents and finished and sum(finished) > 0:
            ratios.append(statistics.mean(parents) / statistics.mean(finished))
    return statistics.mean(ratios) if ratios else None


def parents_outside_top_k(engine: Engine) -> float | None:
    """The share of children whose parent is not among the best k of its generation now, as it would be with a barrier.

    Exact once the generations are complete. None before there are children.
    """
    tree, plus = engine.tree, engine.settings.selection == "plus"
    children = [m for m in tree.members if m.parent is not None]
    outside = sum(tree.rank(m.parent, m.generation - 1, plus) >= engine.selection.parents for m in children if m.parent)
    return outside / len(children) if children else None


#: Student's t, .975, for 1 to 9 degrees of freedom; beyond, an expansion around the normal's is right to 0.2 %
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_Z = 1.959964
#: fewer replays give no verdict
FEWEST = 3


def student(freedom: int) -> float:
    """The .975 quantile of Student's t with `freedom` >= 1 degrees of freedom."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z, v = _Z, freedom
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, sample standard deviation, and the bounds within which one more value lies in 95 of 100 cases.

    None where undefined: the mean of none, the sd of one, the bounds of fewer than FEWEST or of equal values.
    """

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None

    def holds(self, value: float | None) -> bool | None:
        """Does the value lie within the bounds? None if it or a bound is missing."""
        if value is None or self.low is None or self.high is None:
            return None
        return self.low <= value <= self.high


def spread(values: Sequence[float]) -> Spread:
    n = len(values)
    mean = statistics.fmean(values) if n else None
    sd = statistics.stdev(values) if n > 1 else None
    if mean is None or not sd or n < FEWEST:
        return Spread(mean, sd, None, None)
    reach = student(n - 1) * sd * math.sqrt(1 + 1 / n)
    return Spread(mean, sd, mean - reach, mean + reach)


@dataclass(frozen=True, slots=True)
class MetricComparison(Spread):
    """A metric of the n replays with fresh seeds, and of the original, which lies `within` their noise or not."""

    original: float
    n: int
    within: bool | None


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One replay. seeds: "original" or "fresh". members, scores: interval after interval. reason: of a failure."""

    seeds: str
    members: list[int]
    scores: list[float | None]
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class SameSeeds:
    """The replay with the original's own seeds. exact: it has the same score."""

    score: float | None
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The original beside its finished replays. In JSON: an object with these names.

    run, member, of, score: of the original, the best of how many. fresh: the spread of the n replays with fresh seeds.
    within: does the original lie in their noise? None: fewer than FEWEST have finished, or all with the same score.
    deviations: how many of their standard deviations it lies above their mean.
    """

    run: str | None
    member: int | None
    of: int | None
    metric: str
    mode: str
    score: float | None
    n: int
    fresh: Spread
    within: bool | None
    deviations: float | None
    same_seeds: SameSeeds | None
    metrics: dict[str, MetricComparison]
    replays: list[ReplayRow]


def compared(engine: Engine) -> Comparison:
    """At any time of a replay's run."""
    tree, replay = engine.tree, engine.settings.replay
    assert replay is not None
    origin, own = replay.origin, replay.intervals[0].seed is not None
    stems = [_stem(root) for root in tree.generations[0].members]
    ends = [stem[-1] for stem in stems if len(stem) == len(replay) and stem[-1].state is State.FINISHED]
    fresh = [member for member in ends if not own or member.path[0]]
    scores = [member.score for member in fresh if member.score is not None]
    noise = spread(scores)
    above = origin.score - noise.mean if origin.score is not None and noise.mean is not None else None
    same = next((member for member in ends if own and not member.path[0]), None)
    names = [name for name in origin.metrics if name != engine.settings.score]
    return Comparison(
        run=origin.run,
        member=origin.member,
        of=origin.of,
        metric=engine.settings.score,
        mode=engine.settings.mode,
        score=origin.score,
        n=len(scores),
        fresh=noise,
        within=noise.holds(origin.score),
        deviations=above / noise.sd if above is not None and noise.sd else None,
        same_seeds=SameSeeds(same.score, same.score == origin.score) if same is not None else None,
        metrics={name: _metric(name, origin.metrics[name], fresh) for name in names},
        replays=[_replay(stem, stem[-1] in ends, own and i == 0) for i, stem in enumerate(stems)],
    )


def _replay(stem: list[Node], finished: bool, same_seeds: bool) -> ReplayRow:
    last, seeds = stem[-1], "original" if same_seeds else "fresh"
    state = "finished" if finished else last.state.value
    return ReplayRow(seeds, [member.id for member in stem], [member.score for member in stem], state, last.reason)


def _stem(root: Node) -> list[Node]:
    stem = [root]
    while stem[-1].children:
        stem.append(stem[-1].children[0])
    return stem


def _metric(name: str, original: float, replays: Sequence[Node]) -> MetricComparison:
    values = [float(m.metrics[name]) for m in replays if name in m.metrics and math.isfinite(m.metrics[name])]
    s = spread(values)
    return MetricComparison(s.mean, s.sd, s.low, s.high, original, len(values), s.holds(original))
