"""The tracking store: its address, whether it responds, its lock, and the experiment of a study."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.errors import one_line
from pipeline.results.mlflow.entry import Experiment
from pipeline.results.mlflow.view import VIEW_TAG, describe_view

MAX_ERROR_CHARACTERS = 300
LOCK_TIMEOUT_S = 600
PROBE_TIMEOUT_S = 5
NOTE_TAG = "mlflow.note.content"


class TrackingError(Exception):
    """The tracking store could not be written; results on disk are complete."""


def default_store() -> str:
    """Return the address of the database in the working folder; absolute, since MLflow caches connections by address."""
    return f"sqlite:///{Path('mlflow.db').resolve()}"


def store_address() -> str:
    """Return the address of the store: MLFLOW_TRACKING_URI, or the database in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_store()


def is_default_store() -> bool:
    """Return whether runs are recorded in the database in the working folder; an empty MLFLOW_TRACKING_URI is none."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def is_server(address: str) -> bool:
    """Return whether an address is that of a server."""
    return address.startswith(("http://", "https://"))


@contextmanager
def open_store() -> Iterator[MlflowClient]:
    """Yield a client while no other process of this machine writes to the store.

    Raises:
        TrackingError: the store cannot be reached or written; the message is one line.
    """
    address = store_address()
    try:
        if is_server(address):
            # before the lock: other jobs would wait for it while this one waits for the server
            _probe_server(address)
        # creating the client creates the database, and parallel processes that do so at the same time fail
        with FileLock(_lock_file(address), timeout=LOCK_TIMEOUT_S):
            if is_default_store():
                _relocate_attachments(Path("mlflow.db"))
            yield MlflowClient(address)
    except (MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        message = one_line(error, MAX_ERROR_CHARACTERS)
        # SQLite's two messages for a damaged file
        if any(symptom in message for symptom in ("not a database", "malformed")):
            message = f"the database is damaged; move it away ({message})"
        raise TrackingError(message) from None


def _probe_server(address: str) -> None:
    """Check that a server responds at all; what it responds is for the requests that follow."""
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
        raise TrackingError(f"no response from {address} (MLFLOW_TRACKING_URI)") from None


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


def open_experiment(client: MlflowClient, study: Experiment) -> str:
    """Return the id of a study's experiment: create it, or restore it if it was deleted, and describe it."""
    experiment = client.get_experiment_by_name(study.name)
    if experiment is None:
        # None: the server decides
        folder = _attachment_folder() if is_default_store() else None
        experiment = client.get_experiment(client.create_experiment(study.name, folder))
    elif experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if experiment.tags.get(NOTE_TAG) != study.note:
        client.set_experiment_tag(experiment.experiment_id, NOTE_TAG, study.note)
    view = describe_view(study.averages)
    if experiment.tags.get(VIEW_TAG) != view:
        client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, view)
    return str(experiment.experiment_id)
