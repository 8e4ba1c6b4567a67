"""experiment.json: what a run began with, and the options in force, so that it can be resumed.

The launch writes it once everything about the experiment is certain, before the first fact; each resume reads it, and
writes down where the script is by then and which options are in force. It holds the settings, where the training
function comes from (a script by path, or the settings' own target), the folder in which the run was launched, and the
run's id, which marks its processes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..declaration.address import Address
from ..declaration.run_options import RunOptions
from ..errors import FolderError, GPBTError, ScriptError
from ..experiment import Settings
from .files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..declaration.resources import Resources


#: the fields about the script, which a resume may find elsewhere, or edited
_SCRIPT = ("script", "script_sha256", "module", "root", "variable", "imports")


@dataclass(slots=True)
class RunConfig:
    """run: a random id in hex. cwd: members' working directory. script: absolute path; None: an application's run."""

    run: str
    cwd: str
    settings: Settings | None = None
    script: str | None = None
    script_sha256: str | None = None
    #: how the script was given, so that it is imported the same way again (Address)
    module: str | None = None
    root: str | None = None
    variable: str | None = None
    #: the user's files that it imports, by path, with their digests
    imports: dict[str, str] = field(default_factory=dict)
    #: what it declared when the run began, before the command line's options
    declared: Settings | None = None
    #: what the launch, and each resume since, asked of the machine: a resume asks for the same, but for its own options
    options: RunOptions = field(default_factory=RunOptions)
    #: whether the run began on GPUs: then it continues on the CPU only where the options say so
    on_gpus: bool = False

    @property
    def address(self) -> Address | None:
        """The script; None for an application's run."""
        return Address(self.script, self.module, self.root, self.variable) if self.script is not None else None

    @address.setter
    def address(self, now: Address) -> None:
        self.script, self.module, self.root, self.variable = now.file, now.module, now.root, now.variable

    @property
    def import_path(self) -> list[str]:
        """Where a user's own searcher or tracker may be: beside the script, where the script imports from, the cwd."""
        target = self.settings.target if self.settings is not None else None
        script = [self.root or os.path.dirname(self.script)] if self.script is not None else []
        return list(dict.fromkeys([*script, *(target.sys_path if target is not None else ()), self.cwd]))

    @property
    def declared_resources(self) -> Resources | None:
        """The resources that the experiment declares, without the options that may have replaced them since."""
        return self.declared.resources if self.declared is not None else None

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Raises FolderError when the file is missing or damaged."""
        remedy = "bring it back from a copy, or launch the script again; the best so far is in"
        remedy = f"{remedy} {path.with_name('best')}"
        try:
            flat = read_json(path)
        except FolderError as error:
            raise FolderError(f"{error}; {remedy}") from error
        try:
            settings = Settings.from_json(flat["settings"])
            rest = {name: flat[name] for name in ("run", "cwd", *_SCRIPT, "on_gpus")}
            declared = Settings.from_json(flat["declared"]) if flat["declared"] is not None else None
            return cls(**rest, settings=settings, declared=declared, options=RunOptions.from_json(flat["options"]))
        except (KeyError, TypeError, ValueError, GPBTError) as error:
            raise FolderError(f"{path} is damaged, or of another version: {error!r}; {remedy}") from error

    async def write(self, path: Path, **more: Any) -> None:
        assert self.settings is not None
        flat = {
            "run": self.run,
            "cwd": self.cwd,
            **{name: getattr(self, name) for name in _SCRIPT},
            "declared": self.declared.to_json() if self.declared is not None else None,
            "options": self.options.to_json(),
            "on_gpus": self.on_gpus,
            "python": sys.executable,
            **more,
            "settings": self.settings.to_json(),
        }
        await write_json(path, flat)

    async def update(self, path: Path) -> None:
        """Write down where the script is now, its digests, and the options in force, if any of that has changed."""
        flat = read_json(path)
        now = {**{name: getattr(self, name) for name in (*_SCRIPT, "cwd")}, "options": self.options.to_json()}
        if any(flat.get(name) != value for name, value in now.items()):
            await write_json(path, flat | now)

    def check_script(
        self, given: Address | None, changed: bool, warn: Callable[[str], None]
    ) -> tuple[Address, str] | None:
        """Where the script is, and its digest; None for an application's run. given: where a person says it is now.

        Raises ScriptError when it is missing, or was edited; changed: only warn of an edit.
        """
        former = self.address
        script = former if given is None else former.moved(given) if former is not None else given
        if script is None:
            return None
        if not os.path.isfile(script.file):
            remedy = "put it back there, or say where it is now: --script PATH"
            raise ScriptError(f"{script.file}, the script of this run, does not exist: {remedy}")
        script.check()
        sha256 = digest(script.file)
        if sha256 != self.script_sha256:
            if not changed:
                remedy = "to let its new code train the rest: --changed-script"
                raise ScriptError(f"{script.file} has changed since the run began; {remedy}")
            warn(f"{script.file} has changed since the run began: its new code trains the rest")
        if given is not None:
            self.address = script
            if not os.path.isdir(self.cwd):
                self.cwd = os.getcwd()  # another machine, or another user's
        return script, sha256

    def check_imports(self, now: dict[str, str], warn: Callable[[str], None]) -> None:
        """Warn of files that the script imports and that were edited since the run began."""
        edited = [file for file, sha256 in now.items() if self.imports.get(file, sha256) != sha256]
        if edited:
            many = "were" if len(edited) > 1 else "was"
            shown = ", ".join(edited[:5]) + (f" and {len(edited) - 5} more" if len(edited) > 5 else "")
            warn(f"{shown}, which the script imports, {many} edited since the run began: the new code trains the rest")
        self.imports = now


def digest(script: str) -> str:
    """Raises ScriptError when it cannot be read."""
    try:
        with open(script, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ScriptError(f"{script} cannot be read: {error.strerror}") from None
