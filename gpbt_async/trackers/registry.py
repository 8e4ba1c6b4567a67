"""The trackers there are, and the values of `--track`: a kind, and optionally a destination.

    jsonl[:FILE]   csv[:DIR]   tensorboard[:DIR]   mlflow[:DIR or URI]   wandb[:DIR]   module:Name

What can be found to be wrong without importing anything is refused here, before a run begins: an unknown kind, a
missing package or module, a destination that cannot be created.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import shlex
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ExperimentError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..tracked import Tracker


#: our own kinds, and the package each needs
KINDS = {"jsonl": "", "csv": "", "tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@dataclass(frozen=True, slots=True)
class Spec:
    """One requested tracker. kind: one of our own, or a module; to: the destination, or the class in the module."""

    kind: str
    to: str | None
    #: the option that requested it
    option: str = field(default="--track", compare=False)

    @property
    def own(self) -> bool:
        return self.kind in KINDS

    def __str__(self) -> str:
        return self.kind if self.to is None else f"{self.kind}:{self.to}"

    @property
    def shell_name(self) -> str:
        """As typed into a shell."""
        return shlex.quote(str(self))

    @property
    def stem(self) -> str:
        """The name of its files in the run's folder."""
        if self.to is None:
            return self.kind
        return f"{self.kind if self.own else 'own'}-{hashlib.blake2b(str(self).encode(), digest_size=4).hexdigest()}"

    @property
    def path(self) -> str | None:
        """The path that it writes to, if the user gave one."""
        if not self.own or self.to is None or (self.kind == "mlflow" and _is_uri(self.to)):
            return None
        return self.to

    def check(self, path: Iterable[str] = ()) -> None:
        """path: folders of modules. Raises MissingExtra, and ExperimentError for a bad module or destination."""
        option = f"{self.option} {self}"
        if not self.own:
            top = self.kind.partition(".")[0]
            if top not in sys.modules and not importlib.machinery.PathFinder.find_spec(top, [*path, *sys.path]):
                raise ExperimentError(
                    f"{option}: there is no module {top}; the trackers of our own are {', '.join(KINDS)}"
                )
            return
        if KINDS[self.kind] and not _installed(KINDS[self.kind]):
            needs = f"needs {KINDS[self.kind]}, which is not installed"
            raise MissingExtra(f"{option}: {needs}: pip install 'gpbt-async[{self.kind}]'")
        if self.path is not None:
            folder = os.path.dirname(self.path) if self.kind == "jsonl" else self.path
            try:
                os.makedirs(folder, exist_ok=True)
                if self.kind == "jsonl" and os.path.isdir(self.path):
                    inside = os.path.join(self.path, "metrics.jsonl")
                    raise ExperimentError(f"{option}: is a folder; give the path of a file, as in jsonl:{inside}")
                if self.kind != "jsonl" and not os.access(folder, os.W_OK):
                    raise ExperimentError(f"{option}: {self.path} cannot be written to")
            except OSError as error:
                raise ExperimentError(f"{option}: {folder} cannot be made: {error.strerror}") from None


def parse(text: Any, option: str = "--track") -> Spec:
    """The value of `--track`, or of another option. Raises ExperimentError."""
    kind, colon, to = str(text).partition(":")
    if kind in KINDS and (to or not colon):
        if kind == "mlflow" and _is_uri(to):
            return Spec(kind, to, option)
        return Spec(kind, os.path.abspath(os.path.expanduser(to)) if to else None, option)
    if all(part.isidentifier() for part in (*kind.split("."), *to.split("."))):
        return Spec(kind, to, option)
    known = ", ".join(KINDS)
    raise ExperimentError(f"{option} {text}: must be one of {known}, with :DESTINATION or without, or module:Name")


def _is_uri(text: str) -> bool:
    from .mlflow import URI  # not before: every launch parses its trackers, and few have one

    return URI.match(text) is not None


def parse_all(texts: Sequence[Any]) -> list[Spec]:
    """Each tracker once; `none`, which stands alone, is no tracker at all. Raises ExperimentError."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ExperimentError.of("track", texts, "must be a list of texts such as 'jsonl' or 'mlflow:mlruns'")
    if list(texts) == ["none"]:
        return []
    if "none" in texts:
        raise ExperimentError(f"--track {' --track '.join(texts)}: none stands alone")
    return list(dict.fromkeys(map(parse, texts)))


def find(spec: Spec) -> Any:
    """A tracker's class in a user's module. Raises ExperimentError if there is none, and whatever its import raises."""
    target: Any = importlib.import_module(spec.kind)
    for name in (spec.to or "").split("."):
        if not hasattr(target, name):
            raise ExperimentError(f"{spec.option} {spec}: there is no {spec.to} in the module {spec.kind}")
        target = getattr(target, name)
    return target


def make(spec: Spec) -> Tracker:
    """The tracker itself; imports what it needs, and so is called in its own process. Raises whatever that raises."""
    if not spec.own:
        tracker: Tracker = find(spec)()
        return tracker
    if spec.kind in ("jsonl", "csv"):
        from .files import Csv, JsonLines

        return JsonLines(spec.to) if spec.kind == "jsonl" else Csv(spec.to)
    if spec.kind == "tensorboard":
        from .tensorboard import TensorBoard

        return TensorBoard(spec.to)
    if spec.kind == "mlflow":
        from .mlflow import MLflow

        return MLflow(spec.to)
    from .wandb import WandB

    return WandB(spec.to)


def _installed(package: str) -> bool:
    """A folder of that name that happens to lie here (`wandb` makes one) is not the package."""
    if package in sys.modules:
        return True
    try:
        module = importlib.util.find_spec(package)
    except ValueError:
        return False
    return module is not None and module.origin is not None
