"""A watch over splits of the data: torch's `random_split` and scikit-learn's `train_test_split`.

Every member has its own seed. So if the training function splits the data with the global random numbers, the split
differs between members. Then a child may be scored on data that its parent has trained on, and members with an easy
split win. This module wraps the two functions: a member notes the line of each call and a fingerprint of the last part
of the split, and the pre-flight compares members. A line that splits more than once in a member is ignored, because it
probably draws samples.

Splits during the import of the script count, too: with --start exec, each member imports the script.
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from typing import Any

from . import hooks, telemetry, user_code

#: splits made before the member began, while the script was imported: place → fingerprint, "" = several
imported: dict[str, str] = {}
#: rows, or indices, of a part that make its fingerprint
HEAD = 32


def watch() -> None:
    """From now on note splits, in this process and those forked from it, once each library is imported."""
    hooks.after_import("torch.utils.data.dataset", lambda module: _watch(module, "random_split", _indices, "torch"))
    hooks.after_import(
        "sklearn.model_selection._split", lambda module: _watch(module, "train_test_split", _rows, "sklearn")
    )


def _watch(module: Any, name: str, fingerprint: Any, library: str) -> None:
    def noting(split: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            parts = split(*args, **kwargs)
            with contextlib.suppress(Exception):  # whatever the parts are, the script gets them
                place = user_code.place(sys._getframe(1), library)
                notes = telemetry.current.splits if telemetry.current is not None else imported
                if place is not None:
                    notes[place] = "" if place in notes else f"{zlib.crc32(fingerprint(parts, kwargs)):08x}"
            return parts

        return watched

    hooks.wrap(module, name, noting)


def _indices(parts: Any, options: Any) -> bytes:
    if (generator := options.get("generator")) is not None:  # decides, whatever the data
        return repr(generator.initial_seed()).encode()
    return repr([int(i) for i in parts[-1].indices[:HEAD]]).encode()


def _rows(parts: Any, options: Any) -> bytes:
    """The last part of the first array, whose rows judge the member; or the seed that decides which they are.

    (The rows themselves may depend on the config: a scale, a number of lags.)
    """
    if isinstance(options.get("random_state"), int) or options.get("shuffle") is False:
        return repr(options.get("random_state")).encode()
    rows = parts[1]
    rows = rows.iloc[:HEAD].to_numpy() if hasattr(rows, "iloc") else rows[:HEAD]
    return rows.tobytes() if hasattr(rows, "tobytes") and rows.dtype != object else repr(list(rows)).encode()
