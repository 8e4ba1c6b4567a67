"""The API reference is the docstrings: all that is public has one, which says what every argument is, in which unit."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gpbt_async as gpbt
from gpbt_async import events

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "gpbt_async"
CLASSES = [name for name in gpbt.__all__ if inspect.isclass(getattr(gpbt, name))]
FACTS = [k for k in vars(events).values() if dataclasses.is_dataclass(k) and k.__module__ == events.__name__]
#: public modules beside the package's own names; what needs a framework is read, not imported
MODULES = ("torch", "lightning", "hf", "testing", "tracked", "simulate")

#: what the docstrings must say of quantities: in which unit, or from what to what
SAID = {
    "Experiment": {
        "population": ">= 1", "generations": ">= 1", "ratio": "> 0", "evidence": "[0, 1]", "attempts": ">= 1",
        "seed": ">= 0", "stall_timeout": "seconds", "member_timeout": "seconds", "mode": '"max" or "min"',
        "history": '"inherit"', "selection": '"comma"', "schedule": '"sync"', "early_stop": '"median"',
    },
    "Resources": {"gpus": "0", "share": ">= 1", "vram": '"6GiB"', "cpus": ">= 1"},
    "Run": {"slots": ">= 1", "disk": '"50GiB"', "others_may_use": '"2GiB"', "resume": '"must"'},
    "Member": {"seed": "[0, 2", "device": '"cuda"', "generation": "from 0", "attempt": "from 1"},
    "Ask": {"seed": "[0, 2", "run": "[0, 2", "generation": "from 0"},
    "Schedule.at": {"progress": "0 is its beginning, 1 its end"},
    "Schedule.config": {"step": "from 0"},
    "Space.step": {"width": "unit cube", "redraw": "probability"},
    "Space.perturb": {"resample": "probability"},
    "Best": {"generation": "from 0"},
}  # fmt: skip


def doc(thing: Any) -> str:
    """Its own docstring, on one line; that of dataclasses' making, or of object's, is none."""
    text = getattr(thing, "__doc__", None) or ""
    return "" if text == object.__init__.__doc__ or text.startswith("Initialize self.") else " ".join(text.split())


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines."""
    for name, value in vars(kind).items():
        if name.startswith("_") or inspect.ismemberdescriptor(value):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield f"{kind.__name__}.{name}", function


PUBLIC: dict[str, Any] = {name: getattr(gpbt, name) for name in gpbt.__all__ if name not in ("__version__", "events")}
PUBLIC |= {method: function for name in CLASSES for method, function in methods(getattr(gpbt, name))}


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_says_what_it_is_and_what_it_takes(name: str) -> None:
    thing = PUBLIC[name]
    text = doc(thing)
    if not inspect.isclass(thing) and name.rpartition(".")[2].startswith("_"):
        return
    assert text, f"{name} has no docstring"
    if name in ("launch", "Member") or (inspect.isclass(thing) and issubclass(thing, BaseException)):
        return  # what launch takes is Run's, and nobody makes a Member or raises an error of ours by hand
    takes = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
    untold = [p for p in takes if not re.search(rf"\b{p}\b", text)]
    assert not untold, f"{name} does not say what {', '.join(untold)} is"


@pytest.mark.parametrize("name", SAID)
def test_quantities_have_units_and_ranges(name: str) -> None:
    text = doc(PUBLIC[name])
    for argument, said in SAID[name].items():
        near = [text[max(0, m.start() - 40) : m.end() + 320] for m in re.finditer(rf"\b{argument}\b", text)]
        assert any(said in words for words in near), f"{name}: {argument}: {said}"


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_facts_and_commands_say_what_they_tell(kind: type) -> None:
    assert doc(kind)
    assert not doc(kind).startswith(f"{kind.__name__}("), "made by dataclasses"
    assert dataclasses.is_dataclass(kind)


@pytest.mark.parametrize("module", MODULES)
def test_public_modules_say_what_they_hold(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name}"
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                # on_…: a framework's hooks
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith(("_", "on_")):
                    assert ast.get_docstring(inner), f"{module}.{node.name}.{inner.name}"


def test_pdoc_makes_the_reference_of_it(tmp_path: Path) -> None:
    pdoc = pytest.importorskip("pdoc")
    modules = ("testing", "tracked", "simulate")
    pdoc.pdoc("gpbt_async", *(f"gpbt_async.{name}" for name in modules), output_directory=tmp_path)
    page = (tmp_path / "gpbt_async.html").read_text()
    for name in gpbt.__all__:
        if name != "events":
            section = page[page.index(f'id="{name}"') :]
            words = doc(getattr(gpbt, name)).split(".")[0].replace("`", "")
            told = " ".join(unescape(re.sub(r"<[^>]+>", "", section)).split())
            assert name == "__version__" or words in told, name
    for path in tmp_path.rglob("*.html"):
        prose = "".join(re.findall(r'<div class="docstring">(.*?)</div>', path.read_text(), re.S))
        # what markdown makes of a line that begins with a number, or of two powers, is none of these
        odd = re.findall(r"<(?!/|p>|code>|span|a |pre>|em>member|strong>(?:fact|command|tracker)<)[^>]*>", prose)
        assert not odd, f"{path.name}: {odd}"
    assert {path.stem for path in (tmp_path / "gpbt_async").iterdir()} == {"events", *modules}
