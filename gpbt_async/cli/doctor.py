"""`gpbt-async doctor`: the command, and its figures as text. examination.py measures, diagnosis.py judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..formatting import config_text, counted, format_bytes, number, percent, score_text
from .options import MACHINE, AsModule, Json, Runs, Script, Seed, Sets, Strict, takes
from .output import emit, say, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..declaration.run_options import RunOptions
    from ..experiment import Changes
    from .examination import Examination
    from .measurements import CheckUp, Expected, Problem, TrainedInterval

Repeat = Annotated[
    bool, typer.Option("--repeat", help="Train the first member twice, to see whether the script is deterministic.")
]


@takes(
    changes=("population", "generations", "silence"),
    options=[name for name in MACHINE if name not in ("disk", "track")],
)
def doctor(
    script: Script,
    *,
    as_module: AsModule = False,
    repeat: Repeat = False,
    seed: Seed = 0,
    sets: Sets = None,
    changes: Changes,
    options: RunOptions,
    strict: Strict = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train two members and two children; report problems.

    The members train as in a run, in a temporary folder that is deleted at the end. The doctor checks that a child
    continues from its parent's checkpoint, with the same config and with another one, and that the script uses every
    hyperparameter. It measures how much time, disk and memory a run would take.

    Exit status: 0: every member trained, perhaps with warnings. 1: a member failed. 2: nothing was started, or --strict
    was given and there is a finding.

    Examples:
      gpbt-async doctor train.py
      gpbt-async doctor train.py --repeat --set lr=0.01  # is it deterministic?
    """
    from ..declaration.address import find
    from .examination import Examination

    address = find(script, module=as_module)
    examination = Examination(
        address, runs=runs, options=options, changes=changes, sets=sets or [], seed=seed, repeat=repeat, progress=say
    )
    check_up = _examined(examination)
    emit(check_up, text, as_json)
    found = any(problem.code for problem in check_up.warnings)
    raise SystemExit(1 if check_up.failed else 2 if strict and found else 0)


def _examined(examination: Examination) -> CheckUp:
    from ..processes import linux
    from .foreground import foreground

    linux.be_alone()
    try:
        return foreground(examination.run())
    except KeyboardInterrupt:
        say("interrupted; nothing is left behind")
        raise SystemExit(130) from None


# ---- for people


def text(c: CheckUp) -> str:
    rows = [("start-up", f"{span(c.import_s)} to import the script; {_HOW[c.start]}")]
    for who, member in c.members.items():
        rows += [(who if not i else "", line) for i, line in enumerate(_trained(c, member))]
    rows += [*_costs(c), *(("note", note) for note in c.notes)]
    lines = [c.script, *(f"  {label:13} {line}" for label, line in rows), *map(_warning, c.warnings)]
    if not c.failed:
        return "\n".join([*lines, counted(len(c.warnings), "warning") if c.warnings else "healthy"])
    failed = c.members[c.failed]
    log = ["its log ends:", *(f"  {line}" for line in failed.log.splitlines())] if failed.log else []
    return "\n".join([*lines, f"the {c.failed} failed: {failed.error}", *log])


#: seconds of imports that are worth a line
IMPORTS = 0.05
_HOW = {
    "fork": "members are forked from a process that has imported it",
    "exec": "each member is a new process, which imports it again",
    "resident": "each slot has one process, which trains member after member",
    "program": "members are programs",
}


def _warning(problem: Problem) -> str:
    code = f"{problem.code}: " if problem.code else ""
    return f"warning: {code}{problem.what}" + (f"\n  remedy: {problem.remedy}" if problem.remedy else "")


def _trained(c: CheckUp, member: TrainedInterval) -> Iterator[str]:
    """What one member did."""
    scores = member.scores
    if member.error:
        return
    if member.who in ("member", "second member", "second child"):
        yield config_text(member.config)
    start = "" if member.start_s is None else f"started in {span(member.start_s)}, "
    score = score_text(scores[-1]) if len(scores) == 1 else f"{score_text(scores[0])} … {score_text(scores[-1])}"
    yield (
        f"{start}trained for {span(member.seconds)}, {counted(member.reports, 'report')}, the first after "
        f"{percent(member.first_report)}; {c.settings.score} {score}"
    )
    if member.import_s is not None and member.import_s >= IMPORTS:
        yield f"of its training, {span(member.import_s)} went into imports"
    if member.who == "child":
        from .diagnosis import inherited_gain

        read = "it is unknown what it read" if member.read is None else f"it read {_listed(member.read)}"
        share = inherited_gain(c.member.scores, scores, c.settings.mode)
        gain = "" if share is None else f"; its first score has {percent(share)} of its parent's gain"
        yield f"of its parent's checkpoint, {read}{gain}"
    if member.who.endswith("repeat"):
        same = scores == c.member.scores
        yield "the same scores as the member: deterministic" if same else "other scores than the member"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def _costs(c: CheckUp) -> Iterator[tuple[str, str]]:
    """What a member, and a run, takes of the machine: (label, line)."""
    last = next((m for who in ("child", "member") if (m := c.members.get(who)) is not None and not m.error), None)
    if last is None:
        return
    wrote = "" if last.write_s is None else f", written in {span(last.write_s)}"
    share = "" if last.write_s is None else f" ({percent(last.share(last.write_s))} of the interval)"
    yield (
        "checkpoint",
        f"{format_bytes(last.checkpoint_bytes)} in {counted(last.files, 'file')}{wrote}{share}, published beside "
        f"training in {span(last.publish_s)}",
    )
    vram = "" if last.vram is None else f"; {format_bytes(last.vram)} of GPU memory"
    yield "memory", f"{format_bytes(last.resident)}, of which {format_bytes(last.private)} are not shared{vram}"
    cores = "unknown, as the interval was too short" if last.cores is None else f"{number(last.cores, 2)} kept busy"
    yield "cores", f"{cores}; {counted(last.threads, 'thread')}; {c.slot} has {counted(c.slot_threads, 'core')}"
    if c.expected is not None:
        yield from zip(("a run", "", "", ""), _run(c.expected, last.vram), strict=False)


def _run(e: Expected, vram: int | None) -> Iterator[str]:
    most = "at most " if e.at_most else ""
    yield (
        f"{counted(e.generations, 'generation')} of {counted(e.population, 'member')} like these on "
        f"{counted(e.slots, 'slot')}: {most}{span(e.wall_s)}"
    )
    yield (
        f"{format_bytes(e.disk_bytes)} of disk at its peak ({counted(e.checkpoints, 'checkpoint')} kept); "
        f"{format_bytes(e.disk_free)} are free"
    )
    yield f"{format_bytes(e.memory_bytes)} of memory; {format_bytes(e.memory_free)} are free"
    if e.gpu_bytes and vram and (fit := min(e.gpu_bytes) // vram) > 1:
        yield f"{fit} members would fit on a GPU (--share {fit}, or --vram auto)"
