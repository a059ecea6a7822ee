"""After a study the terminal shows its averages, its report, and how to look at the runs."""

import json

from pipeline.results.closing import describe_results
from pipeline.study import load_study


def write_metrics(folder, content):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))


def test_the_last_lines_rank_the_methods_of_each_model_and_arm(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = load_study("quickstart")
    methods = {
        "bare": {"average arithmetic": 0.01, "average commonsense": 0.3, "world-svamp": 0.02},
        "lora": {"average arithmetic": 0.9614, "world-svamp": 0.5},
        "series": {"average arithmetic": 0.87},
    }
    content = {"strict": {"tiny-llama": methods}, "strict ece": {"tiny-llama": {}}}
    write_metrics(tmp_path / "reports/quickstart", content)
    assert describe_results(study, root=tmp_path)[:4] == [
        "average accuracy in percent, protocol strict, mean over seeds:",
        "  tiny-llama, arithmetic: lora 96.1, series 87.0, bare 1.0",
        "  tiny-llama, commonsense: bare 30.0",
        "report: reports/quickstart/index.html",
    ]


def test_the_commands_name_a_study_that_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    study = load_study("tiny-placement")
    protocol = study.card.protocols[0]
    write_metrics(tmp_path / "reports/tiny-placement", {protocol: {}})
    lines = describe_results(study, root=tmp_path)
    assert "runs in MLflow: python -m pipeline ui --study tiny-placement" in lines
    assert not (tmp_path / "none.db").exists()


def test_the_last_lines_say_how_many_runs_mlflow_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    study = load_study("tiny-placement")
    write_metrics(tmp_path / "reports/tiny-placement", {study.card.protocols[0]: {}})
    folder = tmp_path / "logs/mlflow"
    folder.mkdir(parents=True)
    (folder / "tiny-placement.txt").write_text("tiny/lora/seed0: no response from http://host:5000\n")
    assert (
        "1 run is not recorded in MLflow (no response from http://host:5000); to record: "
        "python -m pipeline track --study tiny-placement"
    ) in describe_results(study, root=tmp_path)


def test_the_last_lines_name_references_where_a_study_has_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    line = "a run beside a reference: python -m pipeline compare RUN REFERENCE"
    for name, has_line in (("paper-math", True), ("tiny-placement", False)):
        study = load_study(name)
        write_metrics(tmp_path / f"reports/{name}", {study.card.protocols[0]: {}})
        assert (f"{line} --study {name}" in describe_results(study, root=tmp_path)) == has_line
