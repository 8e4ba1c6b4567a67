"""Amounts of memory, as people write and read them."""

from __future__ import annotations

import re

#: a letter alone is binary, as for Slurm and Docker
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
    """In the unit people compare GPUs by: "39.6 GiB", "512 MiB"; what is less than one of them, in smaller ones."""
    if 0 < amount < 1 << 20:
        return f"{amount} B" if amount < 1 << 10 else f"{amount / (1 << 10):.0f} KiB"
    if amount < 1 << 30:
        return f"{amount / (1 << 20):.0f} MiB"
    return f"{amount / (1 << 30):.1f} GiB"
