"""What a member noted about itself, as the scheduler takes it in: the parts of it that have the right shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..processes.wire import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def received(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What a member's process sent: every field of `to_json`, empty where it is missing or of another shape."""
    return {name: shape(flat.get(name)) for name, shape in _SHAPES.items()}


def _texts(value: Any) -> list[str]:
    return [each[:LONGEST] for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _row(value: Any, kind: type | tuple[type, ...], length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(isinstance(each, kind) for each in value)


def _by_name(value: Any, fits: Callable[[Any], bool]) -> dict[str, list[Any]]:
    return {name: row for name, row in value.items() if fits(row)} if isinstance(value, dict) else {}


def _value(row: Any) -> bool:
    if not isinstance(row, list) or not _row(row[:2], (int, float), 2) or not _row(row[2:], (str, type(None)), 1):
        return False
    return all(abs(number) < 1e300 for number in row[:2])  # an int may be of any size


_SHAPES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("read", "applied", "missed", "threads"), _texts),
    # unknown is no reason for a finding
    **dict.fromkeys(("parent_seen", "parent_used"), lambda value: value is not False),
    "unchanged": lambda value: value if isinstance(value, bool) else None,
    "mentioned": _texts,
    "overwritten": lambda value: [each for each in value if _row(each, str, 3)] if isinstance(value, list) else [],
    "splits": lambda value: {p: s for p, s in value.items() if isinstance(s, str)} if isinstance(value, dict) else {},
    "seeds": lambda value: _by_name(value, lambda row: _row(row, str, 2)),
    "values": lambda value: _by_name(value, _value),
    "findings": lambda value: [each for each in value if _row(each, str, 4)] if isinstance(value, list) else [],
}
