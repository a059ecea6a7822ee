"""The score stage: what it counts, what it refuses, and what it does not import."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, write_jsonl
from pipeline.data.records import make_records
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score
from pipeline.evaluate.stats import wilson_interval
from pipeline.params.templates import build_prompt
from pipeline.prompts.rows import add_prompt
from pipeline.prompts.write import SCHEMA

LETTERS = list("ABCDE")


def make_example(number, answer, *, choices=(), instruction="What?", template="strict"):
    return {
        "id": f"t/test/{number}",
        "task": "t",
        "instruction": instruction,
        "input": "",
        "response": "",
        "answer": answer,
        "choices": list(choices),
        "answer_form": "",
        "prompt": build_prompt(instruction, template=template),
    }


def score_texts(folder, examples, texts, *, form, protocol="strict", stops=None, ids=None, shots=0):
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), folder / "prompts.parquet")
    rows = [
        {
            "id": (ids or [e["id"] for e in examples])[number],
            "prompt": "",
            "text": text,
            "tokens": 3,
            "stop": (stops or ["eos"] * len(texts))[number],
        }
        for number, text in enumerate(texts)
    ]
    write_jsonl(folder / f"answers/t-{protocol}.jsonl", rows)
    task = ScoringTask(
        name=f"t-{protocol}",
        task="t",
        protocol=protocol,
        parser=protocol,
        shots=shots,
        protocol_version=3,
        answer_form=form,
        prompts=folder / "prompts.parquet",
    )
    output = folder / "scores/fp.json"
    score(folder / "answers", tasks=[task], output=output, manifest={"model": "m", "fingerprint": "fp"})
    return read_json(output)


def test_a_task_of_numbers_is_counted(tmp_path):
    examples = [make_example(n, answer) for n, answer in enumerate(["15", "15.0", "7", "2", "-3"])]
    texts = ["The answer is 15", "so 15", "The answer is 8.", "none", "The answer is -3"]
    stops = ["eos", "complete", "eos", "length", "eos"]
    score_file = score_texts(tmp_path, examples, texts, form="number", stops=stops)
    assert (score_file["model"], score_file["fingerprint"]) == ("m", "fp")
    task = score_file["tasks"]["t-strict"]
    assert {key: task[key] for key in ("task", "protocol", "protocol_version", "answer_form")} == {
        "task": "t",
        "protocol": "strict",
        "protocol_version": 3,
        "answer_form": "number",
    }
    assert (task["n"], task["correct"], task["accuracy"]) == (5, 3, 0.6)
    assert (task["low"], task["high"]) == wilson_interval(3, 5)
    assert (task["unparsable"], task["truncated"], task["chance"]) == (1, 1, 0)
    assert task["majority"] == 0.4  # "15" and "15.0" are the same answer
    assert task["majority_answer"] == "15"
    first = {
        "id": "t/test/0",
        "parsed": 15.0,
        "gold": "15",
        "correct": True,
        "outcome": "right",
        "protocol": "strict",
    }
    third = {
        "id": "t/test/3",
        "parsed": None,
        "gold": "2",
        "correct": False,
        "outcome": "truncated",
        "protocol": "strict",
    }
    assert task["items"][0] == first
    assert task["items"][3] == third


def test_labels_chance_and_majority_come_from_the_examples(tmp_path):
    offered = [["answer1", "answer2", "answer3"], ["answer1", "answer2", "answer3", "answer4", "answer5"]]
    examples = [make_example(n, "answer1" if n else "answer3", choices=offered[n % 2]) for n in range(4)]
    texts = ["the correct answer is answer3", "answer1", "the correct answer is answer4", "answer2"]
    task = score_texts(tmp_path, examples, texts, form="answer")["tasks"]["t-strict"]
    assert task["correct"] == 2
    assert task["unparsable"] == 1  # answer4 of three choices
    assert task["chance"] == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert task["majority"] == 0.75


@pytest.mark.parametrize("mark", ["(A)", "A)", "[A]", "A.", "A:"])
def test_chance_counts_the_options_of_the_question_however_they_are_written(tmp_path, mark):
    options = " ".join(f"{mark.replace('A', letter)} {n}" for n, letter in enumerate("ABC", 2))
    rows = [
        {"instruction": f"How many? {options}", "answer": "B"},
        {"instruction": "How many?", "input": options, "answer": "C"},
    ]
    records = make_records(rows, task="t", split="test", answer_form="letter")
    examples = [add_prompt(record, template="strict") for record in records]
    # by letter, by its words, and a letter that is not offered
    for texts, correct in ((["(B)", "(C)"], 2), (["3", "The answer is 4."], 2), (["(D)", "(E)"], 0)):
        task = score_texts(tmp_path, examples, texts, form="letter")["tasks"]["t-strict"]
        assert (task["correct"], task["unparsable"]) == (correct, 2 - correct)
        assert task["chance"] == pytest.approx(1 / 3)


def test_the_published_protocol_takes_the_first_capital_and_cuts_at_the_mark(tmp_path):
    examples = [make_example(n, "C", choices=LETTERS, template="paper-eval") for n in range(2)]
    texts = ["A: The answer is (C).", " C\n\n### Response:\n A"]
    strict = score_texts(tmp_path / "s", examples, texts, form="letter")["tasks"]["t-strict"]
    paper = score_texts(tmp_path / "p", examples, texts, form="letter", protocol="paper")["tasks"]["t-paper"]
    assert [item["parsed"] for item in strict["items"]] == ["C", "C"]
    assert [item["parsed"] for item in paper["items"]] == ["A", "C"]


def test_an_instruction_with_the_response_mark_is_judged_as_published(tmp_path):
    examples = [make_example(0, "5", instruction='Write "### Response:" 3', template="paper-eval")]
    paper = score_texts(tmp_path, examples, ["5"], form="number", protocol="paper")["tasks"]["t-paper"]
    assert paper["items"][0]["parsed"] == 3.0


def test_answers_of_worked_examples_are_not_the_models(tmp_path):
    question = make_example(0, "5", template="paper-eval")
    with_shot = {
        **question,
        "prompt": build_prompt("What?", template="paper-eval", response="3") + question["prompt"],
    }
    paper = score_texts(tmp_path, [with_shot], ["5"], form="number", protocol="paper", shots=1)["tasks"][
        "t-paper"
    ]
    assert paper["items"][0]["parsed"] == 5.0


def test_every_answer_has_exactly_one_outcome(tmp_path):
    examples = [make_example(n, "5") for n in range(6)]
    texts = ["The answer is 5. It", "The answer is 6. It", "many", "so many", " \n", ""]
    stops = ["length", "length", "eos", "length", "length", "eos"]
    task = score_texts(tmp_path, examples, texts, form="number", stops=stops)["tasks"]["t-strict"]
    outcomes = ["right", "wrong", "unparsable", "truncated", "empty", "empty"]
    assert [item["outcome"] for item in task["items"]] == outcomes
    assert task["outcomes"] == {"right": 1, "wrong": 1, "unparsable": 1, "truncated": 1, "empty": 2}
    assert (task["unparsable"], task["truncated"]) == (4, 4)


@pytest.mark.parametrize(
    ("form", "gold", "text", "is_parsed"),
    [
        ("number", "15", "The answer is 15. I hope", True),
        ("number", "15", "The answer is 15", False),  # of 150, or of 15 + 3
        ("number", "15", "3 * 5 = 15. So he has 15 apples", False),
        ("answer", "answer2", "The answer is answer2", True),
        ("answer", "answer2", "answer2 is made of", True),
        ("answer", "answer2", "it must be answer2", False),
        ("letter", "B", "B ) is what", True),
        ("letter", "B", "if it were not so (B)", False),
        ("letter", "B", "Count them. B", False),
    ],
)
def test_an_answer_cut_off_by_the_token_limit_has_no_conclusion(tmp_path, form, gold, text, is_parsed):
    offered = {"number": [], "letter": LETTERS, "answer": ["answer1", "answer2"]}[form]
    examples = [make_example(n, gold, choices=offered) for n in range(2)]
    judged = score_texts(tmp_path, examples, [text] * 2, form=form, stops=["eos", "length"])["tasks"][
        "t-strict"
    ]
    outcome = "right" if is_parsed else "truncated"
    assert [item["outcome"] for item in judged["items"]] == ["right", outcome]


def test_words_cut_off_by_the_token_limit_select_no_option(tmp_path):
    text = "Which?\n\nAnswer1: red Answer2: red wine\n\nAnswer format: answer1/answer2"
    examples = [
        make_example(n, "answer1", choices=["answer1", "answer2"], instruction=text) for n in range(2)
    ]
    texts = ["The answer is red", "The answer is red. It"]
    task = score_texts(tmp_path, examples, texts, form="answer", stops=["length"] * 2)["tasks"]["t-strict"]
    assert [item["outcome"] for item in task["items"]] == ["truncated", "right"]


def test_an_option_in_its_own_words_is_parsed(tmp_path):
    text = "Which?\n\nAnswer1: salt Answer2: sand\n\nAnswer format: answer1/answer2"
    examples = [make_example(0, "answer2", choices=["answer1", "answer2"], instruction=text)]
    task = score_texts(tmp_path, examples, ["The answer is sand."], form="answer")["tasks"]["t-strict"]
    assert task["items"][0]["parsed"] == "answer2"


def likelihood_row(number, values, lengths):
    row = {"choices": ["solution1", "solution2"], "continuations": ["", ""], "tokens": [2, 2]}
    sizes = {"characters": lengths, "bytes": [length + 10 * n for n, length in enumerate(lengths)]}
    return {"id": f"t/test/{number}", "prompt": "", **row, "loglikelihoods": values, **sizes}


def score_choices(folder, rows, golds, *, headline):
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    choices = ["solution1", "solution2"]
    examples = [make_example(n, gold, choices=choices) for n, gold in enumerate(golds)]
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), folder / "prompts.parquet")
    write_jsonl(folder / "answers/t.jsonl", rows)
    task = ScoringTask(
        name="t",
        task="t",
        answer_form="solution",
        prompts=folder / "prompts.parquet",
        protocol="l",
        protocol_version=1,
        parser="likelihood",
        headline=headline,
    )
    score(folder / "answers", tasks=[task], output=folder / "s.json", manifest={})
    return read_json(folder / "s.json")["tasks"]["t"]


ROWS = [
    likelihood_row(0, [-10.0, -12.0], [10, 20]),  # raw 1; a character -1, -0.6: 2
    likelihood_row(1, [-10.0, -9.0], [10, 8]),  # raw 2; -1, -1.125: 1; a byte -1, -0.5: 2
    likelihood_row(2, [-5.0, -5.0], [5, 5]),  # the first of equals; a byte -1, -0.33: 2
    likelihood_row(3, [None, -1.0], [5, 5]),
]


@pytest.mark.parametrize(
    ("headline", "parsed"),
    [
        ("raw", ["solution1", "solution2", "solution1", None]),
        ("normalised", ["solution2", "solution1", "solution1", None]),
    ],
)
def test_the_headline_selects_raw_or_normalised_likelihoods(tmp_path, headline, parsed):
    task = score_choices(tmp_path, ROWS, ["solution2"] * 4, headline=headline)
    assert [item["parsed"] for item in task["items"]] == parsed
    assert [item["by_bytes"] for item in task["items"]] == ["solution2"] * 3 + [None]
    assert (task["acc"], task["acc_norm"], task["acc_bytes"]) == (0.25, 0.25, 0.75)
    assert task["accuracy"] == parsed.count("solution2") / 4
    assert task["outcomes"] == {"right": 1, "wrong": 2, "unparsable": 1, "truncated": 0, "empty": 0}
    assert (task["headline"], task["chance"], task["majority"]) == (headline, 0.5, 1.0)


def test_scoring_twice_gives_equal_bytes(tmp_path):
    examples = [make_example(n, str(n)) for n in range(3)]
    written = []
    for _ in range(2):
        score_texts(tmp_path, examples, ["0", "1", "2"], form="number")
        written.append((tmp_path / "scores/fp.json").read_bytes())
    assert written[0] == written[1]


def test_answers_to_different_examples_are_refused(tmp_path):
    examples = [make_example(n, str(n)) for n in range(3)]
    with pytest.raises(UserError, match=r"row 1 answers 't/test/2', not 't/test/1'"):
        score_texts(tmp_path, examples, ["0"] * 3, form="number", ids=["t/test/0", "t/test/2", "t/test/1"])
    with pytest.raises(UserError, match="2 answers for the 3 examples"):
        score_texts(tmp_path, examples, ["0"] * 2, form="number")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("form", "answer", "choices"),
    [
        ("number", "many", ()),
        ("number", "inf", ()),
        ("letter", "F", LETTERS),
        ("answer", "answer5", ["answer1"]),
    ],
)
def test_an_impossible_gold_answer_is_refused(tmp_path, form, answer, choices):
    with pytest.raises(UserError, match=rf"t/test/0: gold label '{answer}' is not a possible {form}"):
        score_texts(tmp_path, [make_example(0, answer, choices=choices)], ["x"], form=form)


def test_an_empty_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="no examples"):
        score_texts(tmp_path, [], [], form="number")


def test_scoring_imports_no_torch():
    heavy = "('torch', 'transformers', 'scipy', 'statsmodels', 'pandas', 'peft')"
    code = f"import sys, pipeline.evaluate.scoring.score; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
