"""The vote of sampled answers: what counts as a vote, how it is scored, and what else the score file says of it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.io import write_jsonl
from pipeline.evaluate.scoring.agreement import RunFiles, measure_agreement
from pipeline.evaluate.scoring.metrics import METRICS, SAMPLE_ACCURACY, ScoredTask
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score_task
from pipeline.evaluate.scoring.voting import elect_answer
from pipeline.params.reading import read_card
from pipeline.prompts.write import SCHEMA
from pipeline.report.page.answers import format_model_output
from tests.unit.evaluate.test_score import make_example

CARD = read_card("protocols", "majority")


@pytest.mark.parametrize(
    ("samples", "elected"),
    [
        ([8.0, 7.0, 7.0], 7.0),
        ([8.0, 7.0, None, 7.0, 8.0], 8.0),
        ([None, "B", "A", "A", "B"], "B"),
        ([None, None, 3.0], 3.0),
        ([None, None], None),
        ([0.0, 0.0, 5.0], 0.0),
    ],
)
def test_the_most_frequent_parsed_answer_wins_and_of_equals_the_first(samples, elected):
    assert elect_answer(samples) == elected


def make_row(number, texts, stops=None):
    stops = stops or ["eos"] * len(texts)
    first, *further = (
        {"text": text, "tokens": 3, "stop": stop} for text, stop in zip(texts, stops, strict=True)
    )
    return {"id": f"t/test/{number}", "prompt": "", **first, "further_samples": further}


def judge(folder: Path, rows, gold="7"):
    examples = [make_example(number, gold) for number in range(len(rows))]
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), folder / "prompts.parquet")
    write_jsonl(folder / "t-majority.jsonl", rows)
    task = ScoringTask.under(
        CARD, name="t-majority", task="t", answer_form="number", prompts=folder / "prompts.parquet"
    )
    return score_task(folder / "t-majority.jsonl", task)


def test_a_vote_is_scored_and_its_samples_are_counted(tmp_path):
    right, wrong, none = "The answer is 7.", "The answer is 8.", "Who knows?"
    rows = [
        make_row(0, [wrong, right, right]),
        make_row(1, [right, none, none]),
        make_row(2, [wrong, wrong, right]),
        make_row(3, [none, none, none]),
        make_row(4, [none, "", none], ["eos", "eos", "length"]),
        make_row(5, ["", " ", ""]),
    ]
    score = judge(tmp_path, rows)
    assert [item["outcome"] for item in score["items"]] == [
        *("right", "right", "wrong"),
        *("unparsable", "truncated", "empty"),
    ]
    assert [item["right_samples"] for item in score["items"]] == [2, 1, 1, 0, 0, 0]
    assert score["items"][1]["samples"] == [7.0, None, None]
    assert (score["correct"], score["unparsable"], score["truncated"]) == (2, 3, 1)
    scored = ScoredTask(score, tmp_path / "t-majority.jsonl")
    assert SAMPLE_ACCURACY.applies_to(score)
    assert SAMPLE_ACCURACY.value(scored) == pytest.approx(4 / 18)
    assert SAMPLE_ACCURACY in METRICS


def test_the_page_shows_every_sample():
    assert format_model_output(make_row(0, ["one", "two"])) == "[1] one\n[2] two"


def test_a_vote_that_differs_from_a_greedy_answer_has_another_text(tmp_path):
    """The first sample has the greedy text, so only the vote explains the change."""
    greedy = {"id": "t/test/0", "prompt": "", "text": "The answer is 8.", "tokens": 3, "stop": "eos"}
    score = judge(tmp_path, [make_row(0, ["The answer is 8.", *["The answer is 7."] * 2])])
    write_jsonl(tmp_path / "t-strict.jsonl", [greedy])
    strict = {**score, "items": [{**score["items"][0], "parsed": 8.0, "correct": False}]}
    for first, second in (("strict", "majority"), ("majority", "strict")):
        (agreement,) = measure_agreement(
            [RunFiles(tmp_path / "scores.json", tmp_path)],
            task="t",
            answer_form="number",
            prompts=dict.fromkeys((first, second), tmp_path / "prompts.parquet"),
            cards={"strict": read_card("protocols", "strict"), "majority": CARD},
            read_scores=lambda _: {"tasks": {"t-strict": strict, "t-majority": score}},
        )
        assert (agreement["causes"], agreement["differ_in"]) == ({"text": 1}, ["sampling"])
