"""Arms on one training set: every number, row and file of the report belongs to its arm."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.report.accuracy import build_accuracy_tables, collect_metrics, list_accuracies
from pipeline.report.comparisons import build_comparison_tables
from pipeline.report.contamination import build_contamination_tables
from pipeline.report.data import ReportData, read_report_data
from pipeline.report.outcomes import build_outcome_tables, list_task_outcomes
from pipeline.report.page.answers import list_answer_files
from pipeline.report.page.layout import lay_out_table
from pipeline.report.page.play import write_play_data
from pipeline.report.runs import build_cost_table, build_run_table, list_losses
from pipeline.report.tables import Table, write_table
from tests.finished_study import make_small_study

FEW = (("m", "bare", None, 1), ("m", "lora", 0, 1), ("m", "series", 0, 2))
MANY = (("m", "lora", 0, 5), ("m", "series", 0, 4))


@pytest.fixture
def data(tmp_path) -> ReportData:
    """The arms `few` and `v1.5` have adapters of their own, `twin` those of `few`; all have the same set and task."""
    few, many = make_small_study(tmp_path / "few", FEW), make_small_study(tmp_path / "many", MANY)
    arms = [
        replace(few.arms[0], name="few"),
        replace(many.arms[0], name="v1.5"),
        replace(few.arms[0], name="twin"),
    ]
    runs = [replace(run, arm=run.arm and "few") for run in few.runs]
    runs += [replace(run, arm="v1.5") for run in many.runs]
    runs += [replace(run, arm="twin") for run in few.runs if run.arm]
    return read_report_data(replace(few, arms=arms, runs=runs, audits=[*few.audits, *many.audits]))


def list_rows(table) -> list[dict]:
    return table.frame.to_dict("records")


def test_each_arm_has_its_own_accuracies(data):
    tables = build_accuracy_tables(data)
    lora = {
        name: next(row for row in list_rows(table) if row["Method"] == "LoRA")["Task †"].partition(" ")[0]
        for name, table in tables.items()
    }
    assert lora == {
        "accuracy-few-strict": "20.0",
        "accuracy-v1.5-strict": "100.0",
        "accuracy-twin-strict": "20.0",
    }
    assert len(build_comparison_tables(data)["pairs-v1.5-strict"].frame) == 1


def test_a_task_of_several_arms_has_a_metric_in_each(data):
    metrics = collect_metrics(data)["strict"]["m"]["lora"]
    assert metrics == {
        **{"t in few": 0.2, "average few": 0.2},
        **{"t in v1.5": 1.0, "average v1.5": 1.0},
        **{"t in twin": 0.2, "average twin": 0.2},
    }


def test_rows_name_the_arm(data):
    assert [row["Arm"] for row in list_rows(build_run_table(data))] == [
        *("", "few", "few", "v1.5", "v1.5", "twin", "twin")
    ]
    outcomes = list_rows(build_outcome_tables(data)["outcomes"])
    right = {row["Task"]: row["right"] for row in outcomes if row["Method"] == "LoRA"}
    assert right == {"Task (few)": "1", "Task (v1.5)": "5", "Task (twin)": "1"}
    assert [task.task for task in list_task_outcomes(data)] == list(right)
    accuracies = list_accuracies(data)
    assert dict(accuracies[accuracies.method == "lora"][["arm", "accuracy"]].itertuples(index=False)) == {
        **{"few": 0.2, "v1.5": 1.0, "twin": 0.2}
    }
    assert set(list_losses(data).arm) == {"few", "v1.5", "twin"}
    training_sets = [
        row["Training set"] for row in list_rows(build_contamination_tables(data)["contamination"])
    ]
    assert training_sets == ["s@few, twin", "s@v1.5"]


def test_a_task_of_several_arms_is_listed_once_and_without_an_arm(data):
    """The bare base answered it once, and the answers of every arm are listed under its title."""
    assert [list(file["tasks"]) for file in list_answer_files(data)] == [["t-strict"]] * 7
    assert json.loads(write_play_data(data))["tasks"] == {"t-strict": {"title": "Task", "protocol": "strict"}}


def test_columns_and_rows_belong_to_the_task_of_the_whole_title():
    """By it a reader chooses them; one title may begin with another, and a mark or an arm may stand behind it."""
    titles = ["BoolQ", "BoolQ (world)", "ARC"]
    heads = ["Model", "Method", "BoolQ †", "BoolQ (world) ‡", "BoolQ (world)", "ARC (few)", "ARC-e"]
    columns = lay_out_table(Table("c", pd.DataFrame([["1"] * 7], columns=heads)), tasks=titles).columns
    assert [column.task for column in columns[1:]] == [
        *("BoolQ", "BoolQ (world)", "BoolQ (world)", "ARC"),
        "",
    ]
    rows = pd.DataFrame({"Task": ["BoolQ (world) (few)", "macro average"], "n": ["1", "2"]})
    ((_, laid_out),) = lay_out_table(Table("c", rows), tasks=titles).groups
    assert [row.task for row in laid_out] == ["BoolQ (world)", ""]


def test_a_shared_adapter_counts_once(data):
    """Its cost enters the mean once, and its answers the counts of all runs."""
    adapters = {run.adapter for run in data.study.runs if run.adapter and run.method == "lora"}
    assert len(adapters) == 2
    costs = {
        path: {**cost, "seconds": 10.0 if "few" in str(path) else 40.0} for path, cost in data.costs.items()
    }
    (lora,) = (
        row for row in list_rows(build_cost_table(replace(data, costs=costs))) if row["Method"] == "LoRA"
    )
    assert lora["Training (s)"] == "25.0"
    doubled = [*data.study.runs, replace(data.study.runs[1], method="again")]
    study = replace(data.study, runs=doubled)
    assert list_task_outcomes(replace(data, study=study))[0].counts == list_task_outcomes(data)[0].counts


def test_files_of_tables_keep_the_whole_name_of_an_arm(data, tmp_path):
    for name, table in build_accuracy_tables(data).items():
        write_table(table, tmp_path / "tables" / name)
    names = {path.name for path in (tmp_path / "tables").glob("*.csv")}
    assert names == {f"accuracy-{arm}-strict.csv" for arm in ("few", "v1.5", "twin")}
