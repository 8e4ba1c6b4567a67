"""`member.parent`: a path that notes whether the script uses it.

A script that asks `if member.parent is not None:` and then loads `model.pt` from the current folder has read the
property, but not its parent's checkpoint. Reading any attribute of the path is a use: joining, opening, printing, and
what pathlib reads to make another Path of it. Comparing it with None is not. Derived paths are plain Paths.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from .telemetry import Telemetry


class ParentPath(type(Path())):  # type: ignore[misc]  # PosixPath: Path itself cannot be derived from before 3.12
    """The folder of a parent's checkpoint."""

    @classmethod
    def noted(cls, path: str | os.PathLike[str], telemetry: Telemetry) -> Path:
        """The path; its use is noted in the telemetry."""
        parent: Path = cls(path)
        parent.__dict__["_telemetry"] = telemetry
        telemetry.parent_used = False
        return parent

    def __getattribute__(self, name: str) -> Any:
        if name != "__class__":
            telemetry = object.__getattribute__(self, "__dict__").get("_telemetry")
            if telemetry is not None:
                telemetry.parent_used = True
        return object.__getattribute__(self, name)

    def with_segments(self, *segments: Any) -> Path:
        return Path(*segments)

    def __truediv__(self, name: Any) -> Path:
        return Path(self, name)

    def __reduce__(self) -> Any:
        return Path, (str(self),)
