"""manifest.json: the files of a checkpoint, with their sizes and digests.

It is the last file that is written into a checkpoint. It has a digest of itself, so that no flipped bit in it goes
unnoticed.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_hexdigest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


#: a member must not save a file with this name at the top of its folder
MANIFEST = "manifest.json"
#: the name of an unfinished one, beside the checkpoint's folder, begins so
PART = ".manifest-"
#: the manifest's layout
FORMAT = 3
#: errors after which a file is not what was published, or can never be read again
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """name: relative to the checkpoint's folder. size: in bytes."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """attempt: the name of the scratch folder that was published. files: by name."""

    attempt: str
    files: tuple[PublishedFile, ...]

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """Of the names and contents of all files."""
        return xxh3_128_hexdigest(json.dumps([[f.name, f.size, f.digest] for f in self.files]).encode())

    def write(self, scratch: Path) -> None:
        """Write it beside the folder and move it in, so that a file of this name is always whole. Raises OSError."""
        files = [asdict(file) for file in self.files]
        flat = {"checkpoint": FORMAT, "attempt": self.attempt, "size": self.size, "digest": self.digest, "files": files}
        part = scratch.with_name(PART + scratch.name)
        part.unlink(missing_ok=True)
        with open(part, "x", encoding="ascii") as file:
            file.write(json.dumps({**flat, "self": _digest(flat)}, indent=1) + "\n")
            os.fchmod(file.fileno(), 0o444)
        os.rename(part, scratch / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """None if it is missing, damaged, or not one of ours. Raises OSError if it cannot be read at the moment."""
        try:
            flat: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
            manifest = cls(flat["attempt"], tuple(PublishedFile(**file) for file in flat["files"]))
            whole = flat.pop("self") == _digest(flat)
            whole = (
                whole
                and flat["checkpoint"] == FORMAT
                and (flat["size"], flat["digest"]) == (manifest.size, manifest.digest)
            )
        except OSError as error:
            if error.errno not in GONE:
                raise
            return None
        except (ValueError, TypeError, LookupError, RecursionError, AttributeError):
            return None
        return manifest if whole else None


def _digest(flat: Mapping[str, object]) -> str:
    return xxh3_128_hexdigest(json.dumps(flat, sort_keys=True).encode())
