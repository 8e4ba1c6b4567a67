"""Merging: the average of several checkpoints, file by file, written as one more checkpoint.

It runs in the process of a member that validates the merge (wire.Begin.merges), because only there may a library of the
user's be imported. The first checkpoint is the best one. A file whose bytes are equal in all checkpoints is copied. In
files of arrays (torch, safetensors, numpy), floating-point arrays are averaged; integers and all that is no array are
the best one's. A text file is the best one's, too. Any other file is refused, and the error names it.

The surprise is what is *not* averaged although it could be: state.pt of `gpbt.torch`. Momenta, schedulers and random
numbers belong to one training, so the merge has the best one's.

Only one other checkpoint is in memory beside the sum, and nothing is unpickled that could run code.
"""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import GPBTError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..processes import wire
    from .api import Member


#: what storage/manifest.py adds to a checkpoint; the merge gets its own
MANIFEST = "manifest.json"
#: what people and programs read about a model, and what holds no weights
TEXTS = frozenset({".json", ".jsonl", ".txt", ".yaml", ".yml", ".toml", ".csv", ".md", ".log"})
REMEDY = (
    "save weights with gpbt.torch.save, torch.save(model.state_dict(), …), safetensors, numpy.save or numpy.savez; "
    "or try --ensemble, which averages predictions"
)


class MergeError(GPBTError):
    """These checkpoints cannot be averaged; the text names the file."""


class Library(NamedTuple):
    """How arrays of a library are read, written and summed.

    wide: the array as one to add others to, None for one that is not averaged. narrow: the mean of a sum, with the type
    of the array in the second argument.
    """

    read: Callable[[Path], Any]
    write: Callable[[Any, Path, Path], object]
    array: type[Any]
    wide: Callable[[Any], Any]
    narrow: Callable[[Any, Any, int], Any]


def merged_first(begin: wire.Begin, validate: Callable[[Any], object]) -> Callable[[Any], object]:
    """The function that validates, called once the average of `begin.merges` is in the member's parent folder."""

    def merge_and_validate(member: Member) -> None:
        assert begin.parent is not None
        average([Path(each) for each in begin.merges], Path(begin.parent))
        validate(member)

    return merge_and_validate


def average(folders: Sequence[Path], target: Path) -> None:
    """Write the average of checkpoints, the best one first, to an empty folder. Raises MergeError."""
    names = sorted(_files(folders[0]))
    for other in folders[1:]:
        if different := sorted(set(names) ^ set(_files(other))):
            raise MergeError(f"{different[0]} is in one checkpoint and not in another: {folders[0]}, {other}")
    averaged = sum([_merge([folder / name for folder in folders], name, target / name) for name in names])
    if not averaged:
        raise MergeError(f"there is nothing to average: {', '.join(names) or 'the checkpoints are empty'}; {REMEDY}")


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != MANIFEST:
            yield name


def _merge(paths: Sequence[Path], name: str, target: Path) -> bool:
    """Write one file of the merge. True if it is an average."""
    target.parent.mkdir(parents=True, exist_ok=True)
    library = LIBRARIES.get(paths[0].suffix)
    if all(filecmp.cmp(paths[0], path, shallow=False) for path in paths[1:]):
        _copy(paths[0], target)
        return library is not None and not _training_state(paths[0], name)
    if paths[0].suffix in TEXTS or _training_state(paths[0], name):
        _copy(paths[0], target)
        return False
    if library is None:
        raise MergeError(f"{name}: files of this kind cannot be averaged: {REMEDY}")
    arrays = library()
    like = _read(arrays, paths[0], name)
    total = _mapped(like, arrays, lambda array: array if (wide := arrays.wide(array)) is None else wide)
    for path in paths[1:]:
        total = _summed(total, _read(arrays, path, name), arrays, name)
    arrays.write(_means(total, like, arrays, len(paths)), target, paths[0])
    return True


def _copy(path: Path, target: Path) -> None:
    shutil.copyfile(path, target)  # not its mode, which forbids writing


def _training_state(path: Path, name: str) -> bool:
    """Is it what gpbt.torch.save writes beside the weights?"""
    if name != "state.pt":
        return False
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of another make
        return False
    return isinstance(state, dict) and {"format", "optimizers", "rng"} <= state.keys()


def _read(arrays: Library, path: Path, name: str) -> Any:
    try:
        return arrays.read(path)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:160]
        raise MergeError(f"{name} cannot be read as arrays ({type(error).__name__}: {first}): {REMEDY}") from None


# ---- trees of arrays


def _mapped(tree: Any, arrays: Library, function: Callable[[Any], Any]) -> Any:
    """The tree with the function applied to its arrays. Containers become plain dicts, lists and tuples."""
    if isinstance(tree, arrays.array):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _mapped(item, arrays, function) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        items = [_mapped(item, arrays, function) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    return tree


def _summed(total: Any, other: Any, arrays: Library, where: str) -> Any:
    """The sum so far and one more tree. Raises MergeError where what is to be averaged differs in form."""
    if not any(_averaged(each, arrays) for each in (total, other)):
        return total  # a history of losses, say, which is longer in later generations
    if isinstance(total, arrays.array) and isinstance(other, arrays.array):
        if tuple(total.shape) != tuple(other.shape):
            shapes = f"{tuple(total.shape)} in one checkpoint and {tuple(other.shape)} in another"
            raise MergeError(f"{where} has the shape {shapes}: only members with models of one shape can be merged")
        wide = arrays.wide(other)
        return total if wide is None else total + wide
    if isinstance(total, dict) and isinstance(other, dict):
        if different := total.keys() ^ other.keys():
            raise MergeError(f"{where}[{min(map(repr, different))}] is in one checkpoint and not in another")
        return {key: _summed(item, other[key], arrays, f"{where}[{key!r}]") for key, item in total.items()}
    if isinstance(total, list | tuple) and isinstance(other, list | tuple) and len(total) == len(other):
        pairs = enumerate(zip(total, other, strict=True))
        items = [_summed(a, b, arrays, f"{where}[{i}]") for i, (a, b) in pairs]
        return items if isinstance(total, list) else tuple(items)
    if any(isinstance(each, arrays.array | dict | list | tuple) for each in (total, other)):
        one, two = type(total).__name__, type(other).__name__
        raise MergeError(f"{where} is a {one} in one checkpoint and a {two} in another")
    return total


def _averaged(tree: Any, arrays: Library) -> bool:
    """Does it hold an array of floats?"""
    if isinstance(tree, arrays.array):
        return arrays.wide(tree) is not None
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return any(_averaged(item, arrays) for item in items)


def _means(total: Any, like: Any, arrays: Library, count: int) -> Any:
    """The sums divided by their number. like: the best one's tree, which gives types, and all that is not averaged."""
    if isinstance(like, arrays.array):
        return like if arrays.wide(like) is None else arrays.narrow(total, like, count)
    if isinstance(like, dict):
        return {key: _means(total[key], item, arrays, count) for key, item in like.items()}
    if isinstance(like, list | tuple):
        items = [_means(a, b, arrays, count) for a, b in zip(total, like, strict=True)]
        return items if isinstance(like, list) else tuple(items)
    return like


# ---- the libraries


def _torch() -> Library:
    import torch

    def wide(tensor: Any) -> Any:
        if tensor.is_complex():
            return tensor.to(torch.complex128)
        return tensor.double() if tensor.is_floating_point() else None

    return Library(
        read=lambda path: torch.load(path, map_location="cpu", weights_only=True),
        write=lambda tree, path, _: torch.save(tree, path),
        array=torch.Tensor,
        wide=wide,
        narrow=lambda total, like, count: (total / count).to(like.dtype),
    )


def _safetensors() -> Library:
    import safetensors.torch

    def write(tree: Any, path: Path, best: Path) -> None:
        with safetensors.safe_open(best, framework="pt") as file:
            metadata = file.metadata()  # it names tensors that are one and the same
        safetensors.torch.save_file(tree, path, metadata)

    return _torch()._replace(read=safetensors.torch.load_file, write=write)


def _numpy() -> Library:
    import numpy

    def read(path: Path) -> Any:
        loaded = numpy.load(path, allow_pickle=False)
        if isinstance(loaded, numpy.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}

    def write(tree: Any, path: Path, _: Path) -> None:
        with open(path, "wb") as file:  # given a path, numpy adds a suffix
            numpy.savez(file, **tree) if isinstance(tree, dict) else numpy.save(file, tree)

    def wide(array: Any) -> Any:
        kind = array.dtype.kind
        return array.astype(numpy.complex128 if kind == "c" else numpy.float64) if kind in "fc" else None

    def narrow(total: Any, like: Any, count: int) -> Any:
        return numpy.asarray(total / count).astype(like.dtype)

    return Library(read=read, write=write, array=numpy.ndarray, wide=wide, narrow=narrow)


#: by the ends of files' names
LIBRARIES: dict[str, Callable[[], Library]] = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _torch),
    ".safetensors": _safetensors,
    **dict.fromkeys((".npz", ".npy"), _numpy),
}
