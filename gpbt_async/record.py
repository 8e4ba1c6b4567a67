"""experiment.json: what a run was begun with, so that it can be taken up again.

Written once, when everything about the experiment is settled and before the first fact; read at every resume. It
holds the settings, where the training function comes from (a script by path, or the settings' own target), the
folder the run was launched in, and the run's id, which marks its processes.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import FolderError, GPBTError, ScriptError
from .experiment import Settings
from .files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(slots=True)
class Record:
    """run: a random id in hex. cwd: members' working directory. script: absolute path, None for an application's."""

    run: str
    cwd: str
    settings: Settings | None = None
    script: str | None = None
    script_sha256: str | None = None
    #: what the command line asked for: a resume asks for the same unless told otherwise
    slots: int | None = None
    gpus: str | None = None
    start: str = "zygote"
    nvml_library: str | None = None
    #: a run that was begun on GPUs does not go on on the CPU unless told to
    on_gpus: bool = False
    #: its trackers, as --track says them
    track: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises FolderError when the file is missing or damaged."""
        flat = read_json(path)
        try:
            settings = Settings.from_json(flat["settings"])
            known = {name: flat[name] for name in cls.__dataclass_fields__ if name in flat and name != "settings"}
            return cls(**known, settings=settings)
        except (KeyError, TypeError, ValueError, GPBTError) as error:
            raise FolderError(f"{path} is damaged, or of another version: {error!r}") from error

    async def write(self, path: Path, **more: Any) -> None:
        assert self.settings is not None
        flat = {
            "run": self.run,
            "cwd": self.cwd,
            "script": self.script,
            "script_sha256": self.script_sha256,
            "slots": self.slots,
            "gpus": self.gpus,
            "start": self.start,
            "nvml_library": self.nvml_library,
            "on_gpus": self.on_gpus,
            "track": self.track,
            "python": sys.executable,
            **more,
            "settings": self.settings.to_json(),
        }
        await write_json(path, flat)

    async def update(self, path: Path) -> None:
        """Write down where the script is now, and what it is, and who tracks the run, if that has changed."""
        flat = {"track": [], **read_json(path)}
        now = {"script": self.script, "script_sha256": self.script_sha256, "cwd": self.cwd, "track": self.track}
        if any(flat.get(name) != value for name, value in now.items()):
            await write_json(path, flat | now)


def digest(script: Path) -> str:
    """Raises ScriptError when it cannot be read."""
    try:
        return hashlib.sha256(script.read_bytes()).hexdigest()
    except OSError as error:
        raise ScriptError(f"{script} cannot be read: {error.strerror}") from None
