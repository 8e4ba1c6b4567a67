"""`gpbt-async try` at work: it trains one member in the foreground, in the process of the command.

So output appears immediately, breakpoints work, a profiler sees everything, and an exception shows the script's own
traceback. There is no zygote, no journal and no slot. Besides the members' processes only this module imports a user's
script; the process does nothing else, so the script can disturb nothing.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from ..storage.files import explained
from .output import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..declaration.address import Address
    from ..findings import Finding
    from ..space import Config, Dimension, Scalar, Space


def attempt(address: Address, *, seed: int, sets: list[str], parent: Path | None, checkpoint: Path | None) -> int:
    """Train one member of the script's experiment; 0 if it reported a finite score. Raises ExperimentError."""
    member_main.watch()
    settings, train = _load(address)
    if train is None:
        raise ExperimentError(
            "this experiment declares a command, and try can train only a function: run the command by hand"
        )
    if parent is not None and not parent.is_dir():
        raise ExperimentError(f"--parent {parent}: there is no such folder")
    config = fixed(settings.space.sample(random.Random(seed)), sets, settings.space)
    where = checkpoint if checkpoint is not None else Path(tempfile.mkdtemp(prefix="gpbt-try-"))
    with explained("cannot write the checkpoint to", where):
        where.mkdir(parents=True, exist_ok=True)
        if any(where.iterdir()):
            raise ExperimentError(f"--checkpoint {where}: the folder is not empty; give a new folder, or an empty one")
    try:
        return _train(settings, train, config, seed, parent, where)
    finally:
        if checkpoint is None:
            with suppress(OSError):  # it is not empty
                where.rmdir()


def _train(
    settings: Settings, train: Callable[[Any], object], config: Config, seed: int, parent: Path | None, where: Path
) -> int:
    reported: dict[str, float] = {}

    def on_report(metrics: dict[str, float]) -> None:
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
    seconds = time.monotonic() - began
    for finding in _findings(settings, member):
        say(finding.sentence)
    return _summary(settings.score, reported, seconds, where)


def _summary(name: str, reported: dict[str, float], seconds: float, where: Path) -> int:
    """Print how it went; the exit status."""
    files = [path for path in where.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    kept = f"checkpoint {where} ({len(files)} files, {size / 1e6:.2f} MB)" if files else "the checkpoint is empty"
    print(f"trained in {seconds:.2f} s; {kept}")
    score = reported.get(name)
    if score is None or not math.isfinite(score):
        say(f"no finite {name!r}: it is {score}; reported {', '.join(reported) or 'nothing'}")
        return 1
    if not files:
        say("the checkpoint is empty: children would start from nothing")
    print(f"score   {name}={score}")
    return 0


def _findings(settings: Settings, member: Member) -> Iterator[Finding]:
    """What the pre-flight of a run would report of this one member."""
    checks, telemetry = Preflight(settings), member.telemetry.to_json()  # before we look at member.parent ourselves
    parent = tree.Node(0, (), 0, 0, None, {}, 0) if member.parent is not None else None
    id = 0 if parent is None else 1
    node = tree.Node(id, (), 0, id, parent, peek(member.config), member.seed)
    yield from (*checks.declared(), *checks.heard(node, telemetry))


def _load(address: Address) -> tuple[Settings, Callable[[Any], object] | None]:
    address.check()
    sys.argv[:] = [address.file]  # as in a run: a script that parses its arguments must not get ours
    try:
        loaded = script.load(address.to_json())
    except (Exception, SystemExit) as error:
        raise ScriptError(script.refusal(error)) from error
    assert loaded.declaration is not None
    return Settings.from_json(loaded.declaration), loaded.train


def fixed(config: Config, sets: Sequence[str], space: Space) -> Config:
    """The config with the values of `--set NAME=VALUE`. Raises ExperimentError."""
    for pair in sets:
        name, equals, text = pair.partition("=")
        if not equals or name not in space.names:
            raise ExperimentError(f"--set {pair}: must be NAME=VALUE, with NAME one of {', '.join(space.names)}")
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
    """JSON, or else a number as Python writes it (.1, 1e-3), or else the text itself."""
    with suppress(ValueError):
        return json.loads(text)
    if not (isinstance(dimension, Choice) and text in dimension.options):  # an option may be called "inf"
        with suppress(ValueError):
            return float(text)
    return text


def _constant(pair: str, text: str, was: Scalar) -> Scalar:
    """Another value of the same type for a constant; of any type for None. Raises ExperimentError."""
    value: Any = text
    if not isinstance(was, str):
        with suppress(ValueError):
            value = json.loads(text)
        if isinstance(was, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
    if not scalar(value) or (was is not None and type(value) is not type(was)):
        raise ExperimentError(f"--set {pair}: must have the type of the constant {was!r}")
    return value  # type: ignore[no-any-return]
