"""What to reproduce: an artifact by its path, a run, or a metric of the report by its key."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.evaluate.scoring.metrics import ACCURACY, parse_metrics_key, task_key
from pipeline.params.studies import Arm
from pipeline.study import Study, load_study
from pipeline.study import find as names
from pipeline.study.artifacts import Artifact
from pipeline.study.run import Run


@dataclass(frozen=True)
class ReproduceRequest:
    """What to reproduce.

    Attributes:
        study: the study that the artifacts belong to.
        targets: the artifacts to reproduce.
        metric: for a metric of the report, its key in metrics.json (protocol, model, method, task); else empty.
        runs: the runs whose scores the targets are.
    """

    study: Study
    targets: tuple[Artifact, ...]
    metric: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()


def find_request(name: str, study_name: str | None, *, seeds: int | None = None) -> ReproduceRequest:
    """Return what a name on the command line refers to.

    Args:
        name: the path of an artifact; a metric, PROTOCOL/MODEL/METHOD/TASK (or with dots, as ``dvc metrics show`` prints
            it), where TASK may be "average ARM" or, for a task that several arms have, "TASK in ARM"; or a run, as
            ``find_run`` takes it: its adapter, answers and scores.
        study_name: a study of params/study/; None: the default study or, for a run, any study that has it.
        seeds: how many of the study's seeds its report is of; None: all.

    Raises:
        UserError: the name refers to nothing, or is ambiguous.
    """
    study = load_study(study_name, seeds=seeds)
    # a shell may complete a path with "./" in front or "/" at its end
    path = os.path.normpath(name)
    for artifact in study.named():
        if path == str(artifact.path):
            return ReproduceRequest(study, (artifact,))
    metric = _find_metric(name, study)
    if metric:
        protocol, _ = parse_metrics_key(metric[0]) or (metric[0], ACCURACY)
        if protocol != metric[0]:
            accuracy = "/".join([protocol, *metric[1:]])
            raise UserError(
                f"reproduce: '{name}' is not an accuracy; reproduce '{accuracy}', which compares its answers too"
            )
        runs = tuple(_runs_behind_metric(metric, study))
        return ReproduceRequest(study, tuple(study.scores(run) for run in runs), metric, runs)
    try:
        study, run = names.find_run(name, study_name)
    except UserError as error:
        raise UserError(f"{error}; {_explain_metric_names(study)}") from None
    return ReproduceRequest(study, (study.scores(run),), runs=(run,))


def metrics_path(study: Study) -> Path:
    """Return the file with the metrics of a study's report."""
    return study.report.path.with_name("metrics.json")


def _explain_metric_names(study: Study) -> str:
    """Return the end of an error line: which metrics could be reproduced."""
    path = metrics_path(study)
    if not path.is_file():
        return f"its metrics could be reproduced by their keys too, but {path} is missing"
    example = next(_metric_keys(read_json(path)), None)
    return f"it is not a metric of {path} either" + (f" (for example {'/'.join(example)})" if example else "")


def _find_metric(name: str, study: Study) -> tuple[str, ...]:
    """Return the key of a metric of the report; empty if the name is not a metric."""
    path = metrics_path(study)
    keys = list(_metric_keys(read_json(path))) if path.is_file() else []
    matches = [key for key in keys if name in ("/".join(key), ".".join(key))]
    # names may have dots
    if len(matches) > 1:
        choices = ", ".join("/".join(key) for key in matches)
        raise UserError(f"reproduce: metric '{name}' is ambiguous (choices: {choices})")
    return matches[0] if matches else ()


def _metric_keys(metrics: Any, parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(metrics, Mapping):
        yield parent
        return
    for key, value in metrics.items():
        yield from _metric_keys(value, (*parent, key))


def _runs_behind_metric(metric: tuple[str, ...], study: Study) -> Iterator[Run]:
    """Yield the runs, one per seed, that a metric is the mean of."""
    _, model, method, key = metric
    arm, _ = _find_arm(study, key)
    for run in study.runs:
        if (run.model, run.method) == (model, method) and arm.name in [holder.name for holder in run.arms]:
            yield run


def _find_arm(study: Study, key: str) -> tuple[Arm, list[str]]:
    """Return the arm that the last key of a metric belongs to, and the tasks that the metric is the mean of."""
    tasks_by_arm = {arm.name: arm.tasks for arm in study.card.arms}
    for arm in study.card.arms:
        tasks = [task for task in arm.tasks if task_key(task, arm.name, tasks_by_arm) == key]
        if tasks or key == f"average {arm.name}":
            return arm, tasks or arm.tasks
    raise UserError(
        f"reproduce: '{key}' is no longer a task or an average of study '{study.name}'; plan again"
    )


def compute_metric(request: ReproduceRequest, scores: Mapping[Path, Any]) -> float:
    """Return a metric of the report from score files: the mean over seeds, then over tasks.

    Args:
        request: a request for a metric.
        scores: the content of each target's score file.
    """
    protocol, _, _, key = request.metric
    means = []
    for task in _find_arm(request.study, key)[1]:
        tasks = [scores[target.path]["tasks"] for target in request.targets]
        name = f"{task}-{protocol}"
        accuracies = [scored[name]["accuracy"] for scored in tasks if name in scored]
        # the protocol may not apply to every task of an arm
        if accuracies:
            means.append(sum(accuracies) / len(accuracies))
    return float(sum(means) / len(means))
