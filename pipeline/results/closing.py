"""What the terminal shows after a study was run: where its results are, and how to look at them."""

import os
import sys
from pathlib import Path

from pipeline.core.io import read_json
from pipeline.core.text import format_percent
from pipeline.results.mlflow.outage import describe_unrecorded
from pipeline.study import Study, default_study
from pipeline.study.followups.rows import has_references

AVERAGE = "average "


def print_closing(study: Study, *, root: Path = Path()) -> None:
    """Print on stderr the report of a study, its average accuracies and the address of its runs.

    Within ``dvc repro`` it prints nothing: DVC continues with its next stage.
    """
    if "DVC_STAGE" in os.environ or not (root / study.report.path).exists():
        return
    for line in describe_results(study, root=root):
        print(line, file=sys.stderr)


def describe_results(study: Study, *, root: Path = Path()) -> list[str]:
    """Return the lines that ``print_closing`` prints."""
    folder = study.report.path.parent
    options = "" if study.name == default_study() else f" --study {study.name}"
    lines = [*_list_averages(study, root / folder / "metrics.json"), f"report: {folder}/index.html"]
    lines.append(f"runs in MLflow: python -m pipeline ui{options}")
    address = _find_server_address(study)
    if address:
        lines[-1] += f", then {address}"
    unrecorded = describe_unrecorded(study.name, root=root)
    if unrecorded:
        lines.append(f"{unrecorded}; to record: python -m pipeline track{options}")
    if study.runs:
        lines.append(f"two runs on the same examples: python -m pipeline compare RUN RUN{options}")
        if has_references(study):
            lines.append(f"a run beside a reference: python -m pipeline compare RUN REFERENCE{options}")
    return lines


def _find_server_address(study: Study) -> str | None:
    from pipeline.results.mlflow.server import find_address
    from pipeline.results.mlflow.store import TrackingError

    try:
        return find_address(study.name)
    # `ui` says why
    except TrackingError:
        return None


def _list_averages(study: Study, metrics: Path) -> list[str]:
    """Return a line for each model and arm: the macro averages of its methods, the best first."""
    content = read_json(metrics)
    protocol = next(name for name in study.card.protocols if name in content)
    lines = [f"average accuracy in percent, protocol {protocol}, mean over seeds:"]
    for model, methods in content[protocol].items():
        for arm in study.card.arms:
            values = {
                method: tasks[AVERAGE + arm.name]
                for method, tasks in methods.items()
                if AVERAGE + arm.name in tasks
            }
            ranked = sorted(values, key=lambda method: -values[method])
            texts = ", ".join(f"{method} {format_percent(values[method])}" for method in ranked)
            lines.append(f"  {model}, {arm.name}: {texts}")
    return lines
