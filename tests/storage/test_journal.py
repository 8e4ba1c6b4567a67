"""The journal: what was appended is read back, a torn end is forgiven, damage is not, and kill -9 loses nothing."""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async.codec import to_json
from gpbt_async.errors import FolderError, JournalError
from gpbt_async.events import (
    MOST_SLOTS,
    Closed,
    Discarded,
    Entered,
    Fact,
    Failed,
    Judged,
    Lost,
    Opened,
    Published,
    Reported,
    Started,
    StoppedEarly,
    Suggested,
    Trained,
)
from gpbt_async.storage import journal as journal_module
from gpbt_async.storage.journal import Journal, JournalReader, read

if TYPE_CHECKING:
    from collections.abc import Iterator

#: where a sync costs nothing: these tests open a journal some hundred times
QUICK = "/dev/shm" if os.path.isdir("/dev/shm") else None

ids = st.integers(0, 10**6)
some = st.integers(0, MOST_SLOTS - 1)
times = st.floats(0, 4e9)
finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.dictionaries(st.text(max_size=8), finite | st.integers() | st.text(max_size=8) | st.booleans(), max_size=3)
paths = st.lists(st.integers(0, 30).map(str), min_size=1, max_size=4).map("/".join)

facts = st.one_of(
    st.builds(Opened, t=times, slots=some, version=st.text(max_size=5), pid=ids),
    st.builds(Suggested, t=times, path=paths, generation=ids, config=configs, asked=ids),
    st.builds(
        Started,
        t=times,
        member=ids,
        attempt=ids,
        slot=some,
        pid=ids,
        path=paths,
        parent=st.none() | ids,
        config=configs,
    ),
    st.builds(Entered, t=times, member=ids, attempt=ids),
    st.builds(
        Trained,
        t=times,
        member=ids,
        attempt=ids,
        score=st.none() | st.floats(),
        metrics=st.dictionaries(st.text(max_size=8), st.floats(), max_size=3),
        seconds=times,
    ),
    st.builds(Judged, t=times, member=ids, attempt=ids, score=st.floats()),
    st.builds(
        StoppedEarly,
        t=times,
        member=ids,
        attempt=ids,
        score=st.none() | st.floats(),
        metrics=st.just({}),
        seconds=times,
    ),
    st.builds(Published, t=times, member=ids, attempt=ids, size=ids, digest=st.text(max_size=5)),
    st.builds(Failed, t=times, member=ids, attempt=ids, reason=st.text(), seconds=times),
    st.builds(Lost, t=times, member=ids, attempt=ids, reason=st.text(), seconds=times),
    st.builds(Discarded, t=times, member=ids),
    st.builds(Closed, t=times, how=st.sampled_from(["finished", "failed", "interrupted"]), reason=st.text()),
)


def said(facts: list[Fact]) -> list[str]:
    """Facts as text: a NaN is equal to nothing, its spelling is."""
    return [json.dumps(to_json(fact), sort_keys=True) for fact in facts]


def fact(n: int) -> Fact:
    return Trained(t=float(n), member=n, attempt=1, score=math.nan, metrics={"loss": n / 7}, seconds=1.0)


def written(path: Path, facts: list[Fact]) -> bytes:
    with Journal.open(path, version="1.2.3") as journal:
        for each in facts:
            journal.append(each)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


# ---- round trips


@pytest.mark.slow
@given(st.lists(facts, max_size=6), st.lists(facts, max_size=6))
def test_appended_facts_are_read_back_over_several_openings(first: list[Fact], second: list[Fact]) -> None:
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        path = Path(folder, "journal.jsonl")
        written(path, first)
        with Journal.open(path) as journal:
            assert said(journal.replay()) == said(first)
            assert journal.replay() == []  # once: a run of days need not hold its past twice
            for each in second:
                journal.append(each)
        assert said(read(path)) == said(first + second)


def test_the_file_is_json_lines_for_people_and_their_tools(path: Path) -> None:
    written(path, [fact(0), fact(1)])
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert (header["journal"], header["version"]) == (2, "1.2.3")
    assert [(line["n"], line["fact"], line["score"]) for line in lines] == [
        (0, "Trained", "NaN"),
        (1, "Trained", "NaN"),
    ]


def test_facts_for_listeners_become_json_too() -> None:
    flat = to_json(Reported(t=1.0, member=2, attempt=1, metrics={"loss": math.nan, "up": math.inf, "x": 0.5}))
    assert json.loads(json.dumps(flat, allow_nan=False)) == {
        "fact": "Reported", "t": 1.0, "member": 2, "attempt": 1, "metrics": {"loss": "NaN", "up": "Infinity", "x": 0.5},
    }  # fmt: skip


def test_a_reader_follows_a_writer(path: Path) -> None:
    reader = JournalReader(path)
    assert reader.more() == []  # no file yet
    with Journal.open(path, version="1.2.3") as journal:
        assert reader.more() == []
        journal.append(fact(0))
        assert said(reader.more()) == said([fact(0)])
        journal.append(fact(1))
        with open(path, "ab") as file:
            file.write(b'{"n":2,"fa')  # seen in the middle of a write
        assert said(reader.more()) == said([fact(1)])
        assert reader.more() == []
    assert reader.version == "1.2.3"


# ---- torn and damaged


@pytest.mark.slow
def test_truncated_anywhere_a_journal_holds_a_prefix_and_can_be_appended_to(path: Path) -> None:
    all_facts = [fact(n) for n in range(4)]
    data = written(path, all_facts)
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        cut = Path(folder, "cut.jsonl")
        for length in range(len(data) + 1):
            cut.write_bytes(data[:length])
            whole = max(0, data[:length].count(b"\n") - 1)
            assert said(read(cut)) == said(all_facts[:whole])
            with Journal.open(cut) as journal:
                assert said(journal.replay()) == said(all_facts[:whole])
                journal.append(fact(99))
            assert said(read(cut)) == said([*all_facts[:whole], fact(99)])


@pytest.mark.slow
@given(st.data())
def test_a_changed_byte_in_a_whole_line_is_never_believed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        path = Path(folder, "journal.jsonl")
        all_facts = [fact(n) for n in range(3)]
        good = written(path, all_facts)
        at = data.draw(st.integers(0, len(good) - 2))  # the very last newline apart: without it the line is torn
        byte = data.draw(st.integers(0, 255).filter(lambda b: b != good[at]))
        path.write_bytes(good[:at] + bytes([byte]) + good[at + 1 :])
        with pytest.raises(JournalError, match=r"journal\.jsonl, line \d"):
            read(path)
        with pytest.raises(JournalError):
            Journal.open(path)
        assert path.read_bytes()[at] == byte  # nothing was repaired behind anybody's back


@pytest.mark.parametrize("order", [(0, 2), (0, 0, 1, 2), (0, 2, 1), (1, 2)])
def test_lost_doubled_and_swapped_lines_are_found(path: Path, order: tuple[int, ...]) -> None:
    header, *lines = written(path, [fact(n) for n in range(3)]).splitlines(keepends=True)
    path.write_bytes(header + b"".join(lines[n] for n in order))
    with pytest.raises(JournalError, match="lost or doubled"):
        read(path)


def test_a_complete_bad_last_line_is_damage(path: Path) -> None:
    path.write_bytes(written(path, [fact(0)]) + b'{"n":1,"fact":"Trai\n')
    with pytest.raises(JournalError, match=r'line 3: the line is not as it was written: .*"fact":"Trai'):
        Journal.open(path)


def test_an_unknown_fact_names_the_version_that_wrote_it(path: Path) -> None:
    path.write_bytes(written(path, []) + journal_module._seal({"n": 0, "fact": "Teleported", "t": 1.0}))
    with pytest.raises(JournalError, match=r"'Teleported' is no fact .*gpbt-async 1\.2\.3"):
        read(path)


@pytest.mark.parametrize("line", [{"n": 0, "fact": "Entered", "t": 1.0}, {"n": 0, "fact": "Trained", "metrics": 3}])
def test_a_fact_with_wrong_fields_is_damage(path: Path, line: dict[str, object]) -> None:
    path.write_bytes(written(path, []) + journal_module._seal(line))
    with pytest.raises(JournalError, match="line 2"):
        read(path)


ENTERED = {"n": 0, "fact": "Entered", "t": 1.0, "member": 0, "attempt": 1}
OPENED = {"n": 0, "fact": "Opened", "t": 1.0, "slots": 2, "version": "", "pid": 1}
SUGGESTED = {"n": 0, "fact": "Suggested", "t": 1.0, "path": "0", "generation": 0, "config": {}, "asked": 1}
TRAINED = {**ENTERED, "fact": "Trained", "score": 1.0, "metrics": {}, "seconds": 1.0}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({**ENTERED, "member": "0"}, "member is '0'"),
        ({**ENTERED, "member": 0.0}, r"member is 0\.0"),
        ({**ENTERED, "member": True}, "member is True"),
        ({**ENTERED, "attempt": -1}, "attempt is -1"),
        ({**ENTERED, "t": {}}, "t is {}"),
        ({**ENTERED, "t": 10**400}, "t is 1000"),
        ({**OPENED, "slots": 10**12}, "slots is 1000"),  # a loop over so many would use up the memory
        ({**SUGGESTED, "path": "a"}, "path is 'a'"),
        ({**SUGGESTED, "path": ["0"]}, "path is"),
        ({**SUGGESTED, "config": {"x": []}}, "config is"),
        ({**SUGGESTED, "asked": []}, "asked is"),
        ({**TRAINED, "metrics": {"loss": None}}, "metrics is None"),
        ({**TRAINED, "score": "much"}, "score is 'much'"),
        ({"n": 0, "fact": "Judged", "t": 1.0, "member": 0, "attempt": 1, "score": None}, "score is None"),
    ],
)
def test_a_field_of_the_wrong_type_is_damage_whatever_its_checksum(
    path: Path, line: dict[str, object], why: str
) -> None:
    path.write_bytes(written(path, []) + journal_module._seal(line))
    with pytest.raises(JournalError, match=f"line 2: {why}"):
        read(path)


@pytest.mark.parametrize("body", [b'{"n":0,"fact":' + b"[" * 100_000, b"[1"])
def test_json_that_is_not_an_object_or_too_deep_is_damage(path: Path, body: bytes) -> None:
    path.write_bytes(written(path, []) + b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body)))
    with pytest.raises(JournalError, match="line 2"):
        read(path)


def test_a_journal_of_another_format_is_refused(path: Path) -> None:
    path.write_bytes(journal_module._seal({"journal": 1, "version": "0.1.0"}))
    sentence = (
        r"journal\.jsonl was written by gpbt-async 0\.1\.0 in format 1, but .* only format 2: use that version .*, or"
    )
    with pytest.raises(JournalError, match=sentence):
        Journal.open(path)


def test_a_path_that_cannot_be_a_journal(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"nowhere"):
        Journal.open(tmp_path / "nowhere" / "journal.jsonl")
    with pytest.raises(JournalError, match="directory"):
        Journal.open(tmp_path)


# ---- full disks


def test_a_short_write_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with Journal.open(path) as journal:
        journal.append(fact(0))
        before = path.read_bytes()
        calls = iter([lambda fd, data: real(fd, data[:11]), _no_space])
        monkeypatch.setattr(os, "write", lambda fd, data: next(calls)(fd, data))
        with pytest.raises(JournalError, match=r"journal\.jsonl: No space left"):
            journal.append(fact(1))
        monkeypatch.undo()
        assert path.read_bytes() == before
        journal.append(fact(2))
    assert said(read(path)) == said([fact(0), fact(2)])


def test_a_half_line_that_cannot_be_removed_ends_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with Journal.open(path) as journal:
        calls = iter([lambda fd, data: real(fd, data[:11]), _no_space])
        monkeypatch.setattr(os, "write", lambda fd, data: next(calls)(fd, data))
        monkeypatch.setattr(os, "ftruncate", _no_space)
        with pytest.raises(JournalError):
            journal.append(fact(0))
        monkeypatch.undo()
        with pytest.raises(JournalError, match="half a line"):
            journal.append(fact(1))
    assert read(path) == []  # torn, and so still good to resume from


def _no_space(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_file_size_limit_is_a_full_disk(path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "from gpbt_async.events import Entered\n"
        "from gpbt_async.storage.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal.open(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    for n in range(100): journal.append(Entered(t=1.0, member=n, attempt=1))\n"
        "except Exception as error: print(n, type(error).__name__, error)\n"
    )
    output = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    count, kind, _ = output.split(" ", 2)
    assert kind == "JournalError"
    assert str(path) in output
    assert len(read(path)) == int(count) > 5
    assert path.read_bytes().endswith(b"\n")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


# ---- durability


class Disk:
    """Stands in for os.fdatasync: signals when a sync begins, and lets it end on command."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun: asyncio.Queue[Future[None]] = asyncio.Queue()
        self.count = 0

    def fdatasync(self, fd: int) -> None:
        self.count += 1
        end: Future[None] = Future()
        self.loop.call_soon_threadsafe(self.begun.put_nowait, end)
        end.result(10)


async def test_waiters_share_the_next_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    with Journal.open(path) as journal:
        await journal.durable()  # nothing appended: nothing to wait for
        journal.append(fact(0))
        first = await disk.begun.get()
        early = asyncio.ensure_future(journal.durable())
        await asyncio.sleep(0)  # it has asked
        for n in range(1, 50):  # while one sync runs, everything else gathers behind one more
            journal.append(fact(n))
        late = [asyncio.ensure_future(journal.durable()) for _ in range(3)]
        first.set_result(None)
        await early
        second = await disk.begun.get()
        await asyncio.sleep(0)
        assert not any(task.done() for task in late)
        late[0].cancel()  # one waiter leaves: the others must not notice
        await asyncio.sleep(0)
        second.set_result(None)
        await asyncio.gather(*late[1:])
        assert disk.count == 2
    assert late[0].cancelled()


async def test_a_failed_sync_is_never_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with Journal.open(path) as journal:
        monkeypatch.setattr(os, "fdatasync", broken)
        journal.append(fact(0))
        with pytest.raises(JournalError, match="durable: Input/output error"):
            await journal.durable()
        monkeypatch.undo()
        with pytest.raises(JournalError):
            journal.append(fact(1))
        with pytest.raises(JournalError):
            await journal.durable()


async def test_closing_syncs_and_then_refuses(path: Path) -> None:
    journal = Journal.open(path)
    journal.append(fact(0))
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.append(fact(1))


APPENDER = """
import sys
from gpbt_async.events import Entered
from gpbt_async.storage.journal import Journal
journal = Journal.open(sys.argv[1])
n = len(journal.replay())
while True:
    journal.append(Entered(t=1.0, member=n, attempt=1))
    print(n, flush=True)
    n += 1
"""


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_fact(path: Path) -> None:
    for _ in range(3):  # each one takes up what the one before left
        with subprocess.Popen([sys.executable, "-c", APPENDER, path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(200)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines()
        acknowledged = int(lines[-1])
        found = read(path)
        assert [f.member for f in found if isinstance(f, Entered)] == list(range(len(found)))
        assert len(found) in (acknowledged + 1, acknowledged + 2)


# ---- large journals


def test_a_journal_is_read_in_blocks_and_a_line_may_be_longer_than_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_facts = [fact(n) for n in range(300)]
    all_facts[7] = Trained(t=7.0, member=7, attempt=1, score=0.5, metrics={"long" * 5000: 1.0}, seconds=1.0)
    data = written(path, all_facts)
    monkeypatch.setattr(journal_module, "BLOCK", 1024)
    assert max(map(len, data.splitlines())) > 4 * 1024
    assert said(read(path)) == said(all_facts)
    path.write_bytes(data[:-1])  # the last line is torn
    assert said(read(path)) == said(all_facts[:-1])


def test_facts_are_given_away_as_they_are_read_and_not_kept(path: Path) -> None:
    written(path, [fact(n) for n in range(5000)])
    assert path.stat().st_size > 500_000
    seen = 0

    def take(facts: Iterator[Fact]) -> None:
        nonlocal seen
        for _ in facts:
            seen += 1

    with Journal.open(path) as journal:
        assert len(journal.replay()) == 5000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "BLOCK", 1 << 14)
        tracemalloc.start()
        try:
            with Journal.open(path, replay=take) as journal:
                assert seen == 5000
                assert journal.replay() == []
                journal.append(fact(5000))
            assert tracemalloc.get_traced_memory()[1] < 300_000
        finally:
            tracemalloc.stop()
    assert said(read(path)[-1:]) == said([fact(5000)])


def test_facts_before_the_damage_are_given_away_and_the_journal_is_left_alone(path: Path) -> None:
    data = written(path, [fact(n) for n in range(3)])
    path.write_bytes(data.replace(b'"n":2', b'"n":7') + b"torn")
    seen: list[Fact] = []
    with pytest.raises(JournalError, match="line 4: the line is not as it was written"):
        Journal.open(path, replay=seen.extend)
    assert said(seen) == said([fact(0), fact(1)])
    assert path.read_bytes().endswith(b"torn")
