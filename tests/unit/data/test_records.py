"""From rows to records: malformed rows, choices and answers."""

import pytest

from pipeline.core.errors import UserError
from pipeline.core.numbers import gold_number
from pipeline.data.options import list_choices
from pipeline.data.records import make_records
from pipeline.params.reading import read_card
from pipeline.study import load_study

ROWS = [
    {"instruction": f"What is {n} + 1?", "input": "", "output": f"It is {n + 1}.", "answer": str(n + 1)}
    for n in range(9)
]


def test_malformed_rows_are_counted_and_quoted():
    rows = [
        {"instruction": "q", "answer": "1"},
        {"instruction": "", "answer": "1"},
        {"instruction": "q", "answer": "x"},
    ]
    with pytest.raises(UserError) as caught:
        list(make_records(rows, task="t", split="test", answer_form="number"))
    assert "2 malformed" in str(caught.value)
    assert "row 1: 'instruction'" in str(caught.value)
    assert "row 2: answer 'x'" in str(caught.value)


def test_all_malformed_rows_are_printed(tmp_path, capsys):
    rows = [{"instruction": "q", "answer": "x"}] * 700
    with pytest.raises(UserError, match="700 malformed"):
        list(make_records(rows, task="t", split="test", answer_form="number"))
    assert len(capsys.readouterr().err.splitlines()) == 700


def test_a_well_formed_row_in_known_malformed_is_an_error():
    with pytest.raises(UserError, match="lists row 0, which is well-formed"):
        list(make_records(ROWS[:1], task="t", split="test", answer_form="number", known_malformed=[0]))


def test_known_malformed_rows_change_the_fingerprint_of_the_prompts(monkeypatch):
    def fingerprint() -> str:
        return (
            load_study("quickstart").prompts("world-svamp", "test", template="strict", limit=None).fingerprint
        )

    before, dataset = fingerprint(), read_card("datasets", "world-svamp")
    split = dataset.splits["test"].model_copy(update={"known_malformed": [3]})
    changed = dataset.model_copy(update={"splits": {"test": split}})
    monkeypatch.setattr(
        "pipeline.study.datasets.read_card",
        lambda kind, name: changed if name == "world-svamp" else read_card(kind, name),
    )
    assert fingerprint() != before


@pytest.mark.parametrize("answer", ["nan", "inf", "x", ""])
def test_an_answer_that_is_not_a_number_is_malformed(answer):
    with pytest.raises(UserError, match="row 0"):
        list(
            make_records([{"instruction": "q", "answer": answer}], task="t", split="s", answer_form="number")
        )


def test_free_text_needs_an_output_and_has_no_answer():
    rows = [{"instruction": "write", "input": "a", "output": "b"}, {"instruction": "write", "output": ""}]
    records = make_records(rows, task="t", split="s", answer_form="text")
    assert next(records) | {"id": ""} == {
        "id": "",
        "task": "t",
        "instruction": "write",
        "input": "a",
        "response": "b",
        "answer": "",
        "choices": [],
        "answer_form": "text",
    }
    with pytest.raises(UserError, match="row 1: 'output'"):
        next(records)


def test_rows_of_mawps_and_mawps_single_become_questions_with_answers():
    rows = [
        {"original_text": "How many ?", "equation": "x=1+1", "ans": 2.0},
        {"sQuestion": " How many? ", "lSolutions": [3.0]},
    ]
    records = list(make_records(rows, task="t", split="s", answer_form="number"))
    assert [(record["instruction"], record["answer"]) for record in records] == [
        ("How many ?", "2.0"),
        ("How many?", "3.0"),
    ]
    with pytest.raises(UserError, match="not a list of one number"):
        list(
            make_records(
                [{"sQuestion": "q", "lSolutions": [1, 2]}], task="t", split="s", answer_form="number"
            )
        )


def test_a_label_outside_the_choices_is_malformed():
    row = {"instruction": "q Answer format: answer1/answer2/answer3", "answer": "answer4"}
    with pytest.raises(UserError, match="answer4"):
        list(make_records([row], task="t", split="test", answer_form="answer"))


def test_choices_are_the_labels_that_the_question_offers():
    assert list_choices("q\n\nAnswer format: answer1/answer2/answer3", "answer") == (
        "answer1",
        "answer2",
        "answer3",
    )
    assert list_choices("q? (A) 1 (B) 2 (C) 3 (D) 4", "letter") == ("A", "B", "C", "D")


def test_gsm8k_solutions_lose_their_calculations():
    row = {"question": "q", "answer": "2+3 = <<2+3=5>>5\n#### 1,005"}
    (record,) = make_records([row], task="gsm8k", split="train", answer_form="number")
    assert record["response"] == "2+3 = 5\nThe answer is 1005."
    assert record["answer"] == "1005"


def one_record(**row) -> dict:
    (record,) = make_records([row], task="t", split="train", answer_form="number", for_training=True)
    return record


def refusal(*rows, answer_form="number", for_training=True) -> str:
    with pytest.raises(UserError) as caught:
        list(make_records(rows, task="t", split="train", answer_form=answer_form, for_training=for_training))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_are_texts_and_zero_is_not_empty():
    record = one_record(instruction=7, input=0, output=0.0, answer=0)
    fields = [record[field] for field in ("instruction", "input", "response", "answer")]
    assert fields == ["7", "0", "0.0", "0"]


@pytest.mark.parametrize("nothing", [{}, {"output": None}, {"output": float("nan")}])
def test_a_missing_response_is_told_from_an_empty_one(nothing):
    row = {"instruction": "q", "answer": "1"}
    assert one_record(**row, output="")["response"] == ""
    rows = [{**row, "output": "a"}, {**row, **nothing}]
    assert "1 malformed rows: row 1: 'output' is missing" in refusal(*rows)
    # a test set needs no responses
    records = list(make_records(rows, task="t", split="test", answer_form="number"))
    assert [record["response"] for record in records] == ["a", ""]


@pytest.mark.parametrize("value", [["a"], {"a": 1}, True, float("inf")])
@pytest.mark.parametrize("field", ["instruction", "input", "output", "answer"])
def test_a_field_is_text_or_a_number(field, value):
    row = {"instruction": "q", "input": "", "output": "a", "answer": "1", field: value}
    assert f"row 0: '{field}' is " in refusal(row)
    assert f"row 0: '{field}' is " in refusal(row, for_training=False)


@pytest.mark.parametrize(
    ("column", "answer_form"),
    [("output", "number"), ("output", "text"), ("answer", "number"), ("instruction", "number")],
)
def test_a_column_that_no_row_has_is_an_error_with_the_columns_of_the_file(column, answer_form, capsys):
    rows = [{f"{name}s" if name == column else name: value for name, value in row.items()} for row in ROWS]
    columns = ", ".join(f"'{name}'" for name in rows[0])
    message = refusal(*rows, answer_form=answer_form)
    assert message.startswith(f"t (train): no column '{column}' (the columns are: {columns})")
    # not once for each row
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1,000", 1000),
        ("-12,345,678.5", -12345678.5),
        ("1e3", 1000),
        (" .5", 0.5),
        ("3.", 3),
        ("0.125", 0.125),
    ],
)
def test_commas_that_group_thousands_are_accepted(answer, value):
    assert one_record(instruction="q", output="a", answer=answer)["answer"] == answer.strip()
    assert gold_number(answer) == value


@pytest.mark.parametrize(
    "answer", ["1,5", "1.000,50", "0,500", "1,0000", "12,34,567", ",5", "1_000", "1e999", "½", "--1", "."]
)
def test_a_number_with_another_comma_is_malformed(answer):
    row = {"instruction": "q", "output": "a", "answer": answer}
    assert f"row 0: answer '{answer}' is not a number" in refusal(row)
    gsm8k = {"question": "q", "answer": f"so\n#### {answer}"}
    assert f"row 0: answer '{answer}' is not a number" in refusal(gsm8k)


def test_texts_of_the_original_rows_are_never_the_names_of_missing_values():
    assert "'question' is missing" in refusal({"question": None, "answer": "#### 1"})
    assert "'ans' is missing" in refusal({"original_text": "q", "ans": float("nan")})
    aqua = {"question": "q", "options": ["A)1", "B)2"], "correct": "A", "rationale": None}
    assert "'output' is missing" in refusal(aqua, answer_form="letter")
    assert "'options' is a str" in refusal({**aqua, "options": "A)1 B)2"}, answer_form="letter")
