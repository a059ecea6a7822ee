"""The small files that ``dvc metrics`` shows."""

import json
import subprocess
from types import SimpleNamespace

from pipeline.results.dvc.summary import ACCURACIES, SUMMARY, compare_with_git, write_summary

METRICS = {
    "strict": {"tiny": {"lora": {"average sums": 0.5, "addition": 0.25, "subtraction": 0.75}}},
    "paper": {"tiny": {"lora": {"average sums": 0.1, "addition": 0.1, "subtraction": 0.1}}},
}
STUDY = SimpleNamespace(
    name="small",
    headline=["strict", "paper"],
    card=SimpleNamespace(protocols=["strict", "paper"]),
)


def write_metrics(root, metrics):
    folder = root / "reports/small"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_a_file_has_the_averages_of_a_model_and_method_under_the_first_protocol(tmp_path):
    write_metrics(tmp_path, METRICS)
    assert write_summary(STUDY, root=tmp_path)
    assert json.loads((tmp_path / SUMMARY / "tiny/lora.json").read_text()) == {"sums": 0.5}


def test_a_study_without_headline_protocols_has_the_averages_of_its_first(tmp_path):
    write_metrics(tmp_path, METRICS)
    write_summary(SimpleNamespace(name="small", headline=[], card=STUDY.card), root=tmp_path)
    assert json.loads((tmp_path / SUMMARY / "tiny/lora.json").read_text()) == {"sums": 0.5}


def test_files_of_an_earlier_study_are_deleted(tmp_path):
    write_metrics(tmp_path, METRICS)
    write_summary(STUDY, root=tmp_path)
    write_metrics(tmp_path, {"strict": {"large": {"lora": {"average sums": 0.9}}}})
    write_summary(STUDY, root=tmp_path)
    assert [path.parent.name for path in (tmp_path / SUMMARY).rglob("*.json")] == ["large"]


def test_without_a_report_nothing_is_written(tmp_path):
    assert not write_summary(STUDY, root=tmp_path)
    assert not (tmp_path / SUMMARY).exists()


def commit(root):
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "results")):
        user = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", root, *user, *command], check=True, capture_output=True)


def test_a_rebuild_is_compared_with_the_accuracies_of_the_last_git_commit(tmp_path):
    write_metrics(tmp_path, METRICS)
    write_summary(STUDY, root=tmp_path)
    assert compare_with_git(tmp_path) is None
    commit(tmp_path)
    assert compare_with_git(tmp_path) == "6 of 6 accuracies are as in the last git commit"
    changed = {"average sums": 0.5, "addition": 0.263, "multiplication": 0.1}
    write_metrics(tmp_path, {**METRICS, "strict": {"tiny": {"lora": changed}}})
    write_summary(STUDY, root=tmp_path)
    assert compare_with_git(tmp_path) == (
        "4 of 6 accuracies are as in the last git commit; the largest difference is 1.3 points (strict/tiny/lora/addition); "
        "1 new; 1 gone"
    )


def test_the_accuracies_of_another_study_are_not_compared(tmp_path):
    write_metrics(tmp_path, METRICS)
    write_summary(STUDY, root=tmp_path)
    content = json.loads((tmp_path / ACCURACIES).read_text())
    (tmp_path / ACCURACIES).write_text(json.dumps({**content, "study": "another"}))
    commit(tmp_path)
    write_summary(STUDY, root=tmp_path)
    assert compare_with_git(tmp_path) is None
