"""The accuracies of the report as small files in git, which ``dvc metrics`` shows and ``commit`` compares.

A report's metrics.json holds hundreds of numbers, which DVC would print as columns of one row. ``results/summary`` has a file
for each model and method with the average of each arm under the study's first headline protocol, so every table fits a
terminal. ``results/accuracies.json`` has all accuracies. Both are views: no stage reads them.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from pipeline.core.environment import run_git
from pipeline.core.io import atomic_directory, read_json, write_json
from pipeline.core.text import format_percent
from pipeline.study import Study
from pipeline.study.stages import STAGES

SUMMARY = Path("results/summary")
ACCURACIES = Path("results/accuracies.json")
# outputs that git carries, and not DVC
IN_GIT = (str(SUMMARY), str(ACCURACIES))
AVERAGE = "average "

# protocol -> model -> method -> task, or AVERAGE and an arm -> accuracy in [0, 1]
ReportMetrics = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


class Accuracies(TypedDict):
    """Content of ``ACCURACIES``: the study, and accuracies in [0, 1] by PROTOCOL/MODEL/METHOD/TASK."""

    study: str
    accuracies: dict[str, float]


def write_summary(study: Study, *, root: Path = Path()) -> bool:
    """Write ``results/summary/MODEL/METHOD.json`` (arm -> average accuracy in [0, 1]) and ``results/accuracies.json``.

    Returns:
        Whether the study has a report to take the accuracies from. Without a report nothing changes.
    """
    metrics = root / STAGES["report"].folder / study.name / "metrics.json"
    if not metrics.is_file():
        return False
    content = read_json(metrics)
    # a study of comparison protocols alone has no headline
    protocols = study.headline or study.card.protocols
    protocol = next((name for name in protocols if name in content), None)
    with atomic_directory(root / SUMMARY) as folder:
        for model, methods in content.get(protocol, {}).items():
            for method, scores in methods.items():
                averages = {
                    key.removeprefix(AVERAGE): accuracy
                    for key, accuracy in scores.items()
                    if key.startswith(AVERAGE)
                }
                write_json(folder / model / f"{method}.json", averages)
    accuracies = name_accuracies(study.card.protocols, content)
    write_json(root / ACCURACIES, Accuracies(study=study.name, accuracies=accuracies))
    return True


def name_accuracies(protocols: Iterable[str], metrics: ReportMetrics) -> dict[str, float]:
    """Return the accuracies of a report's metrics.json by PROTOCOL/MODEL/METHOD/TASK."""
    return {
        f"{name}/{model}/{method}/{key.replace(' ', '-')}": accuracy
        for name in protocols
        for model, methods in metrics.get(name, {}).items()
        for method, scores in methods.items()
        for key, accuracy in scores.items()
    }


def compare_with_git(root: Path = Path()) -> str | None:
    """Return how far the accuracies are from those of the last git commit, in one line; None: that has none of this study."""
    committed = run_git("show", f"HEAD:./{ACCURACIES}", folder=root)
    if committed is None or not (root / ACCURACIES).is_file():
        return None
    before: Accuracies = json.loads(committed)
    now: Accuracies = read_json(root / ACCURACIES)
    if before["study"] != now["study"]:
        return None
    return describe_differences(before["accuracies"], now["accuracies"], origin="in the last git commit")


def describe_differences(before: Mapping[str, float], now: Mapping[str, float], *, origin: str) -> str:
    """Return how many accuracies are as before, and the largest difference in points of a percent.

    Args:
        before: the accuracies to compare with.
        now: the present accuracies.
        origin: where ``before`` is from, for the line.
    """
    changes = {key: abs(now[key] - before[key]) for key in before.keys() & now.keys()}
    equal = sum(not change for change in changes.values())
    line = f"{equal} of {len(before)} accuracies are as {origin}"
    if equal < len(changes):
        key = max(sorted(changes), key=lambda name: changes[name])
        line += f"; the largest difference is {format_percent(changes[key])} points ({key})"
    for count, state in ((len(now.keys() - before.keys()), "new"), (len(before.keys() - now.keys()), "gone")):
        line += f"; {count} {state}" if count else ""
    return line
