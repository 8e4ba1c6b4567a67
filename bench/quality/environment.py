"""What a row's numbers depend on beside the code, its seed and its settings; and what of that can be fixed.

A method selects, and selection amplifies: two losses that differ in the last bit can be ranked the other way round, and
everything after that differs. So a row comes out again only where libraries and processor round as they did. Of 48 rows
that were made anew on another machine six came out otherwise, all of mnist1d. The cause was OpenBLAS: it takes its
kernels by the processor, and those for AVX-512 (SkylakeX) add float32 products in another order than those for AVX2
(Haswell, Zen), under which all 48 come out.

    pin      one thread, and OpenBLAS's Haswell kernels wherever the processor has AVX2
    here     this process's environment: versions, kernels, processor
    Known    the environments of a folder of rows, and which of them were found to give the same rows

A row carries eight letters, the digest of what can change a number. The processor's name and packages that only some
methods use stand beside it and are not part of the digest. It carries the code's commit, too, so that a row which does
not come out in an equal environment tells where to look.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

#: of rows made before rows had an environment
BEFORE = "before"
FILE = "environments.json"
#: kernels of OpenBLAS that every x86 processor since 2013 (Intel) and 2015 (AMD) can run
KERNELS = "Haswell"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: the packages that every run uses
SHARED = ("numpy", "scipy", "scikit-learn", "hyperopt")
#: what only a room or a task uses; a row names their versions itself
OWN = {"full_runs": ("optuna",), "ray_tune": ("ray",), "mnist1d": ("mnist1d",)}
#: told, but not part of the digest
ASIDE = ("processor",)

Environment = dict[str, str]


def pin() -> None:
    """Fix threads and kernels by the environment's variables, unless they are set. Too late once numpy is imported."""
    if "numpy" in sys.modules:
        return
    for variable in THREADS:
        os.environ.setdefault(variable, "1")
    if platform.machine() in ("x86_64", "AMD64") and "avx2" in flags():
        os.environ.setdefault("OPENBLAS_CORETYPE", KERNELS)


@functools.cache
def here() -> Environment:
    """This process's. Kernels are asked of the libraries: a variable that came too late changes nothing."""
    import numpy
    import scipy.linalg
    from threadpoolctl import threadpool_info

    del scipy
    simd: Any = numpy.show_config(mode="dicts").get("SIMD Extensions", {})
    told = {"python": platform.python_version(), "libc": " ".join(platform.libc_ver()).strip() or platform.system()}
    told |= {package: version(package) for package in SHARED}
    told["machine"] = platform.machine()
    told["simd"] = " ".join(simd.get("found", ()))
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    for library in blas:
        carrier = Path(library["filepath"]).parent.name.removesuffix(".libs")  # wheels bring one each
        parts = (library["internal_api"], library["version"], library.get("architecture", "kernels unknown"))
        told[f"BLAS of {carrier}"] = " ".join(str(part) for part in parts)
    told["threads"] = " ".join(sorted({str(library["num_threads"]) for library in blas}))
    told["processor"] = _processor().get("model name", platform.processor())
    return told


def flags() -> list[str]:
    """What the processor can do, as Linux names it; elsewhere, what every x86 processor of ten years can."""
    return _processor().get("flags", "pni sse4_2 avx avx2").split()


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def own(*uses: str) -> str:
    """The versions of what a room or a task uses beside the shared packages, such as "optuna 5.0.0"."""
    return ", ".join(f"{package} {version(package)}" for use in uses for package in OWN.get(use, ()))


@functools.cache
def code() -> str:
    """The last commit that changed what makes a row, with a + where files differ from it; "" without git."""
    folder = Path(__file__).parent.parent.parent

    def git(*words: str) -> str:
        paths = ("bench/quality", "gpbt_async")
        told = subprocess.run(["git", *words, "--", *paths], cwd=folder, capture_output=True, text=True, check=True)
        return told.stdout.strip()

    try:
        return git("log", "-1", "--format=%h") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def digest(environment: Environment) -> str:
    kept = {name: value for name, value in environment.items() if name not in ASIDE}
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=4).hexdigest()


def differences(one: Environment, other: Environment) -> list[str]:
    """What the two do not share, such as "numpy 2.4.6, not 2.3.0"."""
    names = dict.fromkeys((*one, *other))
    named = {name: (one.get(name, "none"), other.get(name, "none")) for name in names if name not in KEPT}
    return [f"{name} {a}, not {b}" for name, (a, b) in named.items() if a != b]


#: of an entry of the file: not the environment's own
KEPT = ("as", "found")


class Known:
    """The environments of a folder, by digest. An entry's `as` names one that was found to give the same rows."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self.entries: dict[str, Environment] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def note(self) -> str:
        """The digest of this process's environment, which is in the file from now on."""
        mine = digest(here())
        if mine not in self.entries:
            self.entries[mine] = dict(here())
            self._write()
        return mine

    def same(self, mine: str, other: str, found: str) -> None:
        """Rows of `mine` were found to be those of `other`; `found` says how."""
        if self.group(mine) != self.group(other):
            self.entries.setdefault(mine, {}).update({"as": self.group(other), "found": found})
            self._write()

    def group(self, name: str) -> str:
        """The environment that stands for all that give the same rows as this one."""
        seen = {name}
        while (following := self.entries.get(name, {}).get("as", name)) not in seen:
            name = following
            seen.add(name)
        return name

    def _write(self) -> None:
        self._file.write_text(json.dumps(self.entries, indent=1, sort_keys=True) + "\n")


def _processor() -> dict[str, str]:
    """What Linux says of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
