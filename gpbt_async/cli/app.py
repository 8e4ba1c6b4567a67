"""The command line: its commands, the exit status, and how errors are shown.

A command is a function in a module of this folder, which is imported when the command is typed (commands.py). Its
parameters are its options, and its docstring is its help: the first sentence stands in the list of commands, and the
examples stand at the end of its own page. Exit status: 0 finished; 1 started and failed; 2 nothing was started; 130
interrupted, and can be resumed. Messages for people go to stderr, results to stdout. An error of ours is one message
without a traceback; a traceback means a bug of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Annotated, ClassVar, NoReturn

import typer

from ..declaration import run_options
from ..errors import GPBTError
from .commands import QuickGroup
from .output import say

if TYPE_CHECKING:
    from collections.abc import Iterator


class Commands(QuickGroup):
    """Every command, and the module in which it is, in the order in which --help lists them."""

    HOMES: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("launch", "resume"), "launch"),
        **dict.fromkeys(("status", "watch", "stop", "pause"), "runs"),
        **dict.fromkeys(("best", "report", "serve", "export", "lineage"), "results"),
        "replay": "replay",
        "track": "runs",
        "gpus": "gpus",
        "plan": "plan",
        "doctor": "doctor",
        "try": "try_",
        "clean": "runs",
        "guide": "guide",
    }


app = typer.Typer(
    cls=Commands,
    name="gpbt-async",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Genealogical Population-Based Training on one workstation: one run gives a trained model and its schedule."
    "\n\nNew here? `gpbt-async guide` lists the guides. `gpbt-async guide member` turns your script into a member.",
)


def main() -> None:
    """The command line, once it is imported; __main__.py is the entry point."""
    run_options.on_command_line = True
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with _explained():
        app(prog_name="gpbt-async")


def _fail(message: str, status: int) -> NoReturn:
    say(message)
    raise SystemExit(status)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except GPBTError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        if error.errno != errno.EPIPE:
            say(f"cannot write the output: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(141) from None


def _version(value: bool) -> None:
    if value:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
