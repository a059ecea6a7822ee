"""``publish`` in a real checkout: a folder without texts whose checksums are those of the results."""

import csv
import hashlib
import json
import shutil

from tests.e2e.conftest import Checkout


def copy_checkout(finished, folder) -> Checkout:
    shutil.copytree(finished.folder, folder / "project", symlinks=True)
    return type(finished)(folder / "project")


def publish(checkout: Checkout, *arguments: str, ok: bool = True) -> str:
    return checkout.run("python", "-m", "pipeline", "publish", *arguments, ok=ok)


def test_a_published_study_has_checksums_and_no_text_of_a_dataset(finished, tmp_path):
    checkout = copy_checkout(finished, tmp_path)
    # as of a study whose training set contains test questions
    examples = checkout.folder / "reports/small/tables/contamination-examples.csv"
    examples.write_text("Found by,Test question\nexact,how many apples does dora have?\n")
    publish(checkout, "small")
    folder = checkout.folder / "docs/results/small"
    with (folder / "artifacts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["stage"] for row in rows} == {"train", "generate", "score"}
    for row in rows:
        path = checkout.folder / row["artifact"]
        content = (path / row["file"] if path.is_dir() else path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
    answers = list((checkout.folder / "results/answers").rglob("*.jsonl"))
    prompts = [json.loads(line)["prompt"] for path in answers for line in path.read_text().splitlines()]
    questions = {prompt.split("### Instruction:\n")[-1].split("\n")[0] for prompt in prompts}
    assert questions
    published = "\n".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert not [question for question in questions if question in published]
    assert "apples" not in published
    readme = (folder / "README.md").read_text()
    assert "| LoRA |" in readme
    assert "snakemake --cores all --config study=small" in readme


def test_check_compares_the_present_report_with_the_folder(finished, tmp_path):
    checkout = copy_checkout(finished, tmp_path)
    publish(checkout, "small", "--output", "elsewhere")
    line = publish(checkout, "small", "--output", "elsewhere", "--check").strip()
    metrics = checkout.folder / "elsewhere/metrics.json"
    content = json.loads(metrics.read_text())
    scores = content["strict"]["small-llama"]["lora"]
    count = sum(
        len(tasks) for models in content.values() for methods in models.values() for tasks in methods.values()
    )
    assert line == f"{count} of {count} accuracies are as in elsewhere"
    scores["world-addsub"] = abs(scores["world-addsub"] - 0.25)
    metrics.write_text(json.dumps(content))
    line = publish(checkout, "small", "--output", "elsewhere", "--check", ok=False)
    assert (
        f"{count - 1} of {count} accuracies are as in elsewhere; the largest difference is 25.0 points"
        in line
    )


def test_a_wrong_folder_or_study_is_refused_in_one_line(finished, tmp_path):
    checkout = copy_checkout(finished, tmp_path)
    (line,) = publish(checkout, "small", "--output", "pipeline", ok=False).splitlines()
    assert "pipeline exists and has no artifacts.csv" in line
    (line,) = publish(checkout, "small", "--output", "reports/small", ok=False).splitlines()
    assert "reports/small exists and has no artifacts.csv" in line
    (line,) = publish(checkout, "references-math", ok=False).splitlines()
    assert "'references-math' evaluates no model of its own" in line
    (line,) = publish(checkout, "small", "--check", ok=False).splitlines()
    assert "no metrics.json in docs/results/small" in line
    (checkout.folder / "reports/small").rename(checkout.folder / "reports/away")
    (line,) = publish(checkout, "small", ok=False).splitlines()
    assert "'small' has no report for its current settings; run: snakemake" in line
    assert not (checkout.folder / "docs").exists()
