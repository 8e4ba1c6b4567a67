"""The codec: dataclasses as JSON and back, by the annotations of their fields.

`encoded` and `decoded` work for any dataclass whose fields are annotated with scalars, literals, unions, mappings,
tuples, other dataclasses, or classes with a `to_json` and a `from_json`. A field `Annotated[int, test]` must also pass
`test`. `to_json` and `from_json` are for facts: the JSON has the name of the fact's class under "fact".

`decoded` checks every field, because a journal may be damaged, and the engine relies on the declared types. JSON has no
NaN and no infinities, so these floats are written as the texts "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from sys import intern
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from .events import Fact

T = TypeVar("T")
#: makes JSON of a field's value; None where the value is JSON already
Encode = Callable[[Any], Any]
#: makes a field's value of JSON, given its name. Raises ValueError
Decode = Callable[[str, Any], Any]

_SCALARS = (int, str, bool)
_NON_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def to_json(fact: Fact) -> dict[str, object]:
    """A fact as a flat JSON object: its name under "fact", then its fields."""
    return {"fact": type(fact).__name__, **encoded(fact)}


def from_json(flat: Mapping[str, object]) -> Fact:
    """The fact of the journal that a JSON object holds. Raises ValueError when it is none; ignores unknown fields."""
    name = flat.get("fact")
    kind = facts().get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"{name!r:.80} is no fact")
    return decoded(kind, flat)


@cache
def facts() -> dict[str, type[Fact]]:
    """The facts of the journal, by name."""
    from . import events

    bases = (events.Fact, events.OfMember, *events.LISTENERS_ONLY)
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Fact)]
    return {kind.__name__: kind for kind in kinds if kind not in bases}


def encoded(value: Any) -> dict[str, object]:
    """A dataclass as a JSON object."""
    flat: dict[str, object] = {}
    for name, encode, _ in _fields(type(value)):
        field = getattr(value, name)
        flat[name] = field if encode is None or field is None else encode(field)
    return flat


def decoded(kind: type[T], flat: Mapping[str, object]) -> T:
    """A dataclass of a JSON object. Raises ValueError for a wrong or missing field; ignores unknown ones."""
    values = {name: decode(name, flat[name]) for name, _, decode in _fields(kind) if name in flat}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from None


_FIELDS: dict[type[Any], tuple[tuple[str, Encode | None, Decode], ...]] = {}


def _fields(kind: type[Any]) -> tuple[tuple[str, Encode | None, Decode], ...]:
    if kind not in _FIELDS:
        hints = get_type_hints(kind, include_extras=True)
        _FIELDS[kind] = tuple((field.name, *_codec(hints[field.name])) for field in dataclasses.fields(kind))
    return _FIELDS[kind]


def _codec(hint: Any) -> tuple[Encode | None, Decode]:
    """How values with this annotation are written and read. None is left to `encoded`."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return None, lambda name, value: value
    if origin is Annotated:
        encode, decode = _codec(args[0])
        return encode, _exactly(args[0], args[1]) if args[0] in _SCALARS else _tested(decode, args[1])
    if origin in (Union, UnionType):
        others = [each for each in args if each is not NoneType]
        if len(others) > 1:  # a scalar
            return None, _one_of(*args)
        encode, decode = _codec(others[0])
        return encode, lambda name, value: None if value is None else decode(name, value)
    if origin is Literal:
        return None, _tested(lambda name, value: value, args.__contains__)
    if origin in (dict, Mapping):
        return _mapping(*_codec(args[1]), _unchanged(args[1]))
    if origin is tuple:
        return _tuple(*_codec(args[0]))
    if hint is float:
        return _spelled, _number
    if hint in _SCALARS:
        return None, _exactly(hint)
    if hasattr(hint, "from_json"):
        return hint.to_json, lambda name, value: hint.from_json(value)
    return encoded, lambda name, value: decoded(hint, _json_object(name, value))


def _wrong(name: str, value: object) -> ValueError:
    return ValueError(f"{name} is {value!r:.80}")


def _tested(decode: Decode, test: Callable[[Any], bool]) -> Decode:
    def tested(name: str, value: Any) -> Any:
        result = decode(name, value)
        if not test(result):
            raise _wrong(name, value)
        return result

    return tested


def _anything(value: object) -> bool:
    return True


def _exactly(kind: type, test: Callable[[Any], bool] = _anything) -> Decode:
    """Of exactly this type: True is an int to Python, and none to us. As `_tested`, with one call less for each field
    of each fact."""

    def check(name: str, value: Any) -> Any:
        if type(value) is not kind or not test(value):
            raise _wrong(name, value)
        return value

    return check


def _one_of(*kinds: type) -> Decode:
    """Of exactly one of these types."""

    def check(name: str, value: Any) -> Any:
        if type(value) not in kinds:
            raise _wrong(name, value)
        return value

    return check


def _number(name: str, value: Any) -> float:
    if type(value) is float:
        return value
    try:
        return _NON_FINITE[value] if isinstance(value, str) else float(_exactly(int)(name, value))
    except (KeyError, OverflowError):
        raise _wrong(name, value) from None


def _spelled(value: float) -> float | str:
    if value - value == 0.0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _json_object(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(name, value)
    return value


def _unchanged(hint: object) -> frozenset[type]:
    """The types of JSON values with this annotation that are the field's value already."""
    if get_origin(hint) in (Union, UnionType):
        return frozenset[type]().union(*map(_unchanged, get_args(hint)))
    return frozenset([hint]) if hint in (*_SCALARS, float, NoneType) else frozenset()


def _mapping(encode: Encode | None, decode: Decode, unchanged: frozenset[type]) -> tuple[Encode, Decode]:
    def encode_all(value: Mapping[str, object]) -> dict[str, object]:
        if encode is None:
            return dict(value)
        return {key: item if item is None else encode(item) for key, item in value.items()}

    def decode_all(name: str, value: object) -> dict[str, object]:
        # a run keeps the metrics and configs of all its members, under the same few names
        items = _json_object(name, value)
        if unchanged.issuperset(map(type, items.values())):  # as nearly always, and then without a call for each item
            return {intern(key): item for key, item in items.items()}
        return {intern(key): decode(name, item) for key, item in items.items()}

    return encode_all, decode_all


def _tuple(encode: Encode | None, decode: Decode) -> tuple[Encode, Decode]:
    def encode_all(value: tuple[Any, ...]) -> list[Any]:
        return list(value) if encode is None else [encode(item) for item in value]

    def decode_all(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(name, value)
        return tuple(decode(name, item) for item in value)

    return encode_all, decode_all
