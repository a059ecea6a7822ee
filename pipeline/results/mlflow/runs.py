"""Record a study's runs, pretrained bases and report in MLflow, from the files that their stages wrote."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.params.studies import Arm
from pipeline.results.mlflow import outage
from pipeline.results.mlflow.entry import DatasetUse, Experiment, RunFiles, RunHeader, flatten_params
from pipeline.results.mlflow.outage import JOB_LIMIT_S
from pipeline.results.mlflow.references import group_published, list_entries
from pipeline.results.mlflow.view import ROLE_TAG, TRIAL
from pipeline.results.scores.clusters import find_clusters
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.followups.rows import has_references
from pipeline.study.run import Run
from pipeline.study.tuning.choice import resolve_params
from pipeline.study.tuning.trials import Trial

if TYPE_CHECKING:
    from pipeline.results.mlflow.client import LiveRun


def track_study(study: Study) -> None:
    """Record every finished base and run of a study, and its report, which is a run too.

    Raises:
        UserError: some could not be recorded; the causes were printed.
    """
    # the user who calls it has repaired the server, and waits for a slow one
    outage.end_outage()
    recorded = []
    for base in study.artifacts["base"]:
        # a base of the hub or of a package was not trained here
        if "pretraining" in base.params and base.path.exists():
            recorded.append(track_base(study, base, base.path, limit_s=None))
    shown_params = find_shown_params(study)
    for choice in study.artifacts["choose"]:
        if choice.path.exists():
            recorded += track_trials(study, choice, shown_params=shown_params, limit_s=None)
    # MLflow has one run for each adapter
    for run in study.evaluated_runs:
        scores = study.scores(run).path
        if scores.exists():
            recorded.append(track_run(study, run, scores=scores, shown_params=shown_params, limit_s=None))
    if study.report.path.exists():
        recorded.append(track_report(study, limit_s=None))
    if not all(recorded):
        failed = recorded.count(False)
        raise UserError(f"{failed} of {len(recorded)} runs were not recorded; see the warnings above")
    outage.clear_unrecorded(study.name)


@contextmanager
def stream_training(study: Study, adapter: Artifact) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that sends rows of a training's history to MLflow while the training runs."""
    runs = (*study.runs, *(trial.run for trial in study.trials))
    run = next(run for run in runs if run.adapter is adapter)
    live_run: LiveRun | None = None

    def log_row(row: Mapping[str, Any]) -> None:
        nonlocal live_run
        if live_run is None:
            # mlflow takes seconds to load; the first row comes after the first steps
            from pipeline.results.mlflow.client import LiveRun

            live_run = LiveRun(_run_header(study, run, find_shown_params(study)))
        live_run.log_row(row)

    yield log_row
    if live_run is not None:
        live_run.close()


def _describe_experiment(study: Study) -> Experiment:
    """Return a study as an experiment of MLflow, with the averages of all its runs."""
    groups = _group_tasks(study, study.card.arms)
    note = (
        f"{study.card.title}\n\n{study.card.description}\n\n"
        f"Report: `reports/{study.name}/index.html`, also an artifact of the run `{study.name}`. Paired comparison of two "
        "runs, with intervals: `python -m pipeline compare RUN RUN`. Make a run again: `python -m pipeline reproduce RUN`."
    )
    columns = [*groups, *group_published(study)]
    return Experiment(
        study.name,
        note,
        tuple(f"average/{group}" for group in columns),
        has_references=has_references(study),
    )


def _group_tasks(study: Study, arms: Iterable[Arm]) -> dict[str, list[str]]:
    """Return "ARM-PROTOCOL" -> names of the tasks whose accuracies the report averages."""
    groups = {
        f"{arm.name}-{protocol}": [
            f"{task}-{protocol}" for task in arm.tasks if protocol in study.protocols_of(task)
        ]
        for arm in arms
        for protocol in study.card.protocols
    }
    return {group: members for group, members in groups.items() if members}


def _list_arms(study: Study, run: Run) -> list[Arm]:
    """Return the arms of a run and of those that share its adapter, and so its scores."""
    model = run.evaluated_model.path
    sharers = (sharer for sharer in study.runs if sharer.evaluated_model.path == model)
    # a trial shares its adapter with no run of the study
    arms = [arm for sharer in sharers for arm in sharer.arms] or run.arms
    return list({arm.name: arm for arm in arms}.values())


def _run_artifact(study: Study, run: Run) -> Artifact:
    return run.adapter or study.answers(run)


def _run_params(study: Study, run: Run) -> dict[str, Any]:
    """Return the params of a run, with the settings that a choice makes once they are known."""
    return resolve_params(run.adapter) if run.adapter else dict(study.answers(run).params)


def find_shown_params(study: Study) -> frozenset[str]:
    """Return the params that MLflow's table shows: those of a training, and others that differ between runs of a kind."""
    values: dict[tuple[bool, str], set[str]] = {}
    for run in study.evaluated_runs:
        for key, value in flatten_params(_run_params(study, run)).items():
            values.setdefault((run.adapter is None, key), set()).add(repr(value))
    return frozenset(
        key
        for (_, key), texts in values.items()
        if key.startswith(("method.", "training.")) or len(texts) > 1
    )


def _run_header(study: Study, run: Run, shown_params: frozenset[str]) -> RunHeader:
    artifact = _run_artifact(study, run)
    tags = {"model": run.model, "method": run.method, "seed": run.seed}
    if run.adapter:
        tags |= {"training_set": run.training_set, "arm": run.arms[0].name}
        if run.adapter.params.get("role") == TRIAL:
            tags[ROLE_TAG] = TRIAL
    return RunHeader(
        experiment=_describe_experiment(study),
        run_name=run.name,
        fingerprint=artifact.fingerprint,
        params=_run_params(study, run),
        tags={key: str(value) for key, value in tags.items() if value is not None},
        shown_params=shown_params,
    )


def track_base(study: Study, base: Artifact, folder: Path, *, limit_s: float | None = JOB_LIMIT_S) -> bool:
    """Record a pretrained base, whose files are in ``folder``, within a time; return whether that succeeded."""
    name = base.path.parent.name
    header = RunHeader(
        experiment=_describe_experiment(study),
        run_name=f"{name}/base",
        fingerprint=base.fingerprint,
        params=dict(base.params),
        tags={"model": name, "method": "pretraining", "seed": str(base.params["pretraining"]["seed"])},
        kind="base",
    )
    files = RunFiles(run_info=folder / "run.json", history=folder / "history.jsonl")
    datasets = _dataset_uses("training", base.inputs.values())
    return _write(
        study, header.run_name, lambda client: client.write_run(header, files, datasets, limit_s=limit_s)
    )


def track_run(
    study: Study,
    run: Run,
    *,
    scores: Path,
    shown_params: frozenset[str] | None = None,
    limit_s: float | None = JOB_LIMIT_S,
) -> bool:
    """Record a run with its score file; return whether that succeeded.

    Args:
        study: of the run.
        run: that was scored.
        scores: its score file.
        shown_params: as ``find_shown_params`` returns them, for a caller that records many runs; None: they are listed here.
        limit_s: seconds that it may take; None: any.
    """
    adapter, answers = run.adapter, study.answers(run)
    datasets = _dataset_uses("evaluation", (task.prompts for task in study.tasks(run)))
    sources = {training.inputs["prompts"].path: training.inputs["prompts"] for training in run.trainings}
    datasets += _dataset_uses("training", sources.values())
    # a combination has no steps
    logs = adapter.path if adapter and not run.members else None
    files = RunFiles(
        run_info=(adapter or answers).path / "run.json",
        manifest=adapter.path / "manifest.json" if adapter else None,
        history=logs / "history.jsonl" if logs else None,
        timing=logs / "timing.jsonl" if logs else None,
        scores=scores,
        answers=answers.path,
        averages=_group_tasks(study, _list_arms(study, run)),
        clusters=find_clusters(study, run),
        attachments=tuple(
            artifact.path for artifact in (adapter, *study.results(run).all_answers) if artifact
        ),
    )
    header = _run_header(study, run, shown_params or find_shown_params(study))
    return _write(study, run.name, lambda client: client.write_run(header, files, datasets, limit_s=limit_s))


def track_trials(
    study: Study,
    choice: Artifact,
    *,
    shown_params: frozenset[str] | None = None,
    limit_s: float | None = JOB_LIMIT_S,
) -> list[bool]:
    """Record the trials of a choice; return for each whether that succeeded.

    Under the rule "accuracy" a trial has scores, and is recorded with them as any run. ``shown_params`` are those of
    ``find_shown_params``, which reads the files of every run; None: they are computed.
    """
    adapters = {artifact.path for artifact in choice.inputs.values()}
    shown_params = find_shown_params(study) if shown_params is None else shown_params
    return [
        track_run(
            study, trial.run, scores=trial.results.scores.path, shown_params=shown_params, limit_s=limit_s
        )
        if trial.results
        else _track_trial(study, trial, shown_params, limit_s)
        for trial in study.trials
        if trial.adapter.path in adapters and trial.adapter.path.exists()
    ]


def _track_trial(study: Study, trial: Trial, shown_params: frozenset[str], limit_s: float | None) -> bool:
    """Record a trial that has no scores; return whether that succeeded."""
    folder = trial.adapter.path
    # a trial may diverge before it logs anything
    logs = (folder / "history.jsonl", folder / "timing.jsonl")
    history, timing = (path if path.exists() else None for path in logs)
    files = RunFiles(
        run_info=folder / "run.json",
        manifest=folder / "manifest.json",
        history=history,
        timing=timing,
        attachments=(folder,),
    )
    datasets = _dataset_uses("training", [trial.adapter.inputs["prompts"]])
    header = _run_header(study, trial.run, shown_params)
    return _write(
        study, trial.run.name, lambda client: client.write_run(header, files, datasets, limit_s=limit_s)
    )


def track_report(study: Study, *, limit_s: float | None = JOB_LIMIT_S) -> bool:
    """Record the report of a study, its references and which runs it uses; return whether that succeeded."""
    experiment = _describe_experiment(study)
    fingerprints = {_run_artifact(study, run).fingerprint for run in study.evaluated_runs}
    folder = study.report.path.parent
    references = list_entries(study)
    return _write(
        study,
        study.name,
        lambda client: client.write_report(
            experiment, folder, fingerprints=fingerprints, references=references, limit_s=limit_s
        ),
    )


def _dataset_uses(context: str, prompts: Iterable[Artifact]) -> list[DatasetUse]:
    return [
        DatasetUse(source.path.parent.name, source.fingerprint, str(source.path), context)
        for source in prompts
    ]


def _write(study: Study, run: str, write: Callable[[ModuleType], object]) -> bool:
    """Write a run to MLflow; if that fails, print the cause, list the run and return False."""
    from pipeline.results.mlflow import client
    from pipeline.results.mlflow.store import TrackingError

    try:
        write(client)
    # the results are on disk, so the command can record them later
    except TrackingError as error:
        outage.add_unrecorded(study.name, run, str(error))
        _warn(str(error))
        return False
    return True


@cache
def _warn(cause: str) -> None:
    """Print a cause once: `track` meets it again with every run."""
    print(f"warning: not recorded in MLflow: {cause}; run: python -m pipeline track", file=sys.stderr)
