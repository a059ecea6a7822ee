"""A second stage: its prompt, which answers it asks once more, and how its answers are read and counted."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.core.io import write_jsonl
from pipeline.evaluate.generation.rows import FirstStage
from pipeline.evaluate.generation.text_answers import divide_first_answers, extend_prompt
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import parse_row, score_task
from pipeline.params.reading import PARAMS, read_card
from pipeline.prompts.write import SCHEMA
from tests.unit.evaluate.test_score import make_example

CARD = read_card("protocols", "second-stage")


def make_row(number, text, *, first=None, stop="eos"):
    row = {"id": f"t/test/{number}", "prompt": "", "text": text, "tokens": 3, "stop": stop}
    return row if first is None else {**row, "first": {"text": first, "stop": "eos"}}


def test_the_card_repeats_the_first_stage_where_both_must_agree():
    first = read_card("protocols", CARD.first_stage)
    assert (CARD.template, CARD.parser, CARD.forms) == (first.template, first.parser, first.forms)
    # the published wordings
    assert CARD.answer_trigger["number"] == "Therefore, the answer (arabic numerals) is"
    assert CARD.answer_trigger["letter"] == "Therefore, among {first} through {last}, the answer is"


@pytest.mark.parametrize(
    ("form", "choices", "closing"),
    [
        ("number", [], "Therefore, the answer (arabic numerals) is"),
        ("letter", list("ABCD"), "Therefore, among A through D, the answer is"),
        ("letter", [], "Therefore, among A through E, the answer is"),
        ("boolean", ["true", "false"], "Therefore, the answer (true or false) is"),
        (
            "solution",
            ["solution1", "solution2"],
            "Therefore, among solution1 through solution2, the answer is",
        ),
    ],
)
def test_the_second_prompt_goes_on_with_the_answer_and_the_closing_words(form, choices, closing):
    example = make_example(0, "x", choices=choices)
    answer = make_row(0, " Twelve or so.\n")
    extended = extend_prompt(example, answer, trigger=CARD.answer_trigger[form], form=form)
    assert extended["prompt"] == f"{example['prompt']}Twelve or so.\n{closing}"
    assert {**extended, "prompt": example["prompt"]} == example


@pytest.mark.parametrize("text", ["", " \n", "</s>"])
def test_an_empty_answer_is_left_out_of_the_second_prompt(text):
    example = make_example(0, "3")
    trigger = CARD.answer_trigger["number"]
    extended = extend_prompt(example, make_row(0, text), trigger=trigger, form="number")
    assert extended["prompt"] == example["prompt"] + trigger


def test_what_the_model_wrote_behind_its_answer_is_left_out_of_the_second_prompt():
    example = make_example(0, "3")
    answer = make_row(0, "It is hard.\n\n### Instruction:\nWhat is 1 + 1?", stop="complete")
    extended = extend_prompt(example, answer, trigger="Therefore,", form="number")
    assert extended["prompt"] == f"{example['prompt']}It is hard.\nTherefore,"


def test_first_answers_are_divided_by_whether_their_parser_reads_them(tmp_path):
    examples = [make_example(number, "3") for number in range(3)]
    rows = [make_row(0, "The answer is 3"), make_row(1, "Who knows?"), make_row(2, "The answer is 4")]
    write_jsonl(tmp_path / "first.jsonl", rows)
    first = FirstStage(tmp_path / "first.jsonl", "number", 0)
    answers = divide_first_answers(examples, first, {"first_parser": "strict"})
    assert list(answers.parsed.values()) == [rows[0], rows[2]]
    assert list(answers.unparsed.values()) == [rows[1]]


@pytest.mark.parametrize(
    ("form", "text", "parsed"),
    [
        ("number", " 12.", 12.0),
        ("number", "\n12", 12.0),
        ("number", " 1,200 apples.", 1200.0),
        ("number", " not known.", None),
        ("letter", " B.", "B"),
        ("letter", " (C)", "C"),
        ("boolean", " true.", "true"),
        ("solution", " solution2.", "solution2"),
    ],
)
def test_the_words_that_follow_the_closing_words_are_read(form, text, parsed):
    row = make_row(0, text, first="Let me see.")
    assert parse_row(make_example(0, "x"), row, parser="strict", form=form, shots=0) == parsed


def test_an_answer_that_the_first_stage_read_keeps_its_reading():
    # as after a parser that reads more
    row = make_row(0, " 5.", first="The answer is 4.")
    assert parse_row(make_example(0, "4"), row, parser="strict", form="number", shots=0) == 4.0


def test_a_task_counts_first_and_second_answers(tmp_path):
    examples = [make_example(number, "3") for number in range(4)]
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), tmp_path / "prompts.parquet")
    rows = [
        make_row(0, "The answer is 4"),
        make_row(1, " 3.", first="Who knows?"),
        make_row(2, " unclear", first="Who knows?"),
        make_row(3, " on and on", first="Who knows?", stop="length"),
    ]
    write_jsonl(tmp_path / "answers.jsonl", rows)
    task = ScoringTask.under(
        CARD, name="t", task="t", answer_form="number", prompts=tmp_path / "prompts.parquet"
    )
    scored = score_task(tmp_path / "answers.jsonl", task)
    assert [item["outcome"] for item in scored["items"]] == ["wrong", "right", "unparsable", "truncated"]
    assert (scored["accuracy"], scored["unparsable"], scored["protocol"]) == (0.25, 2, "second-stage")


def test_other_cards_are_stored_without_the_fields_of_a_second_stage():
    for path in (PARAMS / "protocols").glob("*.yaml"):
        is_second = "first_stage" in yaml.safe_load(path.read_text())
        dumped = read_card("protocols", path.stem).model_dump()
        assert ("first_stage" in dumped, "answer_trigger" in dumped) == (is_second, is_second)
