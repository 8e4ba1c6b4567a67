"""Arguments of a declaration: misspelt and missing names, and values of the wrong kind.

Python's own message for an unknown keyword names neither the user's line nor the keyword that was meant. `checked`
replaces it by an ExperimentError that does. It decorates a class, so that editors and documentation still show the
signature as written. It knows some words of other tuners for the same thing.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


C = TypeVar("C", bound=type)


def checked(**others: str) -> Callable[[C], C]:
    """A class decorator: wrong arguments raise an ExperimentError. others: another tuner's word → a hint."""

    def decorate(cls: C) -> C:
        init: Callable[..., None] = cls.__init__  # type: ignore[misc]
        signature = inspect.signature(init)
        known = [name for name in signature.parameters if name != "self"]

        @functools.wraps(init)
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            for name in named:
                if name not in known:
                    raise ExperimentError.saying(f"{cls.__name__}: {_unknown(name, known, others)}")
            try:
                signature.bind(self, *args, **named)
            except TypeError as error:
                raise ExperimentError.saying(f"{cls.__name__}: {_misfit(signature, args, named, error)}") from None
            init(self, *args, **named)

        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate


def _unknown(name: str, known: Sequence[str], others: dict[str, str]) -> str:
    if name in others:
        return f"unknown argument {name!r}: {others[name]}"
    close = close_to(name, known)
    return f"unknown argument {name!r}: " + (f"did you mean {close!r}?" if close else f"there are {', '.join(known)}")


def _misfit(signature: inspect.Signature, args: tuple[Any, ...], named: dict[str, object], error: TypeError) -> str:
    """What is wrong with arguments whose names are all known."""
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(args) > len(by_place):
        rest = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        by_name = f": give the rest by name, as {rest[0]}=..." if rest else ""
        return f"takes {_counted(len(by_place))} by place ({', '.join(by_place)}), and got {len(args)}{by_name}"
    placed = set(by_place[: len(args)])
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in named and p.name not in placed]
    if missing:
        return f"needs {' and '.join(f'{name}=...' for name in missing)}"
    return str(error)


def _counted(n: int) -> str:
    return f"{n} argument" + ("" if n == 1 else "s")


def close_to(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant; None if none is close."""
    import difflib  # only once something is wrong

    lowered = {each.lower(): each for each in known}
    matches = difflib.get_close_matches(name.lower(), lowered, 1, 0.7)
    return lowered[matches[0]] if matches else None


# ---- kinds of values


def whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raises ExperimentError unless value is a whole number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ExperimentError.of(name, value, f"must be a whole number of at least {least}")
    if most is not None and value > most:
        raise ExperimentError.of(name, value, f"must be at most {most}")


def one_of(name: str, value: object, allowed: Sequence[str], more: str = "") -> None:
    """Raises ExperimentError unless value is one of the allowed words; more: what else the message offers."""
    if not isinstance(value, str) or value not in allowed:
        close = close_to(value, allowed) if isinstance(value, str) else None
        meant = f"; did you mean {close!r}?" if close else ""
        raise ExperimentError.of(name, value, f"must be one of {', '.join(map(repr, allowed))}{more}{meant}")


def real(value: object) -> bool:
    """Is value a finite number that a float can hold?"""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def plain(value: Any) -> Any:
    """A scalar of numpy, torch, jax, or of a subclass of str, int or float, as Python's own type; others unchanged."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, bool) or value is None:
        return value
    for kind, make in ((str, str.__str__), (int, int), (float, float)):
        if isinstance(value, kind):
            return make(value)
    return value


def integral(value: Any) -> Any:
    """`plain`, and a whole float such as 5.0 or 1e3 as an int."""
    value = plain(value)
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value
