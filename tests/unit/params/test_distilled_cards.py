"""Cards of distilled sets: their short forms, and one line for each mistake."""

import pytest

from pipeline.core.errors import UserError
from pipeline.params.datasets import Dataset
from pipeline.params.reading import parse_card
from pipeline.params.templates import build_prompt

CARD = {
    "name": "taught",
    "title": "Taught",
    "answer_form": "number",
    "distilled": {"teacher": "gpt2", "sources": ["gsm8k", {"dataset": "aqua", "limit": 1000}]},
    "without": ["gsm8k"],
    "method": "any",
}


def parse(**changes):
    distilled = {**CARD["distilled"], **changes.pop("distilled", {})}
    return parse_card(
        Dataset, {**CARD, "distilled": distilled, **changes}, where="params/datasets/taught.yaml"
    )


def test_a_name_stands_for_a_teacher_and_for_a_source():
    distilled = parse().distilled
    assert (distilled.teacher.model, distilled.teacher.arm) == ("gpt2", None)
    assert [(source.dataset, source.limit) for source in distilled.sources] == [
        ("gsm8k", None),
        ("aqua", 1000),
    ]
    assert (distilled.filter, distilled.samples) == ("right", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "distilled.samples: Input should be greater than or equal to 1 (got 0)"),
        (
            {"temperature": 0, "samples": 4},
            "distilled: samples: 4 at temperature 0 would repeat the same answer 4 times; set samples to 1, or a temperature above 0",
        ),
        ({"temperature": 0, "top_p": 0.5}, "distilled: top_p: only with a temperature above 0"),
        ({"temperature": -1}, "distilled.temperature: Input should be greater than or equal to 0 (got -1)"),
        (
            {"sources": [{"dataset": "gsm8k", "split": "test"}]},
            "distilled.sources.0: split: 'test' of 'gsm8k' is not for training; only a split 'train' may be a source",
        ),
        ({"sources": []}, "distilled.sources: List should have at least 1 item"),
        ({"sources": ["gsm8k", "gsm8k"]}, "distilled: sources: 'gsm8k' is repeated"),
        ({"teacher": {"model": "gpt2", "arm": "a"}}, "distilled.teacher: arm and method go together"),
        ({"filter": "best"}, "distilled.filter: Input should be 'right' or 'all' (got 'best')"),
        ({"prompt": "socratic"}, "distilled.prompt: unknown template (choices: paper-train"),
        ({"temprature": 1}, "did you mean 'temperature'?"),
    ],
)
def test_a_mistake_is_one_line_with_value_and_fix(changes, message):
    with pytest.raises(UserError) as error:
        parse(distilled=changes)
    assert str(error.value).startswith("params/datasets/taught.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_form": None}, "answer_form: must be that of the sources, or mixed"),
        ({"without": [], "method": None}, "without: list the tests whose questions are removed"),
        ({"answer_form": None, "parts": ["gsm8k"]}, "parts: not with distilled"),
    ],
)
def test_a_distilled_set_has_an_answer_form_and_tests_and_no_files(changes, message):
    with pytest.raises(UserError, match=message):
        parse(**changes)


def test_the_zero_shot_prompt_ends_where_the_rationale_begins():
    prompt = build_prompt("How many?", "4 pens", template="zero-shot-cot-v1")
    assert prompt == "Q: How many?\n4 pens\nA: Let's think step by step."
