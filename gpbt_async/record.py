"""experiment.json: what a run was begun with, so that it can be taken up again.

Written once, when everything about the experiment is settled and before the first fact; read at every resume. It
holds the settings, where the training function comes from (a script by path, or the settings' own target), the
folder the run was launched in, and the run's id, which marks its processes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FolderError, GPBTError, ScriptError
from .experiment import Settings
from .files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable


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
    start: str | None = None
    nvml_library: str | None = None
    #: a run that was begun on GPUs does not go on on the CPU unless told to
    on_gpus: bool = False
    #: its trackers, as --track says them
    track: list[str] = field(default_factory=list)

    @property
    def import_path(self) -> list[str]:
        """Where a searcher or tracker of the user's own may be: beside the script, where that imports from, the cwd."""
        target = self.settings.target if self.settings is not None else None
        script = [os.path.dirname(self.script)] if self.script is not None else []
        return list(dict.fromkeys([*script, *(target.sys_path if target is not None else ()), self.cwd]))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises FolderError when the file is missing or damaged."""
        remedy = "bring it back from a copy, or launch the script anew; what was best so far stands in"
        remedy = f"{remedy} {path.with_name('best')}"
        try:
            flat = read_json(path)
        except FolderError as error:
            raise FolderError(f"{error}; {remedy}") from error
        try:
            settings = Settings.from_json(flat["settings"])
            known = {name: flat[name] for name in cls.__dataclass_fields__ if name in flat and name != "settings"}
            return cls(**known, settings=settings)
        except (KeyError, TypeError, ValueError, GPBTError) as error:
            raise FolderError(f"{path} is damaged, or of another version: {error!r}; {remedy}") from error

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

    def check_script(self, said: Path | None, changed: bool, warn: Callable[[str], None]) -> tuple[Path, str] | None:
        """Where the script is and its digest; None where there is none. said: where it is said to be now.

        Raises ScriptError when it is not there, or not what it was; changed: warn of that instead.
        """
        script = said if said is not None else Path(self.script) if self.script is not None else None
        if script is None:
            return None
        if not script.is_file():
            remedy = "put it back there, or say where it is now: --script PATH"
            raise ScriptError(f"{script}, the script of this run, does not exist: {remedy}")
        sha256 = digest(script)
        if sha256 != self.script_sha256:
            if not changed:
                remedy = "to let its new code train the rest: --changed-script"
                raise ScriptError(f"{script} has changed since the run began; {remedy}")
            warn(f"{script} has changed since the run began: its new code trains the rest")
        if said is not None:
            self.script = str(script)
            if not os.path.isdir(self.cwd):
                self.cwd = os.getcwd()  # another machine, or another user's
        return script, sha256


def digest(script: Path) -> str:
    """Raises ScriptError when it cannot be read."""
    try:
        return hashlib.sha256(script.read_bytes()).hexdigest()
    except OSError as error:
        raise ScriptError(f"{script} cannot be read: {error.strerror}") from None
