"""Damage, made from a seed: what tests/test_fuzz.py and bench/fuzz.py feed to everything that reads bytes.

Each decoder here takes a random generator, makes one input from it, and returns what came of it in a word: "taken", or
the name of the error of ours that refused it. Whatever else is raised is a bug of the program, and is let through.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_driver import Driver, settings

from gpbt_async import events
from gpbt_async.analysis.run_fold import RunFold
from gpbt_async.codec import to_json
from gpbt_async.errors import Advice, JournalError, SearcherError
from gpbt_async.processes import program, wire
from gpbt_async.processes.helper_process import HelperProcess
from gpbt_async.processes.linux import Line
from gpbt_async.scheduler.clock import Clock
from gpbt_async.searchers.client import SearcherClient
from gpbt_async.storage.journal import JournalReader, _seal

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpbt_async.experiment import Settings

#: where a file costs nothing
QUICK = "/dev/shm" if os.path.isdir("/dev/shm") else None

NUMBERS: list[Any] = [
    0, -1, 1, 2, 1.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 10**400,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
STRINGS = [
    "", "NaN", "Infinity", "-Infinity", "0", "1/2", "0/0/0", "-1", "1_0", "٣", "a" * 300, "\ud800", "\0", "\u2028",
    "é", "../..", "{}", "Opened", "Started", "Trained", "report", "end", "begin", "1" * 5000,
]  # fmt: skip
CHUNKS = [
    b"\n", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"{", b"}", b"[", b'"', b",", b":", b"\\ud800", b"1e999",
    b"-1e999", b"NaN", b"null", b"1" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\r\n", b"\xef\xbb\xbf", b',"crc":"',
]  # fmt: skip


# ---- damage


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON, and what Python takes for it."""
    kind = rng.randrange(9 if depth < 3 else 6)
    match kind:
        case 0 | 1:
            return rng.choice(NUMBERS)
        case 2 | 3:
            return rng.choice(STRINGS)
        case 4:
            return rng.choice([None, True, False])
        case 5:
            return rng.choice([rng.randrange(-3, 30), rng.random(), rng.randrange(1 << rng.randrange(1, 70))])
        case 6:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 7:
            return {rng.choice(STRINGS): value(rng, depth + 1) for _ in range(rng.randrange(4))}
        case _:
            return nested(rng.choice([5, 100, 400, 900, 980, 990, 995]), rng.choice("[{"))


def nested(depth: int, bracket: str) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = [made] if bracket == "[" else {"a": made}
    return made


def changed(rng: random.Random, flat: dict[str, Any]) -> dict[str, Any]:
    """An object with some of its fields replaced, dropped, doubled under another name, or swapped."""
    flat = dict(flat)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        names = list(flat)
        if not names:
            return flat
        name = rng.choice(names)
        match rng.randrange(7):
            case 0 | 1:
                flat[name] = value(rng)
            case 2:
                del flat[name]
            case 3:
                other = rng.choice(names)
                flat[name], flat[other] = flat[other], flat[name]
            case 4:
                flat[rng.choice(STRINGS)] = value(rng)
            case 5 if isinstance(flat[name], dict):
                flat[name] = changed(rng, flat[name]) or {"x": value(rng)}
            case _:
                old = flat[name]
                number = (isinstance(old, int) and abs(old) < 1 << 64) or isinstance(old, float)
                flat[name] = old + rng.choice([-1, 1, 0.5, 1e9, -1e9]) if number else dumped(old).decode()
    return flat


def dumped(flat: Any) -> bytes:
    """As JSON, NaN and all; what nests too deeply for the encoder is spelled out."""
    with suppress(RecursionError):
        return json.dumps(flat, separators=(",", ":")).encode()
    return b'{"type":"report","at":1,"metrics":' + b"[" * 2000


def hurt(rng: random.Random, data: bytes) -> bytes:
    """Bytes with flips, cuts, insertions, repetitions, or lines out of order."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        match rng.randrange(9):
            case 0 | 1 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
            case 2:
                data = data[:at]
            case 3:
                data = data[:at] + data[to:]
            case 4:
                data = data[:at] + rng.choice(CHUNKS) + data[at:]
            case 5:
                data = data[:at] + rng.randbytes(rng.randrange(40)) + data[to:]
            case 6:
                data = data[:to] + data[at:to] * rng.choice([1, 1, 2, 5]) + data[to:]
            case _:
                lines = data.splitlines(keepends=True)
                if len(lines) > 1:
                    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
                    match rng.randrange(3):
                        case 0:
                            lines[one], lines[two] = lines[two], lines[one]
                        case 1:
                            lines.insert(one, lines[two])
                        case _:
                            del lines[one]
                    data = b"".join(lines)
    return data


def garbage(rng: random.Random) -> bytes:
    """Nothing of ours: random bytes, or JSON's own characters in no order."""
    if rng.random() < 0.5:
        return rng.randbytes(rng.randrange(200))
    return bytes(rng.choices(b'{}[]",:\\0123456789.eE+-truefalsn\n \x80\xff', k=rng.randrange(300)))


# ---- the journal


def histories() -> list[tuple[Settings, list[dict[str, Any]]]]:
    """Runs played by the tests' own driver, as flat facts: schedules, early stops, failures, crashes."""
    made = []
    for number, changes in enumerate(
        [
            {},
            {"schedule": "sync"},
            {"selection": "plus"},
            {"early_stop": ("median", "generation"), "population": 8},
            {"history": "global", "schedule": "sync", "population": 3},
        ]
    ):
        for fail in (0.0, 0.2):
            run = Driver(settings(**changes), 3, random.Random(number), fail=fail, nan=fail, lose=fail, timed=True)
            run.open()
            run.run()
            last = run.facts[-1].t
            facts = [
                *run.facts,
                events.Capacity(t=last, slots=2),
                events.Sampled(t=last, gpus=({"gpu": "0", "used": 1, "temperature": None},)),
                events.Closed(t=last, how="finished", measures={"saved_intervals": 0.0, "parents_outside_top_k": None}),
            ]
            made.append((run.settings, [to_json(fact) for fact in facts]))
    return made


class Journals:
    """One file after another through the Reader, and what it takes through the engine and the account."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=QUICK)
        self._path = Path(self._folder.name, "journal.jsonl")
        self._runs = histories()
        self._header = _seal({"journal": 2, "version": "1.2.3"})

    def close(self) -> None:
        self._folder.cleanup()

    def _read(self, run: Settings, data: bytes, cuts: list[int]) -> str:
        """Read it in pieces, as a follower would, and replay what is taken."""
        reader, facts, fed = JournalReader(self._path), [], 0
        try:
            for cut in [*cuts, len(data)]:
                with open(self._path, "ab" if fed else "wb") as file:
                    file.write(data[fed:cut])
                fed = cut
                facts += reader.more()
            for _ in RunFold(run).read(facts, self._path):
                pass
        except JournalError as error:
            str(error).encode(errors="backslashreplace")
            return "JournalError"
        return "taken"

    def damaged(self, rng: random.Random) -> str:
        """Lines that were right once; the checksums, numbers and newlines must find all of it."""
        run, flats = rng.choice(self._runs)
        begin = rng.randrange(len(flats))
        lines = [_seal({"n": n, **flat}) for n, flat in enumerate(flats[begin : begin + rng.randrange(1, 8)])]
        data = self._header + b"".join(lines)
        data = garbage(rng) if rng.random() < 0.1 else hurt(rng, data)
        if rng.random() < 0.002:
            data += b"x" * rng.choice([1 << 16, 1 << 21]) + b"\n"
        return self._read(run, data, [rng.randrange(len(data) + 1)] if rng.random() < 0.1 else [])

    def resealed(self, rng: random.Random) -> str:
        """Facts that are wrong, but sealed as if they had been written so."""
        run, flats = rng.choice(self._runs)
        flats = flats[: rng.choice([1, 2, 4, 8, 16, 40, len(flats)])]
        for _ in range(rng.choice([1, 1, 2, 4])):
            if not flats:
                break
            at = rng.randrange(len(flats))
            if rng.random() < 0.7:
                at = max(at, len(flats) - 1 - rng.randrange(4))  # what stands behind the first bad fact is not read
            match rng.randrange(8):
                case 0:
                    flats = [*flats[:at], flats[rng.randrange(len(flats))], *flats[at:]]
                case 1:
                    flats = [*flats[:at], *flats[at + 1 :]]
                case 2:
                    other = rng.randrange(len(flats))
                    flats = list(flats)
                    flats[at], flats[other] = flats[other], flats[at]
                case 3:
                    flats = [*flats[:at], {"fact": flats[at].get("fact"), "t": 1.0, **value_fields(rng)}]
                case _:
                    flats = [*flats[:at], changed(rng, flats[at]), *flats[at + 1 :]]
        return self._read(run, self._header + b"".join(sealed({"n": n, **f}) for n, f in enumerate(flats)), [])


def value_fields(rng: random.Random) -> dict[str, Any]:
    names = ("member", "attempt", "slots", "slot", "path", "config", "score", "metrics", "seconds", "reason", "pid")
    return {name: value(rng) for name in names}


def sealed(flat: dict[str, Any]) -> bytes:
    """As _seal, but of anything."""
    body = dumped(flat)[:-1]
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


# ---- the wire


TELEMETRY: dict[str, Any] = {
    "read": ["lr"], "applied": ["momentum"], "missed": ["mometum"], "parent_seen": True, "parent_used": True,
    "threads": ["t"], "seeds": {"torch": ["0", "a.py:3"]},
    "overwritten": [["lr", "1", "2"]], "splits": {"a.py:3": "f"}, "values": {"lr": [0.1, 0.2, None]},
    "findings": [["GPBT004", "wd", "text", "do"]],
}  # fmt: skip


def spoken() -> list[dict[str, Any]]:
    """Every message, as the objects its lines hold."""
    begin = wire.Begin(
        member=1, attempt=1, generation=0, seed=7, config={"lr": 0.1, "act": None}, parent=None, checkpoint="/c",
        metrics="/m", log="/l", cwd=None, device="cpu", threads=2, env={"A": "b"}, score="loss", cpus=[0, 1],
    )  # fmt: skip
    messages: list[wire.Message] = [
        begin, wire.Stop("enough"), wire.Go(), wire.Hello(wire.VERSION, 12), wire.Enter(1.5), wire.Clean(),
        wire.Report({"loss": 0.5, "n": 3, "nan": float("nan")}, 2.5),
        wire.End(wire.Exit.RAISED, 3.5, "ValueError: no", "a.py:1"), wire.End(wire.Exit.RETURNED, 3.5),
        wire.End(wire.Exit.RETURNED, 3.5, telemetry=TELEMETRY),
    ]  # fmt: skip
    return [json.loads(wire.encode(message)) for message in messages]


def said(rng: random.Random, vocabulary: list[dict[str, Any]]) -> bytes:
    """Some lines, most of them wrong."""
    if rng.random() < 0.1:
        return garbage(rng)
    lines = []
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        flat = rng.choice(vocabulary)
        lines.append(dumped(changed(rng, flat) if rng.random() < 0.6 else flat))
    data = b"\n".join(lines) + b"\n"
    if rng.random() < 0.5:
        data = hurt(rng, data)
    if rng.random() < 0.001:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + b"x" * rng.choice([1 << 16, wire.LIMIT - 1, wire.LIMIT, wire.LIMIT + 1, 3 << 20]) + data[at:]
    return data


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 1, 2, 5])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Wire:
    """Lines, as scheduler and member read them; and of what is taken, the facts the scheduler makes of it."""

    def __init__(self) -> None:
        self._vocabulary = spoken()
        self._clock = Clock()

    def close(self) -> None:
        pass

    def lines(self, rng: random.Random) -> str:
        lines, refused = wire.Lines(), ["-"]
        for data in pieces(rng, said(rng, self._vocabulary)):
            while True:
                try:
                    for message in lines.feed(data):
                        self.used(message)
                    break
                except wire.WireError as error:
                    refused.append(str(error))
                    data = b""
        assert max(map(len, refused)) < 2000, "a refusal as long as what it refuses"
        return "WireError" if len(refused) > 1 else "taken"

    def decode(self, rng: random.Random) -> str:
        flat = rng.choice(self._vocabulary)
        line = dumped(changed(rng, flat)) if rng.random() < 0.7 else hurt(rng, dumped(flat))
        try:
            self.used(wire.decode(line))
        except wire.WireError:
            return "WireError"
        return "taken"

    def used(self, message: wire.Message) -> None:
        """What the scheduler does with it must not fail either: a fact that cannot be written ends the run."""
        names: dict[str, Any] = {"member": 0, "attempt": 1}
        match message:
            case wire.Enter(at):
                _seal({"n": 0, **to_json(events.Entered(t=self._clock.at(at), **names))})
            case wire.Report(metrics, at):
                floats = {name: wire.real(number) for name, number in metrics.items()}
                for score in floats.values():
                    _seal(to_json(events.Judged(t=self._clock.at(at), score=score, **names)))
                _seal(to_json(events.Trained(t=0.0, score=None, metrics=floats, seconds=0.0, **names)))
            case wire.End():
                seconds = max(0.0, message.at - 1.0)
                _seal(to_json(events.Failed(t=0.0, reason=message.error or message.how, seconds=seconds, **names)))


class Metrics:
    """The file a command member writes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=QUICK)
        self._path = Path(self._folder.name, "metrics.jsonl")
        self._wire = Wire()
        self._vocabulary: list[dict[str, Any]] = [
            {"loss": 0.5}, {"loss": "NaN", "step": 3}, {"a": 1e9, "b": -1, "c": True}, {"loss": float("nan")},
        ]  # fmt: skip

    def close(self) -> None:
        self._folder.cleanup()

    def lines(self, rng: random.Random) -> str:
        tail, refused = program.Tail(str(self._path)), 0
        try:
            for data in [b"", *pieces(rng, said(rng, self._vocabulary)), None]:
                if data is not None:
                    with open(self._path, "ab" if data else "wb") as file:
                        file.write(data)
                messages = list(tail.read() if data is not None else tail.finish())
                while tail.behind:
                    messages += tail.read()
                for message in messages:
                    self._wire.used(message)
                    refused += isinstance(message, Advice)
                    assert not isinstance(message, Advice) or len(message.text) < 2000
        finally:
            tail.close()
        return "Notice" if refused else "taken"


# ---- other processes of ours


class Searcher:
    """What the searcher process answers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        driver = Driver(settings(), 1, random.Random(0))
        driver.open()
        self._ask = driver.engine.ask((0,))
        self._vocabulary: list[dict[str, Any]] = [
            {"id": 1, "config": {"lr": 0.1, "layers": 3, "act": None}},
            {"id": 1, "config": {"lr": 0.1, "layers": 3, "act": "relu"}},
            {"id": 1, "error": "ValueError: no"},
            {"id": 1, "unusable": "searcher 'a:B': no"},
        ]

    def close(self) -> None:
        self._loop.close()

    def answers(self, rng: random.Random) -> str:
        flat = rng.choice(self._vocabulary)
        line = dumped(changed(rng, flat)) if rng.random() < 0.7 else hurt(rng, dumped(flat))
        return self._loop.run_until_complete(self._answer(line[: 1 << 16] + b"\n"))

    async def _answer(self, line: bytes) -> str:
        """Its socket, with the answer in it before anything is asked."""
        ends = []

        async def start() -> HelperProcess:
            ours, theirs = socket.socketpair()
            theirs.sendall(line)
            theirs.shutdown(socket.SHUT_WR)
            ends.append(theirs)
            return HelperProcess(ours, -1, "the searcher process")

        asking = SearcherClient(self._ask.space, "some:Searcher", start)
        try:
            config = await asking.suggest(self._ask)
            assert config == self._ask.space.clip(config or {})
        except SearcherError:
            return "SearcherError"
        finally:
            await asking.close()
            for end in ends:
                end.close()
        return "taken"


class Channels:
    """What guardian and zygote say."""

    def __init__(self) -> None:
        self._vocabulary: list[dict[str, Any]] = [
            {"type": "forked", "id": 3, "pid": 12, "fds": 0}, {"gone": 12, "status": -9, "fds": 0}, {"fds": 2},
        ]  # fmt: skip

    def close(self) -> None:
        pass

    def lines(self, rng: random.Random) -> str:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            line = Line(ours)
            taken = 0
            for data in pieces(rng, said(rng, self._vocabulary)[: 1 << 16]):
                if data:
                    theirs.sendall(data)
                    taken += len(line.receive() or [])
        return "taken" if taken else "left out"


#: every decoder: its name, the room it needs, the room's method, and its share of a long run's inputs in percent
DECODERS: dict[str, tuple[Callable[[], Any], str, int]] = {
    "journal: damaged lines": (Journals, "damaged", 22),
    "journal: wrong facts, replayed": (Journals, "resealed", 22),
    "wire: Lines.feed": (Wire, "lines", 22),
    "wire: decode": (Wire, "decode", 22),
    "metrics file of a command": (Metrics, "lines", 6),
    "searcher's answers": (Searcher, "answers", 2),
    "guardian's and zygote's lines": (Channels, "lines", 4),
}


def rng_of(seed: int, decoder: str, number: int) -> random.Random:
    """One input's own, so that it can be made again alone."""
    return random.Random(f"{seed}:{decoder}:{number}")
