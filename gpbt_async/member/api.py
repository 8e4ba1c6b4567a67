"""The class Member, which a training function gets: its identity, its folders, and `report`.

Every training script imports this module, so it imports little and costs milliseconds. A Member uses one file, its
metrics.jsonl, and one socket to the scheduler. The surprise: `report` also receives. If the scheduler has asked the
member to stop, `report` raises Stopped; it does not wait for such a message.

Without a socket (`Member.local`) a member works as well, and prints its reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..declaration import standalone
from ..errors import Stopped
from ..formatting import report_call
from ..processes import wire
from .config import MemberConfig
from .parent import ParentPath
from .telemetry import Telemetry

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence


#: in place of a process id
_ENDED = -1


class Member:
    """One training interval of one member of the population.

    id, generation: whole numbers from 0; attempt: from 1. seed: its own, in [0, 2³²), the same for every attempt;
    python, numpy and torch are already seeded with it. config: name → value. parent: the folder of the parent's
    checkpoint, read-only, or None in generation 0. parents: the same as a tuple; of an ensemble that is validated, the
    folders of its checkpoints, and then there is no single parent. checkpoint: an empty folder to fill; it is published
    whole when the training function returns. device: "cuda" or "cpu"; the process sees only the GPU that it is pinned
    to. start: how its process came to be: "zygote" (a fork), "exec" (a fresh interpreter), "resident" (a process that
    trains member after member), or "local" without a run.

    A run passes one to the training function; without a run, `Member.local` makes one.
    """

    __slots__ = (
        "_ensemble", "_file", "_fold_seed", "_judged", "_lines", "_metrics", "_parent", "_pid", "_score", "_send",
        "_sock", "_stop",
        "attempt", "checkpoint", "config", "device", "generation", "id", "reported", "seed", "start", "telemetry",
    )  # fmt: skip

    def __init__(self, begin: wire.Begin, sock: socket.socket | None = None) -> None:
        self.id = begin.member
        self.generation = begin.generation
        self.attempt = begin.attempt
        self.seed = begin.seed
        self.config: dict[str, Any] = MemberConfig(begin.config)
        #: notes for the pre-flight
        self.telemetry = Telemetry(self.config)
        self.telemetry.seed = begin.seed
        self._parent = ParentPath.noted(begin.parent, self.telemetry) if begin.parent else None
        self._ensemble = tuple(map(Path, begin.ensemble))
        self.checkpoint = Path(begin.checkpoint)
        self.device = begin.device
        self.start = "local"
        self._fold_seed = begin.fold_seed
        self._metrics = begin.metrics
        #: the metric that counts; "" without a run
        self._score = begin.score
        self._sock = sock
        self._send: Callable[[dict[str, float]], object] | None = None
        self._file: int | None = None
        self._lines = wire.Lines()
        self._stop: str | None = None
        #: the score whose first report waits for a verdict; None after the verdict, or if there is none
        self._judged = begin.score if begin.judged and sock is not None else None
        #: when the first report was made, on the monotonic clock
        self.reported: float | None = None
        self._pid = os.getpid()  # a DataLoader's worker inherits this object, but is not the member

    @classmethod
    def local(
        cls,
        config: Mapping[str, wire.Scalar],
        checkpoint: str | os.PathLike[str],
        *,
        parent: str | os.PathLike[str] | None = None,
        ensemble: Sequence[str | os.PathLike[str]] = (),
        seed: int = 0,
        generation: int = 0,
        device: str = "cpu",
        id: int = 0,
        metrics: str | os.PathLike[str] = "",
        on_report: Callable[[dict[str, float]], object] | None = None,
    ) -> Member:
        """A member without a scheduler: reports are printed, or passed to `on_report`; nothing stops it.

        config: name → value. checkpoint: an existing folder to fill. parent: a checkpoint's folder to begin from.
        ensemble: folders of checkpoints to validate together, instead of a parent. seed, generation, device, id: the
        attributes of these names; nothing is seeded. metrics: a file to which reports are appended as JSON lines; "" =
        none.
        """
        begin = wire.Begin(
            member=id, attempt=1, generation=generation, seed=seed, config=config, device=device, threads=None,
            parent=os.fspath(parent) if parent is not None else None, checkpoint=os.fspath(checkpoint),
            ensemble=[os.fspath(each) for each in ensemble], metrics=os.fspath(metrics), log=None, cwd=None, env={},
            score="",
        )  # fmt: skip
        standalone.use()
        member = cls(begin)
        member._send = on_report if on_report is not None else printed
        return member

    def __repr__(self) -> str:
        return f"Member({self.id}, generation={self.generation}, attempt={self.attempt}, config={self.config})"

    @property
    def parent(self) -> Path | None:
        """The folder of the parent's checkpoint, read-only; None in generation 0.

        Raises RuntimeError if the member validates an ensemble: one of its checkpoints alone would be a wrong answer.
        """
        self.telemetry.parent_seen = True
        if self._ensemble:
            raise RuntimeError(
                f"member.parent: this is an ensemble of {len(self._ensemble)} checkpoints: read all of member.parents, "
                "and average their predictions (gpbt.torch.ensemble does both)"
            )
        return self._parent

    @overload
    def fold(self, n: int) -> int: ...

    @overload
    def fold(self, n: int, *, of: int) -> list[int]: ...

    def fold(self, n: int, *, of: int | None = None) -> int | list[int]:
        """Which part of the validation rows this generation is scored on, so that no part selects every parent.

        n: how many folds there are; the fold's number is returned, from 0 to n - 1. With `of` folds, n is how many rows
        there are; they are divided at random, and the indices of the fold's rows are returned, in order. Both depend on
        the run's seed and the generation only: all members of a generation have the same fold, and successive
        generations have different ones, each in its turn. Raises ValueError without a row for each fold.
        """
        folds = n if of is None else of
        if not 1 <= folds <= n:
            raise ValueError(f"member.fold({n}, of={of}): must be at least 1 fold, and a row for each")
        self.telemetry.folds |= folds > 1
        mine = (self._fold_seed + self.generation) % folds
        if of is None:
            return mine
        draw = random.Random(f"fold:{self._fold_seed}:{n}").random
        return sorted(sorted(range(n), key=lambda _: draw())[mine::folds])

    @property
    def parents(self) -> tuple[Path, ...]:
        """The folders to read, read-only: those of an ensemble that is validated, else the parent's, if any."""
        self.telemetry.parent_seen = True
        return self._ensemble or ((self._parent,) if self._parent is not None else ())

    def report(self, *given: Mapping[str, object], **metrics: Any) -> None:
        """Report metrics to the scheduler, as often as you like.

        metrics: numbers by name, finite or not; numpy's scalars and one-element tensors are welcome. given: the same as
        a dict, for names that are not Python names: `report({"val/loss": 0.3})`. The last report with the experiment's
        score counts. Raises Stopped if the member must end early: do not catch it. Raises TypeError for a value that is
        not a number or has no name, ValueError for more than fits into one message, RuntimeError in a process that is
        not the member's own (a DataLoader's worker).
        """
        if self._pid == _ENDED:
            raise RuntimeError(f"member.report was called for member {self.id}, which has ended")
        if os.getpid() != self._pid:
            raise RuntimeError(
                "member.report was called in another process than the member's own (a DataLoader worker?): "
                "return the value to the training function and report it there"
            )
        if given:
            metrics = _named(given, metrics, self._score)
        if not metrics:
            raise TypeError(f"member.report needs at least one metric: {report_call(self._score or 'accuracy', '0.9')}")
        values = {name: v if type(v) is float else number(name, v) for name, v in metrics.items()}
        record = {"t": time.time(), **wire.plain(values)}
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        # the message to the scheduler is a little longer than the line
        if len(line) > wire.LIMIT - 256:
            raise ValueError(
                f"member.report was given {len(line)} bytes of metrics in one call; at most {wire.LIMIT - 256} are "
                "allowed: write large things to a file in member.checkpoint"
            )
        self._append(line)
        if self._send is not None:
            self._send(values)
        now = time.monotonic()
        if self.reported is None:
            self.reported = now
        if self._sock is not None:
            self._talk(wire.encode(wire.Report(values, now)), self._judged in values)

    def _append(self, line: bytes) -> None:
        if not self._metrics:
            return
        if self._file is None:
            self._file = os.open(self._metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.write(self._file, line)

    def _talk(self, line: bytes, decisive: bool) -> None:
        """Send, then look whether a Stop has arrived; after a decisive report wait for the verdict.

        A member also stops if the scheduler is gone.
        """
        assert self._sock is not None
        try:
            self._sock.sendall(line)
            while decisive and self._judged is not None and self._stop is None:
                self._hear(self._sock.recv(1 << 16))
            data = self._sock.recv(1 << 16, 0x40)  # MSG_DONTWAIT: look, do not wait
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data is not None:
            self._hear(data)
        if self._stop is not None:
            raise Stopped(self._stop)

    def _hear(self, data: bytes) -> None:
        if not data:
            self._stop = self._stop or "the scheduler is gone"
        for message in self._lines.feed(data):
            if isinstance(message, wire.Stop):
                self._stop = message.reason
            elif isinstance(message, wire.Go):
                self._judged = None

    def _close(self) -> None:
        """The member has ended; its process may go on to train another one."""
        self._pid = _ENDED
        if self._file is not None:
            with contextlib.suppress(OSError):  # the script has closed it
                os.close(self._file)
            self._file = None


def _named(given: tuple[Any, ...], metrics: Mapping[str, object], score: str) -> dict[str, object]:
    """All metrics of one call by name. Raises TypeError for a value without a name, and for a name with two values."""
    pairs: list[tuple[Any, Any]] = []
    for metric in given:
        if not hasattr(metric, "items"):
            if isinstance(metric, str):
                raise TypeError(f"member.report takes names as keywords or in a dict: {report_call(metric, '...')}")
            what = f"{metric!r}" if isinstance(metric, int | float) else f"a {_type(metric)}"
            example = report_call(score or "loss", "...")
            raise TypeError(f"member.report was given {what} without a name: give it one, {example}")
        pairs += metric.items()
    named: dict[str, object] = {}
    for name, value in (*pairs, *metrics.items()):
        if not isinstance(name, str):
            raise TypeError(f"member.report was given the name {name!r} ({_type(name)}): a name must be a text")
        if name in named:
            raise TypeError(f"member.report was given {name!r} twice in one call")
        named[name] = value
    return named


def number(name: str, value: Any) -> int | float:
    """A reported value as a Python number: numpy's scalars and torch's one-element tensors are welcome."""
    given = value
    if not isinstance(value, int | float) and not isinstance(value, str | bytes | complex):
        try:
            value = value.item() if hasattr(value, "item") else float(value)
        except (TypeError, ValueError, RuntimeError):
            value = None
    if isinstance(value, bool | float):
        return float(value) if type(value) not in (bool, float) else value
    if isinstance(value, int):
        try:  # beyond 64 bits not every reader of the file keeps all digits
            return int(value) if -(1 << 63) <= value < 1 << 63 else float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    raise TypeError(
        f"{report_call(name, '...')} was given a {_type(given)}; a metric is one number: "
        + ("give its items one by one, {'val/loss': 0.3, ...}" if isinstance(given, dict) else _as_number(name))
    )


def _as_number(name: str) -> str:
    name = name if name.isidentifier() else "value"
    return f"report float({name}), or a mean such as {name}.mean().item()"


def _type(value: Any) -> str:
    kind = type(value)
    shape = getattr(value, "shape", None)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"{name} of shape {tuple(shape)}" if shape else name


def printed(metrics: Mapping[str, float]) -> None:
    """Print a report: what a member does without a scheduler."""
    print("report: " + "  ".join(f"{name}={value:.6g}" for name, value in metrics.items()), flush=True)
