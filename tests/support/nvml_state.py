"""The state of the stub of NVML (nvml_stub.c): a file that is rewritten, as a whole, at each change."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

#: deleted when the tests end
_COMPILED = TemporaryDirectory(prefix="nvml")
STUB = Path(__file__).with_name("nvml_stub.c")


@cache
def library(*options: str) -> Path:
    """The stub, compiled; with -DOLD, without what an old driver lacks."""
    path = Path(_COMPILED.name, "".join(options) or "new", "libnvidia-ml.so.1")
    path.parent.mkdir()
    soname = [] if "-DNO_SONAME" in options else ["-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *soname, *options, "-o", path, STUB], check=True
    )
    return path


class State:
    """Lines, by what they are about: `set` replaces them. environ: what makes a process see this state."""

    def __init__(self, path: Path, *gpus: str, names: str = "NVIDIA A100", total: int = 40960) -> None:
        self.path = path
        self.environ = {"NVML_STUB_STATE": str(path)}
        self.lines: dict[str, list[str]] = {}
        for uuid in gpus:
            self.lines[f"gpu {uuid}"] = [f"gpu 0 {uuid} {names}"]
        for uuid in gpus:
            self.lines[f"mem {uuid}"] = [f"mem {uuid} {total} 0 0"]
        Path(f"{path}.d").mkdir(exist_ok=True)
        self.write()

    def write(self) -> None:
        beside = self.path.with_name(self.path.name + ".new")
        beside.write_text("".join(f"{line}\n" for lines in self.lines.values() for line in lines))
        os.replace(beside, self.path)

    def set(self, *lines: str) -> None:
        """Write lines, as "mem UUID …", in place of the earlier ones about the same."""
        for line in lines:
            word, *rest = line.split()
            key = f"{word} {rest[1]}" if word == "gpu" else f"{word} {rest[0]}" if word in ONE else line
            self.lines[key] = [line]
        self.write()

    def add(self, line: str) -> None:
        self.lines.setdefault("more", []).append(line)
        self.write()

    def drop(self, start: str) -> None:
        self.lines = {key: [x for x in lines if not x.startswith(start)] for key, lines in self.lines.items()}
        self.write()


#: words of which a GPU has one line, the last
ONE = ("mem", "linger", "now", "mode", "cpus", "recovery")
