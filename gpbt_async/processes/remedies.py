"""What to do about a failure, and whether another attempt can help: a small table of errors that people meet.

member/failure.py looks at the exception itself, in the member's process; the member's End carries the result. For a
program, or a process that died, only the text is known: `remedy_for` looks there. An unknown error has no remedy: none
is better than a wrong one.

The number of attempts depends on the cause. Errors of files, networks, memory, GPUs and other processes may go away, so
the member gets all its attempts. Any other error gets a second attempt; if that fails with the same text at the same
line, a third would too. A model that does not fit the weights it loads gets no second attempt, because the config and
the parent, which cause this, are the same in every attempt.
"""

from __future__ import annotations

import re

#: what caused a failure: the surroundings, for the moment; the script, for ever; or lack of room, on the run's own disk
#: or elsewhere; "" = not known
PASSING, LASTING, DISK, ELSEWHERE = "passing", "lasting", "disk", "elsewhere"
FAULTS = (PASSING, LASTING, DISK, ELSEWHERE)
#: most characters of a remedy
LONGEST = 300

#: the weights do not fit the model: PyTorch, its optimizers, Flax, Keras
_SHAPE = re.compile(
    r"Error\(s\) in loading state_dict|size mismatch for \S+: copying a param|"
    r"loaded state dict (contains a parameter group that doesn't match|has a different number of parameter groups)|"
    r"ScopeParamShapeError|Layer count mismatch when loading weights"
)
SHAPE = (
    "a hyperparameter that changes the model's shape cannot be inherited: take it out of the space, and give each "
    "shape a run of its own"
)
UNKNOWN_DISK = "a file system is full, and it is none that a member usually writes to: look at what it writes"
_SHM = (
    "/dev/shm, the shared memory, is too small for the DataLoader's workers: num_workers=0 or fewer, or a larger one "
    "(docker run --shm-size=8g; mount -o remount,size=8g /dev/shm)"
)
_OOM = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|RESOURCE_EXHAUSTED"
)
#: pattern of an error's text → remedy; the first that matches counts
TABLE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Weights only load failed|weights_only"),
        "torch.load takes tensors only: save model.state_dict() and numbers, or load a checkpoint of your own with "
        "weights_only=False",
    ),
    (
        re.compile(r"Cannot re-initialize CUDA in forked subprocess"),
        "CUDA was used before a fork: at the script's top level (move it into the training function, or use --start "
        "exec), or beside a DataLoader whose workers use it (multiprocessing_context='spawn')",
    ),
    (
        re.compile(r"Attempting to deserialize object on (a )?CUDA|Attempting to deserialize object on CUDA device"),
        "the checkpoint's tensors are on another device: torch.load(path, map_location=member.device)",
    ),
    (
        _OOM,
        "use a smaller batch or model, or let fewer members share a GPU (--share 1, or --vram with what one takes)",
    ),
    (re.compile(r"DataLoader worker .*[Bb]us error|insufficient shared memory|[Kk]illed by SIGBUS"), _SHM),
    (
        re.compile(r"DataLoader worker \(pid\(?s?\)? .*(killed by signal: Killed|exited unexpectedly)"),
        "a worker of the DataLoader was killed, for lack of memory most likely (`dmesg` says so): fewer num_workers, "
        "or fewer --slots",
    ),
    (
        re.compile(r"daemonic processes are not allowed to have children"),
        "a process of multiprocessing.Pool may not start others: use num_workers=0 there, or "
        "concurrent.futures.ProcessPoolExecutor instead of the Pool",
    ),
    (
        re.compile(r"Can't get attribute|[Cc]an't pickle|cannot pickle"),
        "a pickle holds the names of classes and functions, not their code: define them at the top level of a module "
        "that the script imports, or save plain data (a state_dict)",
    ),
    (
        re.compile(r"attempted relative import"),
        "the script is part of a package: launch it by its module's name (gpbt-async launch package.module)",
    ),
    (
        re.compile(r"No module named '([\w.]+)'"),
        "install it where gpbt-async runs; of a file of your own: it is looked for beside the script and along "
        "PYTHONPATH",
    ),
    (
        re.compile(r"Too many open files|\[Errno 24\]"),
        "raise the limit (`ulimit -n 65536` before launch), or "
        "torch.multiprocessing.set_sharing_strategy('file_system')",
    ),
    (
        re.compile(r"Address already in use|EADDRINUSE"),
        "members train beside each other: give each a port of its own (port 0, or one plus member.id)",
    ),
    (
        re.compile(r"Cannot allocate memory|can't allocate memory|Unable to allocate .* for an array|^MemoryError"),
        "main memory is used up: fewer --slots, or less data in each member (loaded at the script's top level, it is "
        "shared)",
    ),
    (
        re.compile(r"\bBdbQuit\b"),
        "a debugger has no terminal in a run: `gpbt-async try SCRIPT` trains one member in yours",
    ),
    (
        re.compile(r"^killed by SIGKILL"),
        "most likely by the kernel, for lack of memory (`dmesg` says so): fewer --slots, or less memory a member",
    ),
)  # fmt: skip

#: texts of errors that come and go, of any class
PASSES = re.compile(
    r"CUDA|CUDNN|CUBLAS|NCCL|\bHIP\b|out of memory|allocate memory|shared memory|DataLoader worker|timed? ?out|"
    r"connection|Too many open files|temporar|Broken pipe|is locked|server error|rate limit|\bHTTP|"
    r"unable to (open|mmap|write)|inline_container|PytorchStream|iostream|requested and \d+ written",
    re.I,
)


def lasting(text: str) -> bool:
    """Does the error depend on the config and the parent alone, so that every attempt would raise it?"""
    return _SHAPE.search(text) is not None


def remedy_for(reason: str) -> str:
    """The remedy for an error's text, or for the way in which a process died; "" if none is known."""
    if lasting(reason):
        return SHAPE
    return next((remedy for pattern, remedy in TABLE if pattern.search(reason)), "")


def same(reason: str, before: str) -> bool:
    """Are two failures' reasons the same, apart from addresses and the number of the attempt?"""
    return _bare(reason) == _bare(before)


def _bare(reason: str) -> str:
    return re.sub(r"0x[0-9a-fA-F]+|attempt-\d+", "#", reason)
