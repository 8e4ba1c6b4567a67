"""`member.parent`: a path that notes whether the script does anything with it.

A script that asks `if member.parent is not None:` and then loads `model.pt` from the current folder has looked at the
property, and not at its parent's checkpoint. Joining a name, opening, listing, printing: all that makes a text of the
path, or another path, is a use. What comes of it is a plain Path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from .telemetry import Telemetry


class ParentPath(type(Path())):  # type: ignore[misc]  # PosixPath: Path itself cannot be derived from before 3.12
    """The folder of a parent's checkpoint."""

    _telemetry: Telemetry | None = None

    @classmethod
    def noted(cls, path: str | os.PathLike[str], telemetry: Telemetry) -> Path:
        """The path, whose use the telemetry is told."""
        made = cls(path)
        made._telemetry = telemetry
        return made

    def _plain(self) -> Path:
        if self._telemetry is not None:
            self._telemetry.parent_used = True
        return Path(super().__str__())

    def __str__(self) -> str:
        return str(self._plain())

    def __fspath__(self) -> str:
        return str(self._plain())

    def __truediv__(self, name: Any) -> Path:
        return Path(self._plain(), name)

    def joinpath(self, *names: Any) -> Path:
        return Path(self._plain(), *names)

    def with_segments(self, *segments: Any) -> Path:
        return Path(*segments)

    def __reduce__(self) -> Any:
        return Path, (str(self._plain()),)
