"""The tracker that writes TensorBoard's event files (extra `tensorboard`).

    tensorboard --logdir runs/NAME/tracking/tensorboard

`members/0007` holds what member 7 reported, over its own steps, and its config and score for the HParams view.
`lineages/0007` holds the same over lineage steps, and the config's numbers as curves: show the runs `lineages/` alone,
and every lineage is one line from generation 0 on.

This module writes records itself, with TensorBoard's protobufs and checksums: TensorBoard's own writer uses a thread,
in which the error of a full disk is lost, and imports TensorFlow if that is installed. Each opening of a member creates
a new file, which begins by saying from which step on earlier files are void. So neither a second attempt nor a tracker
that was killed leaves doubled points.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.files import Appended
from ..tracked import Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tracked import Ending, TrackedMember, TrackedRun


class _Events:
    """One event file, in `folder`, from `step` on."""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # files are read in the order of their names
        name = f"events.out.tfevents.{int(now):010}.{int(now % 1 * 1e9):09}.{socket.gethostname()}"
        self._event = event_pb2.Event
        self._file = Appended(folder / name)
        self._records = RecordWriter(self)
        self._add(wall_time=now, file_version="brain.Event:2")
        self._add(wall_time=now, step=step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _add(self, **fields: Any) -> None:
        self._records.write(self._event(**fields).SerializeToString())

    def write(self, data: bytes) -> None:
        self._file.append(data)

    def numbers(self, values: Mapping[str, float], step: int, t: float) -> None:
        from tensorboard.compat.proto import summary_pb2

        summary = summary_pb2.Summary()
        for tag, value in values.items():
            summary.value.add(tag=tag, simple_value=value)
        if summary.value:
            self._add(wall_time=t, step=step, summary=summary)

    def plugin(self, tag: str, data: Any, t: float) -> None:
        """Write what the HParams view reads."""
        from tensorboard.compat.proto import summary_pb2
        from tensorboard.plugins.hparams import metadata

        summary = summary_pb2.Summary()
        summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
        self._add(wall_time=t, summary=summary)

    def close(self) -> None:
        self._file.close()


class TensorBoard(Tracker):
    """Event files in `destination`/NAME, or in a folder of the run's own."""

    def __init__(self, destination: str | None = None) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        self._destination = destination
        self._hparams = (api_pb2, metadata, plugin_data_pb2)
        self._open: dict[int, tuple[_Events, _Events]] = {}
        self._last: dict[int, int] = {}

    def opened(self, run: TrackedRun) -> None:
        self._run = run
        own = run.place / "tensorboard"
        self._place = Path(self._destination, run.name) if self._destination is not None else own

    def started(self, member: TrackedMember) -> None:
        self._close(member.id)
        own = _Events(self._place / "members" / member.name, member.at)
        lineage = _Events(self._place / "lineages" / member.name, member.offset + member.at)
        self._open[member.id] = own, lineage
        self._last[member.id] = member.at - 1
        _, metadata, plugin_data_pb2 = self._hparams
        info = plugin_data_pb2.SessionStartInfo(group_name=member.name, start_time_secs=member.t)
        for name, value in member.config.items():
            parameter = info.hparams[name]
            if isinstance(value, bool):
                parameter.bool_value = value
            elif isinstance(value, int | float):
                parameter.number_value = value
            else:
                parameter.string_value = str(value)
        data = plugin_data_pb2.HParamsPluginData(session_start_info=info)
        own.plugin(metadata.SESSION_START_INFO_TAG, data, member.t)

    def reported(self, member: TrackedMember, step: int, metrics: Mapping[str, float], t: float) -> None:
        own, lineage = self._open[member.id]
        own.numbers(metrics, step, t)
        lineage.numbers({**metrics, **member.schedule}, member.offset + step, t)
        self._last[member.id] = step

    def ended(self, member: TrackedMember, ending: Ending) -> None:
        api_pb2, metadata, plugin_data_pb2 = self._hparams
        own, _ = self._open[member.id]
        if ending.score is not None:
            own.numbers({"gpbt/score": ending.score}, max(0, self._last[member.id]), ending.t)
        success, failure = api_pb2.Status.Value("STATUS_SUCCESS"), api_pb2.Status.Value("STATUS_FAILURE")
        info = plugin_data_pb2.SessionEndInfo(
            status=failure if ending.state == "failed" else success, end_time_secs=ending.t
        )
        own.plugin(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info), ending.t)
        self._close(member.id)

    def closed(self, summary: Mapping[str, object]) -> None:
        for id in list(self._open):
            self._close(id)

    def _close(self, id: int) -> None:
        for events in self._open.pop(id, ()):
            events.close()
        self._last.pop(id, None)
