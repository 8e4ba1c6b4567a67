"""Whatever is encoded comes back, however the bytes are cut; garbage is refused with its reason."""

from __future__ import annotations

import contextlib
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async.processes import wire

text = st.text(max_size=20)
numbers = st.floats() | st.integers(-(2**63), 2**63 - 1) | st.booleans()
scalars = text | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
times = st.floats(0, 1e9)
counts = st.integers(0, 10**9)
begins = st.builds(
    wire.Begin, member=counts, attempt=counts, generation=counts, seed=st.integers(0, 2**63 - 1),
    config=st.dictionaries(text, scalars), parent=st.none() | text, checkpoint=text, metrics=text, log=st.none() | text,
    cwd=st.none() | text, device=text, threads=st.none() | counts, env=st.dictionaries(text, text), score=text,
    version=st.just(wire.VERSION),
)  # fmt: skip
messages = st.one_of(
    begins,
    st.builds(wire.Stop, text),
    st.builds(wire.Hello, st.just(wire.VERSION), counts),
    st.builds(wire.Enter, times),
    st.builds(wire.Report, st.dictionaries(text, numbers), times),
    st.builds(
        wire.End,
        st.sampled_from(("returned", "stopped", "raised")),
        times,
        st.none() | text,
        st.none() | text,
        imports=st.lists(text),
        variable=text,
        start=st.dictionaries(text, times),
    ),
    st.just(wire.Clean()),
)


def same(a: object, b: object) -> bool:
    """Equal, where NaN equals NaN."""
    return repr(a) == repr(b)


@given(messages)
def test_a_message_comes_back(message: wire.Message) -> None:
    line = wire.encode(message)
    assert line.count(b"\n") == 1
    assert same(wire.decode(line), message)


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 60), min_size=1))
def test_messages_come_back_however_the_bytes_are_cut(sent: list[wire.Message], cuts: list[int]) -> None:
    data = b"".join(map(wire.encode, sent))
    lines, came, at, n = wire.Lines(), [], 0, 0
    while at < len(data):
        size = cuts[n % len(cuts)]
        came += lines.feed(data[at : at + size])
        at, n = at + size, n + 1
    assert same(came, sent)


def test_numbers_that_are_not_finite_travel_as_strict_json() -> None:
    line = wire.encode(wire.Report({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}, 0.0))
    flat = json.loads(line, parse_constant=pytest.fail)
    assert flat["metrics"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.5}


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_nothing_else(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        wire.decode(data)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"type":"enter","at":NaN}', "NaN is not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"type":"leave"}', "not a message"),
        (b'{"type":["stop"]}', "not a message"),
        (b'{"type":"enter"}', "at"),
        (b'{"type":"enter","at":"now"}', "at='now'"),
        (b'{"type":"enter","at":true}', "at=True"),
        (b'{"type":"clean","more":1}', "more=1"),
        (b'{"type":"end","how":"returned","at":1,"imports":[1]}', "imports that are no names"),
        (b'{"type":"end","how":"returned","at":1,"start":{"imports":"soon"}}', "'imports' is 'soon', not a number"),
        (b'{"type":"hello","version":1,"pid":1}', "version 1"),
        (b'{"type":"report","at":1,"metrics":{"loss":"big"}}', "'loss' is 'big'"),
        (b'{"type":"report","at":1,"metrics":"loss"}', "metrics="),
        (b'{"type":"end","how":"died","at":1}', "how='died'"),  # that a member died, the scheduler finds out
        (b'{"type":"notice","text":"hello","remedy":""}', "not a message"),
        (b"[" * 100_000, "not JSON"),
        (b'{"type":' + b"[" * 500 + b"]" * 500 + b"}", "not a message"),
        (b'{"type":"clean","at":' + b"[" * 500 + b"]" * 500 + b"}", "at=a list"),
        (b'{"type":"enter","at":1e999}', "at=inf"),
        (b'{"type":"enter","at":1%b}' % (b"0" * 400), "at=1000"),
    ],
)
def test_a_bad_line_says_why(line: bytes, why: str) -> None:
    with pytest.raises(wire.WireError, match=re.escape(why)):
        wire.decode(line)


def test_a_refusal_is_short() -> None:
    name = "x" * 100_000
    for body in (
        {"type": "clean", name: 1},
        {"type": "stop", "reason": 1, "at": name},
        {"type": "hello", "version": name},
    ):
        with pytest.raises(wire.WireError) as refusal:
            wire.decode(json.dumps(body).encode())
        assert len(str(refusal.value)) < 1000


def test_a_bad_line_does_not_take_the_next_with_it() -> None:
    lines = wire.Lines()
    feed = lines.feed(b'bad\n{"type":"clean"}\n')
    with pytest.raises(wire.WireError):
        next(feed)
    assert list(lines.feed(b"")) == [wire.Clean()]


def test_a_line_has_a_longest_length() -> None:
    with pytest.raises(wire.WireError, match=r"\d+ bytes is longer than the 1048576"):
        wire.encode(wire.Stop("x" * wire.LIMIT))
    with pytest.raises(wire.WireError, match="1048600"):
        list(wire.Lines().feed(b"x" * 1_048_600 + b"\n"))
    with pytest.raises(wire.WireError, match="more than"):
        list(wire.Lines().feed(b"x" * 1_048_600))
