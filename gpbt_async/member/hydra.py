"""Hydra's `@hydra.main` in a member: why it finds no configs, and the recipe that works.

Hydra looks for its configs beside the program that runs, or, for a function of an imported module, in a *package* of
that name. A training script is imported, so `config_path="conf"` becomes a package `conf` that does not exist; Hydra
prints this and calls sys.exit(1). Hydra's compose API has no such problem. Nothing here imports Hydra.
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


def problem(train: Callable[[Any], object] | None, file: str) -> str:
    """One sentence if the training function calls an `@hydra.main` that is certain to fail in a member; else "".

    It is certain for a relative config_path, in a script that was imported as a file of no package, without a package
    of that name beside it. Other cases are left to Hydra; `remedy` knows its error.
    """
    code = getattr(train, "__code__", None)
    if "hydra" not in sys.modules or code is None or os.environ.get("HYDRA_MAIN_MODULE"):
        return ""
    for name in code.co_names:
        function = getattr(train, "__globals__", {}).get(name)
        path = _config_path(function)
        if path is None or "." in str(function.__module__) or os.path.isabs(path) or "://" in path:
            continue
        if not os.path.isfile(os.path.join(os.path.dirname(file), path, "__init__.py")):
            return (
                f"{os.path.basename(file)}: the training function calls {name}, which has @hydra.main(config_path="
                f"{path!r}), but Hydra finds its configs only beside a script that is run, and this one is imported: "
                f"{RECIPE}"
            )
    return ""


def _config_path(function: Any) -> str | None:
    """The config_path of a function with @hydra.main; None for anything else, or if it has none."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_name != "decorated_main" or function.__globals__.get("__name__") != "hydra.main":
        return None
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=False))
    path = cells["config_path"].cell_contents if "config_path" in cells else None
    return path if isinstance(path, str) and path else None


def remedy(errors: Iterable[BaseException]) -> str:
    """What to do if one of these errors is Hydra's for a missing config; else ""."""
    missing = any(type(error).__name__ == "MissingConfigException" for error in errors)
    return f"Hydra finds no config when a script is imported, as here: {RECIPE}" if missing else ""
