"""A run in text, for `status`, `best`, `lineage` and `replay`: from plain data to lines that a person reads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import events
from ..engine.tree import State
from ..events import RunStatus
from ..formatting import clean, counted, duration, number, score_text
from .text import gpu_lines, unstyled, waiting_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..analysis.ancestry import Ancestry, AncestryStep, Parentage
    from ..analysis.combination import Combination, Step
    from ..analysis.heldout import ChoiceRow, GapTable
    from ..analysis.run_summary import Best, Comparison, Spread
    from ..analysis.status import Activity, GenerationRow, RunDetail, RunLine


def brief_text(lines: Sequence[RunLine]) -> str:
    width = max(len(line.run) for line in lines)
    texts = []
    for line in lines:
        summary = line.error or f"{line.members}/{line.of} members, best {line.metric} {_score(line.score)}"
        summary += f"; {counted(len(line.findings), 'finding')}" if line.findings else ""
        texts.append(f"{line.run:<{width}}  {'paused' if line.paused_by_hand else line.state:<11}  {summary}")
    return "\n".join(texts)


def detail_text(detail: RunDetail) -> str:
    lines = [*_head_lines(detail), *_finding_lines(detail.line), *_activity_lines(detail)]
    for label, ids in (("never started", detail.never_begun), ("started, and not finished", detail.given_up)):
        if ids:
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            lines.append(f"{label}: member{'s' * (len(ids) > 1)} {', '.join(map(str, ids[:10]))}{more}")
    lines += [*_free_lines(detail.activity), *_remedies(detail)]
    return "\n  ".join(lines)


def _head_lines(detail: RunDetail) -> list[str]:
    line = detail.line
    with_findings = f", with {counted(len(line.findings), 'finding')}" if line.findings else ""
    holder = f" (process {detail.holder.get('pid')})" if detail.holder else ""
    best_member = "" if line.best_member is None else f", member {line.best_member}"
    return [
        f"{line.run}: {line.state}{with_findings}{holder}",
        *([f"because {detail.reason}"] if detail.reason else []),
        f"folder {detail.folder}",
        *([f"options {detail.options_typed}"] if detail.options_typed else []),
        f"members {line.members} of {line.of}; best {line.metric} {_score(line.score)}{best_member}",
        *map(_generation_line, detail.generations),
    ]


def _generation_line(row: GenerationRow) -> str:
    counts = {"training": row.training, "stopped": row.stopped, "failed": row.failed}
    others = "".join(f", {count} {state}" for state, count in counts.items() if count)
    return f"generation {row.generation:>3}: {row.finished:>4} finished of {row.of}{others}; best {_score(row.best)}"


def _finding_lines(line: RunLine) -> list[str]:
    lines = []
    for finding in line.findings:
        lines.append(f"{finding.code}: {finding.text}")
        lines += [f"  remedy: {finding.remedy}"] if finding.remedy else []
    return [*lines, "what findings mean: gpbt-async guide findings"] if lines else []


def _activity_lines(detail: RunDetail) -> list[str]:
    line, activity, lines = detail.line, detail.activity, []
    for row in activity.training:
        since = "starting" if row.seconds is None else f"{row.seconds:.1f} s"
        config = ", ".join(f"{name}={_short(value)}" for name, value in row.config.items())
        lines.append(f"slot {row.slot}: member {row.member} ({row.path}, attempt {row.attempt}), {since}; {config}")
    lines += [unstyled(text).rstrip() for text in gpu_lines(list(activity.gpus), time.time())]
    if line.paused:
        lines.append(events.Paused(t=0.0, reason=line.paused, by_hand=line.paused_by_hand).sentence(detail.typed))
    if activity.waiting_for_gpus:
        lines.append(waiting_text(activity.waiting_for_gpus, time.time()))
    for waits in activity.waiting:
        after = f" (after {waits.after})" if waits.after else ""
        lines.append(f"member {waits.member} waits for {waits.cause}{after}")
    return lines


def _free_lines(activity: Activity) -> list[str]:
    if not activity.free_slots:
        return []
    ago = f" {duration(time.time() - activity.free_since)} ago" if activity.free_since is not None else ""
    return [f"{activity.free_slots} slot(s) free, waiting for {activity.free_until}{ago}"]


def _remedies(detail: RunDetail) -> list[str]:
    resume, to_retry = f"gpbt-async resume {detail.typed}", detail.activity.to_retry
    lines = [f"to continue: {resume}"] if detail.line.state is RunStatus.INTERRUPTED else []
    if to_retry or detail.activity.reopens:
        which = counted(len(to_retry), "failed member") if to_retry else "what has failed"
        lines.append(f"once the cause is fixed, {which} can be tried again: {resume} --retry-failed")
    return lines


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_text(best: Best) -> str:
    lines = [
        f"member {best.member} (generation {best.generation}): score {_score(best.score)}",
        f"checkpoint {best.checkpoint}",
        "metrics " + ", ".join(f"{name}={_score(value)}" for name, value in best.metrics.items()),
        *([f"chosen {choice_text(best.choice)}"] if best.choice is not None else []),
        "schedule",
    ]
    for generation, (member, config) in enumerate(zip(best.lineage, best.schedule, strict=True)):
        values = ", ".join(f"{name}={_short(value)}" for name, value in config.items())
        lines.append(f"  {generation:>3}  member {member}: {values}")
    return "\n".join([*lines, *gap_lines(best.gaps)])


def choice_text(choice: ChoiceRow | None) -> str:
    """How the final choice was made; "" where there was none."""
    if choice is None:
        return ""
    metric, count = clean(choice["metric"]), counted(len(choice["among"]), "member")
    if choice["value"] is None:
        return f"by the score: none of the {count} reported {metric}"
    others = f", of which {choice['eligible']} reported it" if choice["eligible"] < len(choice["among"]) else ""
    first = choice["among"][0]
    score = (
        "it is also the best by the score" if first == choice["member"] else f"member {first} is the best by the score"
    )
    return f"by {metric}={_score(choice['value'])} among {count}{others}; {score}"


def gap_lines(gaps: Sequence[GapTable]) -> list[str]:
    """Score and metric, generation by generation, for each metric on data of its own."""
    lines = []
    for table in gaps:
        metric = clean(table["metric"])
        difference = f", {metric} - score" if table["alike"] else ""
        lines.append(f"means of the best of each generation: score, {metric}{difference}")
        for row in table["generations"]:
            less = f"  {_score(row['metric'] - row['score'])}" if table["alike"] else ""
            lines.append(f"  {row['generation']:>3}  {_score(row['score'])}  {_score(row['metric'])}{less}")
    return lines


def step_text(step: Step) -> str:
    """One validation of a merge or an ensemble."""
    first, added = len(step.members) == 1, step.members[-1]
    if step.reason:
        return f"member {added} cannot be {'validated' if first else 'added'}: {clean(step.reason)}"
    what = f"member {added}, the best alone" if first else f"with member {added}"
    end = "" if first else ": it stays" if step.kept else ": no improvement, so without it"
    return f"{what}: {_score(step.score)}{end}"


def combination_text(made: Combination) -> str:
    """A merge or an ensemble, and what it gains."""
    what = "merge" if made.how == "merge" else "ensemble"
    metric, best = clean(made.metric), f"member {made.best}, the best of {made.run}"
    alone = made.steps[0].metrics if made.steps else {}
    of = f"of {counted(len(made.candidates), 'checkpoint')} on the disk"
    lines = []
    if made.checkpoints:
        percent = f" ({100 * made.gain / abs(made.best_score):.2g} %)" if made.best_score else ""
        members = ", ".join(map(str, made.members))
        lines += [
            f"{what} of {len(made.members)} {of}: members {members}",
            f"{metric} {_score(made.score)}, better by {_score(made.gain)}{percent} than {best}",
            *(f"checkpoint {made.folder}/{each}" for each in made.checkpoints),
            f"metrics, and those of member {made.best} alone:",
            *(f"  {clean(name)} {_score(value)}, {_score(alone.get(name))}" for name, value in made.metrics.items()),
            "(the score is the one by which it was chosen, and so an optimistic one; the best member stays as it is)",
        ]
    else:
        lines += [f"no {what}: {of}, none improves on {best}, {metric} {_score(made.best_score)}"]
    if made.differs:
        lines.append(
            f"validate gives member {made.best} {metric} {_score(made.best_score)}, and its training has reported "
            f"{_score(made.reported)}: do both measure the same?"
        )
    return "\n".join(lines)


def descent_text(descent: Ancestry, began: float) -> str:
    """The ancestry as a tree, the root first. began: when the run began, in seconds since the epoch."""
    metric = clean(descent.metric)
    lines = [f"{descent.run}: why member {descent.member} exists"]
    for depth, step in enumerate(descent.ancestry):
        pad = "   " * max(0, min(depth, 12) - 1) + ("└─ " if depth else "")
        under = "   " * min(depth, 12) + "   "
        ranked = f", {_ordinal(step.rank)} of generation {step.generation}'s {step.of}" if step.rank else ""
        lines.append(
            f"{pad}member {step.member} ({step.path}), generation {step.generation}: {step.state}, "
            f"{metric} {score_text(step.score)}{ranked}"
        )
        if step.reason:
            because = "because" if step.state == State.FAILED.value else "an attempt of it failed:"
            lines.append(f"{under}{because} {clean(step.reason)}")
        lines += [under + text for text in _step_lines(step, descent, step.t - began)]
    return "\n".join(lines)


def _step_lines(step: AncestryStep, descent: Ancestry, after: float) -> list[str]:
    when = f"issued {duration(after)} after the run began"
    others = f"one of {counted(step.siblings + 1, 'sibling')}" if step.siblings else "an only child"
    if step.chosen is None:
        config = ", ".join(f"{clean(name)} {clean(number(value))}" for name, value in step.config.items())
        return [f"{when}; a root, {others}", f"config {config}"]
    return [f"{when}; {others}", _parent_line(step.chosen, descent.schedule), _config_line(step, descent.searcher)]


def _parent_line(chosen: Parentage, schedule: str) -> str:
    rank = f"{_ordinal(chosen.rank)} of the {chosen.rivals} finished then"
    elite = f"the fewest in this generation among the elite of {chosen.elite}"
    if schedule == "sync":
        elite = f"one of the elite of {chosen.elite}, each of which has its share of this generation"
    children = {0: "no children", 1: "1 child"}.get(chosen.children, f"{chosen.children} children")
    return f"parent {chosen.parent}: {rank}, with {children} so far, {elite}"


def _config_line(step: AncestryStep, searcher: str) -> str:
    changes = ", ".join(
        f"{clean(name)} {clean(number(old))} → {clean(number(new))}" for name, (old, new) in step.changed.items()
    )
    if step.repeats:
        clipped = f", clipped to the space adopted since: {changes}" if changes else ""
        return f"config as its parent's: a first child repeats it{clipped}"
    if not step.changed:
        return f"config as its parent's: {clean(searcher)} changed nothing"
    same = len(step.config) - len(step.changed)
    return f"{clean(searcher)} changed {changes}" + (f"; {same} as the parent's" if same else "")


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def replay_text(c: Comparison) -> str:
    """The verdict on a replay."""
    run = "" if c.run is None else f", {c.run}'s member {c.member}"
    lines = [f"the original{run}: {c.metric} {score_text(c.score)}"]
    scores = [row.scores[-1] for row in c.replays if row.state == State.FINISHED.value and row.seeds == "fresh"]
    if c.n:
        lines.append(f"{counted(c.n, 'replay')} with fresh seeds: {c.metric} {_noise(c.fresh)}")
    if c.n > 1:
        lines += ["  " + ", ".join(score_text(score) for score in scores), *_replay_verdict(c, scores)]
    elif c.n:
        lines.append("one replay does not show the noise among seeds: --seeds 5")
    for name, m in c.metrics.items():
        if m.n:
            where = "" if m.within is None else ": within" if m.within else ": outside"
            lines.append(f"  {name}: original {score_text(m.original)}, replays {_noise(m)}{where}")
    if (same := c.same_seeds) is not None:
        how = "exactly the same" if same.exact else "not the same: more than its seed decides (threads, a GPU, time)"
        lines.append(f"with the original's own seeds: {c.metric} {score_text(same.score)}, {how}")
    for i, row in enumerate(c.replays):
        if row.state != State.FINISHED.value:
            why = f": {clean(row.reason)}" if row.reason else ""
            lines.append(f"replay {i} reached interval {len(row.members) - 1} and is {row.state} there{why}")
    return "\n".join(lines)


def _noise(spread: Spread) -> str:
    sd = f" ± {number(spread.sd, 2, pad=True)} (mean ± sd)" if spread.sd is not None else ""
    return f"{score_text(spread.mean)}{sd}"


def _replay_verdict(c: Comparison, scores: Sequence[float | None]) -> list[str]:
    """Whether the original lies within the seed noise, and on which side; or why that cannot be said."""
    if c.fresh.sd == 0:
        same = "the same as" if c.score == scores[0] else "not"
        return [
            f"their seeds changed nothing: this does not show the noise among seeds. It is {same} the original's score",
            "(is training deterministic, or does the script seed itself? A member is seeded already: remove "
            "torch.manual_seed and the like)",
        ]
    if c.within is None:
        return ["two replays are too few to say whether the original lies within the noise among seeds: --seeds 5"]
    between = f"95 of 100 replays are expected between {score_text(c.fresh.low)} and {score_text(c.fresh.high)}"
    better = "better" if ((c.deviations or 0) > 0) == (c.mode == "max") else "worse"
    far = f", {abs(c.deviations):.1f} sd {better} than their mean" if c.deviations else ""
    lies = "within" if c.within else "outside"
    few = f"; {len(scores)} are few for this verdict: --seeds 5 is better" if len(scores) < 5 else ""
    lines = [f"the original {score_text(c.score)} lies {lies} the seed noise{far}; {between}{few}"]
    if c.of:
        lines.append(f"(it was chosen as the best of {c.of} by this score, and so is expected on the better side)")
    return lines
