"""The watchdog: silent in runs that are well, and not in those that could fall asleep. Deadlines and the clock, too."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Any

import pytest
from engine_driver import Driver, settings
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async import events
from gpbt_async.devices.slots import Slot
from gpbt_async.engine.tree import LONGEST_DELAY, Node, retry_delay
from gpbt_async.processes.outcome import Outcome
from gpbt_async.processes.wire import Exit
from gpbt_async.scheduler import clock as clock_module
from gpbt_async.scheduler import watchdog
from gpbt_async.scheduler.blame import Blame
from gpbt_async.scheduler.clock import Clock, Deadlines
from gpbt_async.scheduler.disk_budget import Disk
from gpbt_async.scheduler.watchdog import Watchdog, suspicion
from gpbt_async.storage.checkpoints import CheckpointStore


class Pool:
    """Slots that are all free, or tell why not."""

    why = None

    def waiting(self):
        return self.why


def performed(driver):
    return dict.fromkeys([*driver.pending, *driver.running.values()], 1)


@given(
    st.builds(
        settings,
        schedule=st.sampled_from(["async", "sync"]),
        selection=st.sampled_from(["comma", "plus"]),
        evidence=st.sampled_from([0.0, 0.75, 1.0]),
        attempts=st.integers(1, 3),
    ),
    st.integers(1, 8),
    st.integers(0, 10**6),
)
def test_a_run_that_is_well_is_never_suspected(s, slots, seed):
    driver = Driver(s, slots, random.Random(seed), fail=0.1, nan=0.05, lose=0.1, damage=0.02)
    driver.open()
    while driver.turn():
        begun = [m for m in driver.engine.training if m.slot is not None]
        assert suspicion(driver.engine, performed(driver), len(begun), 0) == ""


def opened():
    driver = Driver(settings(schedule="sync"), 2, random.Random(0))
    driver.open()
    return driver


def test_a_command_that_is_not_performed():
    driver = opened()
    (command,) = driver.pending
    assert suspicion(driver.engine, {}, 0, 0) == f"{command} is not being performed"
    assert suspicion(driver.engine, {command: 1}, 0, 0) == ""


def test_a_free_slot_while_a_member_waits():
    driver = opened()
    assert suspicion(driver.engine, performed(driver), 1, 1) == "1 members wait for a slot, and 1 are free"
    assert suspicion(driver.engine, performed(driver), 2, 1) == ""


def test_a_wait_for_a_searcher_that_was_not_asked_and_for_members_that_do_not_exist(engines):
    driver = opened()
    engines.clear()
    driver.engine.asks.clear()
    assert suspicion(driver.engine, {}, 0, 0) == "a slot waits for a searcher, and no command asks for one"
    driver.engine._open = 1
    assert suspicion(driver.engine, {}, 0, 0) == "a slot waits for members to finish, and there are none"
    driver.engine.ended = events.Finish("")
    assert suspicion(driver.engine, {}, 0, 0) == ""


async def test_a_suspicion_that_lasts_is_reported_once_with_the_engines_state(monkeypatch, caplog):
    monkeypatch.setattr(watchdog, "PERIOD", 0.001)
    monkeypatch.setattr(watchdog, "PATIENCE", 0.02)
    driver, reports, reported, looks = opened(), [], asyncio.Event(), []
    dog = Watchdog(driver.engine, Pool(), lambda: 0, lambda text: (reports.append(text), reported.set()))
    enough = asyncio.Event()
    look = dog._suspicion

    def suspicion_counted():
        looks.append(1)
        if reported.is_set() and len(looks) > 100:
            enough.set()
        return look()

    monkeypatch.setattr(dog, "_suspicion", suspicion_counted)
    with caplog.at_level(logging.ERROR, "gpbt_async"):
        watching = asyncio.create_task(dog.watch())
        async with asyncio.timeout(30):
            await reported.wait()
            await enough.wait()
    watching.cancel()
    assert reports == [f"a slot stands idle by a bug of gpbt-async: {driver.pending[0]} is not being performed"]
    assert "slots 2, cause searcher; generations: 0 of 6 issued" in caplog.text


async def test_an_error_of_the_watchdog_is_reported_once_and_it_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(watchdog, "PERIOD", 0.001)
    monkeypatch.setattr(watchdog, "PATIENCE", 0.0)
    driver, reports, well = opened(), [], asyncio.Event()
    dog = Watchdog(
        driver.engine, Pool(), lambda: 0, lambda text: (reports.append(text), well.set() if "idle by" in text else None)
    )
    look, looks = dog._suspicion, []

    def failing():
        looks.append(1)
        if len(looks) < 50:
            raise KeyError("slot")
        return look()

    monkeypatch.setattr(dog, "_suspicion", failing)
    with caplog.at_level(logging.ERROR, "gpbt_async"):
        watching = asyncio.create_task(dog.watch())
        async with asyncio.timeout(30):
            await well.wait()
    watching.cancel()
    assert reports[0] == "the watchdog over idle slots has failed by a bug of gpbt-async: KeyError: 'slot'"
    assert len(reports) == 2
    assert "Traceback" in caplog.text


async def test_a_member_that_waits_for_a_gpu_is_no_suspicion(monkeypatch):
    driver, pool = opened(), Pool()
    dog = Watchdog(driver.engine, pool, lambda: 1, pytest.fail)
    for command in driver.pending:
        dog.begun(command)
    assert "wait for a slot" in dog._suspicion()
    pool.why = {"members": 1, "since": 0.0, "why": {"0": "it is lost"}}
    assert dog._suspicion() == ""


# ---- deadlines


class Loop:
    """An event loop's time, which passes when the test says so."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def time(self):
        return self.now

    def call_later(self, seconds, call, *args):
        timer = Timer(self.now + seconds, call, args)
        self.timers.append(timer)
        return timer

    def pass_(self, seconds):
        end = self.now + seconds
        while due := sorted((t for t in self.timers if not t.gone and t.at <= end), key=lambda t: t.at):
            self.now, due[0].gone = due[0].at, True
            due[0].call(*due[0].args)
        self.now = end


@dataclass
class Timer:
    at: float
    call: Any
    args: tuple[Any, ...]
    gone: bool = False

    def cancel(self):
        self.gone = True


@pytest.fixture
def loop(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(clock_module.asyncio, "get_running_loop", lambda: loop)
    return loop


def test_silence_is_counted_from_the_last_report(loop):
    ends = []
    made = Deadlines(2.0, None, ends.append)
    for _ in range(100):
        loop.pass_(1.9)
        made.heard()
    loop.pass_(1.99)
    assert ends == []
    loop.pass_(0.02)
    assert ends == [made.overdue] == ["reported nothing for 2 s (stall_timeout)"]
    loop.pass_(1000)
    assert len(ends) == 1


def test_the_whole_time_counts_from_train_whatever_is_reported(loop):
    ends = []
    made = Deadlines(None, 5.0, ends.append)
    loop.pass_(100)
    assert ends == [], "it has not entered train"
    made.entered()
    loop.pass_(4.9)
    made.heard()
    assert ends == []
    loop.pass_(0.2)
    assert ends == ["was still training after 5 s (member_timeout)"]


def test_a_member_that_ended_in_time_is_left_alone(loop):
    made = Deadlines(2.0, 2.0, pytest.fail)
    made.entered()
    made.close()
    loop.pass_(100)
    assert made.overdue == ""


def test_pauses_grow_and_end():
    assert [retry_delay(times) for times in range(5)] == [0.0, 0.25, 1.0, 4.0, 4.0]
    assert retry_delay(10**6) == LONGEST_DELAY


class Cards:
    """GPUs with the verdict that the test gives."""

    def __init__(self, verdict):
        self.given = verdict

    async def verdict(self, slot):
        return self.given

    def out_of_memory(self, slot):
        raise AssertionError("no verdict on memory is asked for a silent member")


@pytest.mark.parametrize("verdict", ["GPU 0 is lost", ""])
async def test_a_member_that_hangs_on_a_gpu_that_is_being_lost_has_not_failed(verdict, tmp_path):
    store = CheckpointStore()
    blame = Blame(Cards(verdict), Disk(tmp_path), store)
    member = Node(0, (), 0, 0, None, {}, 0)
    slot = Slot(0, "GPU 0", "cuda", ("GPU-a",), 1, {}, evicted=asyncio.get_running_loop().create_future())
    stopped = Outcome(Exit.STOPPED, 0.0)
    silent = "reported nothing for 2 s (stall_timeout)"
    assert await blame.lost(member, slot, stopped, tmp_path, silent) == (
        f"GPU 0 is lost, and it {silent}" if verdict else ""
    )
    assert await blame.lost(member, slot, stopped, tmp_path, "") == "", "a member that was asked to stop has done so"


# ---- the clock


def test_the_runs_clock_ignores_jumps_of_the_wall_clock(monkeypatch):
    clock = Clock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= clock.now() < before + 60
    assert clock.at(time.monotonic()) == pytest.approx(clock.now(), abs=60)
