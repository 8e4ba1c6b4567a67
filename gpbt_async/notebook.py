"""For notebooks: a run's live view in a cell's output, and the report's pictures inline.

    async with gpbt.Run("train.py", folder="runs/mine", resume="auto") as run:
        await gpbt.notebook.show(run)
    gpbt.notebook.report(run)

The kernel's own event loop runs the run, so a cell may `await` it, or make a task of it and leave the next cells to
look at it. Interrupting the cell stops the run, which `resume="auto"` goes on with; when the kernel dies, the run's
processes die with it. What a member does has to stand in a file: `%%writefile train.py`.

The live view is the terminal's, as coloured text rather than HTML: every front end knows ANSI colours and has them fit
its theme, and the output stays readable where a saved notebook is shown as text. The pictures are the report, whole,
in a frame of its own that can reach nothing of the notebook: its scripts are the ones that were looked at in a browser,
and a second set of them in Python would show something else sooner or later.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .analysis import reader
from .analysis.ancestry import descent, wanted
from .errors import ExperimentError
from .formatting import clean
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


if TYPE_CHECKING:

    class HasFolder(Protocol):
        """A Run, say."""

        @property
        def folder(self) -> RunFolder: ...


#: columns of the live view, and the most rows it takes
WIDTH, HEIGHT = 100, 50


async def show(run: RunView) -> None:
    """Show the run in this cell's output until it is over, and then what it came to.

    One output that is drawn anew, at most four times a second. Outside of a notebook: as `gpbt-async launch` does, on
    stderr.
    """
    if _in_notebook():
        await terminal.follow(run, Cell)
    else:
        await terminal.show(run)


def report(run: HasFolder | os.PathLike[str] | str, height: int = 900) -> Page:
    """The report of a run, or of a run's folder or name, to be shown inline; one that goes on is told as it is now.

    height: of the frame, in pixels, at least 100. It takes some 5 MB of the notebook once that is saved. Raises
    FolderError where there is no run or it cannot be read, MissingExtra without the extra `report`.
    """
    if isinstance(height, bool) or not isinstance(height, int) or height < 100:
        raise ExperimentError.of("height", height, "must be a whole number of pixels, at least 100")
    folder = _folder(run)
    return Page(folder.name, html_report.page(folder), height)


def lineage(run: HasFolder | os.PathLike[str] | str, member: int | str = "best") -> str:
    """Why a member exists, as `gpbt-async lineage` tells it. member: its number, a path such as "0/3/1", or "best"."""
    found = reader.RunReader(_folder(run), history=True)
    told = descent(found, wanted(found, str(member)))
    return descent_text(told, found.history.sessions[0].begin)


class Page:
    """An HTML page, whole, in a frame."""

    def __init__(self, name: str, html: str, height: int) -> None:
        self.name, self.html, self.height = name, html, height

    def __repr__(self) -> str:
        return f"<report of {self.name}: pictures, where this is shown as HTML>"

    def _repr_html_(self) -> str:
        # the links to the page's own sections would lead to the notebook's address otherwise
        page = self.html.replace("<head>", '<head><base href="about:srcdoc">', 1)
        source = page.replace("&", "&amp;").replace('"', "&quot;")
        # a sandbox without an origin: what stands in a log or a name stays in there, should the page itself let it out
        style = f"width:100%;height:{self.height}px;border:1px solid #8886;border-radius:6px"
        return f'<iframe sandbox="allow-scripts allow-downloads" style="{style}" srcdoc="{source}"></iframe>'


class Cell:
    """The live view's face in a cell: one output, drawn anew."""

    def __init__(self, known: ViewState) -> None:
        self._known = known
        self._handle: Any = None
        self._old, self._drawn = True, 0.0

    def open(self) -> None:
        self._draw()

    def hear(self, event: Event) -> None:
        self._known.hear(event)
        self._old = True

    def tick(self) -> None:
        if self._handle is not None and (self._old or time.monotonic() - self._drawn >= terminal.SLOW):
            self._draw()

    def close(self) -> None:
        self._draw(closing(self._known))

    def give_up(self) -> None:
        """The last picture stays."""

    def _draw(self, more: Sequence[Line] = ()) -> None:
        from IPython.display import display

        lines = frame(self._known, WIDTH, HEIGHT)
        data = {"text/plain": coloured([*lines, [], *more] if more else lines)}
        self._old, self._drawn = False, time.monotonic()
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def coloured(lines: Sequence[Line]) -> str:
    """Lines as text with ANSI colours, and with nothing else that a terminal would obey."""
    return "\n".join("".join(_styled(clean(text), style) for text, style in line) for line in lines)


def _styled(text: str, style: str) -> str:
    before = _escape(style)
    return f"{before}{text}\x1b[0m" if before and text else text


@cache
def _escape(style: str) -> str:
    """What begins a style of wording.py's, "bold green" say. Notebooks have no dim: grey instead."""
    from rich.color import ColorSystem
    from rich.style import Style

    marked = Style.parse(style.replace("dim", "bright_black")).render("|", color_system=ColorSystem.STANDARD)
    return marked.partition("|")[0]


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # whoever is in a notebook has it loaded
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _folder(run: HasFolder | os.PathLike[str] | str) -> RunFolder:
    if isinstance(run, str | os.PathLike):
        return reader.open_run(os.fspath(run), Path("runs"))
    return run.folder
