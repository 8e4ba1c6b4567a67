"""What a run would take of the machine, if all its members were as the two that `doctor` has trained.

The time comes from planning.py's simulation, the checkpoints that are kept at a time from the engine in it. What one
member alone has shown is all there is to go by: members beside one another share memory bandwidth and caches, configs
differ in what they cost, so a real run will rather take longer.

What the figures of `doctor` mean: which are a reason to warn, with what remedy, and all of them as lines of text.

Pure: takes what doctor.py measured, as the plain dict that `--json` prints. Each warning is one sentence on what was
seen, with its figures, and one on what to do. A threshold is a reason to look, not a law, and stands here by its name.
"""

from __future__ import annotations

import math
import shutil
import statistics
from typing import TYPE_CHECKING, Any

from ..formatting import config_text, counted, format_bytes, number, percent, score_text
from . import plan as plan_module
from .plan import span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..experiment import Settings


#: runs that are simulated, and members of one at most: a larger experiment is planned by its first generations
SIMULATIONS, MEMBERS = 3, 4000
#: the standard deviation of intervals, as a share of their mean: `plan`'s
SPREAD = 0.3


def forecast(settings: Settings, told: Mapping[str, Any], runs: Path, gpu_bytes: Sequence[int]) -> dict[str, Any]:
    """Seconds of wall time (the import of the script included), bytes of disk and memory at their peak, and how much of
    both is free now. runs: a folder on the disk that is meant. gpu_bytes: of each GPU.
    """
    slots = max(1, told["slots"])
    found = [told[who] for who in ("member", "child")]
    start = min((f["start_s"] for f in found if f["start_s"] is not None), default=0.0)
    size = max(f["checkpoint_bytes"] for f in found)
    members = settings.population * settings.generations
    # the child's: behind it is what is imported only when it is first used, which the first members do, each for itself
    seconds, private = max(1e-6, told["child"]["seconds"]), max(f["private"] for f in found)
    publish = statistics.mean(f["publish_s"] for f in found)
    wall, kept = _course(settings, slots, seconds, start, publish)
    return {
        "population": settings.population,
        "generations": settings.generations,
        "schedule": settings.schedule,
        "slots": slots,
        "wall_s": told["import_s"] + wall,
        "at_most": bool(settings.early_stop),
        "checkpoints": kept,
        "disk_bytes": (kept + slots) * size + members * max(f["other_bytes"] for f in found),
        "disk_free": shutil.disk_usage(runs).free,
        "memory_bytes": slots * private,
        "memory_free": _available(),
        "gpu_bytes": list(gpu_bytes),
    }


def _course(settings: Settings, slots: int, seconds: float, start: float, publish: float) -> tuple[float, int]:
    """How long it takes, and the most checkpoints that are kept at a time."""
    few = settings.replaced(generations=min(settings.generations, max(3, MEMBERS // settings.population)))
    if few.population * few.generations > plan_module.MEMBERS or slots > plan_module.MOST_SLOTS:
        width = min(slots, settings.population)  # too many to be simulated while somebody waits
        return settings.population * settings.generations * (seconds + start) / width, 2 * settings.parents + width
    draw = plan_module.log_normal(seconds, SPREAD)
    plan = plan_module.foretell(few, slots, draw, SIMULATIONS, start_seconds=start, publish_seconds=publish)
    return plan["wall_s"] * settings.generations / few.generations, plan["checkpoints"]


def _available() -> int:
    """Bytes of memory that could be used now."""
    with open("/proc/meminfo", encoding="ascii") as file:
        told = dict(line.split(":", 1) for line in file)
    return int(told["MemAvailable"].split()[0]) << 10


#: of an interval: how much of it the start of a member, and the writing of its checkpoint, may take
START, WRITE = 0.1, 0.2
#: how much of what its parent gained in an interval a child must begin with, not to be taken for a new beginning
TAKEN_UP = 0.25
#: how much of its cores a member is to use; how many times as many as it has it may try to use
USED, OVERUSED = 0.6, 1.3
#: a deadline is to be so many times as long as what was measured
MARGIN = 2.0
#: findings that say already that nothing comes from parent to child
HANDED_ON = {"GPBT007", "GPBT008", "GPBT009", "GPBT012"}
#: a log, with metrics and config, of so many bytes an interval is much
TALKATIVE = 1 << 20


def warnings(told: Mapping[str, Any]) -> list[dict[str, str]]:
    """What to look at: [{what, remedy}], the gravest first; a finding of the pre-flight with its code, too."""
    found: list[dict[str, str]] = [_row(*each) for each in _start(told)]
    handed_on = (
        []
        if "failed" in told or told["generations"] == 1
        else [{"code": code, **_row(*each)} if code else _row(*each) for code, *each in _handed_on(told)]
    )
    # what the kernel has seen of the checkpoint's files says more than what the member's process could note
    found += [*handed_on, *(f for f in told["findings"] if not handed_on or f["code"] not in HANDED_ON)]
    if "failed" not in told:
        for look in (_read_only, _repeated, _deadlines, _reports, _shares, _room, _cores, _gpu):
            found += [_row(*each) for each in look(told)]
    return found


def _row(what: str, remedy: str) -> dict[str, str]:
    return {"what": what, "remedy": remedy}


def _start(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What those who start processes had to say."""
    for said in told["trouble"]:
        yield said["what"], said["remedy"]


def _handed_on(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Does what the parent has learned come to the child? (code of the finding, "" for a guess; what; remedy)"""
    parent, child = told["member"], told["child"]
    scores, theirs = told["scores"]["member"], told["scores"]["child"]
    load = "load it: if member.parent is not None: model.load_state_dict(torch.load(member.parent / ...))"
    if told["command"]:
        load = "have the program read it from the folder {parent}, or $GPBT_PARENT, which is empty in generation 0"
    if not parent["files"]:
        where = "{checkpoint}, or $GPBT_CHECKPOINT" if told["command"] else "member.checkpoint"
        yield (
            "GPBT007",
            "the checkpoint is empty: every child starts from nothing",
            f"write what the next interval needs to go on (weights, perhaps the optimizer's state) into {where}",
        )
    elif child["read"] == []:
        yield "GPBT012", "the child opened no file of its parent's checkpoint: it started from nothing", load
    elif scores == theirs and len(set(scores)) > 1:
        told_same = f"the same {len(scores)} values of {told['metric']}"
        yield (
            "GPBT012",
            f"the child, with its parent's config and seed, reported {told_same} as its parent: nothing was taken up",
            load,
        )
    elif scores == theirs:
        yield (
            "",
            f"the child's {told['metric']} is exactly its parent's, {score_text(scores[-1])}: either it "
            "ignores its parent's checkpoint, or this score has reached its best value",
            f"choose a score that goes on telling members apart (a loss); or {load}",
        )
    elif (share := taken_up(scores, theirs, told["mode"])) is not None and share < TAKEN_UP:
        yield (
            "",
            f"the child's first {told['metric']} was {score_text(theirs[0])}; its parent's went from "
            f"{score_text(scores[0])} to {score_text(scores[-1])}: it seems to start from nothing",
            f"{load}; if it does (a high learning rate can undo it in a moment), try another config with --set",
        )


def taken_up(scores: list[float], child: list[float], mode: str) -> float | None:
    """How much of its parent's gain a child's first score has: 0 = as its parent's first, 1 = as its last.

    None where the parent reported once, or did not gain.
    """
    sign = 1 if mode == "max" else -1
    gain = sign * (scores[-1] - scores[0])
    if len(scores) < 2 or not gain > 0 or not math.isfinite(gain) or not math.isfinite(child[0]):
        return None
    return sign * (child[0] - scores[0]) / gain


def _read_only(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    changed = told["child"]["changed"]
    if changed or told["parent_damaged"]:
        what = f" ({', '.join(changed[:3])})" if changed else ""
        yield (
            f"the child changed its parent's checkpoint{what}, from which its siblings begin, too",
            "write to its own folder only (member.checkpoint); copy what is to be changed",
        )


def _repeated(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "repeat" in told and told["scores"]["repeat"] != told["scores"]["member"]:
        first, again = (told["scores"][who][-1] for who in ("member", "repeat"))
        yield (
            f"the same config and seed gave {score_text(first)}, and then {score_text(again)}: training is not "
            "deterministic",
            "nothing, if that is less than configs differ by; else torch.use_deterministic_algorithms(True), and seed "
            "what is neither python's, numpy's nor torch's from member.seed",
        )


def _deadlines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = [told["member"], told["child"]]
    for name, field in (("stall_timeout", "silence_s"), ("member_timeout", "seconds")):
        limit, most = told[name], max(f[field] for f in found)
        if limit is not None and most * MARGIN > limit:
            what = "was silent for" if field == "silence_s" else "trained for"
            yield (
                f"{name} is {limit:g} s, and a member {what} {most:.3g} s, alone on this machine: it would end members "
                "that are well",
                f"at least twice that: {name}={math.ceil(most * MARGIN)}",
            )


def _reports(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = told["child"]
    once = len(told["scores"]["child"]) < 2
    if "median" in told["early_stop"] and once:
        yield (
            f"early_stop='median' judges a member's first report of {told['metric']}, and there is only one an "
            f"interval, after {percent(_share(found['first_report_s'], found['seconds']))} of it",
            f"report {told['metric']} earlier too, as after each epoch",
        )


def _shares(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Is an interval long enough for what stands around it?"""
    child = told["child"]
    seconds, starts = child["seconds"], [told[w]["start_s"] for w in ("member", "child") if told[w]["start_s"]]
    start = min(starts, default=0.0)
    if seconds and start > START * seconds:
        chosen = told["start"] == "exec" and told.get("fork_safe") is None  # else a fork would hang
        yield (
            f"a member takes {span_text(start)} to start, and then trains for {span_text(seconds)}",
            "let each member train longer" + (", or have members forked: leave out --start exec" if chosen else ""),
        )
    if child["write_s"] is not None and seconds and child["write_s"] > WRITE * seconds:
        yield (
            f"writing the checkpoint takes {percent(child['write_s'] / seconds)} of an interval "
            f"({span_text(child['write_s'])} of {span_text(seconds)})",
            "write it once, at the end; write less (no optimizer state that is not needed); or train longer",
        )
    publish = child["publish_s"] * told["slots"]
    if publish > 2 * (seconds + start):  # as many as the store publishes at once
        yield (
            f"a checkpoint of {format_bytes(child['checkpoint_bytes'])} takes {span_text(child['publish_s'])} to be "
            f"published, and {counted(told['slots'], 'slot')} give one every "
            f"{span_text((seconds + start) / told['slots'])}: members will wait for the disk",
            "put the runs on a faster disk (--runs), write less, or train longer",
        )


def _room(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    e = told["expected"]
    if e["disk_bytes"] > e["disk_free"]:
        yield (
            f"a run will need some {format_bytes(e['disk_bytes'])} of disk at its peak, and "
            f"{format_bytes(e['disk_free'])} are free",
            "make room, put the runs elsewhere (--runs DIR), write smaller checkpoints, or have members wait for room "
            "(--disk SIZE)",
        )
    if e["memory_bytes"] > e["memory_free"]:
        yield (
            f"{counted(e['slots'], 'member')} at a time need some {format_bytes(e['memory_bytes'])} of memory, and "
            f"{format_bytes(e['memory_free'])} are free",
            f"fewer slots: --slots {max(1, int(e['slots'] * e['memory_free'] / e['memory_bytes']))}; and load data at "
            "the script's top level, which members share",
        )
    if (talk := told["child"]["other_bytes"]) > TALKATIVE:
        yield (
            f"a member leaves {format_bytes(talk)} of log and metrics, "
            f"{format_bytes(talk * e['population'] * e['generations'])} in a run",
            "print and report less often",
        )


def _cores(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cores, threads = told["child"]["cores"], told["slot_threads"]
    if told["device"] != "cpu" or cores is None:
        return
    if cores < USED * threads and threads > 1:
        remedy = (
            "numpy's and scikit-learn's pools stay at one thread in forked members: import threadpoolctl in the script"
            if round(cores) == 1 and told["start"] == "fork"
            else "if members wait for data, or for the disk: load data once, at the script's top level"
        )
        yield (
            f"a slot has {threads} cores, and a member kept {cores:.1f} of them busy",
            f"{remedy}; or give each member one core (resources=gpbt.Resources(gpus=0, cpus=1)), and train more at a "
            "time",
        )
    elif cores > OVERUSED * threads:
        yield (
            f"a member kept {cores:.1f} cores busy, and its slot has {threads}: members will get into one another's "
            "way",
            f"fewer workers and threads in the script, or resources=gpbt.Resources(gpus=0, cpus={math.ceil(cores)})",
        )


def _gpu(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if told["device"] != "cpu" and told["child"]["vram"] == 0:
        yield (
            "a member held a GPU and used none of its memory",
            "move model and data to member.device; or train on the CPU: resources=gpbt.Resources(gpus=0)",
        )


def _share(part: float | None, whole: float) -> float:
    return 1.0 if part is None or whole <= 0 else min(1.0, part / whole)


def span_text(seconds: float) -> str:
    return span(seconds) if seconds >= 10 else f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.1f} ms"


# ---- for people


def text(told: Mapping[str, Any]) -> str:
    """All of it, for a terminal."""
    lines = [told["script"], *(_line("start-up", words) for words in _start_text(told))]
    for who in ("member", "child", "second member", "second child", "repeat"):
        if who in told:
            lines += [_line(who, words) if not i else _line("", words) for i, words in enumerate(_trained(told, who))]
    lines += [_line(label, words) for label, words in _rest(told)]
    lines += [_line("note", note) for note in told["notes"]]
    for each in told["warnings"]:
        lines.append(
            f"warning: {each['code'] + ': ' if 'code' in each else ''}{each['what']}"
            + (f"\n  remedy: {each['remedy']}" if each["remedy"] else "")
        )
    if "failed" in told:
        failed = told[told["failed"]]
        lines += [f"the {told['failed']} failed: {failed['error']}"]
        lines += ["its log ends:", *(f"  {line}" for line in failed["log"].splitlines())] if failed["log"] else []
    else:
        lines.append(counted(len(told["warnings"]), "warning") if told["warnings"] else "healthy")
    return "\n".join(lines)


def _line(label: str, words: str) -> str:
    return f"  {label:13} {words}"


def _start_text(told: Mapping[str, Any]) -> Iterator[str]:
    how = {
        "fork": "members are forked from a process that has imported it",
        "exec": "each member is a fresh process, which imports it anew",
        "program": "members are programs",
    }
    yield f"{span_text(told['import_s'])} to import the script; {how[told['start']]}"


def _trained(told: Mapping[str, Any], who: str) -> Iterator[str]:
    found, scores = told[who], told["scores"][who]
    if found["error"]:
        return
    if who in ("member", "second member", "second child"):
        yield config_text(found["config"])
    start = "" if found["start_s"] is None else f"started in {span_text(found['start_s'])}, "
    first = _share(found["first_report_s"], found["seconds"])
    score = score_text(scores[-1]) if len(scores) == 1 else f"{score_text(scores[0])} … {score_text(scores[-1])}"
    yield (
        f"{start}trained for {span_text(found['seconds'])}, {counted(found['reports'], 'report')}, "
        f"the first after {percent(first)}; {told['metric']} {score}"
    )
    if who == "child":
        read = found["read"]
        known = "nobody could see what it read" if read is None else f"it read {_listed(read)}"
        share = taken_up(told["scores"]["member"], scores, told["mode"])
        gained = "" if share is None else f"; its first score has {percent(share)} of what its parent gained"
        yield f"of its parent's checkpoint {known}{gained}"
    if who == "repeat":
        same = scores == told["scores"]["member"]
        yield "the same scores as the member: deterministic" if same else "other scores than the member"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def _rest(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    last = next((told[who] for who in ("child", "member") if who in told and not told[who]["error"]), None)
    if last is None:
        return
    wrote = "" if last["write_s"] is None else f", written in {span_text(last['write_s'])}"
    share = "" if last["write_s"] is None else f" ({percent(_share(last['write_s'], last['seconds']))} of the interval)"
    yield (
        "checkpoint",
        f"{format_bytes(last['checkpoint_bytes'])} in {counted(last['files'], 'file')}{wrote}{share}, published "
        f"beside training in {span_text(last['publish_s'])}",
    )
    vram = "" if last["vram"] is None else f"; {format_bytes(last['vram'])} of GPU memory"
    yield "memory", f"{format_bytes(last['resident'])}, of which {format_bytes(last['private'])} its own{vram}"
    cores = "not seen for long enough" if last["cores"] is None else f"{number(last['cores'], 2)} kept busy"
    yield (
        "cores",
        f"{cores}; {counted(last['threads'], 'thread')}; {told['slot']} has {counted(told['slot_threads'], 'core')}",
    )
    if "expected" not in told:
        return
    e = told["expected"]
    most = "at most " if e["at_most"] else ""
    yield (
        "a run",
        f"{counted(e['generations'], 'generation')} of {counted(e['population'], 'member')} on "
        f"{counted(e['slots'], 'slot')}, were all like these: {most}{span(e['wall_s'])}",
    )
    yield (
        "",
        f"{format_bytes(e['disk_bytes'])} of disk at its peak ({counted(e['checkpoints'], 'checkpoint')} kept); "
        f"{format_bytes(e['disk_free'])} are free",
    )
    yield "", f"{format_bytes(e['memory_bytes'])} of memory; {format_bytes(e['memory_free'])} are free"
    if e["gpu_bytes"] and last["vram"]:
        fit = min(e["gpu_bytes"]) // last["vram"]
        if fit > 1:
            yield "", f"{fit} members would fit on a GPU (--share {fit}, or --vram auto)"
