"""Hydra's `@hydra.main` in a member: why it finds no configs there, and the recipe that works.

Hydra looks for its configs beside the program that runs, or, for a function of an imported module, in a *package* of
that name. A training script is imported, so `config_path="conf"` becomes a package `conf` that does not exist, and
Hydra prints that and calls sys.exit(1). Hydra's compose API has no such trouble. Nothing here imports Hydra: what is
looked at is there only if the script has imported it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


RECIPE = (
    "in the training function compose the config instead of calling a function with @hydra.main: "
    "with hydra.initialize_config_dir(config_dir=str(Path(__file__).parent / 'conf'), version_base=None): "
    "cfg = hydra.compose('NAME', overrides=[f\"lr={member.config['lr']}\"]) (gpbt-async guide member, \"Hydra\")"
)


def refused(train: Callable[[Any], object] | None, file: str) -> str:
    """One sentence when the training function calls an `@hydra.main` that is certain to fail in a member; else "".

    Certain are: a relative config_path, in a script that was imported as a file of no package, and no package of that
    name beside it. Anything less certain is left to Hydra; `remedy` knows its error.
    """
    code = getattr(train, "__code__", None)
    if "hydra" not in sys.modules or code is None or os.environ.get("HYDRA_MAIN_MODULE"):
        return ""
    for name in code.co_names:
        found = getattr(train, "__globals__", {}).get(name)
        path = _config_path(found)
        if path is None or "." in str(found.__module__) or os.path.isabs(path) or "://" in path:
            continue
        if not os.path.isfile(os.path.join(os.path.dirname(file), path, "__init__.py")):
            return (
                f"{os.path.basename(file)}: the training function calls {name}, which has @hydra.main(config_path="
                f"{path!r}), but Hydra finds its configs only beside a script that is run, and this one is imported: "
                f"{RECIPE}"
            )
    return ""


def _config_path(function: Any) -> str | None:
    """The config_path of a function with @hydra.main; None of anything else, and where none was given."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_name != "decorated_main" or function.__globals__.get("__name__") != "hydra.main":
        return None
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=False))
    path = cells["config_path"].cell_contents if "config_path" in cells else None
    return path if isinstance(path, str) and path else None


def remedy(errors: Iterable[BaseException]) -> str:
    """What to do about an error of Hydra's own among these that says it finds no config; "" for any other."""
    missing = any(type(each).__name__ == "MissingConfigException" for each in errors)
    return f"Hydra finds no config when a script is imported, as here: {RECIPE}" if missing else ""
