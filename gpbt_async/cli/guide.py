"""`gpbt-async guide [NAME]`: the guides that ship with the package, in the terminal.

They are markdown in `guides/`, one subject each, and read as they are: what a person may want to copy out of them
stands there unchanged. The README links to the same files. Tests run what they show (tests/test_guides.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ..errors import ExperimentError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


#: in the order in which they are listed: who begins reads from the top
NAMES = ("member", "findings", "gpus", "report", "searcher", "resume", "method", "inside")


def place() -> Traversable:
    """The folder they are in."""
    from importlib import resources  # which --help should not pay for

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
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[NAME]", help="Which one; without, they are listed."),
    ] = None,
) -> None:
    """Print a guide, or list them.

    They say how to make a member of your script, what a finding means, and tell of GPUs, the report, searchers, faults,
    the method, and how it is built. Example: gpbt-async guide member | less
    """
    if name is not None:
        print(read(name), end="")
        return
    for each in NAMES:
        print(f"{each:10}{title(each)}")
    print(f"\ngpbt-async guide NAME prints one; they are markdown, in {place()}")
