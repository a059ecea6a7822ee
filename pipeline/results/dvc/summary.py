"""The accuracies that ``dvc metrics`` and ``dvc exp diff`` show: one small file for each model and method.

A report's metrics.json holds hundreds of numbers, which DVC would print as columns of one row. These files hold the
average of each arm under the study's first headline protocol, so every table fits a terminal. They are a view: DVC
carries them, and no stage reads them.
"""

from pathlib import Path

from pipeline.core.io import atomic_directory, read_json, write_json
from pipeline.study import Study
from pipeline.study.stages import STAGES

SUMMARY = Path("results/summary")
AVERAGE = "average "


def write_summary(study: Study, *, root: Path = Path()) -> bool:
    """Write ``results/summary/MODEL/METHOD.json``: arm -> accuracy in [0, 1], averaged over the arm's tasks.

    Returns:
        Whether the study has a report to take the accuracies from. Without a report nothing changes.
    """
    metrics = root / STAGES["report"].folder / study.name / "metrics.json"
    if not metrics.is_file():
        return False
    accuracies = read_json(metrics)
    protocol = next((name for name in study.headline if name in accuracies), None)
    with atomic_directory(root / SUMMARY) as folder:
        for model, methods in accuracies.get(protocol, {}).items():
            for method, scores in methods.items():
                averages = {
                    key.removeprefix(AVERAGE): accuracy
                    for key, accuracy in scores.items()
                    if key.startswith(AVERAGE)
                }
                write_json(folder / model / f"{method}.json", averages)
    return True
