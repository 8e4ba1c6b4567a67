"""The live page: how soon after a fact a browser shows it, and what that costs the server.

    python bench/live.py [--population 500] [--generations 10] [--slots 16] [--facts 20] [--rate 10] [--shots DIR]
                         [--browser chromium]

The run is simulated (the real engine, tests/support/run_factory.py). Nine tenths of its facts are in the journal, and
it looks like a run that continues. `gpbt-async serve` is a process of its own, and a browser without a window looks at
the run's page. Then member after member is published: *told* is from the fact's append until the page's text says so,
*drawn* until the tree has been drawn anew; medians and the slowest. Then facts come at --rate a second for ten seconds:
the processor time of server and page, and how long the page at most did not answer. --shots keeps pictures, light and
dark."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from browser import Browser
from run_factory import embellished, settings, simulated, write

from gpbt_async import events
from gpbt_async.storage.journal import Journal

if TYPE_CHECKING:
    from gpbt_async.storage.folder import RunFolder

#: tells when the page's text and its tree were last others
WATCH = """
window.told = { at: 0, drawn: 0, count: -1, longest: 0 };
addEventListener('DOMContentLoaded', () => {
  new MutationObserver(() => {
    const count = document.querySelectorAll('#tiles .value')[1]?.textContent;
    if (count !== told.count) { told.count = count; told.at = Date.now(); }
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
  const wait = setInterval(() => {
    const tree = document.getElementById('tree');
    if (!tree?.on) return;
    clearInterval(wait);
    told.drawn = Date.now();
    tree.on('plotly_afterplot', () => { told.drawn = Date.now(); });
  }, 20);
  let last = performance.now();
  setInterval(() => {
    const now = performance.now();
    told.longest = Math.max(told.longest, now - last - 20);
    last = now;
  }, 20);
});
"""


def cpu(pid: int) -> float:
    """Processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def served(runs: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "gpbt_async", "serve", "--runs", str(runs)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def one_by_one(browser: Browser, journal: Journal, coming: list[events.Fact], count: int) -> None:
    told, drawn = [], []
    for _ in range(count):
        while coming and not isinstance(coming[0], events.Published):
            journal.append(coming.pop(0))
        time.sleep(2.5)  # the page rests
        before = browser.do("told.count")
        journal.append(coming.pop(0))
        began = time.time()
        browser.until(f"told.count !== {before!r}")
        told.append(browser.do("told.at") / 1e3 - began)
        browser.until(f"told.drawn > {began * 1e3}")
        drawn.append(browser.do("told.drawn") / 1e3 - began)
    for what, times in (("told", told), ("drawn", drawn)):
        print(f"  {what}: median {statistics.median(times):.2f} s, slowest {max(times):.2f} s after the fact ({count})")


def all_the_time(browser: Browser, server: int, journal: Journal, coming: list[events.Fact], rate: float) -> None:
    browser.do("told.longest = 0")
    before, began = cpu(server), time.monotonic()
    lags: list[float] = []
    for i in range(int(10 * rate)):
        if not coming:
            break
        journal.append(coming.pop(0))
        time.sleep(max(0.0, began + (i + 1) / rate - time.monotonic()))
        if i % int(rate) == 0:
            lags.append(time.time() - browser.do("told.at") / 1e3)
    took = time.monotonic() - began
    print(
        f"  {rate:g} facts/s for {took:.0f} s: server {100 * (cpu(server) - before) / took:.0f} % of a core, "
        f"{memory(server):.0f} MB; the page's longest silence {browser.do('told.longest') / 1e3:.2f} s; "
        f"what it said last was at most {max(lags):.1f} s old"
    )


def shots(browser: Browser, url: str, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        browser.page(scheme=scheme)
        browser.call("Page.navigate", url=url)
        browser.until("document.documentElement?.dataset.ready")
        browser.do(ALL)
        browser.shoot(folder / f"{stem}-{scheme}.png")
        browser.do("G.show(S.now.training[0]?.member ?? best())")
        time.sleep(1)
        browser.shoot(folder / f"{stem}-{scheme}-member.png", whole=False)
        browser.do("G.hide(); scrollTo({ top: 300, behavior: 'instant' }); document.getElementById('tree').focus()")
        for key in ("ArrowLeft", "ArrowDown", "ArrowDown", "ArrowRight"):
            browser.press(key)
        time.sleep(0.3)
        browser.shoot(folder / f"{stem}-{scheme}-keys.png", whole=False)


ALL = """(async () => {
  const wait = (ms) => new Promise((r) => setTimeout(r, ms));
  const charts = [...document.querySelectorAll('.chart')];
  for (const chart of charts) {
    chart.scrollIntoView({ behavior: 'instant' });
    await wait(150);
  }
  for (let i = 0; i < 400 && charts.some((c) => !c.childElementCount); i++) await wait(50);
  scrollTo({ top: 0, behavior: 'instant' });
  await wait(600);
})()"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--population", type=int, default=500)
    asked.add_argument("--generations", type=int, default=10)
    asked.add_argument("--slots", type=int, default=16)
    asked.add_argument("--facts", type=int, default=20)
    asked.add_argument("--rate", type=float, default=10)
    asked.add_argument("--shots", type=Path)
    asked.add_argument("--browser", default="chromium")
    args = asked.parse_args()
    if shutil.which(args.browser) is None:
        raise SystemExit(f"no {args.browser} here")
    with tempfile.TemporaryDirectory(prefix="gpbt-live-") as name:
        runs = Path(name, "runs")
        runs.mkdir()
        s = settings(population=args.population, generations=args.generations)
        facts = embellished(simulated(s, args.slots).facts)
        begun = int(0.9 * len(facts)) if args.population > 30 else int(0.6 * len(facts))
        late = time.time() - facts[begun - 1].t  # the last one has just happened
        facts = [replace(fact, t=fact.t + late) for fact in facts]
        told, coming = facts[:begun], facts[begun:]
        folder = write(runs / f"live-{args.population * args.generations}", s, told, members=1000)
        look(args, folder, coming, runs, Path(name, "profile"))


def look(args: argparse.Namespace, folder: RunFolder, coming: list[events.Fact], runs: Path, profile: Path) -> None:
    began = time.perf_counter()
    server, address = served(runs)
    browser = Browser(args.browser, profile)
    with open(folder.lock_file, "w") as lock, Journal.open(folder.journal) as journal:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            browser.page()
            browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
            browser.call("Page.navigate", url=address)
            browser.until("document.documentElement?.dataset.ready")
            url = address.partition("?")[0] + f"runs/{folder.name}/"
            browser.call("Page.navigate", url=url)
            browser.until("document.documentElement?.dataset.ready && window.told?.drawn")
            print(f"{folder.name}: first drawn {time.perf_counter() - began:.1f} s after the server was started")
            if args.shots:
                shots(browser, url, args.shots, folder.name)
            else:
                one_by_one(browser, journal, coming, args.facts)
                all_the_time(browser, server.pid, journal, coming, args.rate)
            print(f"  errors of the console: {browser.errors() or 'none'}")
        finally:
            browser.close()
            server.terminate()
            print(f"  the server ended with {server.wait(10)}")


if __name__ == "__main__":
    main()
