"""What the doctor's figures mean: which of them are a reason to warn, and the remedy.

Pure. Each warning is one sentence on what was seen, with its figures, and one on what to do. A threshold is a reason to
look, not a law, and stands here under its name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..formatting import counted, format_bytes, percent, score_text
from .measurements import FRESH, Problem
from .output import span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .measurements import CheckUp


#: shares of an interval: how long the start of a member, and the writing of its checkpoint, may take
START, WRITE = 0.1, 0.2
#: share of its parent's gain that a child must begin with; with less, it seems to start from nothing
INHERITED = 0.25
#: share of its cores that a member should use; how many times as many cores it may try to use
USED, OVERUSED = 0.6, 1.3
#: a deadline should be so many times as long as what was measured
MARGIN = 2.0
#: findings that say already that a child inherits nothing
HANDED_ON = {"GPBT007", "GPBT008", "GPBT009", "GPBT012"}
#: bytes of log, metrics and config per interval that are a lot
TALKATIVE = 1 << 20


def warnings(c: CheckUp) -> list[Problem]:
    """The gravest first, findings of the pre-flight among them."""
    handed_on = [] if c.failed or c.settings.generations == 1 else [*_handed_on(c)]
    # the kernel's record of the checkpoint's files shows more than what the member's process noted
    findings = [f for f in c.findings if not handed_on or f.code not in HANDED_ON]
    problems = [*c.trouble, *handed_on, *(Problem(f.text, f.remedy, f.code) for f in findings)]
    if not c.failed:
        for look in (_parent_changed, _repeated, _deadlines, _reports, _shares, _room, _cores, _gpu):
            problems += look(c)
    return problems


def _handed_on(c: CheckUp) -> Iterator[Problem]:
    """Does the child begin with what its parent has learned? A problem without a code is a guess."""
    metric, scores, inherited = c.settings.score, c.member.scores, c.child.scores
    command = c.settings.command is not None
    load = "load it: if member.parent is not None: model.load_state_dict(torch.load(member.parent / ...))"
    if command:
        load = "have the program read it from the folder {parent}, or $GPBT_PARENT, which is empty in generation 0"
    if not c.member.files:
        where = "{checkpoint}, or $GPBT_CHECKPOINT" if command else "member.checkpoint"
        yield Problem(
            "the checkpoint is empty: every child starts from nothing",
            f"write what the next interval needs (weights, perhaps the optimizer's state) into {where}",
            "GPBT007",
        )
    elif c.child.read == []:
        yield Problem("the child opened no file of its parent's checkpoint: it started from nothing", load, "GPBT012")
    elif scores == inherited and len(set(scores)) > 1:
        same = f"the same {len(scores)} values of {metric} as its parent"
        yield Problem(
            f"the child, with its parent's config and seed, reported {same}: it inherited nothing", load, "GPBT012"
        )
    elif scores == inherited:
        yield Problem(
            f"the child's {metric} is exactly its parent's, {score_text(scores[-1])}: either the child ignores its "
            "parent's checkpoint, or this score has reached its best value",
            f"choose a score that still differs between members (a loss); or {load}",
        )
    elif (share := inherited_gain(scores, inherited, c.settings.mode)) is not None and share < INHERITED:
        yield Problem(
            f"the child's first {metric} was {score_text(inherited[0])}; its parent's went from "
            f"{score_text(scores[0])} to {score_text(scores[-1])}: the child seems to start from nothing",
            f"{load}; if it does that (a high learning rate can undo it in a moment), try another config with --set",
        )


def inherited_gain(parent: Sequence[float], child: Sequence[float], mode: str) -> float | None:
    """How much of its parent's gain a child's first score has: 0 = as its parent's first, 1 = as its last.

    None where the parent reported once, or did not gain.
    """
    sign = 1 if mode == "max" else -1
    gain = sign * (parent[-1] - parent[0])
    if len(parent) < 2 or not gain > 0 or not math.isfinite(gain) or not math.isfinite(child[0]):
        return None
    return sign * (child[0] - parent[0]) / gain


def _parent_changed(c: CheckUp) -> Iterator[Problem]:
    changed = c.child.changed
    if changed or c.parent_damaged:
        files = f" ({', '.join(changed[:3])})" if changed else ""
        yield Problem(
            f"the child changed its parent's checkpoint{files}, from which its siblings begin, too",
            "write only to its own folder (member.checkpoint); copy what needs to change",
        )


def _repeated(c: CheckUp) -> Iterator[Problem]:
    repeat, fresh = c.members.get("repeat"), c.members.get(FRESH)
    if repeat is None or repeat.scores == c.member.scores:
        return
    first, again = score_text(c.member.scores[-1]), score_text(repeat.scores[-1])
    if first == again:  # they differ in digits that are not shown otherwise
        first, again = repr(c.member.scores[-1]), repr(repeat.scores[-1])
    if fresh is not None and fresh.scores == c.member.scores:
        yield Problem(
            f"the same config and seed gave {first} in a new process, and {again} in one that had trained other "
            "members: the script remembers something of them",
            "set what it keeps in globals at the beginning of train, or leave out --start resident",
        )
    else:
        yield Problem(
            f"the same config and seed gave {first}, and then {again}: training is not deterministic",
            "nothing, if configs differ by more than that; else torch.use_deterministic_algorithms(True), and seed all "
            "random numbers that are not python's, numpy's or torch's with member.seed",
        )


def _deadlines(c: CheckUp) -> Iterator[Problem]:
    s, members = c.settings, (c.member, c.child)
    silence, whole = max(m.silence_s for m in members), max(m.seconds for m in members)
    for name, limit, did, most in (
        ("stall_timeout", s.stall_timeout, "was silent", silence),
        ("member_timeout", s.member_timeout, "trained", whole),
    ):
        if limit is not None and most * MARGIN > limit:
            yield Problem(
                f"{name} is {limit:g} s, and a member {did} for {most:.3g} s, alone on this machine: healthy members "
                "would be ended",
                f"at least twice that: {name}={math.ceil(most * MARGIN)}",
            )


def _reports(c: CheckUp) -> Iterator[Problem]:
    metric = c.settings.score
    if "median" in c.settings.early_stop and len(c.child.scores) < 2:
        yield Problem(
            f"early_stop='median' judges a member's first report of {metric}, and there is only one an interval, after "
            f"{percent(c.child.first_report)} of it",
            f"report {metric} earlier, too, such as after each epoch",
        )


def _shares(c: CheckUp) -> Iterator[Problem]:
    """Is an interval long enough for what happens around it?"""
    child, seconds = c.child, c.child.seconds
    start = min((m.start_s for m in (c.member, c.child) if m.start_s), default=0.0)
    last = c.members.get("second child", child)  # what its elders have imported need not be imported again
    imports = last.import_s or 0.0
    if seconds and start + imports > START * seconds:
        chosen = c.start == "exec" and c.fork_safe is None  # else a fork would hang
        stays = "start members with --start resident, where one process trains member after member"
        remedies = ["import at the top of the script"] if imports > START * seconds / 2 else []
        remedies += [stays] if c.start in ("fork", "exec") else []
        remedies += ["leave out --start exec, so that members are forked"] if chosen else []
        imported = f", of which {span(imports)} go into imports" if imports > START * seconds / 2 else ""
        yield Problem(
            f"a member takes {span(start)} to start, and then trains for {span(seconds)}{imported}",
            ", or ".join([*remedies, "let each member train longer"]),
        )
    if child.write_s is not None and seconds and child.write_s > WRITE * seconds:
        yield Problem(
            f"writing the checkpoint takes {percent(child.write_s / seconds)} of an interval "
            f"({span(child.write_s)} of {span(seconds)})",
            "write it once, at the end; write less (no optimizer state, if that is not needed); or train longer",
        )
    if child.publish_s * c.slots > 2 * (seconds + start):  # the store publishes two at a time
        yield Problem(
            f"publishing a checkpoint of {format_bytes(child.checkpoint_bytes)} takes {span(child.publish_s)}, and "
            f"{counted(c.slots, 'slot')} give one every {span((seconds + start) / c.slots)}: members will wait for the "
            "disk",
            "put the runs on a faster disk (--runs), write less, or train longer",
        )


def _room(c: CheckUp) -> Iterator[Problem]:
    e = c.expected
    if e is None:
        return
    if e.disk_bytes > e.disk_free:
        yield Problem(
            f"a run will need about {format_bytes(e.disk_bytes)} of disk at its peak, and {format_bytes(e.disk_free)} "
            "are free",
            "make room, put the runs elsewhere (--runs DIR), write smaller checkpoints, or let members wait for room "
            "(--disk SIZE)",
        )
    if e.memory_bytes > e.memory_free:
        yield Problem(
            f"{counted(e.slots, 'member')} at a time need about {format_bytes(e.memory_bytes)} of memory, and "
            f"{format_bytes(e.memory_free)} are free",
            f"fewer slots: --slots {max(1, int(e.slots * e.memory_free / e.memory_bytes))}; and load data at the "
            "script's top level, where members share it",
        )
    if (size := c.child.other_bytes) > TALKATIVE:
        yield Problem(
            f"a member leaves {format_bytes(size)} of log and metrics, "
            f"{format_bytes(size * e.population * e.generations)} in a run",
            "print and report less often",
        )


def _cores(c: CheckUp) -> Iterator[Problem]:
    cores, threads = c.child.cores, c.slot_threads
    if c.device != "cpu" or cores is None:
        return
    if cores < USED * threads and threads > 1:
        remedy = (
            "the pools of numpy and scikit-learn stay at one thread in forked members: import threadpoolctl in the "
            "script"
            if round(cores) == 1 and c.start == "fork"
            else "if members wait for data, or for the disk: load data once, at the script's top level"
        )
        yield Problem(
            f"a slot has {threads} cores, and a member kept {cores:.1f} of them busy",
            f"{remedy}; or give each member one core (resources=gpbt.Resources(gpus=0, cpus=1)), and train more at a "
            "time",
        )
    elif cores > OVERUSED * threads:
        yield Problem(
            f"a member kept {cores:.1f} cores busy, and its slot has {threads}: members will slow each other down",
            f"fewer workers and threads in the script, or resources=gpbt.Resources(gpus=0, cpus={math.ceil(cores)})",
        )


def _gpu(c: CheckUp) -> Iterator[Problem]:
    if c.device != "cpu" and c.child.vram == 0:
        yield Problem(
            "a member had a GPU and used none of its memory",
            "move model and data to member.device; or train on the CPU: resources=gpbt.Resources(gpus=0)",
        )
