"""`gpbt-async guide`: the guides that ship with the package, in the terminal.

They are markdown files in `guides/`, one subject each, and are printed unchanged, so that code can be copied from
them. The README links to the same files. Tests run what they show (tests/test_guides.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ExperimentError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


#: in the order in which they are listed: a beginner reads from the top
NAMES = ("member", "findings", "gpus", "report", "searcher", "resume", "method", "inside")


def place() -> Traversable:
    """The folder that holds them."""
    from importlib import resources  # slow to import, and --help does not need it

    return resources.files("gpbt_async") / "guides"


def read(name: str) -> str:
    """A guide's text. Raises ExperimentError, naming those there are."""
    if name not in NAMES:
        raise ExperimentError(f"guide: got {name!r}; must be one of {', '.join(NAMES)}")
    return (place() / f"{name}.md").read_text(encoding="utf-8")


def title(name: str) -> str:
    """Its first line, without the mark of a heading."""
    return read(name).partition("\n")[0].removeprefix("# ")


def guide(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A guide. Default: list the guides.")] = None,
) -> None:
    """Print a guide, or list the guides.

    The guides explain how a script becomes a member, findings, GPUs, the report, searchers, failures, the method, and
    the implementation.

    Examples:
      gpbt-async guide
      gpbt-async guide member | less
    """
    if name is not None:
        print(read(name), end="")
        return
    for guide_name in NAMES:
        print(f"{guide_name:10}{title(guide_name)}")
    print(f"\ngpbt-async guide NAME prints one. They are markdown files in {place()}")
