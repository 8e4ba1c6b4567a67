"""What commands print: messages for people on stderr, results on stdout as text or as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def say(message: str) -> None:
    """A message for people, on stderr."""
    # the text of a user's exception may hold anything: it must not control the terminal
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)
    print(f"gpbt-async: {text}", file=sys.stderr)


def emit(result: T, text: Callable[[T], str], as_json: bool) -> None:
    """A command's result, on stdout. It is plain data, or has `to_json`."""
    if as_json:
        print_json(result)
    else:
        print(text(result))


def print_json(result: Any) -> None:
    """Strict JSON, which has no NaN: such numbers are spelled out, as in the run's files."""
    from ..storage.files import spelled

    print(json.dumps(spelled(result.to_json() if hasattr(result, "to_json") else result), indent=1))


def open_browser(address: str, shown: str) -> bool:
    """Opens the address. False, with a message that names it as `shown`, where no browser starts."""
    import webbrowser

    opened = webbrowser.open(address)
    if not opened:
        say(f"--open: no browser starts here; open {shown} in one")
    return opened


def span(seconds: float) -> str:
    """A duration, in the unit that people would give it in."""
    units = ((0.1, f"{1e3 * seconds:.1f} ms"), (10, f"{seconds:.2f} s"), (120, f"{seconds:.0f} s"))
    for below, text in (*units, (7200, f"{seconds / 60:.0f} min")):
        if seconds < below:
            return text
    return f"{seconds / 3600:.1f} h"
