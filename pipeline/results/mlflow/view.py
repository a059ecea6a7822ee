"""The view of a study in MLflow's user interface: columns, order and groups, stored as a tag of the experiment.

MLflow 3 reads a view from the tag ``mlflow.sharedViewState.KEY``, where the address of the page names KEY. The fields are those
of its user interface, which its documentation does not list.
"""

import json
from collections.abc import Sequence

VIEW_KEY = "study"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
# whether the present report uses a run: "pending" until there is a report, then "yes" or "no"
REPORT_TAG = "in_report"
# what a run is for, where it is no run of the report: a trial, which the view leaves out
ROLE_TAG, TRIAL = "role", "trial"
# what an entry of the table is: a run, a pretraining, a report or a reference
KIND_TAG, REFERENCE = "kind", "reference"
_TAGS = ("model", "method", "training_set", "seed")
_COSTS = ("trainable_parameters", "seconds", "peak_memory_gib")
# MLflow shows when a view was made; a constant, so that recording a study again changes nothing
_CREATED_MS = 0


def view_path(experiment_id: str) -> str:
    """Return the address of a study's view below that of the server."""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_KEY}"


def describe_view(averages: Sequence[str], *, has_references: bool = False) -> str:
    """Return the tag's value: the runs with their average accuracies, the best first.

    Args:
        averages: metrics that the table shows; it is sorted by the first.
        has_references: whether references are among the runs, so that the table says what each entry is.
    """
    tags = (KIND_TAG, *_TAGS, "measured") if has_references else _TAGS
    state = {
        "searchFilter": f"tags.{REPORT_TAG} != 'no'",
        "orderByKey": f"metrics.`{averages[0]}`" if averages else "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": [
            *(f"tags.`{name}`" for name in tags),
            *(f"metrics.`{name}`" for name in (*averages, *_COSTS)),
        ],
        "groupBy": None,
    }
    view = {"name": VIEW_KEY, "createdAt": _CREATED_MS, "updatedAt": _CREATED_MS, "state": json.dumps(state)}
    return json.dumps(view)
