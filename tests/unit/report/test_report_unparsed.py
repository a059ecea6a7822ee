"""The table of unparsed answers: accuracy as scored, its bound, and the value of a second stage."""

from dataclasses import replace

import pytest

from pipeline.core.io import read_json, write_json, write_jsonl
from pipeline.evaluate import stats
from pipeline.params.reading import read_card
from pipeline.report.data import read_report_data
from pipeline.report.outcomes import build_outcome_tables
from pipeline.report.tables import format_interval
from tests.answered_study import MARKS, SIZES, list_rows, make_answered_study, make_score

CARDS = {name: read_card("protocols", name) for name in ("strict", "likelihood", "second-stage")}
# of the bare base's two unparsed answers to task t, the second stage reads one, and that is right
SECOND = {**MARKS, ("bare", None): ("wwwwwwwwwwrx", "wwww")}


@pytest.fixture
def study(tmp_path):
    return replace(make_answered_study(tmp_path), protocol_cards={"strict": CARDS["strict"]})


def add_second_stage(study, folder):
    runs = []
    for run in study.runs:
        second = folder / f"{run.method}{run.seed}-second"
        second.mkdir()
        write_json(second / "run.json", {})
        scores = read_json(run.scores)
        for task, marks in zip(SIZES, SECOND[run.method, run.seed], strict=True):
            scores["tasks"][f"{task}-strict"]["protocol"] = "strict"
            key = f"{task}-second-stage"
            scores["tasks"][key] = {**make_score(task, marks), "protocol": "second-stage"}
            rows = [{"prompt": "p", "text": f"second {n}"} for n in range(SIZES[task])]
            write_jsonl(second / f"{key}.jsonl", rows)
        write_json(run.scores, scores)
        runs.append(replace(run, second_answers=second))
    protocols = ["strict", "second-stage"]
    arms = [
        replace(arm, tasks=[replace(task, protocols=protocols) for task in arm.tasks]) for arm in study.arms
    ]
    cards = {name: CARDS[name] for name in protocols}
    return replace(study, arms=arms, runs=runs, protocols=protocols, protocol_cards=cards)


def unparsed_rows(study):
    table = build_outcome_tables(read_report_data(study))["unparsed"]
    return table, {(row["Task"], row["Method"]): row for row in list_rows(table)}


def test_every_row_has_the_bound_beside_its_accuracy(study):
    _, rows = unparsed_rows(study)
    assert {title for title, _ in rows} == {"Macro average", "Task t", "Task u"}
    bare = rows["Task t", "no adapter"]
    assert bare["unparsed (%)"] == "16.7"
    assert bare["as scored"] == format_interval(stats.estimate_accuracy([[0.0] * 12]))
    assert bare["if all unparsed were right"].startswith("16.7 [")
    # macro: (2 / 12 + 0) / 2
    assert rows["Macro average", "no adapter"]["if all unparsed were right"].startswith("8.3 [")
    # nothing was right, so this is the share that is unparsed, over tasks as well
    assert rows["Macro average", "no adapter"]["unparsed (%)"] == "8.3"
    lora = rows["Task t", "LoRA"]
    assert lora["unparsed (%)"] == "0.0"
    assert lora["as scored"] == lora["if all unparsed were right"]
    assert "second-stage" not in lora


def test_a_second_stage_has_a_column(study, tmp_path):
    table, rows = unparsed_rows(add_second_stage(study, tmp_path))
    assert rows["Task t", "no adapter"]["second-stage"].startswith("8.3 [")
    assert rows["Task t", "LoRA"]["second-stage"] == rows["Task t", "LoRA"]["as scored"]
    assert "prompts the same model again" in table.caption
    assert len(table.anchors) == len(table.frame) == 3 * 3


def test_likelihoods_leave_nothing_unparsed(study):
    for run in study.runs:
        scores = read_json(run.scores)
        for score in scores["tasks"].values():
            score["headline"] = "raw"
            for item in score["items"]:
                item |= dict.fromkeys(("raw", "normalised", "by_bytes"), "7")
        write_json(run.scores, scores)
    cards = {"strict": CARDS["likelihood"]}
    assert "unparsed" not in build_outcome_tables(read_report_data(replace(study, protocol_cards=cards)))
