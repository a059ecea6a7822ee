"""The small files that ``dvc metrics`` shows."""

import json
from types import SimpleNamespace

from pipeline.results.dvc.summary import SUMMARY, write_summary

METRICS = {
    "strict": {"tiny": {"lora": {"average sums": 0.5, "addition": 0.25, "subtraction": 0.75}}},
    "paper": {"tiny": {"lora": {"average sums": 0.1, "addition": 0.1, "subtraction": 0.1}}},
}
STUDY = SimpleNamespace(name="small", headline=["strict", "paper"])


def write_metrics(root, metrics):
    folder = root / "reports/small"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_a_file_has_the_averages_of_a_model_and_method_under_the_first_protocol(tmp_path):
    write_metrics(tmp_path, METRICS)
    assert write_summary(STUDY, root=tmp_path)
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
