"""References of a study in MLflow: beside the runs, never taken for runs, each once, and marked where they are out of date."""

import json
import shutil
from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient

from pipeline.results.mlflow import client, store
from pipeline.results.mlflow.entry import ReferenceEntry
from pipeline.results.mlflow.references import group_published, list_entries
from pipeline.results.mlflow.view import VIEW_TAG
from pipeline.study import load_study
from pipeline.study.followups.rows import has_references
from tests.finished_run import STUDY, make_run

EXPERIMENT = replace(STUDY, has_references=True)
ENTRY = ReferenceEntry(
    name="card/m/lora",
    tags={"model": "m", "method": "lora (published)", "measured": "as published"},
    metrics={"average/arithmetic-strict": 0.6},
    note="Table 1",
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty store: MLflow takes seconds to create it."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with store.open_store() as opened:
            opened.search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def folder(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(database, tmp_path / "mlflow.db")
    report = tmp_path / "reports/study"
    report.mkdir(parents=True)
    (report / "metrics.json").write_text("{}")
    return report


def record(folder, *entries) -> None:
    client.write_report(EXPERIMENT, folder, fingerprints={"aaa"}, references=entries)


def list_references() -> list:
    recorded = MlflowClient(store.default_store())
    experiment = recorded.get_experiment_by_name("study").experiment_id
    return list(recorded.search_runs([experiment], "tags.kind = 'reference'"))


def test_a_reference_is_recorded_once_beside_the_runs(folder):
    make_run("aaa").track()
    record(folder, ENTRY)
    record(folder, ENTRY)
    (reference,) = list_references()
    assert (reference.info.run_name, reference.info.status) == ("card/m/lora", "FINISHED")
    # the runs are sorted by the same metric
    assert reference.data.metrics == {"average/arithmetic-strict": 0.6}
    tags = reference.data.tags
    assert (tags["kind"], tags["method"], tags["in_report"]) == ("reference", "lora (published)", "yes")
    assert tags["mlflow.note.content"] == "Table 1"
    recorded = MlflowClient(store.default_store())
    runs = recorded.search_runs([reference.info.experiment_id], "tags.kind = 'run'")
    assert [run.data.tags["mlflow.parentRunId"] for run in runs] == [tags["mlflow.parentRunId"]]
    experiment = recorded.get_experiment(reference.info.experiment_id)
    state = json.loads(json.loads(experiment.tags[VIEW_TAG])["state"])
    assert state["selectedColumns"][0] == "tags.`kind`"
    assert "tags.`measured`" in state["selectedColumns"]


def test_a_reference_with_another_figure_replaces_the_earlier_one(folder):
    record(folder, ENTRY)
    record(folder, replace(ENTRY, metrics={"average/arithmetic-strict": 0.7}))
    marks = {
        run.data.metrics["average/arithmetic-strict"]: run.data.tags["in_report"] for run in list_references()
    }
    assert marks == {0.6: "no", 0.7: "yes"}
    # the view leaves out what the report does not show
    record(folder)
    assert {run.data.tags["in_report"] for run in list_references()} == {"no"}
    record(folder, ENTRY)
    assert len(list_references()) == 2


def test_a_reference_that_a_killed_process_left_is_written_again(folder):
    record(folder, ENTRY)
    (reference,) = list_references()
    MlflowClient(store.default_store()).update_run(reference.info.run_id, "RUNNING")
    record(folder, ENTRY)
    marks = {run.info.status: run.data.tags["in_report"] for run in list_references()}
    assert marks == {"KILLED": "no", "FINISHED": "yes"}


def test_published_rows_stand_under_the_protocol_that_measured_them():
    entries = {entry.name: entry for entry in list_entries(load_study("paper-math"))}
    lora = entries["llm-adapters/llama-7b/lora"]
    # of the six tasks of the arm, not of the other table's four
    assert lora.metrics["average/arithmetic-paper"] == 0.619
    assert lora.metrics["accuracy/gsm8k-paper"] == 0.375
    assert not [key for key in lora.metrics if key.endswith("-strict")]
    assert lora.tags["method"] == "lora (published)"
    # a zero-shot row was measured under neither protocol of the study
    other = entries["llm-adapters/GPT-3.5"]
    assert other.metrics["average/arithmetic-published"] == 0.704
    assert not [key for key in other.metrics if key.endswith(("-paper", "-strict"))]
    assert group_published(load_study("paper-math")) == ["arithmetic-published"]


def test_a_study_without_references_has_the_view_that_it_had():
    study = load_study("quickstart")
    assert not has_references(study)
    assert list_entries(study) == group_published(study) == []
