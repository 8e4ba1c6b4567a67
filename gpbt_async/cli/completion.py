"""What the shell offers when Tab is pressed: names of runs, members, and the words that an option takes.

For files it offers nothing, because the shell completes those itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer  # noqa: TC002 - Typer reads these annotations when it runs

if TYPE_CHECKING:
    from collections.abc import Callable


#: how many members are offered at most
MOST = 200


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of runs; nothing for a path, which the shell completes."""
    if os.sep in incomplete:
        return []
    from ..storage.folder import runs as folders

    return [run.name for run in folders(_runs_dir(ctx)) if run.name.startswith(incomplete)]


def members(ctx: typer.Context, incomplete: str) -> list[str]:
    """`best`, and the numbers of the members of the run that the line names."""
    from ..storage.folder import RunFolder

    folder = RunFolder(_runs_dir(ctx) / str(ctx.params.get("run", "")))
    try:
        names = [str(int(name)) for name in sorted(os.listdir(folder.members)) if name.isdecimal()]
    except OSError:
        names = []
    return [name for name in ["best", *names] if name.startswith(incomplete)][:MOST]


def _runs_dir(ctx: typer.Context) -> Path:
    given = ctx.params.get("runs")
    return given if isinstance(given, Path) else Path("runs")


def among(*words: str) -> Callable[[str], list[str]]:
    """Offers these words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def searchers(incomplete: str) -> list[str]:
    """The names of our searchers."""
    from ..experiment import SEARCHERS

    return [name for name in SEARCHERS if name.startswith(incomplete)]


def files(incomplete: str) -> list[str]:
    """Offers nothing: the shell completes files."""
    return []
