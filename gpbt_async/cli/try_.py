"""`gpbt-async try`: its options. single_member.py trains the member."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .options import AsModule, Script, Seed, Sets, option

Parent = Annotated[
    Path | None,
    option("--parent", metavar="DIR", help="The checkpoint to start from. Default: none, as in generation 0."),
]
Target = Annotated[
    Path | None,
    option(
        "--checkpoint",
        metavar="DIR",
        help="The new or empty folder to write the checkpoint to. Default: a temporary folder.",
    ),
]


def try_(
    script: Script,
    as_module: AsModule = False,
    seed: Seed = 0,
    sets: Sets = None,
    parent: Parent = None,
    checkpoint: Target = None,
) -> None:
    """Train one member in the foreground, for debuggers.

    SCRIPT runs in the process of the command itself. So its output appears immediately, breakpoints work, and a
    profiler sees everything.

    Examples:
      gpbt-async try train.py --set lr=0.01
      python -m pdb -m gpbt_async try train.py
    """
    from ..declaration.address import find
    from .single_member import attempt

    address = find(script, module=as_module)
    raise SystemExit(attempt(address, seed=seed, sets=sets or [], parent=parent, checkpoint=checkpoint))
