"""Runs in notebooks: the live view in a cell, the report in a frame, and the example, executed by a real kernel."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import LONG, cli
from run_checker import check_run

import gpbt_async as gpbt
from gpbt_async import notebook
from gpbt_async.ui.text import unstyled

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "notebook.ipynb"


def code_cells(document: Any) -> Iterator[Any]:
    return (cell for cell in document["cells"] if cell["cell_type"] == "code")


class Elements(HTMLParser):
    """The elements of a page: tag, attributes, and the text right behind the opening tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.all:
            self.all[-1][2].append(data)


def framed(shown: str) -> dict[str, str]:
    """The attributes of the one element that is shown."""
    [(tag, attributes, _)] = Elements(shown).all
    assert tag == "iframe"
    return {name: value or "" for name, value in attributes.items()}


def report_data(shown: str) -> Any:
    """The report's data in the page in the frame."""
    [data] = [
        texts for _, attributes, texts in Elements(framed(shown)["srcdoc"]).all if attributes.get("id") == "report_data"
    ]
    return json.loads("".join(data))


# ---- the example


def test_the_notebook_is_stored_without_outputs() -> None:
    document = json.loads(NOTEBOOK.read_text())
    assert document["nbformat"] == 4
    for cell in code_cells(document):
        assert cell["outputs"] == [], cell["id"]
        assert cell["execution_count"] is None, cell["id"]
    assert {key for cell in document["cells"] for key in cell["metadata"]} == set()
    assert document["metadata"]["kernelspec"]["name"] == "python3", "any machine's own"


@pytest.mark.slow
async def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("sklearn")
    pytest.importorskip("plotly")
    import nbformat
    from traitlets.config import Config

    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)  # its sockets, too, have names relative to here
    pictures: list[str] = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if cell["id"] == "run" and msg["msg_type"] in ("display_data", "update_display_data"):
                pictures.append(msg["content"]["data"]["text/plain"])
            return super().process_message(msg, cell, cell_index)

    document = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    [run_cell] = [cell for cell in document.cells if cell["id"] == "run"]
    document.cells.append(nbformat.from_dict({**run_cell, "id": "again", "outputs": []}))
    local = Config({"KernelManager": {"transport": "ipc"}})
    await Client(document, kernel_name="python3", config=local, timeout=LONG).async_execute()
    outputs = {cell["id"]: cell["outputs"] for cell in code_cells(document)}

    # one output, redrawn while the run went on
    assert len(outputs["run"]) == 1
    assert len(pictures) > 1
    assert "0 of 40 members" in pictures[0]
    assert "notebook has finished" not in "".join(pictures[:-1])
    assert "40 of 40 members" in pictures[-1]
    assert "notebook has finished" in pictures[-1]
    assert outputs["run"][0]["data"]["text/plain"] == pictures[-1]

    [again] = outputs["again"]
    assert "notebook has finished" in again["data"]["text/plain"], "what it came to, as nothing is left to do"

    folder = tmp_path / "runs" / "notebook"
    assert check_run(folder) == []
    assert check_run(tmp_path / "runs" / "another") == []
    summary = json.loads((folder / "summary.json").read_text())
    best = f"member {summary['best_member']}, generation {summary['best_generation']}"
    data = report_data(outputs["report"][0]["data"]["text/html"])
    assert data["lineage"][-1] == summary["best_member"]
    assert len(data["members"]["score"]) == 40
    assert f"loss {summary['score']:.4f}"[:-1] in outputs["schedule"][0]["text"]
    assert best in outputs["schedule"][0]["text"]
    assert outputs["why"][0]["text"].startswith(f"notebook: why member {summary['best_member']} exists\n")
    fresh = re.search(r"loss ([0-9.]+)", outputs["along"][0]["text"])
    assert fresh is not None
    assert float(fresh[1]) < 1, "chance is 2.3"
    assert outputs["another"][0]["text"].startswith("16 members were published")


# ---- functions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a member that says what a page must not obey."""
    where = tmp_path_factory.mktemp("notebook")
    (where / "evil.py").write_text(
        "import gpbt_async as gpbt\n"
        "def train(member):\n"
        "    member.report(score=float(member.id))\n"
        "experiment = gpbt.Experiment(train, score='score', mode='max', population=2, generations=2,\n"
        "    searcher='random', space={'\"><script>': gpbt.Choice(['</script>', '\\x1b[2J']), 'x': gpbt.Float(0, 1)})\n"
    )
    done = cli("launch", where / "evil.py", "--slots", 2, "-q", cwd=where)
    assert done.status == 0, done.err
    return where / "runs" / "evil-1"


def test_the_reports_frame_cannot_reach_the_notebook(run: Path) -> None:
    pytest.importorskip("plotly")
    page = notebook.report(run, height=321)
    attributes = framed(page._repr_html_())
    assert set(attributes["sandbox"].split()) == {"allow-scripts", "allow-downloads"}, "no origin of the notebook's"
    assert "height:321px" in attributes["style"]
    assert attributes["srcdoc"].replace('<base href="about:srcdoc">', "") == page.html
    assert page._repr_html_().count("<iframe") == 1
    data = report_data(page._repr_html_())
    assert [d["name"] for d in data["space"]] == ['"><script>', "x"]
    assert repr(page) == "<report of evil-1: pictures, where this is shown as HTML>"


def test_a_run_is_named_in_any_way(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    texts = {notebook.lineage(each) for each in (run, str(run), "evil-1", Path("runs/evil-1"))}
    [text] = texts
    assert text.startswith("evil-1: why member 3 exists\nmember ")
    assert notebook.lineage(run, 0).startswith("evil-1: why member 0 exists\n")
    assert notebook.lineage(run, "1/0").startswith("evil-1: why member ")


@pytest.mark.parametrize("height", [0, 99, -900, 900.0, True, "tall"])
def test_a_bad_height(run: Path, height: Any) -> None:
    with pytest.raises(gpbt.ExperimentError, match=r"height: got .*; must be a whole number of pixels, at least 100"):
        notebook.report(run, height)


def test_a_run_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(gpbt.FolderError, match=r"no run at .*nowhere: it does not exist"):
        notebook.report(tmp_path / "nowhere")
    with pytest.raises(gpbt.FolderError, match=r"no run at .*nowhere: it does not exist"):
        notebook.lineage(str(tmp_path / "nowhere"))


async def test_outside_of_a_notebook_the_terminal_shows_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with gpbt.Run(None, run, resume="must") as again:
        await notebook.show(again)
    assert "evil-1 has finished" in capsys.readouterr().err


def test_text_has_colours_and_no_other_control_characters() -> None:
    lines = [[("best \x1b[2J", "bold green"), ("\r\n<b>", ""), ("rest", "dim")], [], [("", "red")]]
    text = notebook.coloured(lines)
    assert text == "\x1b[1;32mbest  [2J\x1b[0m  <b>\x1b[90mrest\x1b[0m\n\n"
    assert re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")[1:] == [unstyled(line) for line in lines[1:]]
