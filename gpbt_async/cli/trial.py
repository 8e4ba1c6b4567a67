"""`gpbt-async try SCRIPT`: one member in the foreground, for people who write training scripts.

The script is imported and its function called in this very process: prints appear, breakpoints work, a profiler sees
everything, an exception is the script's own traceback. No zygote, no journal, no slot. It is the one place besides
the zygote where a user's script is imported, and it is the whole process, so nothing else can be disturbed by it.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..declaration.address import Address, find
from ..declaration.foreign import scalar
from ..engine import tree
from ..errors import ExperimentError, ScriptError, Stopped
from ..experiment import Settings
from ..member import member_main, script, telemetry
from ..member.alone import device_for
from ..member.api import Member
from ..member.config import peek
from ..preflight.checks import Preflight
from ..space import Choice

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from ..space import Config, Dimension, Scalar, Space


def attempt(
    given: str | os.PathLike[str], *, seed: int, sets: list[str], parent: Path | None, checkpoint: Path | None
) -> int:
    """Train one member of the script's experiment; 0 if it reported a finite score. Raises ExperimentError."""
    member_main.watch()
    settings, train = _load(find(given))
    if train is None:
        raise ExperimentError("try runs a training function; this experiment declares a command: run it by hand")
    if parent is not None and not parent.is_dir():
        raise ExperimentError(f"--parent {parent}: is not a folder")
    config = fixed(settings.space.sample(random.Random(seed)), sets, settings.space)
    where = checkpoint if checkpoint is not None else Path(tempfile.mkdtemp(prefix="gpbt-try-"))
    where.mkdir(parents=True, exist_ok=True)
    try:
        return _train(settings, train, config, seed, parent, where)
    finally:
        if checkpoint is None:
            with suppress(OSError):  # there is something in it
                where.rmdir()


def _train(
    settings: Settings, train: Callable[[Any], object], config: Config, seed: int, parent: Path | None, where: Path
) -> int:
    reported: dict[str, float] = {}

    def on_report(metrics: dict[str, Any]) -> None:
        reported.update(metrics)
        print("report  " + "  ".join(f"{k}={v}" for k, v in metrics.items()), flush=True)

    member = Member.local(
        config, where.resolve(), parent=parent.resolve() if parent else None, seed=seed, on_report=on_report,
        device=device_for(settings.resources.gpus),
    )  # fmt: skip
    if settings.notice:
        print(settings.notice, flush=True)
    print(f"config  {json.dumps(config)}", flush=True)
    member_main.seed(seed, member.device)
    telemetry.current = member.telemetry
    began = time.monotonic()
    try:
        train(member)
    except Stopped:
        print("stopped")
    except Exception as error:
        member_main.print_traceback(error)
        return 1
    _say_findings(settings, member)
    seconds = time.monotonic() - began
    files = [p for p in where.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    kept = f"checkpoint {where} ({len(files)} files, {size / 1e6:.2f} MB)" if files else "nothing in the checkpoint"
    print(f"trained in {seconds:.2f} s; {kept}")
    score = reported.get(settings.score)
    if score is None or score - score != 0:
        told = f"reported {', '.join(reported)}" if reported else "reported nothing"
        print(f"gpbt-async: no finite {settings.score!r}: it is {score}; {told}", file=sys.stderr)
        return 1
    if not files:
        print("gpbt-async: the checkpoint is empty: children would start from nothing", file=sys.stderr)
    print(f"score   {settings.score}={score}")
    return 0


def _say_findings(settings: Settings, member: Member) -> None:
    """What the pre-flight of a run would say of this one member."""
    checks, seen = Preflight(settings), member.telemetry.to_json()  # before we look at member.parent ourselves
    parent = tree.Node(0, (), 0, 0, None, {}, 0) if member.parent is not None else None
    id = 0 if parent is None else 1
    known = tree.Node(id, (), 0, id, parent, peek(member.config), member.seed)
    for found in (*checks.declared(), *checks.heard(known, seen)):
        print(f"gpbt-async: {found.sentence}", file=sys.stderr)


def _load(address: Address) -> tuple[Settings, Callable[[Any], object] | None]:
    address.check()
    sys.argv[:] = [address.file]  # as in a run: a script that parses its arguments is not to be given ours
    try:
        loaded = script.load(address.to_json())
    except (Exception, SystemExit) as error:
        raise ScriptError(script.refusal(error)) from error
    assert loaded.declaration is not None
    return Settings.from_json(loaded.declaration), loaded.train


def fixed(config: Config, sets: Sequence[str], space: Space) -> Config:
    """The config with what `--set NAME=VALUE` says. Raises ExperimentError."""
    for pair in sets:
        name, equals, text = pair.partition("=")
        if not equals or name not in space.names:
            raise ExperimentError(f"--set {pair}: must be NAME=VALUE, a name of {', '.join(space.names)}")
        if name not in space:
            config[name] = _constant(pair, text, space.constants[name])
            continue
        value = _value(text, space[name])
        try:
            config[name] = space[name].clip(value)
        except ValueError as error:
            raise ExperimentError(f"--set {pair}: {error}") from None
        if config[name] != value:
            raise ExperimentError(f"--set {pair}: {value!r} is not in {space[name]!r}")
    return config


def _value(text: str, dimension: Dimension) -> Any:
    """What was typed: JSON, or a number in any way Python takes one (.1, 1e-3), or else a text."""
    with suppress(ValueError):
        return json.loads(text)
    if not (isinstance(dimension, Choice) and text in dimension.options):  # one may be called "inf"
        with suppress(ValueError):
            return float(text)
    return text


def _constant(pair: str, text: str, was: Scalar) -> Scalar:
    """Another value for a constant, of its kind; for None any. Raises ExperimentError."""
    value: Any = text
    if not isinstance(was, str):
        with suppress(ValueError):
            value = json.loads(text)
        if isinstance(was, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
    if not scalar(value) or (was is not None and type(value) is not type(was)):
        raise ExperimentError(f"--set {pair}: must be of the kind of the constant {was!r}")
    return value  # type: ignore[no-any-return]
