"""The report of a large run: how long it takes to write, how large it is, how soon a browser answers.

    python bench/report.py [--population 1000] [--generations 10] [--slots 16] [--run DIR] [--shots DIR]
                           [--browser chromium]

The run is simulated (the real engine, tests/support/run_factory.py) and written down with logs and metrics of all
members. In the browser, without a window: *ready* is from the navigation's start to the end of our scripts; *answered*
is when a click on the best member's button, given as soon as there is one, has opened that member's panel and it has
been painted; *drawn* is when the first chart, the tree, has been. Each is the median of three page loads. All charts
are then scrolled to, and errors of the console are shown, of which there must be none. --shots keeps pictures, light
and dark."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from browser import Browser
from run_factory import embellished, settings, simulated, write

from gpbt_async.storage.folder import RunFolder
from gpbt_async.ui import html_report

#: run before the page's own scripts: tells when the tree was painted, and when the click was answered
WATCH = """
window.told = {};
const painted = (name) => requestAnimationFrame(() => setTimeout(() => { told[name] ||= performance.now(); }));
new MutationObserver(() => {
  if (!told.ready && document.documentElement.dataset.ready) told.ready = performance.now();
  const button = document.querySelector('#tiles button');
  if (button && !told.clicked) {
    told.clicked = performance.now();
    setTimeout(() => button.click());
  }
  const panel = document.getElementById('panel');
  if (!told.answered && panel && !panel.hidden) painted('answered');
  if (!told.drawn && document.querySelector('#tree .main-svg')) painted('drawn');
}).observe(document, { subtree: true, childList: true, attributes: true });
"""
#: has every chart drawn, as somebody would who scrolls through the page
ALL = """(async () => {
  const wait = (ms) => new Promise((r) => setTimeout(r, ms));
  const charts = [...document.querySelectorAll('.chart')];
  for (const chart of charts) {
    chart.scrollIntoView({ behavior: 'instant' });
    await wait(60);
  }
  for (let i = 0; i < 400 && charts.some((c) => !c.childElementCount); i++) await wait(50);
  scrollTo({ top: 0, behavior: 'instant' });
  await wait(300);
})()"""


def timed(browser: Browser, url: str) -> dict[str, float]:
    browser.page()
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    browser.call("Page.navigate", url=url)
    for _ in range(300):
        found = browser.do("window.told") or {}
        wanted = (
            ("ready", "drawn", "answered")
            if browser.do("document.documentElement.dataset.ready && S.lineage.length")
            else ("ready",)
        )
        if set(wanted) <= set(found):
            return {k: found[k] / 1e3 for k in wanted}
        time.sleep(0.1)
    raise RuntimeError(f"the page did not get so far: {found}, {browser.errors()}")


def shots(browser: Browser, url: str, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        browser.page(scheme=scheme)
        browser.call("Page.navigate", url=url)
        time.sleep(1.5)
        browser.do(ALL)
        browser.shoot(folder / f"{stem}-{scheme}.png")
        browser.do("G.show(S.lineage[S.lineage.length - 1])")
        time.sleep(0.7)
        browser.shoot(folder / f"{stem}-{scheme}-member.png", whole=False)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--population", type=int, default=1000)
    asked.add_argument("--generations", type=int, default=10)
    asked.add_argument("--slots", type=int, default=16)
    asked.add_argument("--run", type=Path, help="a run's folder, instead of a simulated one")
    asked.add_argument("--shots", type=Path)
    asked.add_argument("--browser", default="chromium")
    args = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpbt-report-") as name:
        if args.run is not None:
            folder = RunFolder.open(args.run)
        else:
            s = settings(population=args.population, generations=args.generations)
            members = args.population * args.generations
            folder = write(Path(name, "simulated"), s, embellished(simulated(s, args.slots).facts), members=members)
        began, cpu = time.perf_counter(), time.process_time()
        path = html_report.write(folder, Path(name, "report.html"))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(f"{folder.name}: written in {took:.1f} s ({cpu:.1f} s of CPU), {path.stat().st_size / 1e6:.1f} MB")
        if shutil.which(args.browser) is None:
            print(f"no {args.browser} here: not looked at in a browser")
            return
        browser = Browser(args.browser, Path(name, "profile"))
        try:
            loads = [timed(browser, path.as_uri()) for _ in range(3)]
            print(
                "in the browser, s: " + ", ".join(f"{k} {statistics.median(x[k] for x in loads):.2f}" for k in loads[0])
            )
            began = time.perf_counter()
            browser.do(ALL)
            took = time.perf_counter() - began
            print(f"all charts scrolled to and drawn in {took:.1f} s; errors: {browser.errors() or 'none'}")
            if args.shots:
                shots(browser, path.as_uri(), args.shots, folder.name)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
