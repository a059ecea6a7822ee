"""The transfer matrix: adapters evaluated on the tasks of another training set."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline import report
from pipeline.report.data import Cell, read_report_data
from pipeline.report.runs import list_losses
from pipeline.report.transfer.matrix import list_groups, list_transfers
from pipeline.study.description import StudyDescription
from tests.finished_study import make_small_study

SIZE = 10
BARE = 2
# right answers of ten by training set and task
RIGHT = {("s", "t"): 9, ("s", "u"): 1, ("z", "t"): 3, ("z", "u"): 8}
ARMS = {"near": ("s", "t"), "near-to-far": ("s", "u"), "far": ("z", "u"), "far-to-near": ("z", "t")}


def make_transfer_study(folder: Path, arms: dict[str, tuple[str, str]] = ARMS) -> StudyDescription:
    """Return a study with a method that is trained on two sets, each evaluated on the tasks t and u."""
    study = make_small_study(
        folder, [("m", "bare", None, BARE), ("m", "lora", 0, BARE), ("m", "lora", 1, BARE)], size=SIZE
    )
    bare, *adapters = study.runs
    add_task(bare.scores, {"t": BARE, "u": BARE}, source=bare.answers)
    runs = [bare]
    for name, (training_set, _) in arms.items():
        for run in adapters:
            scores = folder / f"scores/{training_set}-{run.seed}.json"
            scores.write_text(adapters[0].scores.read_text())
            right = {task: RIGHT[training_set, task] for task in "tu"}
            add_task(scores, right, source=run.answers)
            runs.append(
                replace(
                    run, scores=scores, arm=name, training_set=training_set, fingerprint=f"{name}{run.seed}"
                )
            )
    [arm] = study.arms
    audit = json.loads(arm.audit.read_text())
    arm.audit.write_text(json.dumps({**audit, "tests": {"t": audit["tests"]["t"], "u": audit["tests"]["t"]}}))
    [task] = arm.tasks
    tasks = {"t": task, "u": replace(task, name="u", title="Other")}
    described = [
        replace(arm, name=name, training_set=training_set, tasks=[tasks[evaluated]])
        for name, (training_set, evaluated) in arms.items()
    ]
    return replace(study, arms=described, methods=study.methods[:1], runs=runs)


def add_task(scores: Path, right: dict[str, int], *, source: Path) -> None:
    """Give a run these numbers of right answers, and the file of answers to each task."""
    content = json.loads(scores.read_text())
    score = content["tasks"]["t-strict"]
    for task, count in right.items():
        items = [{**item, "correct": number < count} for number, item in enumerate(score["items"])]
        content["tasks"][f"{task}-strict"] = {**score, "items": items, "accuracy": count / SIZE}
        answers = source / f"{task}-strict.jsonl"
        answers.write_bytes((source / "t-strict.jsonl").read_bytes())
    scores.write_text(json.dumps(content))


def test_rows_have_the_accuracy_of_each_training_set_on_each_group(tmp_path):
    data = read_report_data(make_transfer_study(tmp_path))
    assert [group.name for group in list_groups(data, "strict")] == ["near", "near-to-far"]
    bare, near, far = list_transfers(data, "strict")
    assert (bare.training_set, near.training_set, far.training_set) == ("", "s", "z")
    accuracies = [
        {group: value["estimate"] for group, value in row.accuracies.items()} for row in (near, far)
    ]
    assert accuracies == [{"near": 0.9, "near-to-far": 0.1}, {"near": 0.3, "near-to-far": 0.8}]
    assert near.gains == pytest.approx({"near": 0.7, "near-to-far": -0.1})
    assert far.gains == pytest.approx({"near": 0.1, "near-to-far": 0.6})
    assert bare.gains == {}


def test_a_group_that_a_training_set_lacks_is_empty(tmp_path):
    arms = {name: arm for name, arm in ARMS.items() if name != "far-to-near"}
    data = read_report_data(make_transfer_study(tmp_path, arms))
    _, near, far = list_transfers(data, "strict")
    assert set(near.accuracies) == {"near", "near-to-far"}
    assert set(far.accuracies) == {"near-to-far"}


def test_a_combination_stands_beside_its_members_with_both_groups(tmp_path):
    """Its members, the method of two arms without transfer, have a group each; so does each arm's contamination."""
    study = make_transfer_study(tmp_path, {name: ARMS[name] for name in ("near", "far")})
    both = replace(study.methods[0], name="both", title="both")
    audits = [arm.audit for arm in study.arms]
    combined = [
        replace(run, method="both", training_set="s + z", combined_sets=("s", "z"), combined_audits=audits)
        for run in study.runs
        if run.arm
    ]
    for run in combined:
        add_task(run.scores, {"t": 7, "u": 6}, source=run.answers)
    study = replace(study, methods=[*study.methods, both], runs=[*study.runs, *combined])
    data = read_report_data(study)
    _, near, far, combination = list_transfers(data, "strict")
    assert [set(row.accuracies) for row in (near, far)] == [{"near"}, {"far"}]
    assert combination.training_set == "s + z"
    assert set(combination.accuracies) == {"near", "far"}
    for arm in study.arms:
        assert set(data.list_audits(arm.name)) == set(audits)
        assert set(data.find_audits(Cell("m", "both", arm.name))) == set(audits)
        # the questions of another member's set count against the combination alone
        assert set(data.find_audits(Cell("m", "lora", arm.name))) == {arm.audit}
        assert set(data.find_audits(Cell("m", "bare", arm.name))) == {arm.audit}
    # nothing was trained for it
    assert set(list_losses(data).method) == {"lora"}
    assert not data.is_combined(Path("elsewhere"))


def test_the_report_has_the_matrix_and_the_heat_map(tmp_path):
    report.build(make_transfer_study(tmp_path), output=tmp_path / "report", fingerprint="abc")
    table = pd.read_csv(tmp_path / "report/tables/transfer-strict.csv", keep_default_na=False)
    assert list(table["Trained on"]) == ["", "s", "z"]
    assert table["near-to-far"][2].startswith("80.0 [")
    assert (tmp_path / "report/figures/transfer-strict.svg").is_file()
    assert 'href="#section-transfer"' in (tmp_path / "report/index.html").read_text()


def test_bare_bases_on_two_groups_have_no_matrix(tmp_path):
    study = make_transfer_study(tmp_path, {name: ARMS[name] for name in ("near", "near-to-far")})
    arms = [replace(arm, training_set="") for arm in study.arms]
    bare = replace(study, arms=arms, runs=study.runs[:1], methods=[])
    report.build(bare, output=tmp_path / "report", fingerprint="abc")
    assert not list((tmp_path / "report").rglob("transfer-*"))


def test_a_study_without_transfer_has_no_matrix(tmp_path):
    arms = {name: ARMS[name] for name in ("near", "far")}
    report.build(make_transfer_study(tmp_path, arms), output=tmp_path / "report", fingerprint="abc")
    assert not list((tmp_path / "report").rglob("transfer-*"))
    assert "section-transfer" not in (tmp_path / "report/index.html").read_text()
