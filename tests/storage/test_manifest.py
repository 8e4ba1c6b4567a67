"""The manifest of a checkpoint: what is read is what was written, and another version's is none of ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpbt_async.storage import manifest
from gpbt_async.storage.manifest import MANIFEST, Manifest, PublishedFile

if TYPE_CHECKING:
    from pathlib import Path


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "attempt-1"
    folder.mkdir()
    written = Manifest("attempt-1", (PublishedFile("model.pt", 3, "abc"),))
    written.write(folder)
    assert Manifest.read(folder) == written
    flat = json.loads((folder / MANIFEST).read_text())
    del flat["self"]
    flat["checkpoint"] -= 1
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps({**flat, "self": manifest._digest(flat)}))
    assert Manifest.read(folder) is None
