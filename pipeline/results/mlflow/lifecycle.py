"""The runs of MLflow as parallel and killed writers leave them: open, create, finish, and keep the first of each."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.results.mlflow.entry import Experiment, RunHeader
from pipeline.results.mlflow.outage import Pace
from pipeline.results.mlflow.store import NOTE_TAG, open_experiment, send_tags
from pipeline.results.mlflow.values import find_user
from pipeline.results.mlflow.view import REPORT_TAG, ROLE_TAG, TRIAL

# tags an incomplete run: its training logged curves, and its scores are still missing
LIVE_TAG = "live"
PARENT_TAG = "mlflow.parentRunId"
# when a run was first recorded, in UTC to the microsecond: of two writers of the same run, the earlier one's stays
RECORDED_TAG = "recorded"


def find_runs(client: MlflowClient, experiment_id: str, condition: str = "") -> list[Any]:
    """Return all runs of an experiment that meet a condition of MLflow's search, page by page."""
    runs, page = [], None
    while True:
        results = client.search_runs([experiment_id], condition, page_token=page)
        runs += results
        page = results.token
        if not page:
            return runs


def open_run(
    client: MlflowClient, header: RunHeader, pace: Pace, *, start_ms: int | None
) -> tuple[str, bool]:
    """Return the id of the run to write to, and whether it is complete already.

    A run that a killed process left RUNNING is marked KILLED.
    """
    experiment_id = open_experiment(client, header.experiment)
    pace.check()
    tags = {
        "fingerprint": header.fingerprint,
        PARENT_TAG: open_parent(client, experiment_id, header.experiment),
    }
    pace.check()
    condition = f"tags.fingerprint = '{header.fingerprint}'"
    finished = []
    for run in find_runs(client, experiment_id, condition):
        if run.info.status == "FINISHED":
            finished.append(run)
        elif run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
    pace.check()
    if finished:
        run = keep_first(client, finished)
        # names and parents were others in earlier versions
        send_tags(client, run.info.run_id, {**tags, "mlflow.runName": header.run_name})
        return run.info.run_id, LIVE_TAG not in run.data.tags
    tags[REPORT_TAG] = "no" if header.tags.get(ROLE_TAG) == TRIAL else "pending"
    run_id = create_run(
        client, experiment_id, condition, tags=tags, start_time=start_ms, run_name=header.run_name
    )
    return run_id, False


def open_parent(client: MlflowClient, experiment_id: str, experiment: Experiment) -> str:
    """Return the id of the run that holds a study's report."""
    condition = "tags.kind = 'study'"
    parents = find_runs(client, experiment_id, condition)
    if parents:
        run = keep_first(client, parents)
        # a process that was killed here may have left it running
        if run.info.status != "FINISHED":
            client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)
    tags = {"kind": "study", REPORT_TAG: "yes", NOTE_TAG: experiment.note}
    run_id = create_run(
        client, experiment_id, condition, tags=tags, start_time=None, run_name=experiment.name
    )
    # no job works on it, so it never counts as running
    client.set_terminated(run_id, "FINISHED")
    return run_id


def create_run(
    client: MlflowClient,
    experiment_id: str,
    condition: str,
    *,
    tags: dict[str, str],
    start_time: int | None,
    run_name: str,
) -> str:
    """Create a run that no other writer has created at the same time; return the id of the first one that is alive."""
    tags |= {RECORDED_TAG: datetime.now(UTC).isoformat(timespec="microseconds"), **find_user()}
    run = client.create_run(experiment_id, start_time=start_time, tags=tags, run_name=run_name)
    alive = [rival for rival in find_runs(client, experiment_id, condition) if rival.info.status != "KILLED"]
    first = min(alive, key=_creation, default=run)
    # Only the own run is deleted: its rival's writer is at work. Both come to the same order.
    if first.info.run_id != run.info.run_id:
        client.delete_run(run.info.run_id)
    return str(first.info.run_id)


def finish_run(client: MlflowClient, run: Any, *, end_ms: int | None = None) -> str:
    """Set a run FINISHED; return the id of the run that stays.

    Another writer of the same run may have marked this run KILLED while it was open, and created its own.
    """
    client.set_terminated(run.info.run_id, "FINISHED", end_ms)
    condition = f"tags.fingerprint = '{run.data.tags['fingerprint']}'"
    twins = find_runs(client, run.info.experiment_id, condition)
    finished = [twin for twin in twins if twin.info.status == "FINISHED"]
    return str(keep_first(client, finished or [run]).info.run_id)


def _creation(run: Any) -> tuple[str, str]:
    return run.data.tags.get(RECORDED_TAG, ""), run.info.run_id


def keep_first(client: MlflowClient, runs: Sequence[Any]) -> Any:
    """Return the run that was recorded first; delete doubles, which machines with different clocks can leave."""
    first, *doubles = sorted(runs, key=_creation)
    for run in doubles:
        client.delete_run(run.info.run_id)
    return first


def remove_live_tag(client: MlflowClient, run_id: str) -> None:
    """Mark a run as complete; another writer of the run may have done so."""
    try:
        client.delete_tag(run_id, LIVE_TAG)
    except MlflowException as error:
        # another writer of the run was faster
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
