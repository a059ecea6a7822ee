"""MLflow: one run per finished training or bare base, written from the files on disk; the only mlflow import.

Nothing is ever read back into a result. The store is ``sqlite:///mlflow.db`` in the project's root unless
MLFLOW_TRACKING_URI names another.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ.setdefault("DO_NOT_TRACK", "true")

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.errors import one_line
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.scoring.metrics import METRICS, ScoredTask
from pipeline.evaluate.scoring.rows import TaskScore

LIVE = "live"  # tag of a run whose curves were logged while it was training, and that is not complete
LIVE_SECONDS = 30  # shorter trainings are recorded at their end alone
CHUNK = 900  # metrics of one log_batch call; MLflow takes 1000
PARAMS_CHUNK = 90  # MLflow takes 100
LONGEST_PARAM = 6000


class TrackingError(Exception):
    """The tracking store could not be written; results on disk are whole."""


def track(
    *,
    experiment: str,
    run_name: str,
    fingerprint: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    history: Path | None,
    timing: Path | None,
    scores: Path | None,
    answers: Path | None,
    run_info: Path,
    datasets: Sequence[Mapping[str, str]],
    artifacts: Sequence[Path],
) -> str:
    """Record one finished run, once: a repeat brings the one active run of that fingerprint up to date.

    A run that a killed process left RUNNING is marked KILLED and a new one made.

    Args:
        experiment: the study's name.
        run_name: as the UI shows it.
        fingerprint: of the adapter, of a bare base's answers, or of a pretrained base; tag "fingerprint".
        params: resolved, nested; recorded flat.
        tags: model, method, seed and so on.
        history: rows of metrics by step; timing: rows of speed and memory by step.
        scores: the score file, for the metrics of each task.
        answers: the directory of the answers that it judges.
        run_info: environment and cost.
        datasets: name, digest, source and context ("training", "evaluation") of each.
        artifacts: folders to attach.

    Returns:
        The id of the MLflow run.

    Raises:
        TrackingError: in one line, if the store refuses or is out of reach.
    """
    with _store() as client:
        run_id, whole = _open_run(client, experiment, run_name, fingerprint)
        if not whole:
            _log_params(client, run_id, params)
            _log_datasets(client, run_id, datasets)
        info = read_json(run_info)
        _log_tags(client, run_id, {**tags, **_environment(info)})
        metrics = _costs(info) + _scored(scores, answers)
        if not whole:
            shown = {one.step for one in client.get_metric_history(run_id, "loss")}
            metrics += _stepped(read_jsonl(history), but=shown) if history else []
            metrics += _stepped(read_jsonl(timing)) if timing else []
        _log_metrics(client, run_id, metrics)
        for folder in artifacts:
            client.log_artifacts(run_id, str(folder), artifact_path=folder.parts[1])
        if LIVE in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, LIVE)
        client.set_terminated(run_id, "FINISHED")
    return run_id


class Live:
    """Shows a long training's curves in MLflow while it goes on; ``track`` completes the run.

    Call it with each row of the history. A store that fails is told once and never stops the training.
    """

    def __init__(
        self,
        experiment: str,
        run_name: str,
        *,
        fingerprint: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        self._opened = (experiment, run_name, fingerprint)
        self._params, self._tags = params, tags
        self._rows: list[Mapping[str, Any]] = []
        self._run: str | None = None
        self._off = False
        self._last = time.monotonic()

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Take a row; log all that came since the last time, at most every LIVE_SECONDS."""
        self._rows.append(row)
        if not self._off and time.monotonic() - self._last >= LIVE_SECONDS:
            self._log()

    def close(self) -> None:
        """Log the rest; a run that was never opened stays so."""
        if self._run and not self._off:
            self._log(status="FINISHED")

    def _log(self, *, status: str | None = None) -> None:
        rows, self._rows, self._last = self._rows, [], time.monotonic()
        try:
            with _store() as client:
                if self._run is None:
                    self._run, whole = _open_run(client, *self._opened)
                    if whole:  # trained again, by hand: the finished run stands
                        self._off = True
                        return
                    _log_params(client, self._run, self._params)
                    _log_tags(client, self._run, {**self._tags, LIVE: "curves"})
                _log_metrics(client, self._run, _stepped(rows))
                if status:
                    client.set_terminated(self._run, status)
        except TrackingError as error:
            self._off = True
            print(f"warning: no live curves in MLflow: {error}", file=sys.stderr)


def _lock_of(address: str) -> Path:
    """The lock's file: beside a sqlite file, which several checkouts may write to; else in this checkout."""
    if address.startswith("sqlite:///"):
        return Path(f"{address.removeprefix('sqlite:///')}.lock").resolve()
    return Path(".mlflow.lock").resolve()


@contextmanager
def _store() -> Iterator[MlflowClient]:
    """Yield a client, alone on this machine's store."""
    address = os.environ.get("MLFLOW_TRACKING_URI") or default_store()
    try:
        # Eight writers on a new sqlite file raced, and seven failed: making the client makes the database.
        with FileLock(_lock_of(address), timeout=600):
            yield MlflowClient(address)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        told = one_line(error, 300)
        if any(mark in told for mark in ("not a database", "malformed")):
            told = f"the database is damaged; move it away ({told})"
        raise TrackingError(told) from None


def default_store() -> str:
    """The database in the working folder, by its whole path: MLflow keeps one connection for each name."""
    return f"sqlite:///{Path('mlflow.db').resolve()}"


def _open_run(client: MlflowClient, experiment: str, run_name: str, fingerprint: str) -> tuple[str, bool]:
    """Return a run to write to, and whether it is whole already. What a killed process left RUNNING becomes KILLED."""
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, _artifact_store())
    runs = client.search_runs([experiment_id], f"tags.fingerprint = '{fingerprint}'")
    for run in runs:
        if run.info.status == "FINISHED":
            return run.info.run_id, LIVE not in run.data.tags
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
    created = client.create_run(experiment_id, tags={"fingerprint": fingerprint}, run_name=run_name)
    return created.info.run_id, False


def _log_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    for start in range(0, len(metrics), CHUNK):
        client.log_batch(run_id, metrics=metrics[start : start + CHUNK])


def _artifact_store() -> str | None:
    """Beside the default database; a server has its own."""
    return None if "MLFLOW_TRACKING_URI" in os.environ else Path("mlartifacts").resolve().as_uri()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested params as "training.learning_rate": "0.0003"; lists as JSON."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    rows = [Param(key, value[:LONGEST_PARAM]) for key, value in flat(params).items()]
    for start in range(0, len(rows), PARAMS_CHUNK):
        client.log_batch(run_id, params=rows[start : start + PARAMS_CHUNK])


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _log_datasets(client: MlflowClient, run_id: str, datasets: Sequence[Mapping[str, str]]) -> None:
    inputs = [
        DatasetInput(
            Dataset(
                name=one["name"],
                digest=one["digest"],
                source_type="local",
                source=json.dumps({"uri": one["source"]}),
            ),
            [InputTag("mlflow.data.context", one["context"])],
        )
        for one in datasets
    ]
    client.log_inputs(run_id, inputs)


def _environment(info: Mapping[str, Any]) -> dict[str, str]:
    packages = {f"package.{name}": version for name, version in info.get("packages", {}).items()}
    plain = ("git_commit", "git_dirty", "host", "device", "processor", "python", "platform")
    return packages | {key: str(info[key]) for key in plain if info.get(key) is not None}


def _metric(key: str, value: float, step: int = 0) -> Metric:
    return Metric(key, float(value), int(time.time() * 1000), step)


def _costs(info: Mapping[str, Any]) -> list[Metric]:
    keys = ("seconds", "peak_memory_gib", "trainable_parameters", "all_parameters", "tokens_per_s")
    return [_metric(key, info[key]) for key in keys if info.get(key) is not None]


def _stepped(rows: Sequence[Mapping[str, Any]], *, but: Set[int] = frozenset()) -> list[Metric]:
    return [
        _metric(key, value, int(row["step"]))
        for row in rows
        if row["step"] not in but
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float)
    ]


def _scored(scores: Path | None, answers: Path | None) -> list[Metric]:
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
