"""Record a study's runs and pretrained bases in MLflow, from the files that their stages wrote."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.results.mlflow.entry import DatasetUse, RunFiles, RunHeader
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.run import Run

if TYPE_CHECKING:
    from pipeline.results.mlflow.client import LiveRun


def track_study(study: Study) -> None:
    """Record every finished base and run of a study.

    Raises:
        UserError: some could not be recorded; the causes were printed.
    """
    recorded = []
    for base in study.artifacts["base"]:
        # a base of the hub or of a package was not trained here
        if "pretraining" in base.params and base.path.exists():
            recorded.append(track_base(study, base, base.path))
    # MLflow has one run for each adapter
    for run in study.evaluated_runs:
        scores = study.scores(run).path
        if scores.exists():
            recorded.append(track_run(study, run, scores=scores))
    if not all(recorded):
        failed = recorded.count(False)
        raise UserError(f"{failed} of {len(recorded)} runs were not recorded; see the warnings above")


@contextmanager
def stream_training(study: Study, adapter: Artifact) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that sends rows of a training's history to MLflow while the training runs."""
    run = next(run for run in study.runs if run.adapter is adapter)
    live_run: LiveRun | None = None

    def log_row(row: Mapping[str, Any]) -> None:
        nonlocal live_run
        if live_run is None:
            # mlflow takes seconds to load; the first row comes after the first steps
            from pipeline.results.mlflow.client import LiveRun

            live_run = LiveRun(_run_header(study, run))
        live_run.log_row(row)

    yield log_row
    if live_run is not None:
        live_run.close()


def _run_header(study: Study, run: Run) -> RunHeader:
    artifact = run.adapter or study.answers(run)
    tags = {"model": run.model, "method": run.method, "seed": run.seed}
    if run.adapter:
        tags |= {"training_set": run.arms[0].training_set, "arm": run.arms[0].name}
    return RunHeader(
        experiment=study.name,
        run_name=run.name.replace("/", "-"),
        fingerprint=artifact.fingerprint,
        params=dict(artifact.params),
        tags={key: str(value) for key, value in tags.items() if value is not None},
    )


def track_base(study: Study, base: Artifact, folder: Path) -> bool:
    """Record a pretrained base, whose files are in ``folder``; return whether that succeeded."""
    name = base.path.parent.name
    header = RunHeader(
        experiment=study.name,
        run_name=f"{name}-base",
        fingerprint=base.fingerprint,
        params=dict(base.params),
        tags={"model": name, "method": "pretraining", "seed": str(base.params["pretraining"]["seed"])},
    )
    files = RunFiles(run_info=folder / "run.json", history=folder / "history.jsonl")
    return _write_run(header, files, _dataset_uses("training", base.inputs.values()))


def track_run(study: Study, run: Run, *, scores: Path) -> bool:
    """Record a run with its score file; return whether that succeeded."""
    adapter, answers = run.adapter, study.answers(run)
    datasets = _dataset_uses("evaluation", (task.prompts for task in study.tasks(run)))
    if adapter:
        datasets += _dataset_uses("training", [adapter.inputs["prompts"]])
    files = RunFiles(
        run_info=(adapter or answers).path / "run.json",
        history=adapter.path / "history.jsonl" if adapter else None,
        timing=adapter.path / "timing.jsonl" if adapter else None,
        scores=scores,
        answers=answers.path,
        attachments=(adapter.path, answers.path) if adapter else (answers.path,),
    )
    return _write_run(_run_header(study, run), files, datasets)


def _dataset_uses(context: str, prompts: Iterable[Artifact]) -> list[DatasetUse]:
    return [
        DatasetUse(source.path.parent.name, source.fingerprint, str(source.path), context)
        for source in prompts
    ]


def _write_run(header: RunHeader, files: RunFiles, datasets: list[DatasetUse]) -> bool:
    """Write a run to MLflow; if that fails, print the cause and return False."""
    from pipeline.results.mlflow import client

    try:
        client.write_run(header, files, datasets)
    # the results are on disk, so the command can record them later
    except client.TrackingError as error:
        print(f"warning: not recorded in MLflow: {error}; run: python -m pipeline track", file=sys.stderr)
        return False
    return True
