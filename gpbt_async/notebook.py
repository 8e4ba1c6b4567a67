"""For notebooks: a run's live view in the output of a cell, and its report inline.

    async with gpbt.Run("train.py", folder="runs/mine", resume="auto") as run:
        await gpbt.notebook.show(run)
    gpbt.notebook.report(run)

The kernel's own event loop runs the run, so a cell may `await` it, or make it a task and leave later cells to look at
it. Interrupting the cell stops the run, and `resume="auto"` continues it; when the kernel dies, the run's processes die
with it. The training function must be in a file: `%%writefile train.py`.

The live view is the terminal's, as coloured text and not as HTML: every front end knows ANSI colours and fits them to
its theme, and the output stays readable where a saved notebook is shown as text. The report is the whole page, in a
frame that cannot reach the notebook: a second set of charts in Python would sooner or later show something else.
"""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .analysis import reader
from .analysis.ancestry import descent, wanted
from .errors import ExperimentError
from .ui import html_report, terminal
from .ui.frame import frame
from .ui.summaries import descent_text
from .ui.terminal import closing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .events import Event
    from .storage.folder import RunFolder
    from .ui.frame import RunView, ViewState
    from .ui.text import Line

    class HasFolder(Protocol):
        """A Run, say."""

        @property
        def folder(self) -> RunFolder: ...


#: columns of the live view, and the most rows it takes
WIDTH, HEIGHT = 100, 50


async def show(run: RunView) -> None:
    """Show the run in this cell's output until it is over, and then its result.

    The output is redrawn at most four times a second. Outside of a notebook the run is shown on stderr, as
    `gpbt-async launch` does.
    """
    if _in_notebook():
        await terminal.follow(run, Cell)
    else:
        await terminal.show(run)


def report(run: HasFolder | os.PathLike[str] | str, height: int = 900) -> Page:
    """The report of a run, or of a run's folder or name, to be shown inline; a run that goes on is shown as it is now.

    height: of the frame, in pixels, at least 100. The report takes some 5 MB of the saved notebook. Raises FolderError
    if there is no such run or it cannot be read, MissingExtra without the extra `report`.
    """
    if isinstance(height, bool) or not isinstance(height, int) or height < 100:
        raise ExperimentError.of("height", height, "must be a whole number of pixels, at least 100")
    folder = _folder(run)
    return Page(folder.name, html_report.page(folder), height)


def lineage(run: HasFolder | os.PathLike[str] | str, member: int | str = "best") -> str:
    """Why a member exists, as `gpbt-async lineage` shows it. member: its id, a path such as "0/3/1", or "best"."""
    run_reader = reader.RunReader(_folder(run), history=True)
    ancestry = descent(run_reader, wanted(run_reader, str(member)))
    return descent_text(ancestry, run_reader.history.sessions[0].begin)


class Page:
    """An HTML page, whole, in a frame."""

    def __init__(self, name: str, html: str, height: int) -> None:
        self.name, self.html, self.height = name, html, height

    def __repr__(self) -> str:
        return f"<report of {self.name}: pictures, where this is shown as HTML>"

    def _repr_html_(self) -> str:
        # without a base, the links to the page's own sections would lead to the notebook's address
        page = self.html.replace("<head>", '<head><base href="about:srcdoc">', 1)
        source = page.replace("&", "&amp;").replace('"', "&quot;")
        # a sandbox without an origin: a script in a log or a name stays in there, even if the page let it run
        style = f"width:100%;height:{self.height}px;border:1px solid #8886;border-radius:6px"
        return f'<iframe sandbox="allow-scripts allow-downloads" style="{style}" srcdoc="{source}"></iframe>'


class Cell:
    """The live view in a cell: one output, redrawn."""

    def __init__(self, view: ViewState) -> None:
        self._view = view
        self._handle: Any = None
        self._old, self._drawn = True, 0.0

    def open(self) -> None:
        self._draw()

    def hear(self, event: Event) -> None:
        self._view.hear(event)
        self._old = True

    def tick(self) -> None:
        if self._handle is not None and (self._old or time.monotonic() - self._drawn >= terminal.SLOW):
            self._draw()

    def close(self) -> None:
        self._draw(closing(self._view))

    def give_up(self) -> None:
        """Keep the last frame."""

    def _draw(self, more: Sequence[Line] = ()) -> None:
        from IPython.display import display

        text = coloured(frame(self._view, WIDTH, HEIGHT), crop=True)
        data = {"text/plain": text + (f"\n\n{coloured(more)}" if more else "")}
        self._old, self._drawn = False, time.monotonic()
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def coloured(lines: Sequence[Line], crop: bool = False) -> str:
    """Lines as text with ANSI colours and no other control characters. crop: to WIDTH columns."""
    from rich.console import Console
    from rich.theme import Theme

    # notebooks have no dim text: grey instead
    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=True, force_jupyter=False, color_system="standard",
        no_color=False, theme=Theme({"dim": "bright_black"}),
    )  # fmt: skip
    with console.capture() as capture:
        console.print(terminal.picture(lines, crop=crop), soft_wrap=True, end="")
    return capture.get().removesuffix("\n")


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # a notebook has loaded it
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _folder(run: HasFolder | os.PathLike[str] | str) -> RunFolder:
    if isinstance(run, str | os.PathLike):
        return reader.open_run(os.fspath(run), Path("runs"))
    return run.folder
