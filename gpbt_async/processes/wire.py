"""The messages between the scheduler and a member: frozen dataclasses, each one line of strict JSON.

Pure: no file, no socket, no clock; bytes in, messages out. Both sides import this module, so a change of the vocabulary
is a change of VERSION. The surprise: JSON has no NaN, and a member may report a diverged loss. So numbers that are not
finite are written as the strings "NaN", "Infinity" and "-Infinity", and read as floats.

A member first sends Hello and waits for Begin. It sends Enter just before it calls the training function, Report any
number of times, End when the function has returned, and Clean once its child processes are gone. The scheduler sends
Begin, at most one Go (which lets a member continue after its first report), and at most one Stop.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import isfinite
from sys import intern
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


VERSION = 3
#: the longest line: far above any honest report, far below what would hurt the scheduler
LIMIT = 1 << 20
#: characters of one text of a telemetry, and entries of one list, that are sent at most
LONGEST, MOST = 600, 50
#: seconds: longer than any machine has been up, and no time that was measured
_EVER = 1e12

Number: TypeAlias = "int | float"
Scalar: TypeAlias = "str | int | float | bool | None"

NON_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class WireError(LaunchError):
    """What the other side sent is no message: not JSON, unknown, incomplete, of another version, or too long."""


class Exit(StrEnum):
    """How an attempt ended: what a member says of itself, or, of the last two, what the scheduler found."""

    RETURNED = "returned"
    STOPPED = "stopped"
    RAISED = "raised"
    DIED = "died"
    #: the zygote or the guardian above it died, or it was killed for what is not its fault
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Scheduler → member: what to train, or to validate, where to read and write, on what. Paths are absolute.

    merges: checkpoints whose average the process first writes to `parent`, an empty folder, the best one's folder
    first. ensemble: checkpoints that are validated together, and then there is no parent.
    """

    member: int
    attempt: int
    generation: int
    seed: int
    config: Mapping[str, Scalar]
    parent: str | None
    checkpoint: str
    metrics: str
    log: str | None
    cwd: str | None
    device: str
    threads: int | None
    env: Mapping[str, str]
    score: str
    #: whether the first report of the score waits for a Go or a Stop
    judged: bool = False
    #: the cores to run on, None = wherever it likes
    cpus: Sequence[int] | None = None
    #: whether the process is to train other members after this one (residence.py)
    stays: bool = False
    #: decides member.fold: the run's
    fold_seed: int = 0
    merges: Sequence[str] = ()
    ensemble: Sequence[str] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "merges", tuple(map(str, self.merges)))
        object.__setattr__(self, "ensemble", tuple(map(str, self.ensemble)))


@dataclass(frozen=True, slots=True)
class Stop:
    """Scheduler → member: end at the next report."""

    reason: str


@dataclass(frozen=True, slots=True)
class Go:
    """Scheduler → member: the verdict on the first report: go on."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Member → scheduler: the process runs, and waits for Begin."""

    version: int
    pid: int


@dataclass(frozen=True, slots=True)
class Enter:
    """Member → scheduler: the training function starts now (`at`: the machine's monotonic clock)."""

    at: float


@dataclass(frozen=True, slots=True)
class Report:
    """Member → scheduler: metrics, finite or not."""

    metrics: Mapping[str, Number]
    at: float


@dataclass(frozen=True, slots=True)
class End:
    """Member → scheduler: the training function is over. how: it returned, was stopped, or raised.

    remedy: what to do about the error, if that is known. fault: what caused it, as far as the member's process can say
    (one of remedies.FAULTS), or empty. telemetry: what the member's process recorded about itself
    (preflight/observations.py), plain JSON, possibly empty. imports: packages' modules that it has imported while it
    trained (import_watch.py), and `variable`, the environment variable after whose setting by the user's code no more
    are named. start: seconds that went into imports, into reading the parent's checkpoint, and from the training
    function's begin to the first report, by these names: "imports", "parent", "first_report".
    """

    how: Exit
    at: float
    error: str | None = None
    where: str | None = None
    remedy: str = ""
    fault: str = ""
    telemetry: Mapping[str, object] = field(default_factory=dict)
    imports: Sequence[str] = ()
    variable: str = ""
    start: Mapping[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.how not in (Exit.RETURNED, Exit.STOPPED, Exit.RAISED):
            raise TypeError(f"how={self.how!r:.80}")
        object.__setattr__(self, "how", Exit(self.how))  # off the wire it comes as a text
        if not all(isinstance(name, str) for name in self.imports):
            raise TypeError("imports that are no names")
        object.__setattr__(self, "imports", tuple(self.imports))
        object.__setattr__(self, "start", numbers(self.start))


@dataclass(frozen=True, slots=True)
class Clean:
    """Member → scheduler: nothing that the member started is left; its process exits now, or waits for another Begin.

    stays: it waits. why: why it exits though it was to stay. changed: globals of the user's modules that the member has
    changed, and that the next member in this process finds so.
    """

    stays: bool = False
    why: str = ""
    changed: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "changed", tuple(map(str, self.changed)))


Message: TypeAlias = "Begin | Stop | Go | Hello | Enter | Report | End | Clean"

_STR, _INT, _REAL, _MAP, _MAYBE = (str,), (int,), (int, float), (dict,), (str, type(None))
_KINDS: dict[str, type[Any]] = {c.__name__.lower(): c for c in (Begin, Stop, Go, Hello, Enter, Report, End, Clean)}
_NAMES = {c: name for name, c in _KINDS.items()}
_FIELDS = {c: tuple(f.name for f in fields(c)) for c in _NAMES}
_TYPES: dict[str, tuple[type, ...]] = {
    "member": _INT, "attempt": _INT, "generation": _INT, "seed": _INT, "fold_seed": _INT, "version": _INT, "pid": _INT,
    "config": _MAP, "env": _MAP, "telemetry": _MAP, "start": _MAP,
    "metrics": (dict, str),  # a report's; the file's, in Begin
    "at": _REAL, "threads": (int, type(None)),
    "checkpoint": _STR, "device": _STR, "score": _STR, "reason": _STR, "how": _STR, "remedy": _STR, "fault": _STR,
    "variable": _STR, "why": _STR, "judged": (bool,), "stays": (bool,),
    "changed": (list,), "merges": (list,), "ensemble": (list,), "cpus": (list, type(None)), "imports": (list,),
    "parent": _MAYBE, "log": _MAYBE, "cwd": _MAYBE, "error": _MAYBE, "where": _MAYBE,
}  # fmt: skip


def encode(message: Message) -> bytes:
    """One line, newline included. Raises WireError when it is longer than LIMIT."""
    kind = type(message)
    body: dict[str, Any] = {"type": _NAMES[kind]}
    for name in _FIELDS[kind]:
        body[name] = getattr(message, name)
    if kind is Report:
        body["metrics"] = plain(body["metrics"])
    line = json.dumps(body, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    if len(line) > LIMIT:
        raise WireError(f"a {_NAMES[kind]} message of {len(line)} bytes is longer than the {LIMIT} allowed")
    return line


def decode(line: bytes) -> Message:
    """The message in one line. Raises WireError."""
    body = loads(line)
    name = body.pop("type", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise WireError(f"not a message of this program: {_shown(line)}")
    if body.get("version", VERSION) != VERSION:
        raise WireError(f"version {_said(body['version'])} of the messages; this program speaks version {VERSION}")
    for name, value in body.items():
        allowed = _TYPES.get(name, ())
        # True is an int to Python; to a protocol it is not
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise WireError(f"{name:.80}={_said(value)} in {_shown(line)}")
    if isinstance(body.get("metrics"), dict) is not (kind is Report):
        raise WireError(f"metrics={_said(body.get('metrics'))} in {_shown(line)}")
    if kind is Report:
        body["metrics"] = numbers(body["metrics"])
    if "at" in body and not abs(body["at"]) < _EVER:  # 1e999 is JSON, and infinite
        raise WireError(f"at={_said(body['at'])} in {_shown(line)}")
    try:
        return kind(**body)  # type: ignore[no-any-return]
    except TypeError as error:
        raise WireError(f"{error} in {_shown(line)}") from None


def loads(line: bytes, strict: bool = True) -> dict[str, Any]:
    """One JSON object. strict: refuse NaN and Infinity, which other people's programs do write. Raises WireError."""
    try:
        body = json.loads(line, parse_constant=_no_constant if strict else None)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise WireError(f"not JSON ({error}): {_shown(line)}") from None
    if not isinstance(body, dict):
        raise WireError(f"not a JSON object: {_shown(line)}")
    return body


def plain(metrics: Mapping[str, Number]) -> dict[str, Number | str]:
    """Metrics as strict JSON: a number that is not finite becomes a string."""
    return {name: value if isfinite(value) else _written(value) for name, value in metrics.items()}


def numbers(metrics: Mapping[str, object]) -> dict[str, Number]:
    """The inverse of `plain`. Raises WireError when a value is no number."""
    out: dict[str, Number] = {}
    for name, value in metrics.items():
        name = intern(name)  # a run keeps the metrics of every member, under the same few names
        if isinstance(value, str) and value in NON_FINITE:
            out[name] = NON_FINITE[value]
        elif isinstance(value, int | float):
            out[name] = value
        else:
            raise WireError(f"metric {name!r:.80} is {_said(value)}, not a number")
    return out


def real(value: Number) -> float:
    """An int of any size as a float: too large is infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


class Lines:
    """Bytes in, in any pieces; whole messages out. After a WireError, reading goes on at the next line."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages completed by `data`. Raises WireError for a bad line; feed(b"") goes on behind it."""
        self._rest += data
        while (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            if len(line) >= LIMIT:
                raise WireError(f"a line of {len(line)} bytes is longer than the {LIMIT} allowed")
            yield decode(line)
        if len(self._rest) > LIMIT:
            size = len(self._rest)
            self._rest.clear()
            raise WireError(f"a line of more than {size} bytes is longer than the {LIMIT} allowed")


def _written(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _said(value: object) -> str:
    """A value for an error message: never long, and never so deep that its repr fails."""
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else f"{value!r:.80}"


def _shown(line: bytes) -> str:
    return repr(line[:120].decode(errors="replace")) + ("…" if len(line) > 120 else "")
