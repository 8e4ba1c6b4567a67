"""The tracker for Weights & Biases (extra `wandb`): a run is a group, a member a run in it.

The environment variables of Weights & Biases apply: WANDB_MODE (`offline` sends nothing; `wandb sync` does so later),
WANDB_PROJECT (default `gpbt-async`), WANDB_ENTITY, and so on. The destination is the folder it works in, by default the
run's own.

A member's config is its W&B run's config, which also has the member's tags under `gpbt`, so that runs can be filtered
by them. Charts are drawn over `lineage_step` by default, so that the runs of a lineage draw one line; a config's
numbers are logged with each report, as `config/lr`. W&B runs cannot be taken back here, so an attempt that was made
again leaves one that has failed, and the new one has its number in its id: `…-0007-2`.

Reports stay in the memory of W&B's service for a while, and are lost if that is killed. So a tracker that was started
again reports unfinished members from their beginning, and offline recreates their folders.

What W&B would find out by itself (the machine, the code, the console) would describe the tracker's process, not the
member's, and is switched off. Its service listens on a Unix socket.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tracked import Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tracked import Ending, TrackedMember, TrackedRun


class WandB(Tracker):
    """Runs in the group that has the run's name."""

    forgets = True

    def __init__(self, destination: str | None = None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        self._destination = destination
        self._runs: dict[int, Any] = {}

    def opened(self, run: TrackedRun) -> None:
        self._run = run
        self._place = self._destination if self._destination is not None else str(run.place / "wandb")
        os.makedirs(self._place, exist_ok=True)
        self._settings = self._wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )

    def started(self, member: TrackedMember) -> None:
        before = self._runs.pop(member.id, None)
        if before is not None:
            before.finish(exit_code=1)
        again = f"-{member.attempt}" if member.attempt > 1 else ""
        name = f"{self._run.id}-{member.name}{again}"
        for part in Path(self._place, "wandb").glob(f"offline-run-*-{name}") if member.known else ():
            shutil.rmtree(part)
        tags = [f"generation {member.generation}", f"family {member.lineage[0]}"]
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gpbt-async"),
            id=name,
            name=f"{member.run}/{member.name}",
            group=member.run,
            config={**member.config, "gpbt": {**member.tags(), "run_id": self._run.id}},
            tags=tags,
            dir=self._place,
            resume="allow",
            reinit="create_new",
            settings=self._settings,
        )
        run.define_metric("lineage_step", hidden=True)
        run.define_metric("*", step_metric="lineage_step")
        self._runs[member.id] = run

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        values = {**member.schedule, **metrics, "lineage_step": member.offset + step}
        self._runs[member.id].log(values, step=step)

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        run = self._runs[member.id]
        run.summary["gpbt"] = {"state": ending.state, "score": ending.score, "reason": ending.reason}
        run.finish(exit_code=1 if ending.state == "failed" else 0)
        del self._runs[member.id]

    def closed(self, summary: Mapping[str, object]) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)
        self._runs.clear()
        self._wandb.teardown()
