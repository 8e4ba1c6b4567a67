"""TODO head."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .. import events
from ..analysis.reader import _score
from ..formatting import clean, counted, duration, number, score_text
from .text import gpu_lines, unstyled, waiting_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..analysis.results import Best


def brief_text(found: list[dict[str, Any]]) -> str:
    width = max(len(b["run"]) for b in found)
    lines = []
    for b in found:
        told = b.get("error") or f"{b['members']}/{b['of']} members, best {b['metric']} {_score(b['score'])}"
        told += f"; {counted(len(b['findings']), 'finding')}" if b.get("findings") else ""
        state = "paused" if b.get("paused_by_hand") else b["state"]
        lines.append(f"{b['run']:<{width}}  {state:<11}  {told}")
    return "\n".join(lines)


def detail_text(d: dict[str, Any]) -> str:
    holder = d["holder"]
    with_findings = f", with {counted(len(d['findings']), 'finding')}" if d["findings"] else ""
    lines = [f"{d['run']}: {d['state']}{with_findings}" + (f" (process {holder.get('pid')})" if holder else "")]
    if d["reason"]:
        lines.append(f"  because {d['reason']}")
    lines.append(f"  folder {d['folder']}")
    if d["options_typed"]:
        lines.append(f"  options {d['options_typed']}")
    best_member = "" if d["best_member"] is None else f", member {d['best_member']}"
    lines.append(f"  members {d['members']} of {d['of']}; best {d['metric']} {_score(d['score'])}{best_member}")
    for g in d["generations"]:
        others = "".join(f", {g[kind]} {kind}" for kind in ("training", "stopped", "failed") if g[kind])
        lines.append(
            f"  generation {g['generation']:>3}: {g['finished']:>4} finished of {g['of']}{others}"
            f"; best {_score(g['best'])}"
        )
    for f in d["findings"]:
        lines.append(f"  {f['code']}: {f['text']}")
        lines += [f"    remedy: {f['remedy']}"] if f["remedy"] else []
    if d["findings"]:
        lines.append("  what findings mean: gpbt-async guide findings")
    for t in d["training"]:
        since = "starting" if t["seconds"] is None else f"{t['seconds']:.1f} s"
        config = ", ".join(f"{k}={_short(v)}" for k, v in t["config"].items())
        lines.append(
            f"  slot {t['slot']}: member {t['member']} ({t['path']}, attempt {t['attempt']}), {since}; {config}"
        )
    lines += ["  " + unstyled(line).rstrip() for line in gpu_lines(d["gpus"], time.time())]
    if d["paused"]:
        lines.append("  " + events.Paused(t=0.0, reason=d["paused"], by_hand=d["paused_by_hand"]).sentence(d["typed"]))
    if d["waiting_for_gpus"]:
        lines.append("  " + waiting_text(d["waiting_for_gpus"], time.time()))
    for w in d["waiting"]:
        after = f" (after {w['after']})" if w.get("after") else ""
        lines.append(f"  member {w['member']} waits for {w['for']}{after}")
    for label, ids in (("never begun", d["never_begun"]), ("begun, and given up", d["given_up"])):
        if ids:
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            lines.append(f"  {label}: member{'s' * (len(ids) > 1)} {', '.join(map(str, ids[:10]))}{more}")
    if d["free_slots"]:
        ago = f" {duration(time.time() - d['free_since'])} ago" if d["free_since"] is not None else ""
        lines.append(f"  {d['free_slots']} slot(s) free, waiting for {d['free_until']}{ago}")
    retry = f"gpbt-async resume {d['typed']} --retry-failed"
    if d["state"] == "interrupted":
        lines.append(f"  go on with: gpbt-async resume {d['typed']}")
    if d["to_retry"] or d["reopens"]:
        which = counted(len(d["to_retry"]), "failed member") if d["to_retry"] else "what has failed"
        lines.append(f"  with the cause mended, {which} can be tried again: {retry}")
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_text(found: Best) -> str:
    lines = [
        f"member {found.member} (generation {found.generation}): score {_score(found.score)}",
        f"checkpoint {found.checkpoint}",
        "metrics " + ", ".join(f"{k}={_score(v)}" for k, v in found.metrics.items()),
        "schedule",
    ]
    for generation, (member, config) in enumerate(zip(found.lineage, found.schedule, strict=True)):
        lines.append(f"  {generation:>3}  member {member}: " + ", ".join(f"{k}={_short(v)}" for k, v in config.items()))
    return "\n".join(lines)


# ---- for people


def descent_text(told: dict[str, Any], began: float) -> str:
    """The ancestry as a tree, the root first; `began`: when the run did, in seconds since the epoch."""
    metric, steps = clean(told["metric"]), told["ancestry"]
    lines = [f"{told['run']}: why member {told['member']} exists"]
    for depth, step in enumerate(steps):
        pad = "   " * max(0, min(depth, 12) - 1) + ("└─ " if depth else "")
        under = "   " * min(depth, 12) + "   "
        ranked = f", {_ordinal(step['rank'])} of generation {step['generation']}'s {step['of']}" if step["rank"] else ""
        lines.append(
            f"{pad}member {step['member']} ({step['path']}), generation {step['generation']}: {step['state']}, "
            f"{metric} {score_text(step['score'])}{ranked}"
        )
        if step["reason"]:
            told_why = "because" if step["state"] == "failed" else "an attempt of it failed:"
            lines.append(f"{under}{told_why} {clean(step['reason'])}")
        lines += [under + text for text in _step_lines(step, told, step["t"] - began)]
    return "\n".join(lines)


def _step_lines(step: dict[str, Any], told: dict[str, Any], after: float) -> list[str]:
    chosen, searcher = step["chosen"], clean(told["searcher"])
    when = f"issued {duration(after)} after the run began"
    others = f"one of {counted(step['siblings'] + 1, 'sibling')}" if step["siblings"] else "an only child"
    config = ", ".join(f"{clean(name)} {clean(number(value))}" for name, value in step["config"].items())
    if chosen is None:
        return [f"{when}; a root, {others}", f"config {config}"]
    rank = f"{_ordinal(chosen['rank'])} of the {chosen['rivals']} finished then"
    elite = f"the fewest in this generation among the elite of {chosen['elite']}"
    if told["schedule"] == "sync":
        elite = f"one of the elite of {chosen['elite']}, each of which has its share of this generation"
    had = (
        "no children"
        if not chosen["children"]
        else "1 child"
        if chosen["children"] == 1
        else f"{chosen['children']} children"
    )
    lines = [f"{when}; {others}", f"parent {chosen['parent']}: {rank}, with {had} so far, {elite}"]
    changes = ", ".join(
        f"{clean(name)} {clean(number(old))} → {clean(number(new))}" for name, (old, new) in step["changed"].items()
    )
    if step["repeats"]:
        clipped = f", clipped to the space adopted since: {changes}" if changes else ""
        return [*lines, f"config as its parent's: a first child repeats it{clipped}"]
    if not step["changed"]:
        return [*lines, f"config as its parent's: {searcher} changed nothing"]
    same = len(step["config"]) - len(step["changed"])
    return [*lines, f"{searcher} changed {changes}" + (f"; {same} as the parent's" if same else "")]


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def replay_text(told: Mapping[str, Any]) -> str:
    """What a replay came to (replays.compared), for people."""
    metric, n, fresh, original = told["metric"], told["n"], told["fresh"], told["score"]
    best = "the original" if told["run"] is None else f"the original, {told['run']}'s member {told['member']}"
    lines = [f"{best}: {metric} {score_text(original)}"]
    scores = [r["scores"][-1] for r in told["replays"] if r["state"] == "finished" and r["seeds"] == "fresh"]
    if n:
        lines.append(f"{counted(n, 'replay')} with fresh seeds: {metric} {_noise(fresh)}")
    if n > 1:
        lines += ["  " + ", ".join(score_text(score) for score in scores), *_replay_verdict(told, scores)]
    elif n:
        lines.append("one replay tells nothing of the noise among seeds: --seeds 5")
    for name, m in told["metrics"].items():
        if m["n"]:
            where = "" if m["within"] is None else ": within" if m["within"] else ": outside"
            lines.append(f"  {name}: original {score_text(m['original'])}, replays {_noise(m)}{where}")
    if (same := told["same_seeds"]) is not None:
        how = "exactly the same" if same["exact"] else "not the same: more than its seed decides (threads, a GPU, time)"
        lines.append(f"with the original's own seeds: {metric} {score_text(same['score'])}, {how}")
    for i, r in enumerate(told["replays"]):
        if r["state"] != "finished":
            why = f": {clean(r['reason'])}" if r["reason"] else ""
            lines.append(f"replay {i} came to interval {len(r['members']) - 1} and is {r['state']} there{why}")
    return "\n".join(lines)


def _noise(spread: Mapping[str, float | None]) -> str:
    sd = f" ± {number(spread['sd'], 2, pad=True)} (mean ± sd)" if spread["sd"] is not None else ""
    return f"{score_text(spread['mean'])}{sd}"


def _replay_verdict(told: Mapping[str, Any], scores: Sequence[float]) -> list[str]:
    """Within or outside, and on which side; and what is to be expected of somebody who was chosen.

    Or why that cannot be said.
    """
    fresh, apart = told["fresh"], told["deviations"]
    if fresh["sd"] == 0:
        same = "the same as" if told["score"] == scores[0] else "not"
        return [
            f"their seeds changed nothing: this tells nothing of the noise among seeds. It is {same} the original's "
            "score",
            "(is training deterministic, or does the script seed itself? A member is seeded already: remove "
            "torch.manual_seed and the like)",
        ]
    if told["within"] is None:
        return ["two replays are too few to say whether the original lies within the noise among seeds: --seeds 5"]
    between = f"95 of 100 replays are expected between {score_text(fresh['low'])} and {score_text(fresh['high'])}"
    better = "better" if ((apart or 0) > 0) == (told["mode"] == "max") else "worse"
    far = f", {abs(apart):.1f} sd {better} than their mean" if apart else ""
    lies = "within" if told["within"] else "outside"
    few = f"; {len(scores)} are few to say so by, --seeds 5 are better judges" if len(scores) < 5 else ""
    lines = [f"the original {score_text(told['score'])} lies {lies} the seed noise{far}; {between}{few}"]
    if told["of"]:
        lines.append(
            f"(it was chosen as the best of {told['of']} by this score, and so is expected on the better side)"
        )
    return lines
