"""`best --export DIR`: a folder with a run's best model and its origin, to take home.

    DIR/
      checkpoint/     as the training script wrote it, and manifest.json with its digests
      config.json     the winner's config, name → value
      schedule.json   the winning lineage's configs, interval after interval (gpbt.Schedule.load reads it)
      lineage.json    its origin: run, version, seed, settings, script, digest, ancestry with scores and metrics
      README.txt      the same for a person

The folder is built under another name, verified against the published digests, and renamed: it is there whole, or not
at all. Nothing in it names a place on this machine.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from .. import __version__ as VERSION
from ..ask import path_text
from ..errors import FolderError
from ..formatting import config_text, score_text
from ..schedule import FILE
from ..storage.checkpoints import CheckpointStore
from ..storage.files import read_json, spelled
from ..storage.full_disk import FULL
from ..storage.manifest import Manifest
from . import run_summary
from .reader import RunReader

if TYPE_CHECKING:
    from ..experiment import Settings
    from ..space import Config
    from ..storage.folder import RunFolder
    from .run_summary import Best


#: fields of the settings that name places on this machine
_PLACES = ("target", "validate", "command", "replay")


class Versions(TypedDict):
    """The versions of gpbt-async that began the run, and that exported it."""

    made: str | None
    exported: str


class AncestorRecord(TypedDict):
    """One interval of the lineage: the member that trained it."""

    generation: int
    member: int
    path: str
    seed: int
    score: float | None
    metrics: dict[str, float]
    seconds: float
    siblings: int | None
    config: Config


class LineageRecord(TypedDict):
    """lineage.json. Times in seconds of training; digest and size (bytes) are of the checkpoint."""

    run: str
    id: str
    version: Versions
    created: object
    script: str | None
    script_sha256: str | None
    function: str | None
    settings: dict[str, object]
    command: list[str] | None
    replays: str | None
    members: int
    best: int
    score: float
    metrics: dict[str, float]
    digest: str
    size: int
    files: list[str]
    ancestry: list[AncestorRecord]


def take(folder: RunFolder, best: Best, target: Path) -> None:
    """Copy the best's checkpoint, config, schedule and ancestry to a new folder. Raises FolderError."""
    if os.path.lexists(target):
        raise FolderError(f"{target} exists: give the path of a folder to be made")
    reader = RunReader(folder, history=True)
    beside = target.with_name(f".{target.name}.part")
    store = CheckpointStore()
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(best.checkpoint, beside / "checkpoint")
        if problem := store.check(beside / "checkpoint"):
            there = problem.replace(str(beside / "checkpoint"), str(best.checkpoint))
            raise FolderError(
                f"cannot export to {target}: member {best.member} is not as it was published: {there}; "
                "bring the file back from where it was copied to"
            )
        manifest = Manifest.read(beside / "checkpoint")
        assert manifest is not None
        origin = lineage_json(reader, best, manifest)
        _write(beside / "config.json", best.config)
        schedule = run_summary.schedule_of(reader.engine, reader.engine.tree.members[best.member], folder.name)
        _write(beside / FILE, {**schedule.to_json(), "metrics": dict(best.metrics)})
        _write(beside / "lineage.json", origin)
        (beside / "README.txt").write_text(readme(origin, reader.settings), encoding="utf-8", errors="backslashreplace")
        beside.rename(target)
    except OSError as error:
        raise FolderError(f"cannot export to {target}: {_why(error, best.checkpoint)}") from error
    finally:
        store.close()
        shutil.rmtree(beside, ignore_errors=True)  # not there any more, unless something failed


def _why(error: OSError, checkpoint: Path) -> str:
    """Why copying failed, and the remedy."""
    if isinstance(error, shutil.Error):  # it names all files that could not be copied; the first will do
        why = str(error.args[0][0][2])
        number = re.match(r"\[Errno (\d+)\] ([^:]*)", why)
        error = OSError(int(number[1]), number[2]) if number else OSError(why)
    why = (error.strerror or str(error)).lower()
    if error.errno in FULL:
        return f"{why}: make room there, or export to another disk"
    if error.errno == errno.ENOENT and not checkpoint.is_dir():  # a run that goes on may have found a better one
        return f"{why}: try again, and look at the checkpoint if that does not help"
    return f"{why}: give the path of a folder that can be made and written to"


def _write(path: Path, value: object) -> None:
    text = json.dumps(spelled(value), allow_nan=False, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def lineage_json(reader: RunReader, best: Best, manifest: Manifest) -> LineageRecord:
    record, s, member = reader.record, reader.settings, reader.engine.tree.members[best.member]
    metrics = reader.history.metrics  # the engine forgets them with the checkpoint
    began = read_json(reader.folder.experiment)
    flat = s.to_json()
    return {
        "run": reader.folder.name,
        "id": record.run,
        "version": {"made": began.get("version"), "exported": VERSION},
        "created": began.get("created"),
        "script": Path(record.script).name if record.script is not None else None,
        "script_sha256": record.script_sha256,
        "function": s.target.qualname if s.target is not None else None,
        "settings": {name: value for name, value in flat.items() if name not in _PLACES},
        "command": [os.path.basename(word) if os.path.isabs(word) else word for word in s.command or ()] or None,
        "replays": s.replay.origin.run if s.replay is not None else None,
        "members": sum(g.settled for g in reader.engine.tree.generations),
        "best": best.member,
        "score": best.score,
        "metrics": dict(best.metrics),
        "digest": manifest.digest,
        "size": manifest.size,
        "files": [file.name for file in manifest.files],
        "ancestry": [
            {
                "generation": m.generation,
                "member": m.id,
                "path": path_text(m.path),
                "seed": m.seed,
                "score": m.score,
                "metrics": dict(metrics.get(m.id, {})),
                "seconds": m.seconds,
                "siblings": len(m.parent.children) - 1 if m.parent is not None else None,
                "config": m.config,
            }
            for m in member.ancestry
        ],
    }


def readme(o: LineageRecord, s: Settings) -> str:
    """README.txt. o: lineage.json."""
    ancestry = o["ancestry"]
    trained = sum(m["seconds"] for m in ancestry)
    what = f"{o['script']} (sha256 {o['script_sha256']})" if o["script"] else o["function"] or "a command"
    lines = [
        f"The best of {o['members']} members of the run {o['run']} ({o['id']}): member {o['best']},",
        f"{s.score} {score_text(o['score'])} ({'more' if s.mode == 'max' else 'less'} is better).",
        "",
        f"  trained by   {what}",
        f"  found by     gpbt-async {o['version']['made']}, Genealogical Population-Based Training (2109.14925)",
        f"  population   {s.population}, generations {s.generations}, searcher {s.searcher}, seed {s.seed}",
        f"  itself       {len(ancestry)} intervals, {trained:.1f} s of training in all",
        f"  digest       {o['digest']} ({o['size']} bytes: {', '.join(o['files'])})",
        "",
        "Its ancestry, oldest first (config, then what it reported last):",
        "",
    ]
    for m in ancestry:
        lines.append(f"  {m['generation']:>3}  member {m['member']}, seed {m['seed']}: {config_text(m['config'])}")
        lines.append("       " + ", ".join(f"{name} {score_text(value)}" for name, value in m["metrics"].items()))
    lines += [
        "",
        "checkpoint/ is what the training script wrote. config.json is the last config, schedule.json all of them:",
        f'gpbt.Schedule.load("{FILE}") reads it, and `gpbt-async replay {o["run"]}` trains along it once more.',
        "The score is the one it was chosen by, and so an optimistic one: judge it on data that selected nothing.",
        "lineage.json says all of this, and more, for programs.",
    ]
    return "\n".join(lines) + "\n"
