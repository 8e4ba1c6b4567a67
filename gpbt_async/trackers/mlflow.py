"""The tracker for MLflow (extra `mlflow`): a run is an MLflow experiment, a member a run in it.

The destination is a folder, MLflow's own file store, or any tracking URI (`sqlite:///runs.db`, `http://…`). The default
is MLFLOW_TRACKING_URI, or else a file store in the run's own folder. MLflow reads file stores only if it is allowed to:

    MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri runs/NAME/tracking/mlflow

A member's config is logged as the parameters of its MLflow run, which never change; `gpbt.member`, `gpbt.lineage`,
`gpbt.parent` and so on are its tags. Metrics are logged over the member's own steps. `lineage/accuracy` is `accuracy`
over lineage steps, so that the runs of a lineage, selected together, draw one line, and `lineage/config/lr` is its
schedule. When a member is tried again, the MLflow run of the void attempt goes into MLflow's bin (`mlflow gc` empties
it).

Reports are logged in batches. After a crash, the history of an MLflow run's metrics shows what it has already. A file
store that was killed while it created a run or a file cannot list its runs any more: `_mend` repairs it first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tracked import Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tracked import Ending, TrackedMember, TrackedRun


#: metrics that MLflow takes in one call, and characters of a text
BATCH, LONGEST = 900, 500
#: a destination that is no path
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|databricks$")
#: not in the name of a metric or a parameter
_ODD = re.compile(r"[^\w\-. :/]", re.ASCII)


class MLflow(Tracker):
    """Runs in the MLflow experiment that has the run's name."""

    def __init__(self, destination: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self._entities, self._client_of = entities, MlflowClient
        self._destination = destination if destination is not None else os.environ.get("MLFLOW_TRACKING_URI")
        #: the MLflow run of each member that may be tried again; those of them that failed; and, after a crash, all
        #: MLflow runs of this run, by member, attempt and start time
        self._runs: dict[int, str] = {}
        self._failed: set[str] = set()
        self._known: dict[tuple[str, str, int], str] = {}
        #: after a crash, of an MLflow run that continues: the last step it has of each metric
        self._has: dict[int, dict[str, int]] = {}
        self._waiting: dict[int, list[Any]] = {}

    def opened(self, run: TrackedRun) -> None:
        self._run = run
        uri = self._destination if self._destination is not None else str(run.place / "mlflow")
        self._client = self._client_of(uri if URI.match(uri) else Path(uri).absolute().as_uri())
        experiment = self._client.get_experiment_by_name(run.name)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(run.name)
        if run.kept is not None or run.again:
            if not URI.match(uri):
                _mend(Path(uri, self._experiment), run.name)
            self._find()

    def _find(self) -> None:
        """Find the MLflow runs that belong to this run."""
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                tags, name = run.data.tags, run.info.run_name or ""
                if tags.get("gpbt.run_id", self._run.id) != self._run.id or not name.startswith(f"{self._run.name}/"):
                    continue
                if "gpbt.whole" not in tags:  # the tracker was killed while it created it
                    self._client.delete_run(run.info.run_id)
                    continue
                self._known[tags["gpbt.member"], tags["gpbt.attempt"], run.info.start_time] = run.info.run_id
                state = tags.get("gpbt.state")
                if state in (None, "failed") or self._run.again:
                    self._runs[int(tags["gpbt.member"])] = run.info.run_id
                if state == "failed":
                    self._failed.add(run.info.run_id)
            token = page.token
            if not token:
                return

    def started(self, member: TrackedMember) -> None:
        before = self._runs.pop(member.id, None)
        self._waiting[member.id] = []
        self._has.pop(member.id, None)
        known = self._known.get((str(member.id), str(member.attempt), _ms(member.t)))
        if before is not None and before != known:
            self._client.delete_run(before)
        self._runs[member.id] = self._create(member) if known is None else self._continue(member, known)

    def _continue(self, member: TrackedMember, run: str) -> str:
        self._client.update_run(run, status="RUNNING")
        names = self._client.get_run(run).data.metrics
        histories = {name: self._client.get_metric_history(run, name) for name in names}
        self._has[member.id] = {name: max(point.step for point in points) for name, points in histories.items()}
        return run

    def _create(self, member: TrackedMember) -> str:
        tags = {f"gpbt.{name}": value[:LONGEST] for name, value in member.tags().items()}
        tags |= {"gpbt.run_id": self._run.id, "mlflow.runName": f"{member.run}/{member.name}"}
        run: str = self._client.create_run(self._experiment, start_time=_ms(member.t), tags=tags).info.run_id
        param = self._entities.Param
        params = [param(_name(name), str(value)[:LONGEST]) for name, value in member.config.items()]
        for i in range(0, len(params), 100):
            self._client.log_batch(run, params=params[i : i + 100])
        self._client.set_tag(run, "gpbt.whole", "yes")
        return run

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        has = self._has.get(member.id, {})
        further = member.offset + step
        points = [(name, value, step) for name, value in metrics.items()]
        points += [(f"lineage/{name}", value, further) for name, value in {**metrics, **member.schedule}.items()]
        metric = self._entities.Metric
        named = ((_name(name), value, at) for name, value, at in points)
        waiting = self._waiting[member.id]
        waiting += [metric(name, value, _ms(t), at) for name, value, at in named if at > has.get(name, -1)]
        if len(waiting) > BATCH:
            self._flush(member.id)

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        self._flush(member.id)
        run = self._runs[member.id]
        metric, tag = self._entities.Metric, self._entities.RunTag
        score = [metric("gpbt.score", ending.score, _ms(ending.t), 0)] if ending.score is not None else []
        score = score if "gpbt.score" not in self._has.get(member.id, {}) else []
        tags = [tag("gpbt.state", ending.state), tag("gpbt.reason", ending.reason[:LONGEST])]
        self._client.log_batch(run, metrics=score, tags=tags)
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(ending.state, "KILLED")
        self._client.set_terminated(run, status, end_time=_ms(ending.t))
        if ending.state == "failed":
            self._failed.add(run)  # the member may be tried again, which makes this one void
        else:
            del self._runs[member.id]
        del self._waiting[member.id]
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

    def closed(self, summary: Mapping[str, object]) -> None:
        self.keep()
        for run in set(self._runs.values()) - self._failed:
            self._client.set_terminated(run, "KILLED")


def _mend(experiment: Path, name: str) -> None:
    """Repair what a killed file store left half created: delete runs without logs and empty files."""
    for folder in experiment.iterdir():
        meta, tags = folder / "meta.yaml", folder / "tags"
        if not re.fullmatch("[0-9a-f]{32}", folder.name):
            continue
        for file in (folder / "metrics").rglob("*"):
            if file.is_file() and not file.stat().st_size:
                file.unlink()
        text = meta.read_text() if meta.exists() else ""
        if not (tags / "gpbt.whole").exists():
            if not text or f"run_name: {name}/" in text:
                shutil.rmtree(folder)
        elif not text:  # the rest of a run is in files of its own
            flat = {
                "run_id": folder.name, "run_name": (tags / "mlflow.runName").read_text(), "user_id": "unknown",
                "experiment_id": experiment.name, "artifact_uri": (folder / "artifacts").as_uri(),
                "start_time": int(folder.stat().st_ctime * 1000), "end_time": None, "status": 1,
                "lifecycle_stage": "active", "tags": [],
            }  # fmt: skip
            meta.write_text(json.dumps(flat))  # JSON is YAML, too


def _ms(t: float) -> int:
    return int(t * 1000)


def _name(name: str) -> str:
    """A name that MLflow takes. Some of its stores use it as a path, which must not lead upwards."""
    parts = [part for part in _ODD.sub("_", name).split("/") if part.strip(" .")]
    return "/".join(parts)[:240] or "_"
