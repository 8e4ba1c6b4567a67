"""Facts as JSON and back: every field is looked at, as what follows counts on facts being what they declare."""

from __future__ import annotations

import dataclasses
import re
from sys import intern
from typing import TYPE_CHECKING, Any

from .events import (
    MOST_SLOTS,
    Adopted,
    Capacity,
    Closed,
    Damaged,
    Discarded,
    Entered,
    Fact,
    Failed,
    Found,
    Judged,
    Lost,
    Opened,
    Paused,
    Published,
    Reported,
    Sampled,
    Scored,
    Started,
    StoppedEarly,
    Suggested,
    Trained,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


_FACTS: dict[str, type[Fact]] = {
    c.__name__: c
    for c in (
        Opened, Capacity, Sampled, Suggested, Started, Entered, Scored, Judged, Trained, StoppedEarly, Published,
        Failed, Lost, Damaged, Paused, Adopted, Found, Discarded, Closed,
    )
}  # fmt: skip


def to_json(fact: Fact) -> dict[str, Any]:
    """A flat JSON object: the fact's name under "fact", then its fields; of what only listeners are told, too.

    Non-finite numbers, which JSON lacks, are written as the strings "NaN", "Infinity", "-Infinity"; they occur only
    in scores and metrics.
    """
    flat: dict[str, Any] = {"fact": type(fact).__name__}
    for each in dataclasses.fields(fact):
        flat[each.name] = getattr(fact, each.name)
    if isinstance(fact, Trained | StoppedEarly | Judged):
        flat["score"] = _spell(fact.score)
    if isinstance(fact, Trained | StoppedEarly | Reported):
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
    if kind is Found and fields.get("member", 0) is None:  # of no member
        del fields["member"]
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


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
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
    **dict.fromkeys(("member", "attempt", "pid", "generation", "asked", "size", "unread"), _whole),
    "slots": lambda name, value: _whole(name, value, MOST_SLOTS),
    "slot": lambda name, value: _whole(name, value, MOST_SLOTS - 1),
    "parent": lambda name, value: None if value is None else _whole(name, value),
    "score": lambda name, value: None if value is None else _number(name, value),
    **dict.fromkeys(("t", "seconds"), _seconds),
    **dict.fromkeys(("version", "reason", "digest", "how", "code", "subject", "text", "remedy"), _text),
    **dict.fromkeys(("retry", "by_hand", "certain"), _flag),
    "path": _path,
    "config": _scalars,
    "measures": _scalars,
    "settings": _map,
    "metrics": _numbers,
    "gpus": _gpus,
}


def _spell(value: float | None) -> float | str | None:
    if value is None or value - value == 0.0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
