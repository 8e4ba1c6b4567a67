"""`gpbt-async try SCRIPT`: one member in the foreground, for people who write training scripts.

The script is imported and its function called in this very process: prints appear, breakpoints work, a profiler sees
everything, an exception is the script's own traceback. No zygote, no journal, no slot. It is the one place besides
the zygote where a user's script is imported, and it is the whole process, so nothing else can be disturbed by it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import child, script
from .address import Address, find
from .errors import ExperimentError, ScriptError, Stopped
from .experiment import Settings
from .member import Member
from .space import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .space import Config, Dimension, Space


def attempt(
    given: str | os.PathLike[str], *, seed: int, sets: list[str], parent: Path | None, checkpoint: Path | None
) -> int:
    """Train one member of the script's experiment; 0 if it reported a finite score. Raises ExperimentError."""
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
    print(f"config  {json.dumps(config)}", flush=True)
    child.seed(seed, member.device)
    began = time.monotonic()
    try:
        train(member)
    except Stopped:
        print("stopped")
    except Exception as error:
        child.print_traceback(error)
        return 1
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
        if not equals or name not in space:
            raise ExperimentError(f"--set {pair}: must be NAME=VALUE, a name of {', '.join(space)}")
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


def device_for(gpus: int) -> str:
    """What a member that wants so many GPUs trains on in this process."""
    torch = sys.modules.get("torch")
    return "cuda" if gpus and torch is not None and torch.cuda.is_available() else "cpu"
