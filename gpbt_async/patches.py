"""Stories as JSON for a page: whole, and as what has changed from one to the next.

A page that is open while a run goes on has a story and is sent *patches* of it. Most of a story are long columns that
grow at their ends and change in few places, so a patch names places and what stands there now. Pure, and of the
story's meaning it knows nothing but which numbers must not be rounded.

A patch is one of
    {"=": value}                         this instead
    {"k": {name: patch, ...}}            of an object with the same names as before
    {"n": length, "i": [...], "v": [...]}    of a list: its length now, and values where they are new or others
    {"l": {index: patch, ...}}           of a list of lists or objects, as long as before
"""

from __future__ import annotations

import json
from typing import Any

from .files import spelled

#: significant digits of a page's numbers; the run's own files and `export` have all of them
DIGITS = 7
#: what holds times since the epoch, or a seed
EXACT = ("run", "now", "clock")

Patch = dict[str, Any]


def difference(old: Any, new: Any) -> Patch | None:
    """The patch that makes `new` of `old`; None if they are equal (a NaN equals a NaN)."""
    if old is new:
        return None
    if type(old) is not type(new):
        return {"=": new}
    if isinstance(new, dict):
        if old.keys() != new.keys():
            return {"=": new}
        changed = {name: patch for name in new if (patch := difference(old[name], new[name])) is not None}
        return {"k": changed} if changed else None
    if isinstance(new, list | tuple):
        return _of_lists(old, new)
    return None if old == new or (old != old and new != new) else {"=": new}


def _of_lists(old: Any, new: Any) -> Patch | None:
    if old == new:
        return None
    if len(old) == len(new) and all(isinstance(item, list | tuple | dict) for item in new):
        found = {str(i): patch for i, item in enumerate(new) if (patch := difference(old[i], item)) is not None}
        return {"l": found} if found else None
    places = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b and (a == a or b == b)]
    if len(places) > len(new) // 2:
        return {"=": new}
    places += range(len(old), len(new))
    if not places and len(old) == len(new):
        return None
    return {"n": len(new), "i": places, "v": [new[i] for i in places]}


def encoded(value: Any) -> str:
    """A story, or a patch of one, as JSON: numbers rounded, non-finite ones spelled."""
    return json.dumps(_rounded(spelled(value)), allow_nan=False, separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if isinstance(value, dict):
        return {name: item if name in EXACT else _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
