"""The pages in a real browser without a window: live, and by keyboard. Skipped where there is no Chromium."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from browser import Browser, found
from hostile import EVIL, hostile
from run_factory import embellished, settings, simulated, write
from web_pages import TOKEN, Server, going_on, served

from gpbt_async import events
from gpbt_async.storage.folder import RunFolder
from gpbt_async.ui import html_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(found() is None, reason="there is no Chromium here"),
    pytest.mark.slow,
]
READY = "document.documentElement?.dataset.ready"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = found()
    assert program is not None
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def text(browser: Browser, id: str) -> str:
    return str(browser.do(f"document.getElementById('{id}').innerText"))


def opened(browser: Browser, server: Server, path: str = "") -> None:
    browser.page()
    browser.events.clear()
    browser.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/{path}?token={TOKEN}")
    browser.until(READY)


def test_a_page_follows_its_run_and_steers_it(browser: Browser, tmp_path: Path) -> None:
    s = settings(population=10, generations=3)
    facts = embellished(simulated(s, 3, fail=0.0).facts)
    half = len(facts) // 2
    folder = write(tmp_path / "runs" / "half", s, facts[:half], members=30)
    os.mkfifo(folder.control)
    control = os.open(folder.control, os.O_RDWR | os.O_NONBLOCK)

    def heard() -> bytes:
        browser.until("true")
        try:
            return os.read(control, 100)
        except BlockingIOError:
            return b""

    with served(tmp_path / "runs") as server, going_on(folder) as journal:
        opened(browser, server)
        browser.until("document.querySelector('#runs a') !== null")
        assert "half" in text(browser, "runs")
        browser.do("document.querySelector('#runs a').click()")
        browser.until("document.getElementById('tree')?.data?.length")
        assert browser.do("location.pathname + location.search") == "/runs/half/"
        assert text(browser, "state") == "running"
        assert text(browser, "link") == "● live"
        before = browser.do("S.summary.members.finished")
        assert browser.do("document.querySelectorAll('.chip').length") == browser.do("S.now.training.length") > 0
        drawn = "new Set(document.getElementById('tree').data.flatMap((t) => t.customdata || [])).size"
        members = browser.do("N")
        assert browser.do(drawn) == members
        for fact in facts[half:-20]:
            journal.append(fact)
        after = sum(isinstance(fact, events.Published) for fact in facts[:-20])
        assert after > before
        browser.until(f"document.querySelectorAll('#tiles .value')[1].textContent.startsWith('{after} of 30')")
        browser.until(f"N > {members} && {drawn} === N")
        browser.do("document.getElementById('score').scrollIntoView({ behavior: 'instant' })")
        browser.until(f"document.getElementById('score').data?.[0].x.length === {after}")
        browser.do("document.getElementById('pause').click()")
        while (word := heard()) == b"":
            pass
        assert word == b"pause\n"
        journal.append(events.Paused(t=facts[-20].t, reason="somebody has paused the run", by_hand=True))
        browser.until("document.getElementById('state').textContent === 'paused'")
        assert text(browser, "pause") == "Go on"
        assert "no new member starts" in text(browser, "now-waiting")
        free = "free_slots: 1, free_until: 'the searcher', free_since: Date.now() / 1000 + G.ahead - 7200"
        browser.do(f"Object.assign(S.now, {{ {free} }}), G.update(S, false)")
        assert "; 1 free, waiting for the searcher 2 h 0 min ago" in text(browser, "now-lead")
        browser.do("document.getElementById('stop').click()")
        assert "gpbt-async resume" in text(browser, "really")
        browser.do("document.getElementById('really-stop').click()")
        while (word := heard()) == b"":
            pass
        assert word == b"stop\n"
        shutil.rmtree(folder.path)
        browser.until("document.getElementById('notice').textContent.includes('was moved or deleted')")
        assert browser.errors() == []
    browser.until("document.getElementById('link').textContent.startsWith('the server does not answer')")
    os.close(control)


def test_members_are_reached_by_keyboard_in_both_pages(browser: Browser, tmp_path: Path) -> None:
    s = settings(population=10, generations=3)
    folder = write(tmp_path / "done", s, embellished(simulated(s, 3).facts), members=30)
    with served(folder.path) as server:
        for address in (None, html_report.write(folder).as_uri()):
            if address is None:
                opened(browser, server)
            else:
                browser.page()
                browser.call("Page.navigate", url=address)
            browser.until("document.getElementById('tree')?.data?.length")
            best = browser.do("best()")
            browser.do("document.getElementById('tree').focus()")
            assert text(browser, "tree-said").startswith(f"member {best} · generation 2 · finished · loss ")
            browser.press("ArrowLeft")
            parent = browser.do("M.parent[best()]")
            assert text(browser, "tree-said").startswith(f"member {parent} · generation 1")
            browser.press("ArrowRight")
            assert text(browser, "tree-said").startswith(f"member {best} ·")
            browser.press("ArrowDown")
            below = browser.do("M.place.findIndex((p, id) => p === 1 && M.generation[id] === 2)")
            assert browser.do("M.place[best()]") == 0
            assert text(browser, "tree-said").startswith(f"member {below} ·")
            assert browser.do("document.getElementById('tree').layout.shapes.length") == 1
            browser.press("Enter")
            assert text(browser, "panel").startswith(f"✕\nMember {below}") or f"Member {below}" in text(
                browser, "panel"
            )
            browser.until("document.getElementById('panel').innerText.includes('epoch')")
            browser.press("Escape")
            assert browser.do("document.getElementById('panel').hidden")
            assert browser.do("document.activeElement.id") == "tree"
            browser.press("?")
            assert browser.do("document.getElementById('keys').open")
            assert "by its number or path" in text(browser, "keys")
            browser.press("Escape")
            browser.until("!document.getElementById('keys').open")
            browser.do("document.getElementById('score').focus()")
            browser.press("ArrowLeft")
            assert text(browser, "score-said").startswith("member ")
            assert text(browser, "tree-said") == ""
            browser.do("document.getElementById('theme').click()")
            assert browser.do("document.documentElement.dataset.theme") == "dark"
            browser.do("document.getElementById('theme').click()")
            assert browser.errors() == []


def test_a_failed_run_says_how_to_go_on(browser: Browser, tmp_path: Path) -> None:
    s = settings(population=4, generations=2)
    folder = write(tmp_path / "failed", s, simulated(s, 2, fail=1.0).facts, members=4)
    with served(folder.path) as server:
        opened(browser, server)
        said = text(browser, "notice")
    assert "The run has failed: " in said
    assert (
        f"Once the cause is fixed, 4 failed members can be tried again: gpbt-async resume {folder.shell_name} --"
        in said
    )


def test_nothing_the_user_names_becomes_markup_in_a_live_page(browser: Browser, tmp_path: Path) -> None:
    s = hostile(settings(population=6, generations=2))
    evil = []
    for fact in embellished(simulated(s, 2, fail=0.3).facts):
        if isinstance(fact, events.Trained):
            fact = replace(fact, metrics={EVIL: fact.score, "__proto__": 1.0})
        elif isinstance(fact, events.Failed):
            fact = replace(fact, reason=EVIL)
        evil.append(fact)
    folder = write(tmp_path / "evil", s, evil[:-30], members=12)
    with served(folder.path) as server, going_on(RunFolder(folder.path)) as journal:
        opened(browser, server)
        browser.until("document.getElementById('tree')?.data?.length")
        browser.do("G.show(0)")
        for fact in evil[-30:]:
            journal.append(fact)
        browser.until(f"S.run.told >= {evil[-1].t}")
        browser.do("document.getElementById('failures').scrollIntoView()")
        browser.until("document.getElementById('importance').childElementCount > 0")
        assert "onerror=alert(1)" in text(browser, "failures")
        assert browser.do("document.querySelectorAll('img, iframe, a[href^=http], main script').length") == 0
        assert browser.errors() == []
