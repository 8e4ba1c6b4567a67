"""The vocabulary of a run: facts go into the engine, and commands come out. Read this file first.

A **fact** is an event that has happened, named in the past tense. It is one JSON line of the journal and never changes.
A **command** is an order of the engine, named in the imperative. Commands are not in the journal, because the engine
can derive them from the facts again (`Engine.outstanding`). To perform a command twice is harmless. Each performance
ends in a fact.

Every fact has `t`, the time at which the scheduler recorded it, in seconds since the epoch. A member's id is its number
in the order of creation.

Listeners also receive each report of a member as `Reported`. It is not in the journal, because a training loop may
report a thousand times a second, and the member has already written the report to its metrics.jsonl. Early stopping
decides by a member's first report; the journal has this report as `Judged`.

`codec` reads and checks the journal by the annotations of the fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping  # noqa: TC003 (the codec evaluates annotations)
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from .space import Config  # noqa: TC001

#: more slots than any machine has: a damaged journal must not make anything count further
MOST_SLOTS = 1 << 16

Count = Annotated[int, range(1 << 63).__contains__]
Seconds = Annotated[float, math.isfinite]
#: a member's place in the tree, "3/0/2"
PathText = Annotated[str, re.compile("(?:[0-9]{1,18}(?:/[0-9]{1,18})*)?").fullmatch]


class RunStatus(StrEnum):
    """How a run stands, or how it ended. As text and in JSON it is its name, so that a program may compare strings.

    An interrupted run was stopped or killed and can be resumed; a damaged one cannot be read.
    """

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    DAMAGED = "damaged"

    @classmethod
    def without_process(cls, end: Finish | None) -> RunStatus:
        """The status of a run that no process runs. end: what the engine says of its end, None if it is not over."""
        return cls.INTERRUPTED if end is None else cls.FAILED if end.reason else cls.FINISHED


# ---- facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that happened at time `t`."""

    t: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class OfMember(Fact):
    """Something that happened to a member, in its attempt number `attempt`."""

    member: Count
    attempt: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Fact):
    """A scheduler began or resumed the run with `slots` slots. Members that were training before start again.

    retry: members of the last two generations that failed for good get all attempts again, and a failed run goes on.
    """

    slots: Annotated[int, range(MOST_SLOTS + 1).__contains__]
    version: str
    pid: Count
    retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity(Fact):
    """From now on `slots` members may train at once: a GPU was taken away or came back, or more fit, or fewer."""

    slots: Annotated[int, range(MOST_SLOTS + 1).__contains__]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Fact):
    """The GPUs' condition: of each, by name, label, state, members, bytes, utilisation in percent, °C (nvml.Sample).

    Decides nothing; reports of how busy the GPUs were are made of it.
    """

    gpus: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested(Fact):
    """A searcher answered the ask for the child at `path` ("3/0/2"), which was read off the tree after `asked` facts.

    Not used if the ask has been withdrawn since, even if the same child has been asked for again.
    """

    path: PathText
    generation: Count
    config: Config
    asked: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(OfMember):
    """A process began `attempt` (from 1) of `member` in `slot`. Repeats path, parent and config for human readers."""

    slot: Annotated[int, range(MOST_SLOTS).__contains__]
    pid: Count
    path: PathText
    parent: Count | None
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered(OfMember):
    """The member's process entered `train`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored(OfMember):
    """The member has reported the score, as the first in this session: the script does report it.

    Left out where a Judged says the same, and once a member has trained to its end with a score.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(OfMember):
    """The member's first report of the score, which waits for a verdict: go on, or stop early. `score` may be NaN."""

    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedEarly(OfMember):
    """The member ended early, by the verdict, after `seconds` in `train`; `score` is the last one reported."""

    score: float | None
    metrics: Mapping[str, float]
    seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(OfMember):
    """`train` returned, after `seconds` in it. `score` is the last one reported, None if none was.

    `metrics` are the last values of everything reported; `unread` lines of a program's metrics file were no reports.
    `start` are the seconds before its first report, where they are known: "process", from the request for its process
    until it entered `train`; in `train`, "imports", "parent" (reading the parent's checkpoint), and "first_report", all
    of it. From here on nothing is trained again for this member.
    """

    score: float | None
    metrics: Mapping[str, float]
    seconds: Seconds
    unread: Count = 0
    start: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(OfMember):
    """The member's checkpoint is whole and durable: the member has finished and may be a parent."""

    size: Count
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(OfMember):
    """An attempt failed through its own fault: an exception, an exit, a checkpoint that could not be published.

    certain: another attempt would fail in the same way, so there is none: the member has failed for good.
    """

    reason: str
    seconds: Seconds = 0.0
    certain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(OfMember):
    """An attempt ended through no fault of the member; it starts again, and the attempt does not count.

    (Ten in a row count as one that failed: engine.LOST_MOST.)
    """

    reason: str
    seconds: Seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged(OfMember):
    """A published checkpoint is no longer on the disk as it was published: it is no parent and no best any more."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Fact):
    """No member begins from now on, because the disk is full; with an empty reason members begin again.

    by_hand: because a person asked for it; this pause is independent of the other, and ends with the session. Decides
    nothing; members that train go on.
    """

    reason: str
    by_hand: bool = False

    def sentence(self, typed: str) -> str:
        """The fact for people. typed: the run as it is typed into a shell."""
        if self.by_hand:
            until = f"{self.reason}: no member begins until `gpbt-async pause {typed} --end`"
            return until if self.reason else "the pause is over: members begin again"
        return f"members wait: {self.reason}" if self.reason else "members no longer wait for room on the disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted(Fact):
    """From now on these fields of the settings are those of the edited script (adoption.ADOPTABLE).

    settings: by name, as JSON. Comes between two sessions, before Opened. A config outside a new space is clipped
    wherever it is used again.
    """

    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Fact):
    """The pre-flight has found that something of the script is wrong (findings.py). Decides nothing.

    code: the finding's name, "GPBT001". subject: what it is about. member: where it was seen first, if in one.
    """

    code: str
    subject: str
    text: str
    remedy: str
    member: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded(Fact):
    """The member's checkpoint is gone from the disk; nothing can need it any more."""

    member: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed(Fact):
    """The scheduler left the run: finished, failed (with the reason), or interrupted and resumable.

    measures: how well the run's choices worked so far (results.measures), for readers of the journal alone.
    """

    how: Literal["finished", "failed", "interrupted"]
    reason: str = ""
    measures: Mapping[str, float | None] = field(default_factory=dict)


# ---- for listeners only, never journaled


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(OfMember):
    """The member called `report`."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed(Fact):
    """A listener was too slow: `count` events were dropped for it here. The run never waits for a listener."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Fact):
    """A warning for people, in one sentence."""

    text: str


Event = Fact
LISTENERS_ONLY: tuple[type[Fact], ...] = (Reported, Missed, Warned)

# ---- commands


@dataclass(frozen=True, slots=True)
class Command:
    """Something that the engine wants done. Performing it twice does no harm."""


@dataclass(frozen=True, slots=True)
class Suggest(Command):
    """Ask the searcher for the config of the child at `path`, in `generation`; ends in Suggested.

    `Engine.ask(path)` is the Ask. since: the number of facts before the engine first wanted it.
    """

    path: tuple[int, ...]
    generation: int
    since: int


@dataclass(frozen=True, slots=True)
class Start(Command):
    """Train the member in a slot; ends in Trained, StoppedEarly, Failed or Lost."""

    member: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Verdict(Command):
    """Answer the member's first report: go on, or stop, which ends in StoppedEarly."""

    member: int
    attempt: int
    stop: bool


@dataclass(frozen=True, slots=True)
class Publish(Command):
    """Make the trained member's checkpoint whole and durable; ends in Published or Failed."""

    member: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Discard(Command):
    """Delete the member's checkpoint, once the facts that allow it are durable; ends in Discarded."""

    member: int


@dataclass(frozen=True, slots=True)
class Finish(Command):
    """Nothing is left to do. `reason` is empty when the run has finished, else why it failed."""

    reason: str
