"""MLflow: one run per finished training or bare base, written from the files on disk; the only module that loads mlflow.

No result is ever read from MLflow. The store is ``sqlite:///mlflow.db`` in the project's root unless MLFLOW_TRACKING_URI
is set.
"""

import json
import math
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# mlflow reads these when it is imported
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.environment import RunInfo
from pipeline.core.errors import one_line
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.scoring.metrics import METRICS, ScoredTask
from pipeline.evaluate.scoring.rows import TaskScore
from pipeline.results.mlflow.entry import DatasetUse, RunFiles, RunHeader

# tag of a run whose curves were logged during training and that is not complete
LIVE_TAG = "live"
# how often live curves are sent; shorter trainings are recorded only at their end
LIVE_INTERVAL_S = 30
# MLflow accepts 1000 metrics and 100 params in a call
METRICS_PER_CALL = 900
PARAMS_PER_CALL = 90
# MLflow's limit (MAX_PARAM_VAL_LENGTH)
MAX_PARAM_CHARACTERS = 6000
MAX_ERROR_CHARACTERS = 300
LOCK_TIMEOUT_S = 600


class TrackingError(Exception):
    """The tracking store could not be written; results on disk are complete."""


def write_run(header: RunHeader, files: RunFiles, datasets: Sequence[DatasetUse]) -> str:
    """Record a finished run. If MLflow has a finished run with its fingerprint, that run is updated.

    A run that a killed process left RUNNING is marked KILLED, and a new run is created.

    Returns:
        The id of the MLflow run.

    Raises:
        TrackingError: the store cannot be reached or written; the message is one line.
    """
    with _open_store() as client:
        run_id, is_complete = _open_run(client, header)
        if not is_complete:
            _log_params(client, run_id, header.params)
            _log_datasets(client, run_id, datasets)
        info: RunInfo = read_json(files.run_info)
        _log_tags(client, run_id, {**header.tags, **_environment_tags(info)})
        metrics = _cost_metrics(info) + _score_metrics(files.scores, files.answers)
        if not is_complete:
            # a LiveRun has sent some steps already, and MLflow would store a second value for each
            logged_steps = {metric.step for metric in client.get_metric_history(run_id, "loss")}
            metrics += _step_metrics(read_jsonl(files.history), skip=logged_steps) if files.history else []
            metrics += _step_metrics(read_jsonl(files.timing)) if files.timing else []
        _log_metrics(client, run_id, metrics)
        for folder in files.attachments:
            # the folder below results/: "adapters" or "answers"
            client.log_artifacts(run_id, str(folder), artifact_path=folder.parts[1])
        # Removed after everything was written: a run that still has the tag is written again.
        if LIVE_TAG in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, LIVE_TAG)
        client.set_terminated(run_id, "FINISHED")
    return run_id


class LiveRun:
    """Shows the curves of a long training in MLflow while it runs; ``write_run`` completes the run.

    A store that fails is reported once and never stops the training.
    """

    def __init__(self, header: RunHeader) -> None:
        self._header = header
        self._rows: list[Mapping[str, Any]] = []
        self._run_id: str | None = None
        self._disabled = False
        self._last_sent = time.monotonic()

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
        rows, self._rows, self._last_sent = self._rows, [], time.monotonic()
        try:
            with _open_store() as client:
                if self._run_id is None:
                    self._run_id, is_complete = _open_run(client, self._header)
                    # the same adapter is trained again: the finished run stays as it is
                    if is_complete:
                        self._disabled = True
                        return
                    _log_params(client, self._run_id, self._header.params)
                    _log_tags(client, self._run_id, {**self._header.tags, LIVE_TAG: "curves"})
                _log_metrics(client, self._run_id, _step_metrics(rows))
                if status:
                    client.set_terminated(self._run_id, status)
        except TrackingError as error:
            self._disabled = True
            print(f"warning: no live curves in MLflow: {error}", file=sys.stderr)


def _lock_file(address: str) -> Path:
    """Return the lock of a store: beside a sqlite file, which several checkouts may share, else in this checkout."""
    if address.startswith("sqlite:///"):
        return Path(f"{address.removeprefix('sqlite:///')}.lock").resolve()
    return Path(".mlflow.lock").resolve()


@contextmanager
def _open_store() -> Iterator[MlflowClient]:
    """Yield a client while no other process of this machine writes to the store."""
    address = os.environ.get("MLFLOW_TRACKING_URI") or default_store()
    try:
        # creating the client creates the database, and parallel processes that do so at the same time fail
        with FileLock(_lock_file(address), timeout=LOCK_TIMEOUT_S):
            yield MlflowClient(address)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        message = one_line(error, MAX_ERROR_CHARACTERS)
        # SQLite's two messages for a damaged file
        if any(symptom in message for symptom in ("not a database", "malformed")):
            message = f"the database is damaged; move it away ({message})"
        raise TrackingError(message) from None


def default_store() -> str:
    """Return the address of the database in the working folder; absolute, since MLflow caches connections by address."""
    return f"sqlite:///{Path('mlflow.db').resolve()}"


def _open_run(client: MlflowClient, header: RunHeader) -> tuple[str, bool]:
    """Return the id of the run to write to, and whether it is complete already.

    A run that a killed process left RUNNING is marked KILLED.
    """
    experiment = client.get_experiment_by_name(header.experiment)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(header.experiment, _attachment_address())
    )
    for run in client.search_runs([experiment_id], f"tags.fingerprint = '{header.fingerprint}'"):
        if run.info.status == "FINISHED":
            return run.info.run_id, LIVE_TAG not in run.data.tags
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
    tags = {"fingerprint": header.fingerprint}
    return client.create_run(experiment_id, tags=tags, run_name=header.run_name).info.run_id, False


def _attachment_address() -> str | None:
    """Return where attachments are stored: beside the default database; None: the server decides."""
    return None if "MLFLOW_TRACKING_URI" in os.environ else Path("mlartifacts").resolve().as_uri()


def _log_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])


def _dotted_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested params as "training.learning_rate": "0.0003"; lists as JSON."""
    dotted: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            dotted |= _dotted_params(value, f"{prefix}{key}.")
        else:
            # an empty map is written as "{}", so that it shows at all
            dotted[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return dotted


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    entities = [Param(key, value[:MAX_PARAM_CHARACTERS]) for key, value in _dotted_params(params).items()]
    for start in range(0, len(entities), PARAMS_PER_CALL):
        client.log_batch(run_id, params=entities[start : start + PARAMS_PER_CALL])


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _log_datasets(client: MlflowClient, run_id: str, datasets: Sequence[DatasetUse]) -> None:
    inputs = []
    for use in datasets:
        source = json.dumps({"uri": use.source})
        entity = Dataset(name=use.name, digest=use.digest, source_type="local", source=source)
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", use.context)]))
    client.log_inputs(run_id, inputs)


def _environment_tags(info: RunInfo) -> dict[str, str]:
    tags = {f"package.{name}": version for name, version in info.get("packages", {}).items()}
    values: Mapping[str, object] = info
    keys = ("git_commit", "git_dirty", "host", "device", "processor", "python", "platform")
    return tags | {key: str(values[key]) for key in keys if values.get(key) is not None}


def _metric(key: str, value: float, step: int = 0) -> Metric:
    return Metric(key, float(value), int(time.time() * 1000), step)


def _cost_metrics(info: Mapping[str, Any]) -> list[Metric]:
    keys = ("seconds", "peak_memory_gib", "trainable_parameters", "all_parameters", "tokens_per_s")
    return [_metric(key, info[key]) for key in keys if info.get(key) is not None]


def _step_metrics(rows: Sequence[Mapping[str, Any]], *, skip: Collection[int] = ()) -> list[Metric]:
    return [
        _metric(key, value, int(row["step"]))
        for row in rows
        if row["step"] not in skip
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float)
    ]


def _score_metrics(scores: Path | None, answers: Path | None) -> list[Metric]:
    """Return every metric of a run's tasks, and its mean over the tasks that it applies to."""
    if scores is None or answers is None:
        return []
    tasks: dict[str, TaskScore] = read_json(scores)["tasks"]
    logged = []
    for name, score in tasks.items():
        logged.append(_metric(f"accuracy_low/{name}", score["low"]))
        logged.append(_metric(f"accuracy_high/{name}", score["high"]))
        logged.append(_metric(f"unparsable/{name}", score["unparsable"] / score["n"]))
    for metric in METRICS:
        values = {
            name: metric.value(ScoredTask(score, answers / f"{name}.jsonl"))
            for name, score in tasks.items()
            if metric.applies_to(score)
        }
        if values:
            values["average"] = sum(values.values()) / len(values)
        logged += [
            _metric(f"{metric.name}/{name}", value) for name, value in values.items() if not math.isnan(value)
        ]
    return logged
