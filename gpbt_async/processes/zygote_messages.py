"""What the scheduler and a zygote send each other, as types: the order to import, and the declaration that follows.

The messages are JSON lines with descriptors (linux.Line). A zygote gets one order first; then it declares what it has
imported, or says why it cannot. The requests to fork behind them are so small that they have no types of their own.

Only types are here, so that neither side pays for this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..declaration.address import ScriptOrder
    from ..declaration.target import TargetOrder


#: what a zygote is to import
Order: TypeAlias = "ScriptOrder | TargetOrder"


class NativeThreads(TypedDict):
    """Threads that the import has started and a fork does not have. libraries: their names, where known.

    place: `file:line: source` of the statement that started the first of them; "" if no statement of the script did.
    """

    count: int
    libraries: list[str]
    place: str


class Declaration(TypedDict):
    """What a zygote has imported.

    experiment: Settings as JSON, empty for a target; variable: its name in the script. imports: the user's files, by
    path, with their digests. cuda: the line that initialised CUDA, if one did. warms: it uses torch's optimizers.
    """

    experiment: Mapping[str, object]
    variable: str | None
    imports: dict[str, str]
    cuda: str | None
    threads: NativeThreads | None
    warms: bool
