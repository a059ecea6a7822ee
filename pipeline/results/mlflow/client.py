"""MLflow: one run per finished training or bare base, written from the files on disk, and one for the report of each study.

With ``store`` and ``lifecycle`` the only module that loads mlflow. No result is ever read from MLflow. The store is
``sqlite:///mlflow.db`` in the project's root unless MLFLOW_TRACKING_URI is set.
"""

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from pipeline.core.environment import RunInfo
from pipeline.core.io import read_json
from pipeline.results.mlflow.curves import Curves, list_curves, planned_steps
from pipeline.results.mlflow.entry import DatasetUse, Experiment, ReferenceEntry, RunFiles, RunHeader
from pipeline.results.mlflow.lifecycle import (
    LIVE_TAG,
    PARENT_TAG,
    create_run,
    find_runs,
    finish_run,
    keep_first,
    open_parent,
    open_run,
    remove_live_tag,
)
from pipeline.results.mlflow.outage import Pace
from pipeline.results.mlflow.store import (
    NOTE_TAG,
    TrackingError,
    experiment_name,
    is_server,
    open_experiment,
    open_store,
    send_datasets,
    send_metrics,
    send_params,
    send_tags,
    store_address,
)
from pipeline.results.mlflow.values import (
    USER_TAG,
    MetricValue,
    list_result_metrics,
    list_tags,
    read_period,
)
from pipeline.results.mlflow.view import KIND_TAG, REFERENCE, REPORT_TAG
from pipeline.study.run import SECOND_STAGE

# how often live curves are sent; shorter trainings are recorded only at their end
LIVE_INTERVAL_S = 30
# a training stops sending its curves to a server that takes longer for them
LIVE_LIMIT_S = 30
# the parts of a report that its run in MLflow holds, where the report has them
REPORT_PARTS = ("index.html", "answers", "results.csv", "metrics.json", "tables", "figures")


def write_run(
    header: RunHeader, files: RunFiles, datasets: Sequence[DatasetUse], *, limit_s: float | None = None
) -> str:
    """Record a finished run. If MLflow has a finished run with its fingerprint, that run is updated.

    A run that a killed process left RUNNING is marked KILLED, and a new run is created.

    Args:
        header: of the run.
        files: that it is recorded from.
        datasets: that it used.
        limit_s: the time that this may take, and more for large files; None: any.

    Returns:
        The id of the MLflow run.

    Raises:
        TrackingError: the store cannot be reached or written, or the time is over; the message is one line.
    """
    info: RunInfo = read_json(files.run_info)
    period = read_period(info)
    attachments = [(folder, path) for folder in files.attachments for path in _list_files(folder)]
    pace = _start_pace(limit_s, [path for _, path in attachments])
    with open_store() as client:
        run_id, is_complete = open_run(client, header, pace, start_ms=period.start_ms)
        tags = list_tags(header, info)
        if is_complete:
            # another person may record the same run again
            tags.pop(USER_TAG, None)
        else:
            send_params(client, run_id, header)
            send_datasets(client, run_id, datasets)
        send_tags(client, run_id, tags)
        pace.check()
        send_metrics(client, run_id, list_result_metrics(files, info), pace)
        if not is_complete:
            curves = list_curves(files, logged=_find_logged_steps(client, run_id))
            send_metrics(client, run_id, curves, pace, time_ms=period.end_ms)
        client.log_dict(run_id, dict(header.params), "params.json")
        for folder, path in attachments:
            client.log_artifact(run_id, str(path), artifact_path=_attachment_name(folder, path))
            pace.check()
        run = client.get_run(run_id)
        # Removed after everything was written: a run that still has the tag is written again.
        if LIVE_TAG in run.data.tags:
            remove_live_tag(client, run_id)
        return finish_run(client, run, end_ms=period.end_ms)


def _start_pace(limit_s: float | None, files: Sequence[Path] = ()) -> Pace:
    """Start the time for recording a run with its files; a database on this machine may take any."""
    limit_s = limit_s if is_server(store_address()) else None
    return Pace(limit_s, size=sum(path.stat().st_size for path in files))


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _attachment_name(folder: Path, path: Path) -> str:
    """Return the folder among a run's artifacts for a file of an adapter or of answers."""
    # the folder below results/: "adapters" or "answers"
    name = Path(folder.parts[1])
    if folder.parent.name == SECOND_STAGE:
        # both folders have a manifest.json
        name /= SECOND_STAGE
    return (name / path.relative_to(folder).parent).as_posix()


def write_report(
    experiment: Experiment,
    folder: Path,
    *,
    fingerprints: Collection[str],
    references: Sequence[ReferenceEntry] = (),
    limit_s: float | None = None,
) -> str:
    """Record the report of a study in the parent run of the study's runs, and mark the runs that the report uses.

    Args:
        experiment: the study.
        folder: of the report.
        fingerprints: of the runs that the report uses.
        references: that the report shows beside the runs.
        limit_s: as for ``write_run``.

    Returns:
        The id of the parent run.

    Raises:
        TrackingError: as for ``write_run``.
    """
    parts = [folder / part for part in REPORT_PARTS]
    # a study without runs has no results.csv
    paths = [
        path for part in parts for path in (_list_files(part) if part.is_dir() else [part]) if path.exists()
    ]
    pace = _start_pace(limit_s, paths)
    with open_store() as client:
        experiment_id = open_experiment(client, experiment)
        parent = open_parent(client, experiment_id, experiment)
        for path in paths:
            name = Path("report", path.relative_to(folder).parent).as_posix()
            client.log_artifact(parent, str(path), artifact_path=name)
            pace.check()
        client.set_terminated(parent, "FINISHED")
        _write_references(client, experiment_id, parent, references, pace)
        used = {*fingerprints, *(entry.fingerprint for entry in references)}
        marks = [(run, _report_tags(run, parent, used)) for run in find_runs(client, experiment_id)]
        changes = [(run, tags) for run, tags in marks if not tags.items() <= run.data.tags.items()]
        # a request for each: a second is slow
        pace.allow(len(changes))
        for run, tags in changes:
            send_tags(client, run.info.run_id, tags)
            pace.check()
    return parent


def _write_references(
    client: MlflowClient, experiment_id: str, parent: str, entries: Sequence[ReferenceEntry], pace: Pace
) -> None:
    """Create a run for each reference that has none with its content."""
    recorded: dict[str, list[Any]] = {}
    for run in find_runs(client, experiment_id, f"tags.{KIND_TAG} = '{REFERENCE}'"):
        recorded.setdefault(run.data.tags["fingerprint"], []).append(run)
    for entry in entries:
        runs = recorded.get(entry.fingerprint, [])
        finished = [run for run in runs if run.info.status == "FINISHED"]
        if finished:
            keep_first(client, finished)
            continue
        # a process was killed here
        for run in runs:
            client.set_terminated(run.info.run_id, "KILLED")
        # about so many requests
        pace.allow(4)
        tags = {
            **entry.tags,
            KIND_TAG: REFERENCE,
            "fingerprint": entry.fingerprint,
            PARENT_TAG: parent,
            NOTE_TAG: entry.note,
        }
        condition = f"tags.fingerprint = '{entry.fingerprint}'"
        run_id = create_run(client, experiment_id, condition, tags=tags, start_time=None, run_name=entry.name)
        metrics = [MetricValue(key, value) for key, value in entry.metrics.items()]
        send_metrics(client, run_id, metrics, pace)
        finish_run(client, client.get_run(run_id))


def _report_tags(run: Any, parent: str, fingerprints: Collection[str]) -> dict[str, str]:
    """Return the tags with which a run belongs to the report in a parent run; none for the parent itself."""
    fingerprint = run.data.tags.get("fingerprint")
    if fingerprint is None:
        return {}
    if run.data.tags.get("kind") == "base":
        return {PARENT_TAG: parent}
    is_used = fingerprint in fingerprints and run.info.status != "KILLED"
    return {PARENT_TAG: parent, REPORT_TAG: "yes" if is_used else "no"}


def find_experiment(name: str) -> str | None:
    """Return the id of a study's experiment; None: nothing of the study is recorded.

    Raises:
        TrackingError: as for ``write_run``.
    """
    address = store_address()
    # opening a store would create it
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        return None
    with open_store() as client:
        experiment = client.get_experiment_by_name(experiment_name(name))
    return experiment.experiment_id if experiment else None


class LiveRun:
    """Shows the curves of a long training in MLflow while it runs; ``write_run`` completes the run.

    A store that fails is reported once and never stops the training.
    """

    def __init__(self, header: RunHeader) -> None:
        self._header = header
        self._rows: list[Mapping[str, Any]] = []
        self._curves = Curves()
        self._run_id: str | None = None
        self._disabled = False
        self._last_sent = time.monotonic()
        self._start_ms = int(time.time() * 1000)

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Take a row of the history; send the rows since the last time, at most every LIVE_INTERVAL_S."""
        self._rows.append(row)
        if not self._disabled and time.monotonic() - self._last_sent >= LIVE_INTERVAL_S:
            self._send()

    def close(self) -> None:
        """Send the remaining rows if a run was opened."""
        if self._run_id and not self._disabled:
            # still with LIVE_TAG: the scores follow when the run is scored
            self._send(status="FINISHED")

    def _send(self, *, status: str | None = None) -> None:
        rows, self._rows = self._rows, []
        pace = _start_pace(LIVE_LIMIT_S)
        try:
            with open_store() as client:
                if self._run_id is None:
                    self._run_id, is_complete = open_run(client, self._header, pace, start_ms=self._start_ms)
                    # the same adapter is trained again: the finished run stays as it is
                    if is_complete:
                        self._disabled = True
                        return
                    send_params(client, self._run_id, self._header)
                    send_tags(client, self._run_id, {**list_tags(self._header), LIVE_TAG: "curves"})
                total = planned_steps(rows[-1], self._header.params["training"]) if rows else 0
                send_metrics(client, self._run_id, self._curves.thin(rows, total_steps=total), pace)
                if not status:
                    pace.check()
                # another writer may have marked it KILLED, and recorded the same adapter in a run of its own
                elif client.get_run(self._run_id).info.status == "RUNNING":
                    client.set_terminated(self._run_id, status)
        except TrackingError as error:
            self._disabled = True
            print(f"warning: no live curves in MLflow: {error}", file=sys.stderr)
        self._last_sent = time.monotonic()


def _find_logged_steps(client: MlflowClient, run_id: str) -> dict[str, set[int]]:
    """Return the steps of each curve that a LiveRun has sent already: MLflow would store a second value for each."""
    keys = client.get_run(run_id).data.metrics
    return {key: {metric.step for metric in client.get_metric_history(run_id, key)} for key in keys}
