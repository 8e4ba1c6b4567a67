"""What a run came to: the best member, its schedule, and the summary.

Pure: reads the engine and the usage, returns plain data that JSON can say. The scheduler writes it to the run's
folder, the command line prints it, an application reads it from `run.best`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .asks import path_text
from .replays import compared
from .schedule import Interval, Origin, Schedule
from .tree import State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .lineage import Lineage
    from .space import Config
    from .tree import Member
    from .usage import Usage


@dataclass(frozen=True, slots=True)
class Best:
    """The best published member so far.

    member: its id. generation: its, from 0. score: as reported. config: its own. schedule: the configs from generation
    0 on; the last one is its own. lineage: the ids of its ancestors from generation 0 on, then its own. metrics: the
    last values of everything it reported. checkpoint: the folder it wrote.
    """

    member: int
    generation: int
    score: float
    config: Config
    schedule: tuple[Config, ...]
    lineage: tuple[int, ...]
    metrics: Mapping[str, float]
    checkpoint: Path

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; the checkpoint is a path."""
        return {
            "member": self.member,
            "generation": self.generation,
            "score": self.score,
            "config": self.config,
            "schedule": list(self.schedule),
            "lineage": list(self.lineage),
            "metrics": dict(self.metrics),
            "checkpoint": str(self.checkpoint),
        }


def best_of(member: Member | None, checkpoint: Path | None) -> Best | None:
    if member is None or member.score is None or checkpoint is None:
        return None
    return Best(
        member=member.id,
        generation=member.generation,
        score=member.score,
        config=member.config,
        schedule=tuple(member.schedule),
        lineage=tuple(m.id for m in member.ancestry),
        metrics=dict(member.metrics),
        checkpoint=checkpoint,
    )


def schedule(lineage: Lineage, run: str | None = None) -> dict[str, Any]:
    """schedule.json: the winning lineage, generation by generation; empty while there is no winner."""
    found = winning(lineage, run)
    return found.to_json() if found is not None else {"run": run, "member": None, "score": None, "schedule": []}


def winning(lineage: Lineage, run: str | None) -> Schedule | None:
    """The best member's schedule; None while there is no best."""
    return schedule_of(lineage, lineage.best, run) if lineage.best is not None else None


def schedule_of(lineage: Lineage, best: Member, run: str | None) -> Schedule:
    """A member's schedule, with what is known of its ancestry."""
    origin = Origin(
        run=run,
        member=best.id,
        score=best.score,
        metric=lineage.settings.score,
        mode=lineage.settings.mode,
        metrics=dict(best.metrics),
        of=sum(m.state is State.FINISHED for m in lineage.tree.members),
    )
    return Schedule.of((Interval(m.config, m.seed, m.score, m.id, path_text(m.path)) for m in best.ancestry), origin)


def summary(lineage: Lineage, usage: Usage, **more: Any) -> dict[str, Any]:
    """summary.json: what the run came to and where its time went. Times in seconds, overhead in milliseconds.

    `usage` must be closed, or a `so_far` copy. wall_s: first `train` entered to last `train` returned, summed over
    sessions; idle_s sums to slots · wall_s - busy_s (with the slots of each session).
    """
    tree, s = lineage.tree, lineage.settings
    states = [m.state for m in tree.members]
    overhead = usage.overhead
    best = tree.best
    final = tree.best_of(s.generations - 1)
    return {
        "score": best.score if best else None,
        "metric": s.score,
        "mode": s.mode,
        "best_member": best.id if best else None,
        "best_generation": best.generation if best else None,
        "best_metrics": dict(best.metrics) if best else {},
        "best_final": {"member": final.id, "score": final.score} if final else None,
        "members": {
            "finished": states.count(State.FINISHED),
            "failed": states.count(State.FAILED),
            "stopped": states.count(State.STOPPED),
            "lost": sum(m.losses for m in tree.members),
            "unfinished": sum(not state.settled for state in states),
        },
        "generations": [g.settled for g in tree.generations],
        "population": s.population,
        "slots": usage.slots,
        "wall_s": usage.wall,
        "busy_s": usage.busy,
        "utilisation": usage.utilisation,
        "idle_s": dict(usage.idle),
        "overhead_ms": None if overhead is None else overhead * 1e3,
        **measures(lineage),
        **({"replay": compared(lineage)} if s.replay is not None else {}),
        "findings": findings(lineage),
        "seed": s.seed,
        **more,
    }


def findings(lineage: Lineage) -> list[dict[str, Any]]:
    """What the pre-flight has found so far (guide "findings"): code, subject, text, remedy, member."""
    names = ("code", "subject", "text", "remedy", "member")
    return [{name: getattr(fact, name) for name in names} for fact in lineage.findings]


def measures(lineage: Lineage) -> dict[str, float | None]:
    """What lets a person see the price of going asynchronous and the gain of stopping early."""
    return {
        "saved_intervals": saved_intervals(lineage),
        "parents_duration_ratio": parents_duration_ratio(lineage),
        "parents_outside_top_k": parents_outside_top_k(lineage),
    }


def saved_intervals(lineage: Lineage) -> float:
    """What early stopping saved, in intervals.

    A stopped member: 1 - its time in `train` / the mean of its generation's finished members. One never issued: 1.
    (The mean, because the time a member would have taken is worth its expectation: where one interval in ten is five
    times longer, the median would count a stopped long one as a loss.)
    """
    saved = 0.0
    for generation in lineage.tree.generations:
        saved += lineage.settings.population - generation.size
        finished = [m.seconds for m in generation.members if m.state is State.FINISHED]
        whole = statistics.mean(finished) if finished else 0.0
        if whole > 0:
            saved += sum(1 - m.seconds / whole for m in generation.members if m.state is State.STOPPED)
    return saved


def parents_duration_ratio(lineage: Lineage) -> float | None:
    """Mean time in `train` of the parents (each counted once a child) over that of the generation they come from.

    Averaged over generations that have children; below 1, fast configs are favoured. None before there are any.
    """
    tree = lineage.tree
    ratios = []
    for above, below in zip(tree.generations, tree.generations[1:], strict=False):
        parents = [m.parent.seconds for m in below.members if m.parent is not None]
        finished = [m.seconds for m in above.members if m.state is State.FINISHED]
        if parents and finished and sum(finished) > 0:
            ratios.append(statistics.mean(parents) / statistics.mean(finished))
    return statistics.mean(ratios) if ratios else None


def parents_outside_top_k(lineage: Lineage) -> float | None:
    """The share of children whose parent is not among the best k of its generation now: what a barrier would not have.

    Exact once the generations are complete. None before there are children.
    """
    tree, plus = lineage.tree, lineage.settings.selection == "plus"
    children = [m for m in tree.members if m.parent is not None]
    outside = sum(tree.rank(m.parent, m.generation - 1, plus) >= lineage.rule.parents for m in children if m.parent)
    return outside / len(children) if children else None
