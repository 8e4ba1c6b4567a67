"""What the doctor measures: one record per member, one of the whole check-up, and what a run would then take.

diagnosis.py judges them. `CheckUp.to_json` is what `gpbt-async doctor --json` prints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..experiment import Settings
    from ..findings import Finding
    from ..space import Config


@dataclass(frozen=True, slots=True)
class Problem:
    """what: one sentence on what was seen, with its figures. remedy: what to do, or "". code: of a finding, or ""."""

    what: str
    remedy: str
    code: str = ""

    def to_json(self) -> dict[str, str]:
        code = {"code": self.code} if self.code else {}
        return {**code, "what": self.what, "remedy": self.remedy}


#: the role of a member that is trained again in a new process, where the others share one
FRESH = "fresh repeat"
#: fields of a TrainedInterval that --json leaves out
_INTERNAL = ("scores", "reported", "telemetry", "metrics", "died", "digest")


@dataclass(slots=True)
class TrainedInterval:
    """What one member did. Seconds and bytes; None where it could not be measured.

    start_s: from the request for its process until it entered `train`. import_s, parent_s: of its training, what went
    into imports, and into reading its parent's checkpoint. write_s: while a file of its checkpoint was open
    for writing. first_report_s: after it entered `train`. silence_s: the longest time without a report, in `train`.
    cores: kept busy on average. read, changed: files of its parent's checkpoint that were opened, and changed. scores:
    as reported, in order. reported: what it reported instead of the score, as text. error: why it failed, and log: the
    end of its log then. died: it failed before it returned. telemetry: what its process noted about itself. metrics:
    the last of each.
    """

    who: str
    config: Config
    start_s: float | None = None
    import_s: float | None = None
    parent_s: float | None = None
    seconds: float = 0.0
    write_s: float | None = None
    publish_s: float = 0.0
    checkpoint_bytes: int = 0
    files: int = 0
    other_bytes: int = 0
    reports: int = 0
    scores: list[float] = field(default_factory=list)
    first_report_s: float | None = None
    silence_s: float = 0.0
    resident: int = 0
    private: int = 0
    threads: int = 0
    processes: int = 0
    cores: float | None = None
    vram: int | None = None
    read: list[str] | None = None
    changed: list[str] = field(default_factory=list)
    reported: str = ""
    error: str = ""
    log: str = ""
    telemetry: Mapping[str, object] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    died: bool = False
    digest: str = ""

    @property
    def first_report(self) -> float:
        """When it first reported, as a share of the interval; 1 if it never did."""
        return 1.0 if self.first_report_s is None else self.share(self.first_report_s)

    def share(self, seconds: float) -> float:
        return 1.0 if self.seconds <= 0 else min(1.0, seconds / self.seconds)

    def to_json(self) -> dict[str, object]:
        flat = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _INTERNAL}
        if self.error:  # nothing was published
            flat |= {"publish_s": None, "checkpoint_bytes": None}
        ends = (self.scores[0], self.scores[-1]) if self.scores else (None, None)
        return flat | {"first_score": ends[0], "score": ends[1]}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run would take if all its members were alike. wall_s includes the import of the script. Bytes are those of
    the peak, and what is free now. gpu_bytes: the memory of each GPU.
    """

    population: int
    generations: int
    schedule: str
    slots: int
    wall_s: float
    at_most: bool
    checkpoints: int
    disk_bytes: int
    disk_free: int
    memory_bytes: int
    memory_free: int
    gpu_bytes: list[int]


@dataclass(slots=True)
class CheckUp:
    """All of one check-up.

    slots: of a run on this machine. device, slot, slot_threads: where the last member trained. start: "fork", "exec",
    "resident" or "program", once a member was started; fork_safe: None if nothing has shown it. members: by role
    ("member", "child", …), in the order in which they were trained; failed: the role of the one that failed.
    parent_damaged: how the parent's checkpoint differs from what was published. trouble: what launcher and members
    warned of.
    """

    script: str
    settings: Settings
    import_s: float
    cuda_at_import: str | None
    slots: int
    device: str = "cpu"
    slot: str = ""
    slot_threads: int = 1
    start: str = ""
    fork_safe: bool | None = None
    members: dict[str, TrainedInterval] = field(default_factory=dict)
    failed: str = ""
    parent_damaged: str | None = None
    expected: Expected | None = None
    notes: list[str] = field(default_factory=list)
    trouble: list[Problem] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    @property
    def member(self) -> TrainedInterval:
        return self.members["member"]

    @property
    def child(self) -> TrainedInterval:
        return self.members["child"]

    def to_json(self) -> dict[str, object]:
        s = self.settings
        flat = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("settings", "members")}
        if not self.failed:
            del flat["failed"]
        if self.expected is None:
            del flat["expected"]
        declared = {name: getattr(s, name) for name in ("mode", "generations", "stall_timeout", "member_timeout")}
        return flat | {
            "command": s.command is not None,
            "metric": s.score,
            **declared,
            "early_stop": list(s.early_stop),
            **{who: member.to_json() for who, member in self.members.items()},
            "scores": {who: member.scores for who, member in self.members.items()},
            "trouble": [problem.to_json() for problem in self.trouble],
            "findings": [{"code": f.code, "what": f.text, "remedy": f.remedy} for f in self.findings],
            "warnings": [problem.to_json() for problem in self.warnings],
        }
