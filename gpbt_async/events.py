"""The vocabulary of a run: facts go into the engine, commands come out.

A **fact** has happened: past tense, one JSON line of the journal, never changed afterwards. A **command** is what the
engine wants done: an imperative, never journaled, because it can always be derived from the facts again
(`Lineage.outstanding`), and harmless to perform twice. Each performance of a command ends in a fact.

This file is the first page to read: all that can happen in a run stands here. `t` is the time the scheduler stamped
the fact with, in seconds since the epoch; members are named by their id, the order in which they were issued.

`Reported` is told to listeners as it comes, but is not journaled: a training loop may report a thousand times a
second, and the member has written the line to its own metrics.jsonl before it sent it. The one report that decides
something, the first when early stopping is on, is journaled as `Judged`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from sys import intern
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .space import Config

#: the rules the engine decides by. A journal is replayed by those it was written under, or old runs could not be read:
#: 0 is before they were counted; since 1 a late answer to an ask that was withdrawn is not used, ten losses in a row
#: are a failed attempt, and k is exact
RULES = 1
#: more slots than any machine has; who counts them one by one must not be sent counting by a damaged journal
MOST_SLOTS = 1 << 16

# ---- facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that happened at time `t`."""

    t: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OfMember(Fact):
    """Something that happened to a member, in its attempt number `attempt`."""

    member: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Fact):
    """A scheduler took the run up with `slots` slots. Whatever was training before is lost and starts again."""

    slots: int
    version: str
    pid: int
    rules: int = RULES


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity(Fact):
    """From now on `slots` members may train at once: a GPU was taken away or came back, or more fit, or fewer."""

    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Fact):
    """How the GPUs were: for each, by name, its label, state, members, bytes, utilisation in percent, °C (nvml.Sample).

    Decides nothing; for who reads how busy the GPUs were.
    """

    gpus: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested(Fact):
    """A searcher answered the ask for the child at `path` ("3/0/2"), read off the tree after `asked` facts.

    Not used if the ask has been withdrawn since, even if the same child has then been asked for anew.
    """

    path: str
    generation: int
    config: Config
    asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(OfMember):
    """A process began `attempt` (from 1) of `member` in `slot`. Repeats path, parent, config for the reader's sake."""

    slot: int
    pid: int
    path: str
    parent: int | None
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered(OfMember):
    """The member's process entered `train`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(OfMember):
    """The member's first report of the score, which waits for a verdict: go on, or stop early. `score` may be NaN."""

    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(OfMember):
    """The member ended early, as it was told, after `seconds` in `train`; `score` is the last one reported."""

    score: float | None
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(OfMember):
    """`train` returned, after `seconds` in it. `score` is the last one reported, None if none was.

    `metrics` are the last values of everything reported. From here on nothing is trained again for this member.
    """

    score: float | None
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(OfMember):
    """The member's checkpoint is whole and durable: the member has finished and may be a parent."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(OfMember):
    """An attempt failed by its own doing: an exception, an exit, a checkpoint that could not be published."""

    reason: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(OfMember):
    """An attempt ended through no fault of the member; it starts again, and the attempt does not count.

    (Ten in a row count as one that failed: lineage.LOSSES.)
    """

    reason: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded(Fact):
    """The member's checkpoint is gone from the disk; nothing can need it any more."""

    member: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed(Fact):
    """The scheduler left the run: finished, failed (with the reason), or interrupted and resumable.

    measures: what the run's choices came to so far (results.measures), for who reads the journal alone.
    """

    how: Literal["finished", "failed", "interrupted"]
    reason: str = ""
    measures: Mapping[str, float | None] = field(default_factory=dict)


# ---- told to listeners, never journaled


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
    """Something a person should know, in one sentence."""

    text: str


Event = Fact

# ---- commands


@dataclass(frozen=True, slots=True)
class Command:
    """Something the engine wants done. Performing it twice does no harm."""


@dataclass(frozen=True, slots=True)
class Suggest(Command):
    """Ask the searcher for the config of the child at `path`; ends in Suggested. `Lineage.ask(path)` is the Ask."""

    path: tuple[int, ...]
    name: ClassVar[str] = "suggest"


@dataclass(frozen=True, slots=True)
class Start(Command):
    """Train the member in a slot; ends in Trained, Stopped, Failed or Lost."""

    member: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Verdict(Command):
    """Answer the member's first report: go on, or stop; a member told to stop ends in Stopped."""

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


# ---- to and from JSON

_FACTS: dict[str, type[Fact]] = {
    c.__name__: c
    for c in (
        Opened, Capacity, Sampled, Suggested, Started, Entered, Judged, Trained, Stopped, Published, Failed, Lost,
        Discarded, Closed,
    )
}  # fmt: skip


def to_json(fact: Fact) -> dict[str, Any]:
    """A flat JSON object: the fact's name under "fact", then its fields.

    Non-finite numbers, which JSON lacks, are written as the strings "NaN", "Infinity", "-Infinity"; they occur only
    in scores and metrics.
    """
    flat: dict[str, Any] = {"fact": type(fact).__name__}
    for each in dataclasses.fields(fact):
        flat[each.name] = getattr(fact, each.name)
    if isinstance(fact, Trained | Stopped | Judged):
        flat["score"] = _spell(fact.score)
    if isinstance(fact, Trained | Stopped):
        flat["metrics"] = {name: _spell(value) for name, value in fact.metrics.items()}
    return flat


def from_json(flat: Mapping[str, Any]) -> Fact:
    """The fact a JSON object tells. Raises ValueError when it is none; unknown fields are ignored.

    Every field is looked at: what follows (the engine, the account) counts on facts being of the types they declare.
    """
    name = flat.get("fact")
    kind = _FACTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"{name!r:.80} is no fact")
    fields = {f.name: flat[f.name] for f in dataclasses.fields(kind) if f.name in flat}
    if kind is Opened:
        fields.setdefault("rules", 0)
    for name, value in fields.items():
        fields[name] = _CHECKS[name](name, value)
    if kind is Judged and fields.get("score") is None:
        raise ValueError("Judged without a score")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _wrong(name: str, value: object) -> ValueError:
    return ValueError(f"{name} is {value!r:.80}")


def _whole(name: str, value: Any, most: int = (1 << 63) - 1) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise _wrong(name, value)
    return value


def _seconds(name: str, value: Any) -> float:
    if type(value) is float and value - value == 0.0:
        return value
    return float(_whole(name, value))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value)
    return value


def _path(name: str, value: Any) -> str:
    if not _PATH.fullmatch(_text(name, value)):
        raise _wrong(name, value)
    return str(value)


def _map(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, value)
    return value


def _scalars(name: str, value: Any) -> dict[str, Any]:
    for each in _map(name, value).values():
        if not isinstance(each, str | int | float | None):
            raise _wrong(name, each)
    return {intern(each): scalar for each, scalar in value.items()}


def _number(name: str, value: Any) -> float:
    """One that may be spelled, as `to_json` does where it is not finite."""
    if isinstance(value, str | int | float):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise _wrong(name, value)


def _numbers(name: str, value: Any) -> dict[str, float]:
    return {intern(each): _number(name, number) for each, number in _map(name, value).items()}


def _gpus(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list):
        raise _wrong(name, value)
    return tuple(_map(name, each) for each in value)


_PATH = re.compile("(?:[0-9]{1,18}(?:/[0-9]{1,18})*)?")
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("member", "attempt", "pid", "rules", "generation", "asked", "size"), _whole),
    "slots": lambda name, value: _whole(name, value, MOST_SLOTS),
    "slot": lambda name, value: _whole(name, value, MOST_SLOTS - 1),
    "parent": lambda name, value: None if value is None else _whole(name, value),
    "score": lambda name, value: None if value is None else _number(name, value),
    **dict.fromkeys(("t", "seconds"), _seconds),
    **dict.fromkeys(("version", "reason", "digest", "how"), _text),
    "path": _path,
    "config": _scalars,
    "measures": _scalars,
    "metrics": _numbers,
    "gpus": _gpus,
}


def _spell(value: float | None) -> float | str | None:
    if value is None or value - value == 0.0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
