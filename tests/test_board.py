"""The notice board: what other processes believe of it."""

from __future__ import annotations

import json
import os
import time

from gpbt_async.board import STALE, notice


def test_a_notice_is_as_old_as_its_file_whatever_the_runs_clock_says(tmp_path):
    """The run's clock stands still while a laptop sleeps, and is behind for good from then on."""
    path = tmp_path / "gpus.json"
    assert notice(path) is None
    path.write_text(json.dumps({"t": time.time() - 3600, "gpus": [], "waiting": None}))
    assert notice(path) is not None
    os.utime(path, (time.time() - STALE - 1,) * 2)
    assert notice(path) is None, "its run was killed"
