"""The tracking store: its address, whether it responds, its lock, the experiment of a study, and what is written of a run."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.errors import one_line
from pipeline.results.mlflow.entry import DatasetUse, Experiment, RunHeader
from pipeline.results.mlflow.mounts import find_network_file_system, read_mounts
from pipeline.results.mlflow.outage import Pace, SlowServer, find_outage, report_outage
from pipeline.results.mlflow.values import MetricValue, list_params
from pipeline.results.mlflow.view import VIEW_TAG, describe_view

MAX_ERROR_CHARACTERS = 300
LOCK_TIMEOUT_S = 600
PROBE_TIMEOUT_S = 5
NOTE_TAG = "mlflow.note.content"
# MLflow accepts 1000 metrics and 100 params in a call
METRICS_PER_CALL = 900
PARAMS_PER_CALL = 90


class TrackingError(Exception):
    """The tracking store could not be written; results on disk are complete."""


def default_store() -> str:
    """Return the address of the database in the working folder; absolute, since MLflow caches connections by address."""
    return f"sqlite:///{Path('mlflow.db').resolve()}"


def store_address() -> str:
    """Return the address of the store: MLFLOW_TRACKING_URI, or the database in the working folder.

    A user and password in a server's address go to the variables that MLflow has for them, so that no message, tag or
    address of an artifact has them.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or default_store()
    if not is_server(address):
        return address
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    if at:
        name, _, password = user.partition(":")
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(name))
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(password))
        address = urlunsplit(parts._replace(netloc=host))
        os.environ["MLFLOW_TRACKING_URI"] = address
    return address


def is_default_store() -> bool:
    """Return whether runs are recorded in the database in the working folder; an empty MLFLOW_TRACKING_URI is none."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def is_server(address: str) -> bool:
    """Return whether an address is that of a server."""
    return address.startswith(("http://", "https://"))


def experiment_name(study: str) -> str:
    """Return the name of a study's experiment: on a server that people share, MLFLOW_EXPERIMENT_PREFIX tells theirs apart."""
    prefix = os.environ.get("MLFLOW_EXPERIMENT_PREFIX", "").strip().strip("/")
    return f"{prefix}/{study}" if prefix else study


@contextmanager
def open_store() -> Iterator[MlflowClient]:
    """Yield a client of the store. For a database, no other process of this machine writes to it meanwhile.

    Raises:
        TrackingError: the store cannot be reached or written; the message is one line.
    """
    address = store_address()
    try:
        if is_server(address):
            # No lock: the server has many writers anyway, and other jobs would wait for a slow one.
            _probe_server(address)
            yield MlflowClient(address)
            return
        _check_file_system(address)
        # creating the client creates the database, and parallel processes that do so at the same time fail
        with FileLock(_lock_file(address), timeout=LOCK_TIMEOUT_S):
            if is_default_store():
                _relocate_attachments(Path("mlflow.db"))
            yield MlflowClient(address)
    except (SlowServer, MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        message = _describe_error(address, error)
        if is_server(address) and _is_outage(error):
            report_outage(address, message)
        raise TrackingError(message) from None


def _probe_server(address: str) -> None:
    """Check that a server responds at all; what it responds is for the requests that follow."""
    outage = find_outage(address)
    if outage:
        raise TrackingError(outage)
    try:
        http_request(
            get_default_host_creds(address),
            "/health",
            "GET",
            max_retries=0,
            timeout=PROBE_TIMEOUT_S,
            raise_on_status=False,
        )
    except (MlflowException, OSError):
        message = f"no response from {address} (MLFLOW_TRACKING_URI)"
        report_outage(address, message)
        raise TrackingError(message) from None


def _status_of(error: Exception) -> int | None:
    """Return the HTTP status that a server's error came with; None: it came from elsewhere."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _is_outage(error: Exception) -> bool:
    """Return whether the next job would fail in the same way."""
    # a file that cannot be read has an error number of the system; what requests raises has none
    if isinstance(error, OSError) and error.errno is not None:
        return False
    status = _status_of(error)
    return status is None or status >= 500


def _describe_error(address: str, error: Exception) -> str:
    message = one_line(error, MAX_ERROR_CHARACTERS)
    # SQLite's two messages for a damaged file
    if any(symptom in message for symptom in ("not a database", "malformed")):
        return f"the database is damaged; move it away ({message})"
    if not is_server(address):
        return message
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    status = _status_of(error)
    if status == 401 and user:
        return (
            f"{address} refuses the user '{user}': wrong MLFLOW_TRACKING_USERNAME or MLFLOW_TRACKING_PASSWORD"
        )
    if status == 401:
        return f"{address} asks for a user: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if status == 403:
        return (
            f"{address}: the user '{user}' may not write to this experiment; set MLFLOW_EXPERIMENT_PREFIX={user} for "
            "experiments of your own, or ask its owner for the permission EDIT"
        )
    return f"{address}: {message}"


def _check_file_system(address: str) -> None:
    """Raise TrackingError for a SQLite database on a file system that several machines share."""
    if not address.startswith("sqlite:///"):
        return
    database = Path(address.removeprefix("sqlite:///")).resolve()
    kind = find_network_file_system(database, read_mounts())
    if kind:
        raise TrackingError(
            f"{database} is on a network file system ({kind}), where SQLite can lose runs; set MLFLOW_TRACKING_URI to a "
            "server (docs/servers.md) or to sqlite:////FOLDER/mlflow.db on a local disk"
        )


def _lock_file(address: str) -> Path:
    """Return the lock of a store: beside a sqlite file, which several checkouts may share, else in this checkout."""
    if address.startswith("sqlite:///"):
        return Path(f"{address.removeprefix('sqlite:///')}.lock").resolve()
    return Path(".mlflow.lock").resolve()


def _attachment_folder() -> str:
    """Return the address of the folder beside the default database that holds the artifacts of runs."""
    return Path("mlartifacts").resolve().as_uri()


def _relocate_attachments(database: Path) -> None:
    """Correct the addresses of artifacts after the checkout was moved: MLflow stores absolute addresses."""
    if not database.exists():
        return
    folder = _attachment_folder()
    with closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT_S)) as connection, connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if not {"experiments", "runs"} <= tables:
            return
        rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        # not a user's own bucket, whatever its name
        local = [old for (old,) in rows if old and old.startswith("file:")]
        moved = [old for old in local if old.endswith("/mlartifacts") and old != folder]
        for old in moved:
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
                (folder, len(old) + 1, len(old) + 1, f"{old}/"),
            )
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (folder, old)
            )


def _create_experiment(client: MlflowClient, name: str) -> Any:
    # None: the server decides
    folder = _attachment_folder() if is_default_store() else None
    try:
        client.create_experiment(name, folder)
    except MlflowException as error:
        # another writer was faster
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.get_experiment_by_name(name)


def open_experiment(client: MlflowClient, study: Experiment) -> str:
    """Return the id of a study's experiment: create it, or restore it if it was deleted, and describe it."""
    name = experiment_name(study.name)
    experiment = client.get_experiment_by_name(name) or _create_experiment(client, name)
    if experiment.lifecycle_stage == "deleted":
        _restore_experiment(client, experiment.experiment_id)
    for key, value in (
        (NOTE_TAG, study.note),
        (VIEW_TAG, describe_view(study.averages, has_references=study.has_references)),
    ):
        if experiment.tags.get(key) != value:
            _tag_experiment(client, experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _restore_experiment(client: MlflowClient, experiment_id: str) -> None:
    try:
        client.restore_experiment(experiment_id)
    except MlflowException:
        # another writer was faster
        if client.get_experiment(experiment_id).lifecycle_stage == "deleted":
            raise


def _tag_experiment(client: MlflowClient, experiment_id: str, key: str, value: str) -> None:
    """Set a tag of an experiment.

    A server that receives the same new tag from two writers at the same time inserts it twice and refuses the slower
    writer. By then the tag exists, so that a second request replaces its value.
    """
    try:
        client.set_experiment_tag(experiment_id, key, value)
    except MlflowException:
        if key not in client.get_experiment(experiment_id).tags:
            raise
        client.set_experiment_tag(experiment_id, key, value)


def send_metrics(
    client: MlflowClient,
    run_id: str,
    values: Sequence[MetricValue],
    pace: Pace,
    *,
    time_ms: int | None = None,
) -> None:
    """Write metrics of a run, measured at ``time_ms``; None: now.

    MLflow stores a value once for each key, step and time: with a fixed time, a second writer adds none.
    """
    time_ms = int(time.time() * 1000) if time_ms is None else time_ms
    metrics = [Metric(value.key, float(value.value), time_ms, value.step) for value in values]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])
        pace.check()


def send_params(client: MlflowClient, run_id: str, header: RunHeader) -> None:
    """Write the parameters of a run that MLflow's table shows."""
    params = [Param(key, text) for key, text in list_params(header).items()]
    for start in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])


def send_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Write tags of a run."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def send_datasets(client: MlflowClient, run_id: str, datasets: Sequence[DatasetUse]) -> None:
    """Write which datasets a run used."""
    inputs = []
    for use in datasets:
        source = json.dumps({"uri": use.source})
        entity = Dataset(name=use.name, digest=use.digest, source_type="local", source=source)
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", use.context)]))
    client.log_inputs(run_id, inputs)
