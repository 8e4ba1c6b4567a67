"""A run told in one HTML file that needs nothing else: no server, no network, no other file.

The story (story.py) goes into the page as data; what draws it are our own scripts in `assets/`, on plotly.js, which the
Python package plotly (extra `report`) brings along. Plotly was chosen over Vega-Lite and Bokeh although its script, at
5 MB, is the largest of the three: it alone has parallel coordinates that can be brushed, and draws ten thousand members
through WebGL; nothing has to be compiled or fetched for a file that works offline, and plotly itself needs no pandas.

What comes from the user (names, options, messages, logs) enters the page as JSON in which `<`, `>` and `&` are
escaped, and is only ever set as text; should that ever fail, the page's Content-Security-Policy runs no script but
those whose digests it names, and lets nothing be fetched or sent.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from ..analysis.reader import RunReader
from ..analysis.story import remains, story
from ..analysis.table import check_target
from ..errors import MissingExtra
from ..storage.files import explained, replacing
from .live import encoded

if TYPE_CHECKING:
    from pathlib import Path

    from ..storage.folder import RunFolder


#: in the order in which the page runs them; plotly comes after them, when the page answers already
SCRIPTS = ("theme.js", "core.js", "panel.js", "tree.js", "charts.js", "slots.js", "keys.js", "main.js", "start.js")


def write(folder: RunFolder, target: Path | None = None, reading: RunReader | None = None) -> Path:
    """Write the run's report, by default to report.html in its folder, whole or not at all; where it stands now.

    reading: of the run, with its history, if there is one already.

    Raises FolderError when it cannot be written or the run cannot be read, MissingExtra without plotly.
    """
    target = folder.report if target is None else target
    check_target(target, folder.report.name)
    text = page(folder, reading)
    with explained("cannot write the report", target), replacing(target) as beside:
        beside.write_text(text, encoding="utf-8")
    return target


def page(folder: RunFolder, reading: RunReader | None = None) -> str:
    """The report as one HTML text, of some 5 MB. Raises as `write` does."""
    library = plotly()
    reading = reading or RunReader(folder, history=True)
    told = story(reading)
    told["remains"] = remains(reading, told)
    return _page(told, library)


def plotly(command: str = "report", extra: str = "report") -> str:
    """plotly.js, whole. Raises MissingExtra, which names the command that needs it and the extra that brings it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtra(
            f"{command}: needs plotly, which is not installed: pip install 'gpbt-async[{extra}]'"
        ) from None
    return str(get_plotlyjs())


def _page(told: dict[str, Any], library: str) -> str:
    scripts = [library, *(asset(name) for name in SCRIPTS)]
    for script in scripts:
        assert "</script" not in script.lower()
        assert "<!--" not in script
    # plotly's WebGL compiles small functions as it draws, hence unsafe-eval; inline handlers never run
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {digests} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )
    ours = "\n".join(f"<script>{script}</script>" for script in scripts[1:-1])
    return Template(asset("report.html")).substitute(
        title=html.escape(f"{told['run']['name']} – gpbt-async"),
        head=f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{asset("report.css")}</style>',
        back="",
        bar="",
        now="",
        tail=f'<script type="application/json" id="story">{embedded(told)}</script>\n{ours}\n'
        f'<script type="text/plain" id="plotly">{library}</script>\n<script>{scripts[-1]}</script>',
        foot="Written by gpbt-async from the run's journal. Numbers are rounded to seven digits; "
        "<code>gpbt-async export</code> has all of them.",
    )


def embedded(told: dict[str, Any]) -> str:
    """JSON that may stand inside an HTML script element, numbers rounded, non-finite ones spelled."""
    text = encoded(told)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def asset(name: str) -> str:
    """A text of ours that pages are made of."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")
