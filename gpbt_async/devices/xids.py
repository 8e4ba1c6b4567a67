"""Xids: who is to blame for an error of a GPU.

An **Xid** is the number that NVIDIA's driver gives to an error (NVIDIA's catalogue: "XID Errors"). Some mean that a
program read past its memory: that is the member's fault, and the card stays in use. All others set the card aside,
because to train on a card that returns wrong numbers costs more than to train without it. The user can override the
table (`--xid`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


Blame = Literal["member", "card", "nobody"]

#: whose fault an Xid is; one that is not in the table is the card's
XIDS: dict[int, Blame] = {
    13: "member",  # graphics engine exception: mostly an access out of bounds
    31: "member",  # memory page fault
    43: "member",  # the GPU stopped processing: a reset of the channel, the program ends
    45: "member",  # clean-up after a program that was killed
    68: "member",  # video processor exception
    69: "member",  # graphics engine class error
    94: "member",  # a contained ECC error: the program has to be started again
    63: "nobody",  # a row was remapped: recorded, takes effect at the next reset
    92: "nobody",  # many single-bit errors: all corrected
}


def blame(kind: str, data: int, xids: Mapping[int, Blame] = XIDS) -> Blame:
    """Whose fault an event (nvml.NvmlEvent) is. xids: the user's own entries."""
    if kind == "xid":
        return xids.get(data, XIDS.get(data, "card"))
    return "card" if kind == "double-bit ECC" else "nobody"
