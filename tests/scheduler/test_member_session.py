"""One attempt of a member: what it keeps of the messages of a process, and the fact that it ends in."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from engine_driver import settings

from gpbt_async import events
from gpbt_async.processes import wire
from gpbt_async.processes.outcome import Outcome
from gpbt_async.processes.wire import Exit
from gpbt_async.scheduler.member_session import MemberSession

RETURNED, STOPPED, LOST = (
    Outcome(Exit.RETURNED, 9.0),
    Outcome(Exit.STOPPED, 9.0),
    Outcome(Exit.LOST, 9.0, "the zygote died"),
)
RAISED = Outcome(Exit.RAISED, 9.0, "ValueError: no", "train.py:3")


def session(*messages: wire.Message, **changes: Any) -> MemberSession:
    made = MemberSession(settings(**changes), 7, 2, asked=3.5, end=lambda why: None)
    for message in messages:
        made.hear(message)
    return made


async def test_it_keeps_the_last_value_of_each_metric_and_counts_scores() -> None:
    heard = session(
        wire.Enter(4.0),
        wire.Report({"loss": 3, "acc": 0.5}, 5.0),
        wire.Report({"lr": 0.1}, 6.0),
        wire.Report({"loss": 10**400}, 7.0),
        wire.End(wire.Exit.RETURNED, 8.0, start={"imports": 0.25, "first_report": 1.0, "of its own": 1.0}),
    )
    assert heard.metrics == {"loss": float("inf"), "acc": 0.5, "lr": 0.1}
    assert (heard.report, heard.scores, heard.entered) == ({"loss": float("inf")}, 2, 4.0)
    trained = heard.ended(100.0, RETURNED, unread=3)
    assert trained == events.Trained(
        t=100.0, member=7, attempt=2, seconds=5.0, score=float("inf"), metrics=heard.metrics, unread=3,
        start={"process": 0.5, "imports": 0.25, "first_report": 1.0},
    )  # fmt: skip


async def test_a_member_that_never_entered_train_has_trained_no_seconds() -> None:
    ended = session().ended(1.0, RAISED, certain=True)
    assert ended == events.Failed(
        t=1.0, member=7, attempt=2, seconds=0.0, reason="ValueError: no (train.py:3)", certain=True
    )


@pytest.mark.parametrize(
    ("outcome", "blame", "kind", "reason"),
    [
        (STOPPED, "", events.StoppedEarly, None),
        (STOPPED, "GPU 0 is lost", events.Lost, "GPU 0 is lost"),
        (RAISED, "the disk is full", events.Lost, "the disk is full"),
        (LOST, "", events.Lost, "the zygote died"),
        (
            dataclasses.replace(RAISED, how=Exit.DIED, error="exit status 3"),
            "",
            events.Failed,
            "exit status 3 (train.py:3)",
        ),
    ],
)
async def test_an_attempt_that_did_not_return(outcome: Outcome, blame: str, kind: type, reason: str | None) -> None:
    ended = session(wire.Enter(4.0)).ended(1.0, outcome, blame=blame)
    assert type(ended) is kind
    assert ended.seconds == 5.0
    assert getattr(ended, "reason", None) == reason


async def test_a_member_that_missed_a_deadline_is_ended_and_has_failed() -> None:
    missed = asyncio.get_running_loop().create_future()
    with MemberSession(settings(stall_timeout=1e-3), 7, 2, asked=0.0, end=missed.set_result) as overdue:
        why = await asyncio.wait_for(missed, 30)
    assert why == overdue.overdue == "reported nothing for 0.001 s (stall_timeout)"
    failed = overdue.ended(1.0, STOPPED)
    assert isinstance(failed, events.Failed), "it was stopped by its deadline, not by a verdict"
    assert failed.reason == why
    lost = overdue.ended(1.0, STOPPED, blame=f"GPU 0 is lost, and it {why}")
    assert isinstance(lost, events.Lost)
