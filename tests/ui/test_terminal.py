"""The view: texts, frames as plain data, their drawing by rich, plain lines, and that the view never harms a run."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import math
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_driver import Driver, settings
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from gpbt_async import events, formatting
from gpbt_async.analysis import run_summary
from gpbt_async.analysis.usage import Usage
from gpbt_async.devices.slots import CpuPool, Slot
from gpbt_async.space import Choice, Float, Space
from gpbt_async.storage.folder import RunFolder
from gpbt_async.ui import terminal as terminal_module
from gpbt_async.ui import text as text_module
from gpbt_async.ui.frame import ViewState, frame
from gpbt_async.ui.terminal import FAILURES, HEARTBEAT, PACE, Plain, closing
from gpbt_async.ui.text import unstyled


class EventfulDriver(Driver):
    """A Driver with slots that differ, members that enter, and a clock that goes on by a second a fact."""

    fake: FakeRun

    def feed(self, fact: events.Fact) -> None:
        fact = replace(fact, t=float(len(self.facts)))
        if isinstance(fact, events.Started):
            taken = {m.slot for m in self.engine.training}
            fact = replace(fact, slot=next(i for i in range(self.slots) if i not in taken))
        super().feed(fact)
        self.fake.usage.fold(fact, self.engine)
        self.fake.events.append(fact)
        if isinstance(fact, events.Started):
            self.feed(events.Entered(t=0.0, member=fact.member, attempt=fact.attempt))


class FakeRun:
    """What the view reads of a Run, around a lineage that a Driver drives."""

    def __init__(self, *, slots: int = 2, turns: int | None = 0, folder: str = "digits-1", **changes: Any) -> None:
        dice = {k: changes.pop(k) for k in ("fail", "nan", "lose", "searcher", "score_of") if k in changes}
        if "score_of" in dice:
            dice["score"] = dice.pop("score_of")
        self.settings = settings(**changes)
        self.driver = EventfulDriver(self.settings, slots, random.Random(1), **dice)
        self.driver.fake = self
        self.engine = self.driver.engine
        self.usage = Usage()
        self.slots = CpuPool(Slot(i, f"cpu{i}", "cpu", None, 1, {}) for i in range(slots))
        self.folder = RunFolder(Path("runs", folder))
        self.name = folder
        self.warnings: list[str] = []
        self.how: str | None = None
        self.events: list[events.Event] = []
        self.driver.open()
        while turns is None or turns > 0:
            if not self.driver.turn():
                break
            turns = turns and turns - 1
        if self.engine.ended:
            self.end("failed" if self.engine.ended.reason else "finished", self.engine.ended.reason)

    def end(self, how: str, reason: str = "") -> None:
        self.how = how
        self.events.append(events.Closed(t=float(len(self.events)), how=how, reason=reason))  # type: ignore[arg-type]

    def summary(self) -> dict[str, Any]:
        return run_summary.summary(self.engine, self.usage.so_far())

    async def __aiter__(self) -> Any:
        for event in self.events:
            yield event

    def known(self, hear: bool = True) -> ViewState:
        memory = ViewState(self, lambda: float(len(self.events)))  # type: ignore[arg-type]
        memory.start = 0.0
        for event in self.events if hear else []:
            memory.hear(event)
        return memory

    def texts(self, width: int = 80, height: int = 40) -> list[str]:
        return [unstyled(line).rstrip() for line in frame(self.known(), width, height)]


def terminal(**more: Any) -> Console:
    return Console(**{"file": io.StringIO(), "width": 80, "height": 24, "force_terminal": True, **more})


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", console.file.getvalue())


# ---- texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (0.5, "0.5"),
        (1.0, "1"),
        (123456.7, "123457"),
        (1e6, "1e6"),
        (0.000175, "1.75e-4"),
        (1e-5, "1e-5"),
        (-0.25, "-0.25"),
        (0.0, "0"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (10000000, "10000000"),
        (None, "None"),
        (True, "True"),
        ("relu", "relu"),
    ],
)
def test_numbers_as_text(value: object, text: str) -> None:
    assert formatting.number(value) == text


def test_scores_keep_their_digits() -> None:
    assert [formatting.score_text(s) for s in (0.95, 0.0, 1, 12.3, 1e-9, None, math.nan)] == (
        ["0.9500", "0.000", "1.000", "12.30", "1.000e-9", "–", "nan"]
    )


@given(st.floats(-1e307, 1e307) | st.sampled_from([math.nan, math.inf, -math.inf]))
def test_any_number_is_short_and_true(value: float) -> None:
    text = formatting.number(value)
    assert len(text) <= 10
    if math.isfinite(value):
        assert math.isclose(float(text), value, rel_tol=6e-3, abs_tol=5e-324)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0:00"), (0.9, "0:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (90061, "1 d 1 h")],
)
def test_durations_as_text(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_estimate() -> None:
    assert text_module.estimate(10, [], 2) is None
    assert text_module.estimate(10, [4.0], 0) is None
    assert text_module.estimate(0, [], 2) == (0, 0)
    assert text_module.estimate(10, [4.0, 4.0], 2) == (20, 20)
    low, high = text_module.estimate(100, [3.0, 5.0] * 10, 2)
    assert low < 200 < high
    assert high - low < 60, "a hundred members even out"
    assert text_module.estimate_text((20.2, 20.4)) == "about 0:20 left"
    assert text_module.estimate_text((20, 80)) == "about 0:20–1:20 left"


def test_config_line_shows_what_changed_first_and_in_order() -> None:
    config = {"lr": 0.1, "momentum": 0.9, "act": "relu", "layers": 3}
    parent = {**config, "act": "tanh"}
    whole = text_module.config_line(config, parent, 80)
    assert unstyled(whole) == "lr 0.1  momentum 0.9  act relu  layers 3"
    assert [text.strip() for text, style in whole if "yellow" in style] == ["act relu"]
    assert unstyled(text_module.config_line(config, parent, 22)) == "lr 0.1  act relu  +2"
    assert unstyled(text_module.config_line(config, parent, 12)) == "act relu  +3"
    assert unstyled(text_module.config_line(config, None, 12)) == "lr 0.1  +3"
    assert unstyled(text_module.config_line(config, parent, 3)) == "+4"


@given(
    st.dictionaries(st.text(min_size=1), st.text() | st.floats() | st.integers() | st.none(), min_size=1),
    st.integers(1, 90),
)
def test_config_line_never_overflows(config: dict[str, Any], width: int) -> None:
    assert len(unstyled(text_module.config_line(config, {}, width))) <= width


@given(st.lists(st.integers(0, 50), min_size=5, max_size=5), st.integers(5, 60))
def test_bar_is_whole_and_hides_nothing(counts: list[int], cells: int) -> None:
    shares = text_module.bar(counts, cells)
    assert sum(shares) == (cells if sum(counts) else 0)
    assert all((share > 0) == (count > 0) for share, count in zip(shares, counts, strict=True))


# ---- frames


def test_a_slot_shows_that_its_member_waits_for_the_end_of_a_pause() -> None:
    run = FakeRun(turns=9)
    member = next(m for m in run.engine.training)
    member.slot = None
    assert any(line.endswith("starting") for line in run.texts())
    run.usage.by_hand = "somebody has paused the run"
    assert any(line.endswith("paused") for line in run.texts())
    assert not any(line.endswith("starting") for line in run.texts())


def test_during_a_pause_the_view_shows_no_figures_that_would_not_change() -> None:
    run = running()
    trains = sum(m.slot is not None for m in run.engine.training)
    run.usage.by_hand = "somebody has paused the run"
    assert run.texts()[1].endswith("of 18 members · paused"), "while members train, too"
    assert any(f"  {trains} training" in line for line in run.texts(120))
    for member in run.engine.training:
        member.slot = None
    texts = run.texts(120)
    assert not any(word in line for line in texts for word in ("training", "left", " used", "members/min"))
    assert any(line.endswith(f"  {len(run.engine.training)} waiting") for line in texts)
    assert run.known().crowd() == ["0 training", f"{len(run.engine.training)} waiting"]


def test_the_frame_before_the_first_member() -> None:
    run = FakeRun(turns=0)
    assert run.texts() == [
        "digits-1  loss, lower is better  0:01",
        "0 of 18 members",
        "",
        "slot  member  gen  path            loss     time",
        "cpu0  waiting for the searcher",
        "",
        "cpu1  waiting for the searcher",
        "",
        "",
        "gen  0  ························  0 of 6",
        "gen  1  ························  0 of 6",
        "gen  2  ························  0 of 6",
        "",
        "best  no member has finished yet",
    ]


def running(**more: Any) -> FakeRun:
    """A run in its second generation."""
    run = FakeRun(turns=1, **more)
    while run.engine.tree.generations[1].issued < 2 or not any(m.slot is not None for m in run.engine.training):
        assert run.driver.turn()
    run.engine._training = dict(sorted(run.engine._training.items(), key=lambda i: i[1].slot is None))
    return run


def test_the_frame_of_a_running_run() -> None:
    run = running()
    member = run.engine.training[0]
    assert member.parent is not None
    run.events.append(events.Reported(t=run.events[-1].t, member=member.id, attempt=1, metrics={"loss": 0.12345}))
    texts = run.texts(120)
    row = next(text for text in texts if text.startswith(f"cpu{member.slot}"))
    path = "/".join(map(str, member.path))
    assert re.match(rf"cpu\d +{member.id} +{member.generation}  {path} +0\.1235 +0:\d\d  lr [\d.e-]+  layers \d", row)
    assert "members/min" in texts[1]
    assert re.search(r"about \d:\d\d(–\d:\d\d)? left", texts[0])
    best = run.engine.best
    assert best is not None
    assert f"best  {formatting.score_text(best.score)}  member {best.id}, generation {best.generation}" in texts
    assert f"      runs/digits-1/members/{best.id:04}/checkpoint" in texts
    assert any(re.match(r"gen  0  [█▓▒×·]{24}  \d of 6  best 0\.\d+", text) for text in texts)


def test_configs_get_their_own_row_where_there_is_room() -> None:
    names = Space({f"hyperparameter_{i}": Float(1e-5, 1.0, log=True) for i in range(6)})
    run = running(space=names, searcher=lambda ask: names.sample(random.Random(1)))
    tall, flat = run.texts(80, 40), run.texts(80, 16)
    assert any(text.startswith("        hyperparameter_0 ") for text in tall)
    assert len(tall) > len(flat)


@pytest.mark.parametrize("slots", [1, 40])
@pytest.mark.parametrize("turns", [0, 5, 150, None])
def test_a_frame_fits_in_every_terminal(slots: int, turns: int | None) -> None:
    long = Space({f"a_rather_long_name_{i}": Choice(["x" * 200, "日本" * 50, i]) for i in range(20)})
    run = FakeRun(
        slots=slots,
        turns=turns,
        generations=30,
        fail=0.1,
        nan=0.1,
        lose=0.1,
        space=long,
        searcher=lambda ask: long.sample(random.Random(ask.seed)),
        folder="a-very-long-name-" * 9,
    )
    run.warnings = ["multi\nline\x1b[31m", "w" * 500]
    known = run.known()
    for width, height in itertools.product([1, 20, 80, 120], [1, 5, 24, 60]):
        lines = frame(known, width, height)
        assert len(lines) <= max(1, height - 1)
        console = terminal(width=width, height=height)
        console.print(terminal_module.picture(lines))
        shown = output(console)
        assert "\x1b" not in shown
        assert shown.count("\n") == len(lines)
        assert all(cell_len(line) <= width for line in shown.split("\n")), "a wide character takes two cells"


def test_many_slots_are_counted() -> None:
    run = FakeRun(slots=40, population=100)
    while sum(m.slot is not None for m in run.engine.training) < 3:
        run.driver.turn()
    texts = "\n".join(run.texts())
    assert re.search(r"^40 slots  \d+ training", texts, re.MULTILINE)
    assert re.search(r"^\d+ in generation 0; the longest: member \d+ for \d:\d\d", texts, re.MULTILINE)
    assert "cpu1" not in texts


def test_many_generations_are_folded() -> None:
    run = FakeRun(generations=30)
    while run.engine.tree.generations[10].issued < 3:
        run.driver.turn()
    texts = run.texts()
    assert any(re.match(r"generations 0–\d+ done  best [\d.e-]+$", text) for text in texts)
    assert any(text.startswith("gen 10  ") for text in texts)
    assert "19 generations to come" in texts
    assert len(texts) < 24


def test_failures_and_non_finite_scores() -> None:
    run = FakeRun(turns=None, nan=0.4, fail=0.3, attempts=1, population=12)
    known = run.known()
    failed = [e for e in run.events if isinstance(e, events.Failed)]
    nans = [e for e in run.events if isinstance(e, events.Trained) and not math.isfinite(e.score or 0.0)]
    assert known.failures == len(failed) + len(nans) > 2
    texts = run.texts()
    assert f"{known.failures} failed attempts" in texts[1]
    assert re.match(r"member \d+ failed for good( \(attempt 1\): boom|: loss is nan)", texts[-1])
    assert any(" failed" in text for text in texts if text.startswith("gen "))
    assert any("×" in text for text in texts)


def test_a_reported_nan_is_shown() -> None:
    run = running()
    member = run.engine.training[0]
    run.events.append(events.Reported(t=99, member=member.id, attempt=1, metrics={"loss": math.nan}))
    assert any("nan" in text for text in run.texts())


def test_an_ended_run_has_no_slots_to_show() -> None:
    texts = FakeRun(turns=None).texts()
    assert not any(text.startswith(("slot", "best")) for text in texts)
    assert texts[-1].startswith("gen  2  ████████████████████████  6 of 6  best ")


def test_a_frame_is_cheap() -> None:
    run = running(slots=16, population=40, generations=10)
    known = run.known()
    console = Console(file=io.StringIO(), width=120, height=50, force_terminal=True)
    screen = terminal_module.Screen(known, console)
    screen.open()
    assert screen._live is not None
    screen._draw(screen._live)
    costs = []
    for _ in range(20):
        begin = time.process_time()
        screen._draw(screen._live)
        costs.append(time.process_time() - begin)
    screen.give_up()
    assert sorted(costs)[len(costs) // 2] < 0.02, "aim: 5 ms; the machine may be slow"


# ---- the screen


async def test_the_screen_ends_with_the_generations_and_the_closing() -> None:
    run = FakeRun(turns=None)
    how, run.how = run.how, None
    console = terminal()

    async def aiter_() -> Any:
        for event in run.events:
            yield event
        run.how = how

    run.__class__ = type("Run", (FakeRun,), {"__aiter__": lambda self: aiter_()})
    await terminal_module.show(run, console=console)  # type: ignore[arg-type]
    text = output(console)
    assert "gen  2  ████████████████████████  6 of 6" in text
    assert "\ndigits-1 has finished\n  best      loss " in text
    assert console.file.getvalue().endswith("folder    \x1b[0mruns/digits-1\n") or text.endswith("runs/digits-1\n")
    assert "\x1b[?25h" in console.file.getvalue(), "the cursor is shown again"


async def test_the_screen_draws_after_a_change_and_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(terminal_module.time, "monotonic", lambda: clock[0])
    screen = terminal_module.Screen(FakeRun(turns=3).known(), terminal())
    drawn: list[float] = []
    monkeypatch.setattr(screen, "_draw", lambda live: (drawn.append(clock[0]), setattr(screen, "_old", False),
                                                       setattr(screen, "_drawn", clock[0])))  # fmt: skip
    screen.open()
    for _ in range(8):
        clock[0] += terminal_module.QUICK
        screen.tick()
    assert drawn == [100.0, 101.0, 102.0]
    screen.hear(events.Warned(t=0, text="new"))
    clock[0] += terminal_module.QUICK
    screen.tick()
    assert drawn[3:] == [102.25]
    screen.give_up()


def test_in_a_narrowed_terminal_the_wrapped_frame_is_erased() -> None:
    run = running()
    console = terminal(width=80)
    screen = terminal_module.Screen(run.known(), console)
    screen.open()
    wrapped = sum((len(unstyled(line)) - 1) // 30 for line in screen._lines if line)
    before = len(console.file.getvalue())  # type: ignore[attr-defined]
    console.width = 30
    screen._old = True
    screen.tick()
    climbed = console.file.getvalue()[before:].count("\x1b[1A")  # type: ignore[attr-defined]
    screen.give_up()
    rows = len(screen._lines)
    assert wrapped > 3
    assert abs(climbed - (wrapped + rows - 1)) <= 12  # the frame before was as high, or a little higher


def test_a_terminal_without_unicode_gets_ascii() -> None:
    class Latin(io.StringIO):
        encoding = "iso-8859-1"  # type: ignore[assignment]

    run = running()
    console = terminal(file=Latin())
    screen = terminal_module.Screen(run.known(), console)
    screen.open()
    run.end("interrupted")
    screen.close()
    output(console).encode("ascii")
    plain = Latin()
    Plain(run.known(), plain, False).open()
    plain.getvalue().encode("latin-1")


# ---- plain lines


async def lines_of(run: FakeRun, **more: Any) -> list[str]:
    file = io.StringIO()
    await terminal_module.show(run, console=Console(file=file), **more)  # type: ignore[arg-type]
    return [re.sub(r"^\[[\d:]+\]", "[t]", line) for line in file.getvalue().splitlines()]


class LiveRun(FakeRun):
    """A run that ends only after the view has received every event, as a real run does."""

    engine: Any

    def __init__(self, **more: Any) -> None:
        super().__init__(turns=0, **more)
        self.reason = ""

    async def __aiter__(self) -> Any:
        sent = 0
        while True:
            while sent < len(self.events):
                yield self.events[sent]
                sent += 1
            if not self.driver.turn():
                break
        assert self.engine.ended
        reason = self.engine.ended.reason
        self.how = "failed" if reason else "finished"
        yield events.Closed(t=0, how=self.how, reason=reason)  # type: ignore[arg-type]


def linear(path: tuple[int, ...], config: dict[str, Any]) -> float:
    """Better with every generation and every sibling."""
    return 1 / (len(path) * 100 + sum(path))


async def test_plain_lines_of_a_whole_run() -> None:
    one = Space({"lr": Float(0.25, 0.5), "act": Choice(["relu", "tanh"])})
    run = LiveRun(
        slots=1, population=2, generations=2, space=one, evidence=1.0,
        searcher=lambda ask: {"lr": 0.25, "act": "relu"}, score_of=linear,
    )  # fmt: skip
    run.warnings.append("no GPU")
    lines = await lines_of(run)
    assert lines[:8] == [
        "[t] digits-1: loss (min), 2 generations of 2 members, 1 slot (cpu0), folder runs/digits-1",
        "[t] warning: no GPU",
        "[t] best loss 0.01000: member 0, generation 0, lr 0.25, act relu",
        "[t] best loss 0.009901: member 1, generation 0, lr 0.25, act relu",
        "[t] generation 0 is done: best 0.009901 (member 1)",
        "[t] best loss 0.004975: member 2, generation 1, lr 0.25, act relu",
        "[t] best loss 0.004950: member 3, generation 1, lr 0.25, act relu",
        "[t] generation 1 is done: best 0.004950 (member 3)",
    ]
    assert lines[8:12] == [
        "digits-1 has finished",
        "  best      loss 0.004950, member 3, generation 1",
        "  config    lr 0.25, act relu",
        "  members   4 finished",
    ]
    assert re.fullmatch(r"  slots     \d+ % of 1 slot used in 0:\d\d; idle: .*\d %", lines[12])
    assert lines[13:] == ["  folder    runs/digits-1"]


async def test_plain_lines_show_the_first_failures_and_then_count() -> None:
    run = LiveRun(slots=2, population=12, generations=2, fail=1.0, attempts=1)
    lines = await lines_of(run)
    assert lines[1:5] == [f"[t] member {i} failed for good (attempt 1): boom" for i in (0, 1, 2, 3)]
    assert any(re.fullmatch(r"digits-1 has failed: all of \d+ members failed; .*: boom", line) for line in lines)
    run = LiveRun(slots=2, population=12, generations=2, fail=1.0, attempts=3)
    lines = await lines_of(run)
    assert sum(line.startswith("[t] member ") for line in lines) == FAILURES
    assert any(re.fullmatch(r"\[t\] member \d failed \(attempt [12]\): boom", line) for line in lines)
    assert lines.count("[t] further failures are only counted") == 1


async def test_quiet_shows_only_warnings_and_failures() -> None:
    assert await lines_of(LiveRun(population=2), quiet=True) == []
    run = LiveRun(slots=1, population=1, generations=1, nan=1.0)
    run.warnings.append("no GPU")
    assert await lines_of(run, quiet=True) == [
        "[t] warning: no GPU",
        "[t] member 0 failed for good: loss is nan",
        "digits-1 has failed: no member finished; the first: member 0: loss is nan",
    ]


async def test_a_resumed_run_does_not_show_its_past_again() -> None:
    run = running()
    settled = run.known().settled
    file = io.StringIO()
    face = Plain(run.known(hear=False), file, False)
    face.open()
    for event in run.events:
        face.hear(event)
    (line,) = file.getvalue().splitlines()
    assert f"3 generations of 6 members, {settled} of them done, 2 slots" in line


def test_progress_lines_come_at_their_pace() -> None:
    run = running()
    now = [1000.0]
    known = ViewState(run, lambda: now[0])  # type: ignore[arg-type]
    file = io.StringIO()
    face = Plain(known, file, False)

    def after(seconds: float) -> int:
        before = file.getvalue().count("\n")
        now[0] += seconds
        face.tick()
        return file.getvalue().count("\n") - before

    assert after(PACE) == 0
    assert after(HEARTBEAT - PACE) == 1
    while run.known().settled == known.settled == face._settled:
        run.driver.turn()
    assert after(PACE - 1) == 0
    assert after(1) == 1
    last = file.getvalue().splitlines()[-1]
    assert re.fullmatch(
        r"\[10:30\] \d of 18 members, \d+ % of 2 slots used, [\d.]+ members/min, 1 training, 1 waiting, about .* left",
        last,
    )


def test_an_interrupted_run_shows_how_to_go_on() -> None:
    run = running()
    run.end("interrupted")
    first = unstyled(closing(run.known())[0])
    assert first == "digits-1 was interrupted; to go on: gpbt-async resume digits-1"
    run.folder = RunFolder(Path("elsewhere", "digits-1"))  # below the folder we are in
    assert unstyled(closing(run.known())[0]).endswith("resume elsewhere/digits-1")
    run.end("interrupted", "the launcher died")
    assert "was interrupted: the launcher died; to go on" in unstyled(closing(run.known())[0])


def test_the_closing_lines_have_the_best_members_other_metrics() -> None:
    run = FakeRun(turns=None)
    best = run.engine.best
    assert best is not None
    best.metrics = {"loss": 0.5, "test_accuracy": 0.975, "epoch": 3}
    texts = [unstyled(line) for line in closing(run.known())]
    assert "  metrics   test_accuracy 0.975, epoch 3" in texts


# ---- the view never harms a run


async def test_a_view_that_fails_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal_module, "frame", lambda *_: 1 / 0)
    run = LiveRun(population=2)
    await terminal_module.show(run, console=terminal())  # type: ignore[arg-type]
    assert run.how == "finished"
    assert capsys.readouterr().err.count("the display failed; the run goes on without it") == 1


async def test_a_reader_that_does_not_read_does_not_delay_the_run() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write, b"x" * 65536):
            pass
    os.set_blocking(write, True)
    with os.fdopen(read, "rb"), os.fdopen(write, "w") as file:
        run = running()
        face = Plain(run.known(), file, False)
        face.open()
        face.hear(events.Warned(t=0, text="kept"))
        assert len(face._lines) == 2
        os.read(read, 1 << 20)
        face.tick()
        assert not face._lines
        assert b"warning: kept" in os.read(read, 1 << 20)


async def test_cancelling_leaves_the_terminal_usable() -> None:
    class Endless(FakeRun):
        async def __aiter__(self) -> Any:
            for event in self.events:
                yield event
            await asyncio.get_running_loop().create_future()

    console = terminal()
    task = asyncio.create_task(terminal_module.show(Endless(turns=9), console=console))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")  # type: ignore[attr-defined]
    assert "ended" not in output(console)


def test_missed_and_repeated_events_do_no_harm() -> None:
    run = running()
    known = run.known(hear=False)
    assert len(frame(known, 80, 40)) > 5
    known.hear(events.Missed(t=0, count=7))
    assert known.hear(events.Warned(t=0, text="once")) == "once"
    assert known.hear(events.Warned(t=0, text="once")) == ""
    for reason in ("somebody has paused the run", "") * 2:
        sent = known.hear(events.Paused(t=0, reason=reason, by_hand=True))
        assert sent.startswith(reason or "the pause is over")


def test_rich_is_imported_only_for_a_terminal() -> None:
    code = "import gpbt_async.ui.terminal, sys; assert not any(m.split('.')[0] == 'rich' for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
