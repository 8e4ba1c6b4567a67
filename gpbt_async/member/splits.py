"""Which split of the data a member is judged by: torch's `random_split` and scikit-learn's `train_test_split`.

A split that is drawn from the global random numbers inside the training function is another one in every member, for
every member has a seed of its own. A child is then judged by data that its parent has trained on, and members with a
lucky split win. The two functions are wrapped: a member notes the place of each call and a fingerprint of its last
part; checks.py compares members. A place that splits more than once in a member draws samples, and is not noted.

Splits made while the script was imported count too: a script that fresh interpreters import splits once a member.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import zlib
from typing import Any

from . import script, telemetry

#: of the splits made before the member began, while the script was imported: place → fingerprint, "" = several
imported: dict[str, str] = {}
#: how much of a part makes its fingerprint
HEAD = 32


def watch() -> None:
    """From now on note splits, in this process and those forked from it, once each library is there."""
    script.after_import("torch.utils.data.dataset", lambda module: _wrap(module, "random_split", _indices, "torch"))
    script.after_import(
        "sklearn.model_selection._split", lambda module: _wrap(module, "train_test_split", _rows, "sklearn")
    )


def _wrap(module: Any, name: str, fingerprint: Any, library: str) -> None:
    splits = getattr(module, name, None)
    if splits is None or hasattr(splits, "_gpbt_watched"):
        return

    @functools.wraps(splits)
    def watched(*args: Any, **kwargs: Any) -> Any:
        parts = splits(*args, **kwargs)
        with contextlib.suppress(Exception):  # whatever the parts are, the script gets them
            place = script.place(sys._getframe(1), library)
            noted = telemetry.current.splits if telemetry.current is not None else imported
            if place is not None:
                seen = fingerprint(parts, kwargs)
                noted[place] = "" if place in noted else f"{zlib.crc32(seen):08x}"
        return parts

    watched._gpbt_watched = True  # type: ignore[attr-defined]
    setattr(module, name, watched)


def _indices(parts: Any, given: Any) -> bytes:
    if (generator := given.get("generator")) is not None:  # decides, whatever the data
        return repr(generator.initial_seed()).encode()
    return repr([int(i) for i in parts[-1].indices[:HEAD]]).encode()


def _rows(parts: Any, given: Any) -> bytes:
    """The last of the first array's parts, the rows to be judged by; or the seed that decides which they are.

    (The rows themselves may depend on the config: a scale, a number of lags.)
    """
    if isinstance(given.get("random_state"), int) or given.get("shuffle") is False:
        return repr(given.get("random_state")).encode()
    rows = parts[1]
    rows = rows.iloc[:HEAD].to_numpy() if hasattr(rows, "iloc") else rows[:HEAD]
    return rows.tobytes() if hasattr(rows, "tobytes") and rows.dtype != object else repr(list(rows)).encode()
