"""What a training function can do with its Member, and the errors of wrong calls."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scripts.harness import begin

from gpbt_async.errors import Stopped
from gpbt_async.member.api import Member
from gpbt_async.processes import wire

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def member(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> Iterator[Member]:
    made = Member(begin(tmp_path, 7, attempt=2, seed=3, lr=0.1), pair[0])
    yield made
    made._close()


def sent(pair: tuple[socket.socket, socket.socket]) -> list[wire.Message]:
    return list(wire.Lines().feed(pair[1].recv(1 << 20)))


def test_a_member_knows_its_identity(member: Member, tmp_path: Path) -> None:
    assert (member.id, member.attempt, member.generation, member.seed) == (7, 2, 0, 3)
    assert member.config == {"lr": 0.1}
    assert member.parent is None
    assert member.checkpoint == tmp_path / "member-7-2" / "checkpoint"
    assert member.device == "cpu"
    with pytest.raises(AttributeError):
        member.lr = 1  # type: ignore[attr-defined]


def test_a_report_goes_to_the_file_and_to_the_scheduler(
    member: Member, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    member.report(loss=math.nan, accuracy=0.5)
    member.report(accuracy=math.inf)
    first, second = sent(pair)
    assert isinstance(first, wire.Report)
    assert math.isnan(first.metrics["loss"])
    assert first.metrics["accuracy"] == 0.5
    assert isinstance(second, wire.Report)
    assert second.metrics == {"accuracy": math.inf}
    lines = [json.loads(line) for line in (tmp_path / "member-7-2/metrics.jsonl").read_text().splitlines()]
    assert [line.pop("t") > 0 for line in lines] == [True, True]
    assert lines == [{"loss": "NaN", "accuracy": 0.5}, {"accuracy": "Infinity"}]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1), (True, True), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True),
        (np.array(2.5), 2.5), (np.array([2.5]), 2.5), (np.float64(1.5), 1.5), (Fraction(1, 2), 0.5),
        (2**70, float(2**70)), (10**400, math.inf),
    ],
)  # fmt: skip
def test_values_that_are_numbers(
    member: Member, pair: tuple[socket.socket, socket.socket], value: object, number: float
) -> None:
    member.report(m=value)
    (report,) = sent(pair)
    assert isinstance(report, wire.Report)
    assert report.metrics == {"m": number}
    assert type(report.metrics["m"]) is type(number)


@pytest.mark.slow
def test_a_tensor_counts_as_a_number(member: Member, pair: tuple[socket.socket, socket.socket]) -> None:
    torch = pytest.importorskip("torch")
    member.report(m=torch.tensor(0.5, requires_grad=True))
    (report,) = sent(pair)
    assert isinstance(report, wire.Report)
    assert report.metrics == {"m": 0.5}
    with pytest.raises(TypeError, match=r"m=\.\.\..*torch\.Tensor of shape \(2,\).*m\.mean\(\)\.item\(\)"):
        member.report(m=torch.zeros(2))


@pytest.mark.parametrize("value", ["0.5", None, b"1", [1.0], 1j, np.zeros(3), object()])
def test_values_that_are_not_numbers(member: Member, value: object) -> None:
    with pytest.raises(TypeError, match=r"member\.report\(m=\.\.\.\) was given a .*; a metric is one number: report"):
        member.report(m=value)


def test_an_empty_report(member: Member) -> None:
    for call in (lambda: member.report(), lambda: member.report({})):
        with pytest.raises(TypeError, match="at least one metric"):
            call()


def test_a_dict_can_be_reported(member: Member, pair: tuple[socket.socket, socket.socket]) -> None:
    member.report({"val/loss": np.float32(0.5), "train loss": 1}, accuracy=0.25)
    member.report({"a": 1}, {"b": 2})
    first, second = sent(pair)
    assert isinstance(first, wire.Report)
    assert first.metrics == {"val/loss": 0.5, "train loss": 1, "accuracy": 0.25}
    assert isinstance(second, wire.Report)
    assert second.metrics == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("given", "named", "says"),
    [
        ((0.5,), {}, r"was given 0\.5 without a name: give it one, member\.report\(score=\.\.\.\)"),
        ((np.zeros(3),), {}, r"was given a numpy\.ndarray of shape \(3,\) without a name"),
        (("loss", 0.5), {}, r"takes names as keywords or in a dict: member\.report\(loss=\.\.\.\)"),
        (("val/loss", 0.5), {}, r"in a dict: member\.report\(\{'val/loss': \.\.\.\}\)"),
        (({1: 0.5},), {}, r"was given the name 1 \(int\): a name must be a text"),
        (({"a": 1},), {"a": 2}, "was given 'a' twice in one call"),
        (({"val": {"loss": 1}},), {}, "was given a dict; a metric is one number: give its items one by one"),
        (({"val/loss": [1, 2]},), {}, r"member\.report\(\{'val/loss': \.\.\.\}\) was given a list; .* float\(value\)"),
    ],
)
def test_the_error_of_a_report_without_names_shows_how(
    member: Member, given: tuple[Any, ...], named: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        member.report(*given, **named)


def test_a_report_that_is_too_long(member: Member, pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ValueError, match="bytes of metrics in one call"):
        member.report(**{"m" * 1000 + str(n): 0.5 for n in range(1100)})
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


def test_a_stop_is_raised_by_the_next_report_and_by_every_later_one(
    member: Member, pair: tuple[socket.socket, socket.socket]
) -> None:
    member.report(a=1)
    line = wire.encode(wire.Stop("enough"))
    pair[1].sendall(line[:5])
    member.report(a=1)
    pair[1].sendall(line[5:])
    for _ in range(2):
        with pytest.raises(Stopped, match="enough"):
            member.report(a=1)
    assert not isinstance(Stopped(), Exception)


def test_a_scheduler_that_is_gone_stops_its_member(member: Member, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    with pytest.raises(Stopped, match="gone"):
        member.report(a=1)


def test_a_forked_process_may_not_report(member: Member) -> None:
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            member.report(a=1)
        except RuntimeError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.wait()
    assert b"another process" in os.read(read, 1000)
    os.close(read)
    os.close(write)


def test_without_a_scheduler_reports_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    member = Member.local({"lr": 0.1}, tmp_path, seed=4)
    member.report(accuracy=0.25, loss=math.nan)
    assert capsys.readouterr().out == "report: accuracy=0.25  loss=nan\n"
    seen: list[dict[str, float]] = []
    Member.local({}, tmp_path, parent=tmp_path, on_report=seen.append).report(a=1)
    assert seen == [{"a": 1}]


def test_an_ensemble_has_parents_and_no_single_one(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    assert Member.local({}, tmp_path).parents == ()
    assert Member.local({}, tmp_path, parent=one).parents == (one,)
    member = Member.local({}, tmp_path, ensemble=[one, two])
    assert member.parents == (one, two)
    with pytest.raises(RuntimeError, match=r"an ensemble of 2 checkpoints: read all of member.parents"):
        _ = member.parent


def test_importing_member_loads_little() -> None:
    heavy = ("asyncio", "numpy", "torch", "subprocess")
    code = f"import sys, gpbt_async.member.api; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


# ---- folds


def in_generation(folder: Path, generation: int, fold_seed: int = 0, **own: Any) -> Member:
    made = Member.local({}, folder, generation=generation, **own)
    made._fold_seed = fold_seed
    return made


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**63), st.integers(0, 40))
def test_folds_divide_the_rows_and_take_turns(n: int, k: int, seed: int, generation: int) -> None:
    assume(k <= n)
    folder = Path("anywhere")
    folds = [in_generation(folder, generation + i, seed).fold(n, of=k) for i in range(k)]
    assert sorted(row for fold in folds for row in fold) == list(range(n))
    assert all(fold == sorted(fold) for fold in folds)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert sorted(in_generation(folder, generation + i, seed).fold(k) for i in range(k)) == list(range(k))
    sibling = in_generation(folder, generation, seed, seed=7, id=3)
    assert sibling.fold(n, of=k) == folds[0], "whatever the member"
    assert sibling.telemetry.folds == (k > 1)


def test_folds_are_the_same_on_every_machine_and_others_with_another_seed(tmp_path: Path) -> None:
    assert in_generation(tmp_path, 0, 1).fold(12, of=3) == [0, 2, 4, 7]
    assert in_generation(tmp_path, 0, 2).fold(12, of=3) != in_generation(tmp_path, 0, 1).fold(12, of=3)


@pytest.mark.parametrize(("n", "of"), [(0, None), (3, 0), (3, 4), (-1, 1)])
def test_a_fold_needs_a_row(tmp_path: Path, n: int, of: int | None) -> None:
    with pytest.raises(ValueError, match=r"at least 1 fold, and a row for each"):
        in_generation(tmp_path, 0).fold(n, of=of)  # type: ignore[call-overload]
