"""What one job achieved, in a few words: rows, loss, accuracy, seconds. Read from the files that it wrote."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from pipeline.core.io import read_json, read_jsonl
from pipeline.core.text import format_percent
from pipeline.params.tuning.candidates import describe_values
from pipeline.results.history import path_label
from pipeline.results.provenance import read_record
from pipeline.study import Artifact, Study
from pipeline.study.distillation.resolve import YIELD
from pipeline.study.stages import STAGES
from pipeline.study.tuning.choice import ChoiceFile


def label_artifact(artifact: Artifact) -> str:
    """Return the name of an artifact below its stage's folder, without its fingerprint: "tiny-llama/lora/world-math/seed0"."""
    label = Path(path_label(artifact.path)).relative_to(STAGES[artifact.stage].folder)
    # the folder of a report is its study's
    return str(label.parent if artifact.stage == "report" else label).rstrip("-")


def describe_outcome(study: Study, artifact: Artifact, *, root: Path = Path()) -> str:
    """Return what a job achieved that made an artifact of a study: "loss 0.128, 32 s"."""
    record = read_record(artifact.record, root=root)
    seconds = [f"{record['run']['seconds']:.0f} s"] if record else []
    return ", ".join([*_list_results(study, artifact, root / artifact.path), *seconds])


def _list_results(study: Study, artifact: Artifact, path: Path) -> Iterator[str]:
    if artifact.stage == "fetch":
        yield f"{_count_lines(path):,} rows"
    elif artifact.stage == "audit":
        tests = read_json(path)["tests"].values()
        copies = sum(test["methods"]["exact"]["n"] for test in tests)
        yield f"{copies} of {sum(test['n_test'] for test in tests):,} test questions are in the training set"
    elif artifact.stage == "choose":
        choice: ChoiceFile = read_json(path)
        yield f"{describe_values(choice['values'])}, {choice['rule']} {choice['score']:.3g}"
    elif artifact.stage in ("base", "train"):
        history = path / "history.jsonl"
        if history.is_file() and (rows := [row for row in read_jsonl(history) if "loss" in row]):
            yield f"loss {rows[-1]['loss']:.3g}"
        if diverged := artifact.params.get("role") and read_json(path / "manifest.json").get("diverged"):
            yield f"diverged at step {diverged}"
    elif artifact.stage == "distill" and (path / YIELD).is_file():
        sources = read_json(path / YIELD)["sources"].values()
        rows, answers = (
            sum(each) for each in zip(*((s["fates"]["row"], s["answers"]) for s in sources), strict=True)
        )
        yield f"{rows:,} rows of {answers:,} answers ({format_percent(rows / answers)} %)"
    elif artifact.stage in ("distill", "generate"):
        yield f"{sum(_count_lines(answers) for answers in path.glob('*.jsonl')):,} answers"
    elif artifact.stage == "score":
        yield from _list_accuracies(study, artifact, path)
    elif artifact.stage == "report":
        yield f"{artifact.path.parent}/index.html"


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _list_accuracies(study: Study, scores: Artifact, path: Path) -> Iterator[str]:
    """Yield the mean accuracy over the tasks of each arm, in percent, under the study's first headline protocol.

    A study of comparison protocols alone has no headline; its first protocol is meant then, as in its report.
    """
    accuracies = {
        (score["task"], score["protocol"]): score["accuracy"] for score in read_json(path)["tasks"].values()
    }
    protocol = (study.headline or study.card.protocols)[0]
    averages = []
    # answers that were made elsewhere belong to no run
    arms = next((run.arms for run in study.runs if study.scores(run) == scores), study.card.arms)
    for arm in arms:
        present = [accuracies[task, protocol] for task in arm.tasks if (task, protocol) in accuracies]
        if present:
            averages.append(f"{arm.name} {format_percent(fmean(present))}")
    if averages:
        yield f"accuracy in percent: {', '.join(averages)}"
