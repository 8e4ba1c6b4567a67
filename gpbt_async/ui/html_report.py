"""The report of a run: one HTML file that needs no server, no network and no other file.

The data (analysis/report_data.py) is in the page as JSON. Our own scripts in `assets/` draw it with plotly.js, which is
part of the Python package plotly (extra `report`). Plotly was chosen over Vega-Lite and Bokeh although its script, at
5 MB, is the largest of the three: only plotly has parallel coordinates that can be brushed, and it draws ten thousand
members through WebGL; it works offline without a compiler, and needs no pandas.

The user's texts (names, options, messages, logs) enter the page as JSON in which `<`, `>` and `&` are escaped, and are
only ever set as text. Should that fail, the page's Content-Security-Policy still runs only the scripts whose digests it
names, and nothing can be fetched or sent.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from ..analysis.reader import RunReader
from ..analysis.report_data import member_files, report_data
from ..analysis.table import check_target
from ..errors import MissingExtra
from ..storage.files import explained, replacing
from .live import page_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..analysis.report_data import ReportData
    from ..storage.folder import RunFolder


#: in the order in which the page runs them; plotly comes last, when the page already responds
SCRIPTS = ("theme.js", "core.js", "panel.js", "tree.js", "charts.js", "slots.js", "keys.js", "main.js", "start.js")


def write(folder: RunFolder, target: Path | None = None, reader: RunReader | None = None) -> Path:
    """Write the run's report, whole or not at all, and return its path; by default report.html in the run's folder.

    reader: of the run, with its history, if there is one already. Raises FolderError if the report cannot be written or
    the run cannot be read, MissingExtra without plotly.
    """
    target = folder.report if target is None else target
    check_target(target, folder.report.name)
    text = page(folder, reader)
    with explained("cannot write the report", target), replacing(target) as beside:
        beside.write_text(text, encoding="utf-8")
    return target


def page(folder: RunFolder, reader: RunReader | None = None) -> str:
    """The report as one HTML text, of some 5 MB. Raises as `write` does."""
    library = plotly()
    reader = reader or RunReader(folder, history=True)
    data = report_data(reader)
    data["remains"] = member_files(reader, data)
    return _page(data, library)


def plotly(command: str = "report", extra: str = "report") -> str:
    """plotly.js as text. Raises MissingExtra, which names the command that needs plotly and the extra that has it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        needs = f"{command}: needs plotly, which is not installed"
        raise MissingExtra(f"{needs}: pip install 'gpbt-async[{extra}]'") from None
    return str(get_plotlyjs())


def _page(data: ReportData, library: str) -> str:
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
        title=html.escape(f"{data['run']['name']} – gpbt-async"),
        head=f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{asset("report.css")}</style>',
        back="",
        bar="",
        now="",
        tail=f'<script type="application/json" id="report_data">{embedded(data)}</script>\n{ours}\n'
        f'<script type="text/plain" id="plotly">{library}</script>\n<script>{scripts[-1]}</script>',
        foot="Written by gpbt-async from the run's journal. Numbers are rounded to seven digits; "
        "<code>gpbt-async export</code> has all of them.",
    )


def embedded(data: Mapping[str, object]) -> str:
    """JSON that may be inside an HTML script element: numbers rounded, non-finite ones spelled."""
    text = page_json(data)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def asset(name: str) -> str:
    """One of the texts in assets/ of which pages are made."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")
