"""Scores: what is counted, what is refused, and what is not imported."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, write_jsonl
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score
from pipeline.evaluate.stats import wilson_interval
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import SCHEMA

LETTERS = list("ABCDE")


def example(number, answer, *, choices=(), instruction="What?", template="strict"):
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


def scored(folder, examples, texts, *, form, protocol="strict", stops=None, ids=None, shots=0):
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


def test_numbers(tmp_path):
    examples = [example(n, answer) for n, answer in enumerate(["15", "15.0", "7", "2", "-3"])]
    texts = ["The answer is 15", "so 15", "The answer is 8.", "none", "The answer is -3"]
    stops = ["eos", "complete", "eos", "length", "eos"]
    found = scored(tmp_path, examples, texts, form="number", stops=stops)
    assert (found["model"], found["fingerprint"]) == ("m", "fp")
    task = found["tasks"]["t-strict"]
    assert {key: task[key] for key in ("task", "protocol", "protocol_version", "answer_form")} == {
        "task": "t",
        "protocol": "strict",
        "protocol_version": 3,
        "answer_form": "number",
    }
    assert (task["n"], task["correct"], task["accuracy"]) == (5, 3, 0.6)
    assert (task["low"], task["high"]) == wilson_interval(3, 5)
    assert (task["unparsable"], task["truncated"], task["chance"]) == (1, 1, 0)
    assert task["majority"] == 0.4  # "15" and "15.0" are one answer
    assert task["majority_answer"] == "15"
    same = {"protocol": "strict"}
    first = {"id": "t/test/0", "parsed": 15.0, "gold": "15", "correct": True, "outcome": "right"}
    third = {"id": "t/test/3", "parsed": None, "gold": "2", "correct": False, "outcome": "truncated"}
    assert task["items"][0] == {**first, **same}
    assert task["items"][3] == {**third, **same}


def test_labels_chance_and_majority_come_from_the_examples(tmp_path):
    offered = [["answer1", "answer2", "answer3"], ["answer1", "answer2", "answer3", "answer4", "answer5"]]
    examples = [example(n, "answer1" if n else "answer3", choices=offered[n % 2]) for n in range(4)]
    texts = ["the correct answer is answer3", "answer1", "the correct answer is answer4", "answer2"]
    task = scored(tmp_path, examples, texts, form="answer")["tasks"]["t-strict"]
    assert task["correct"] == 2
    assert task["unparsable"] == 1  # answer4 of three choices
    assert task["chance"] == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert task["majority"] == 0.75


def test_the_published_protocol_takes_the_first_capital_and_cuts_at_the_mark(tmp_path):
    examples = [example(n, "C", choices=LETTERS, template="paper-eval") for n in range(2)]
    texts = ["A: The answer is (C).", " C\n\n### Response:\n A"]
    strict = scored(tmp_path / "s", examples, texts, form="letter")["tasks"]["t-strict"]
    paper = scored(tmp_path / "p", examples, texts, form="letter", protocol="paper")["tasks"]["t-paper"]
    assert [item["parsed"] for item in strict["items"]] == ["C", "C"]
    assert [item["parsed"] for item in paper["items"]] == ["A", "C"]


def test_an_instruction_with_the_mark_is_judged_as_published(tmp_path):
    examples = [example(0, "5", instruction='Write "### Response:" 3', template="paper-eval")]
    paper = scored(tmp_path, examples, ["5"], form="number", protocol="paper")["tasks"]["t-paper"]
    assert paper["items"][0]["parsed"] == 3.0


def test_worked_examples_are_no_answer_of_the_model(tmp_path):
    shown = example(0, "5", template="paper-eval")
    one = {**shown, "prompt": build_prompt("What?", template="paper-eval", response="3") + shown["prompt"]}
    paper = scored(tmp_path, [one], ["5"], form="number", protocol="paper", shots=1)["tasks"]["t-paper"]
    assert paper["items"][0]["parsed"] == 5.0


def test_every_answer_has_one_outcome(tmp_path):
    examples = [example(n, "5") for n in range(6)]
    texts = ["The answer is 5. It", "The answer is 6. It", "many", "so many", " \n", ""]
    stops = ["length", "length", "eos", "length", "length", "eos"]
    task = scored(tmp_path, examples, texts, form="number", stops=stops)["tasks"]["t-strict"]
    told = ["right", "wrong", "unparsable", "truncated", "empty", "empty"]
    assert [item["outcome"] for item in task["items"]] == told
    assert task["outcomes"] == {"right": 1, "wrong": 1, "unparsable": 1, "truncated": 1, "empty": 2}
    assert (task["unparsable"], task["truncated"]) == (4, 4)


@pytest.mark.parametrize(
    ("form", "gold", "text", "read_at_the_limit"),
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
def test_an_answer_that_was_cut_off_has_no_conclusion(tmp_path, form, gold, text, read_at_the_limit):
    offered = {"number": [], "letter": LETTERS, "answer": ["answer1", "answer2"]}[form]
    examples = [example(n, gold, choices=offered) for n in range(2)]
    judged = scored(tmp_path, examples, [text] * 2, form=form, stops=["eos", "length"])["tasks"]["t-strict"]
    at_the_limit = "right" if read_at_the_limit else "truncated"
    assert [item["outcome"] for item in judged["items"]] == ["right", at_the_limit]


def test_words_that_were_cut_off_are_no_option(tmp_path):
    text = "Which?\n\nAnswer1: red Answer2: red wine\n\nAnswer format: answer1/answer2"
    examples = [example(n, "answer1", choices=["answer1", "answer2"], instruction=text) for n in range(2)]
    texts = ["The answer is red", "The answer is red. It"]
    task = scored(tmp_path, examples, texts, form="answer", stops=["length"] * 2)["tasks"]["t-strict"]
    assert [item["outcome"] for item in task["items"]] == ["truncated", "right"]


def test_an_option_in_its_own_words_is_read(tmp_path):
    text = "Which?\n\nAnswer1: salt Answer2: sand\n\nAnswer format: answer1/answer2"
    examples = [example(0, "answer2", choices=["answer1", "answer2"], instruction=text)]
    task = scored(tmp_path, examples, ["The answer is sand."], form="answer")["tasks"]["t-strict"]
    assert task["items"][0]["parsed"] == "answer2"


def likelihoods(number, values, lengths):
    same = {"choices": ["solution1", "solution2"], "continuations": ["", ""], "tokens": [2, 2]}
    sizes = {"characters": lengths, "bytes": [length + 10 * n for n, length in enumerate(lengths)]}
    return {"id": f"t/test/{number}", "prompt": "", **same, "loglikelihoods": values, **sizes}


def scored_choices(folder, rows, golds, *, headline):
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    choices = ["solution1", "solution2"]
    examples = [example(n, gold, choices=choices) for n, gold in enumerate(golds)]
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
    likelihoods(0, [-10.0, -12.0], [10, 20]),  # raw 1; a character -1, -0.6: 2
    likelihoods(1, [-10.0, -9.0], [10, 8]),  # raw 2; -1, -1.125: 1; a byte -1, -0.5: 2
    likelihoods(2, [-5.0, -5.0], [5, 5]),  # the first of equals; a byte -1, -0.33: 2
    likelihoods(3, [None, -1.0], [5, 5]),
]


@pytest.mark.parametrize(
    ("headline", "parsed"),
    [
        ("raw", ["solution1", "solution2", "solution1", None]),
        ("normalised", ["solution2", "solution1", "solution1", None]),
    ],
)
def test_the_likeliest_choice_is_raw_or_by_length(tmp_path, headline, parsed):
    task = scored_choices(tmp_path, ROWS, ["solution2"] * 4, headline=headline)
    assert [item["parsed"] for item in task["items"]] == parsed
    assert [item["by_bytes"] for item in task["items"]] == ["solution2"] * 3 + [None]
    assert (task["acc"], task["acc_norm"], task["acc_bytes"]) == (0.25, 0.25, 0.75)
    assert task["accuracy"] == parsed.count("solution2") / 4
    assert task["outcomes"] == {"right": 1, "wrong": 2, "unparsable": 1, "truncated": 0, "empty": 0}
    assert (task["headline"], task["chance"], task["majority"]) == (headline, 0.5, 1.0)


def test_rescoring_gives_the_same_bytes(tmp_path):
    examples = [example(n, str(n)) for n in range(3)]
    made = []
    for _ in range(2):
        scored(tmp_path, examples, ["0", "1", "2"], form="number")
        made.append((tmp_path / "scores/fp.json").read_bytes())
    assert made[0] == made[1]


def test_answers_of_other_examples_are_refused(tmp_path):
    examples = [example(n, str(n)) for n in range(3)]
    with pytest.raises(UserError, match=r"row 1 answers 't/test/2', not 't/test/1'"):
        scored(tmp_path, examples, ["0"] * 3, form="number", ids=["t/test/0", "t/test/2", "t/test/1"])
    with pytest.raises(UserError, match="2 answers for the 3 examples"):
        scored(tmp_path, examples, ["0"] * 2, form="number")
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
def test_a_gold_answer_that_no_answer_could_equal_is_refused(tmp_path, form, answer, choices):
    with pytest.raises(UserError, match=rf"t/test/0: gold answer '{answer}' is not a possible {form}"):
        scored(tmp_path, [example(0, answer, choices=choices)], ["x"], form=form)


def test_an_empty_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="no examples"):
        scored(tmp_path, [], [], form="number")


def test_scoring_imports_no_torch():
    heavy = "('torch', 'transformers', 'scipy', 'statsmodels', 'pandas', 'peft')"
    code = f"import sys, pipeline.evaluate.scoring.score; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
