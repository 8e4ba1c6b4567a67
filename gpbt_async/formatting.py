"""Values as people read and write them: memory, numbers, durations, configs, and reasons of failures.

Pure functions from a value to a short text, and one back (`parse_bytes`). Whatever a config or an exception contains,
its text stays on one line.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


#: a letter alone is binary, as in Slurm and Docker
UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
         "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
         "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip


def parse_bytes(text: str) -> int:
    """ "6GiB", "6.5 GB", "500MiB". Raises ValueError when it is no amount, has no unit, or is not above 0."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].casefold() not in UNITS:
        raise ValueError(text)
    try:
        amount = int(float(match[1]) * UNITS[match[2].casefold()])
    except OverflowError:
        raise ValueError(text) from None
    if amount < 1:
        raise ValueError(text)
    return amount


def format_bytes(amount: int) -> str:
    """In GiB or MiB, as GPUs are compared: "39.6 GiB", "512 MiB"; less than a MiB in smaller units."""
    if 0 < amount < 1 << 20:
        return f"{amount} B" if amount < 1 << 10 else f"{amount / (1 << 10):.0f} KiB"
    if amount < 1 << 30:
        return f"{amount / (1 << 20):.0f} MiB"
    return f"{amount / (1 << 30):.1f} GiB"


#: between the reason of a failure and what to do about it
REMEDY = "; remedy: "
#: characters of an error, or of a line of a log, that the journal and a terminal get; the log has all of it
LONGEST = 500


def parts(reason: str) -> tuple[str, str]:
    """The two parts of a failure's reason: why, and what to do about it, or ""."""
    why, _, remedy = reason.partition(REMEDY)
    return why, remedy


def shorten(text: str, most: int) -> str:
    """A text that is too long, without its middle: an error's kind is at its beginning, its cause often at its end."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-(most // 3) :]}"


def clean(text: str) -> str:
    """The text without characters that move the cursor or begin a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str, most: int) -> str:
    """A text on one line, of at most about `most` characters."""
    return shorten(" ".join(clean(text).split()), most)


def error_line(error: BaseException) -> str:
    """An exception's class and text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def near(path: os.PathLike[str]) -> str:
    """A path as a user would type it in this folder."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # the working directory is gone
        return os.fspath(path)
    return os.fspath(path) if relative.startswith("..") else relative


def number(value: object, digits: int = 3, pad: bool = False) -> str:
    """A float with so many significant digits, small and huge ones as 1.2e-5; other values as `str` shows them."""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or value == 0:
        return str(value) if value else f"{0:.{digits - 1 if pad else 0}f}"
    size = math.floor(math.log10(abs(value)))
    if -3 <= size < 6:
        text, exponent = f"{value:.{max(0, digits - 1 - size)}f}", ""
    else:
        text, _, power = f"{value:.{digits - 1}e}".partition("e")
        exponent = f"e{int(power)}"
    return (text if pad or "." not in text else text.rstrip("0").rstrip(".")) + exponent


def score_text(score: float | None) -> str:
    return "–" if score is None else number(float(score), 4, pad=True)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def duration(seconds: float) -> str:
    minutes, s = divmod(max(0, int(seconds)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def report_call(name: str, value: str) -> str:
    """The Python by which a training function reports a metric."""
    return f"member.report({name}={value})" if name.isidentifier() else f"member.report({{{name!r}: {value}}})"


def config_text(config: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in config.items())
