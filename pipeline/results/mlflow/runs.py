"""What MLflow is told of a study: its runs and pretrained bases, from the files that their stages wrote."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.run import Run


def track_all(study: Study) -> None:
    """Record every base and run of a study that is finished.

    Raises:
        UserError: some could not be recorded; why was printed.
    """
    done = []
    for base in study.artifacts["base"]:
        if "repo_id" not in base.params and base.path.exists():
            done.append(track_base(study, base, base.path))
    for run in study.runs:
        scores = study.scores(run).path
        if scores.exists():
            done.append(track_run(study, run, scores=scores))
    if not all(done):
        raise UserError(f"{done.count(False)} of {len(done)} runs were not recorded; the reason stands above")


@contextmanager
def live(study: Study, adapter: Artifact) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what shows a training's curves in MLflow while it goes on; mlflow is loaded when the first are due."""
    run = next(run for run in study.runs if run.adapter is adapter)
    shown: list[Any] = []

    def take(row: Mapping[str, Any]) -> None:
        if not shown:
            from pipeline.results.mlflow import client

            given = _named(study, run)
            shown.append(
                client.Live(
                    given["experiment"],
                    given["run_name"],
                    **{key: given[key] for key in ("fingerprint", "params", "tags")},
                )
            )
        shown[0](row)

    yield take
    for live in shown:
        live.close()


def _named(study: Study, run: Run) -> dict[str, Any]:
    """What MLflow shows of a run before it is scored."""
    made = run.adapter or study.answers(run)
    tags = {"model": run.model, "method": run.method, "seed": run.seed}
    tags["training_set"] = run.arms[0].training_set if run.adapter else None
    return {
        "experiment": study.name,
        "run_name": "-".join(part for part in run.label.strip("/").split("/")),
        "fingerprint": made.fingerprint,
        "params": dict(made.params),
        "tags": {key: str(value) for key, value in tags.items() if value is not None},
    }


def track_base(study: Study, base: Artifact, path: Path) -> bool:
    """Record a pretraining, whose files lie in ``path``; return whether that could be done."""
    name = base.path.parent.name
    return _record(
        experiment=study.name,
        run_name=f"{name}-base",
        fingerprint=base.fingerprint,
        params=dict(base.params),
        tags={"model": name, "method": "pretraining", "seed": str(base.params["pretraining"]["seed"])},
        history=path / "history.jsonl",
        timing=None,
        scores=None,
        answers=None,
        run_info=path / "run.json",
        datasets=_datasets([("training", one) for one in base.inputs.values()]),
        artifacts=[],
    )


def track_run(study: Study, run: Run, *, scores: Path) -> bool:
    """Record a run with its scores, a file; return whether that could be done."""
    adapter, answers = run.adapter, study.answers(run)
    prompts = [("evaluation", task.prompts) for task in study.tasks(run)]
    prompts += [("training", adapter.inputs["prompts"])] if adapter else []
    return _record(
        **_named(study, run),
        history=adapter.path / "history.jsonl" if adapter else None,
        timing=adapter.path / "timing.jsonl" if adapter else None,
        scores=scores,
        answers=answers.path,
        run_info=(adapter or answers).path / "run.json",
        datasets=_datasets(prompts),
        artifacts=[path for path in (adapter.path if adapter else None, answers.path) if path],
    )


def _datasets(prompts: Iterable[tuple[str, Artifact]]) -> list[dict[str, str]]:
    return [
        {
            "name": one.path.parent.name,
            "digest": one.fingerprint,
            "source": str(one.path),
            "context": context,
        }
        for context, one in prompts
    ]


def _record(**given: Any) -> bool:
    """Write a run to MLflow; say why and return False where that cannot be done."""
    from pipeline.results.mlflow import client

    try:
        client.track(**given)
    except client.TrackingError as error:  # results are on disk; the command records them later
        print(f"warning: not recorded in MLflow: {error}; run: python -m pipeline track", file=sys.stderr)
        return False
    return True
