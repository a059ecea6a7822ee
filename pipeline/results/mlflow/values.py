"""The values that MLflow stores of a run, from the files that the stages wrote; importing this module does not load mlflow."""

import contextlib
import getpass
import json
import math
import os
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pipeline.core.environment import RunInfo
from pipeline.core.io import read_json
from pipeline.evaluate.clusters import accuracy_interval
from pipeline.evaluate.scoring.metrics import ACCURACY, METRICS, ScoredTask
from pipeline.evaluate.scoring.rows import TaskScore
from pipeline.results.mlflow.entry import RunFiles, RunHeader, flatten_params

USER_TAG = "mlflow.user"
# MLflow's limit (MAX_PARAM_VAL_LENGTH)
MAX_PARAM_CHARACTERS = 6000


class Period(NamedTuple):
    """When the work of a run started and ended, in ms since 1970; None: unknown."""

    start_ms: int | None
    end_ms: int | None


def read_period(info: RunInfo) -> Period:
    """Return when a job worked; the time of a resumed job counts as if it had worked without a break."""
    if "ended" not in info:
        return Period(None, None)
    end_ms = int(datetime.fromisoformat(info["ended"]).timestamp() * 1000)
    return Period(end_ms - round(info["seconds"] * 1000), end_ms)


class MetricValue(NamedTuple):
    """A metric of a run, at a step of its training; 0 for the whole run."""

    key: str
    value: float
    step: int = 0


def list_params(header: RunHeader) -> dict[str, str]:
    """Return the parameters that MLflow's table shows; lists and maps as JSON."""
    flat = flatten_params(header.params)
    shown = flat.keys() if header.shown_params is None else header.shown_params
    return {
        key: (value if isinstance(value, str) else json.dumps(value))[:MAX_PARAM_CHARACTERS]
        for key, value in flat.items()
        if key in shown
    }


def list_tags(header: RunHeader, info: RunInfo | None = None) -> dict[str, str]:
    """Return the tags of a run; versions of packages are in run.json, an artifact."""
    tags = {"kind": header.kind, "mlflow.source.type": "LOCAL", "mlflow.source.name": "Snakefile"}
    tags |= find_user()
    if info is not None:
        values: Mapping[str, object] = info
        names = ("git_commit", "git_dirty", "host", "device")
        tags |= {name: str(values[name]) for name in names if values.get(name) is not None}
        if info.get("git_commit"):
            tags["mlflow.source.git.commit"] = str(info["git_commit"])
    return {**tags, **header.tags}


def find_user() -> dict[str, str]:
    """Return the tag with who records a run: the user of the server, or of this machine."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user:
        return {USER_TAG: user}
    # a container may run as a user without a name
    with contextlib.suppress(KeyError, OSError):
        return {USER_TAG: getpass.getuser()}
    return {}


def list_result_metrics(files: RunFiles, info: RunInfo) -> list[MetricValue]:
    """Return what a run cost, every metric of its tasks, and their averages."""
    return _list_costs(files, info) + _list_scores(files)


def _list_costs(files: RunFiles, info: RunInfo) -> list[MetricValue]:
    costs: dict[str, object] = {key: info.get(key) for key in ("seconds", "peak_memory_gib")}
    if files.manifest:
        manifest = read_json(files.manifest)
        costs |= {key: manifest.get(key) for key in ("trainable_parameters", "all_parameters")}
    if files.answers and (files.answers / "run.json").exists():
        costs["evaluation_seconds"] = read_json(files.answers / "run.json").get("seconds")
    return [MetricValue(key, value) for key, value in costs.items() if isinstance(value, int | float)]


def _list_scores(files: RunFiles) -> list[MetricValue]:
    if files.scores is None or files.answers is None:
        return []
    tasks: dict[str, TaskScore] = read_json(files.scores)["tasks"]
    logged = []
    for name, score in tasks.items():
        low, high = accuracy_interval(score, files.clusters.get(name))
        logged.append(MetricValue(f"accuracy_low/{name}", low))
        logged.append(MetricValue(f"accuracy_high/{name}", high))
        logged.append(MetricValue(f"unparsable/{name}", score["unparsable"] / score["n"]))
    for metric in METRICS:
        values = {
            name: metric.value(ScoredTask(score, files.answers / f"{name}.jsonl"))
            for name, score in tasks.items()
            if metric.applies_to(score)
        }
        logged += [
            MetricValue(f"{metric.name}/{name}", value)
            for name, value in values.items()
            if not math.isnan(value)
        ]
        prefix = "average" if metric is ACCURACY else f"average_{metric.name}"
        for group, names in files.averages.items():
            # all tasks or none: a mean over fewer tasks would be another number under the same name
            members = [values.get(name, math.nan) for name in names]
            mean = sum(members) / len(members)
            if not math.isnan(mean):
                # as in metrics.json: MLflow's table shows every digit
                logged.append(MetricValue(f"{prefix}/{group}", round(mean, 6)))
    return logged
