"""What a member is told before it trains: its places on the disk, made ready, and everything it must know.

Between the engine's Member, which knows nothing of files or devices, and the wire's Begin, which is all a process ever
gets to hear.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from . import command, events, stopping, wire
from .asks import path_text
from .files import explained

if TYPE_CHECKING:
    from .checkpoints import Store
    from .experiment import Settings
    from .folder import Folder
    from .slot import Slot
    from .tree import Member


class Briefing:
    """cwd: members' working directory."""

    def __init__(self, settings: Settings, folder: Folder, store: Store, cwd: str) -> None:
        self._settings, self._folder, self._store, self._cwd = settings, folder, store, cwd

    def judged(self, member: Member) -> bool:
        """Does the member's first report wait for a verdict?"""
        return stopping.judged(self._settings, member)

    def begin(self, member: Member, attempt: int, slot: Slot) -> wire.Begin:
        """Make its places ready. Raises FolderError, CheckpointError."""
        places = self._folder.member(member.id)
        scratch = places.attempt(attempt)
        with explained("cannot prepare", places.path):
            places.path.mkdir(exist_ok=True)
            self._store.prepare(scratch)
            places.config.write_text(json.dumps(member.config, indent=1) + "\n")
            if attempt > 1:
                places.metrics.unlink(missing_ok=True)  # what an attempt that does not count has reported
        parent = self._folder.member(member.parent.id).checkpoint if member.parent is not None else None
        return wire.Begin(
            member=member.id,
            attempt=attempt,
            generation=member.generation,
            seed=member.seed,
            config=member.config,
            parent=str(parent) if parent is not None else None,
            checkpoint=str(scratch),
            metrics=str(places.metrics),
            log=str(places.log),
            cwd=self._cwd,
            device=slot.device,
            threads=slot.threads,
            env={**slot.env, "GPBT_CONFIG": str(places.config)},
            score=self._settings.score,
            judged=self.judged(member),
            cpus=sorted(slot.cpus) or None,
        )

    def started(self, t: float, member: Member, attempt: int, slot: Slot, pid: int) -> events.Started:
        """The fact that it has begun."""
        return events.Started(
            t=t,
            member=member.id,
            attempt=attempt,
            slot=slot.index,
            pid=pid,
            path=path_text(member.path),
            parent=member.parent.id if member.parent is not None else None,
            config=member.config,
        )

    def argv(self, begin: wire.Begin, member: Member) -> list[str] | None:
        """The command line of a command member, its placeholders filled in; None for a training function."""
        if self._settings.command is None:
            return None
        reserved = {
            "parent": begin.parent or "",
            "checkpoint": begin.checkpoint,
            "metrics": begin.metrics,
            "config": self._folder.member(member.id).config,
            "seed": member.seed,
            "generation": member.generation,
            "member": member.id,
        }
        return command.fill(self._settings.command, member.config, reserved)
