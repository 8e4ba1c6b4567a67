"""The tracker that tells MLflow (extra `mlflow`): an experiment a run, a run a member.

The destination is a folder, MLflow's own file store, or any tracking URI (`sqlite:///runs.db`, `http://…`); without one
it is what MLFLOW_TRACKING_URI says, or a file store in the run's own folder. MLflow reads file stores only if it is
allowed to:

    MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri runs/NAME/tracking/mlflow

A member's config are its run's parameters, which never change, and `gpbt.member`, `gpbt.lineage`, `gpbt.parent` and so
on are its tags. Metrics are logged over the member's own steps; `lineage/accuracy` is `accuracy` over lineage steps, so
that the runs of a lineage, selected together, draw one line, and `lineage/config/lr` is its schedule. When a member is
tried again, the run of the attempt that does not count is put into MLflow's bin (`mlflow gc` empties it).

Reports are logged in batches. After a crash, what a run has already is found by the history of its `lineage_step`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tracked import Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .tracked import Ending, TrackedMember, TrackedRun

#: what MLflow takes in one call, and the longest texts it takes
BATCH, LONGEST = 900, 500
#: not in the name of a metric or a parameter
_ODD = re.compile(r"[^\w\-. :/]", re.ASCII)


class MLflow(Tracker):
    """Runs in the MLflow experiment that is called as the run is."""

    def __init__(self, destination: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self._entities, self._client_of = entities, MlflowClient
        self._destination = destination if destination is not None else os.environ.get("MLFLOW_TRACKING_URI")
        #: MLflow's run of each member that has not ended, and, after a crash, of those that were known before
        self._runs: dict[int, str] = {}
        self._known: dict[tuple[str, str], str] = {}
        #: of a run that is gone on with: the last step it has
        self._has: dict[int, int] = {}
        self._waiting: dict[int, list[Any]] = {}

    def opened(self, run: TrackedRun) -> None:
        self._run = run
        uri = self._destination if self._destination is not None else str(run.place / "mlflow")
        self._client = self._client_of(Path(uri).as_uri() if os.path.isabs(uri) else uri)
        there = self._client.get_experiment_by_name(run.name)
        self._experiment = there.experiment_id if there is not None else self._client.create_experiment(run.name)
        if run.kept is not None:
            self._find()

    def _find(self) -> None:
        """Which runs are there already, of this very run of ours."""
        token = None
        while True:
            told = f"tags.`gpbt.run_id` = '{self._run.id}'"
            page = self._client.search_runs([self._experiment], told, max_results=1000, page_token=token)
            for run in page:
                self._known[run.data.tags["gpbt.member"], run.data.tags["gpbt.attempt"]] = run.info.run_id
                if "gpbt.state" not in run.data.tags:
                    self._runs[int(run.data.tags["gpbt.member"])] = run.info.run_id
            token = page.token
            if not token:
                return

    def started(self, member: TrackedMember) -> None:
        before = self._runs.pop(member.id, None)
        self._waiting[member.id] = []
        there = self._known.get((str(member.id), str(member.attempt)))
        if before is not None and before != there:
            self._client.delete_run(before)
        if there is not None:
            self._runs[member.id] = there
            self._client.update_run(there, status="RUNNING")
            self._has[member.id] = max(
                (point.step for point in self._client.get_metric_history(there, "lineage_step")), default=-1
            )
            return
        tags = {f"gpbt.{name}": value[:LONGEST] for name, value in member.tags().items()}
        tags |= {"gpbt.run_id": self._run.id, "mlflow.runName": f"{member.run}/{member.name}"}
        run = self._client.create_run(self._experiment, start_time=_ms(member.t), tags=tags)
        self._runs[member.id] = run.info.run_id
        param = self._entities.Param
        params = [param(_name(name), str(value)[:LONGEST]) for name, value in member.config.items()]
        for i in range(0, len(params), 100):
            self._client.log_batch(run.info.run_id, params=params[i : i + 100])

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        if step <= self._has.get(member.id, -1):
            return
        further = member.offset + step
        points = [(name, value, step) for name, value in metrics.items()]
        points += [(f"lineage/{name}", value, further) for name, value in {**metrics, **member.schedule}.items()]
        points += [("lineage_step", float(further), step)]  # the last: where it is, all is
        metric = self._entities.Metric
        waiting = self._waiting[member.id]
        waiting += [metric(_name(name), value, _ms(t), at) for name, value, at in points]
        if len(waiting) > BATCH:
            self._flush(member.id)

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        self._flush(member.id)
        run = self._runs[member.id]
        metric, tag = self._entities.Metric, self._entities.RunTag
        score = [] if ending.score is None else [metric("gpbt.score", ending.score, _ms(ending.t), 0)]
        tags = [tag("gpbt.state", ending.state), tag("gpbt.reason", ending.reason[:LONGEST])]
        self._client.log_batch(run, metrics=score, tags=tags)
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(ending.state, "KILLED")
        self._client.set_terminated(run, status, end_time=_ms(ending.t))
        del self._runs[member.id], self._waiting[member.id]
        self._has.pop(member.id, None)

    def keep(self) -> Any:
        for id in self._waiting:
            self._flush(id)
        return {}

    def _flush(self, id: int) -> None:
        waiting = self._waiting[id]
        while waiting:
            self._client.log_batch(self._runs[id], metrics=waiting[:BATCH])
            del waiting[:BATCH]

    def closed(self, summary: Mapping[str, Any]) -> None:
        self.keep()
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")


def _ms(t: float) -> int:
    return int(t * 1000)


def _name(name: str) -> str:
    """A name MLflow takes: some of its stores make paths of them, in which there is no way up."""
    parts = [part for part in _ODD.sub("_", name).split("/") if part.strip(" .")]
    return "/".join(parts)[:240] or "_"
