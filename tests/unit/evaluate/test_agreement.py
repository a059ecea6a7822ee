"""Where protocols disagree: each changed answer is found and has the right cause."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.io import read_json, write_json, write_jsonl
from pipeline.evaluate.scoring.agreement import agreement, differ_in
from pipeline.evaluate.scoring.score import score_task
from pipeline.params.reading import read_card
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import SCHEMA

LETTERS = list("ABCDE")
# id -> (gold, text under strict, text under paper); "A: ..." is read as A by the published parser alone
TEXTS = {
    "same": ("C", "the answer is C.", "the answer is C."),
    "parser": ("C", "A: The answer is (C).", "A: The answer is (C)."),
    "text": ("C", "The answer is C.", "The answer is D."),
    "both": ("C", "Easy. The answer is (C).", "All of them. The answer is (B)."),
    "parser though the texts differ": ("C", "A: The answer is (C).", "A, the answer is (C)."),
    "unread": ("B", "no idea", "B"),
}


def asked(folder: Path, name: str, texts: list[str]) -> dict:
    card = read_card("protocols", name)
    examples = [
        {
            "id": id,
            "task": "aqua",
            "instruction": "Which? Answer Choices: (A) 1 (B) 2 (C) 3 (D) 4 (E) 5",
            "input": "",
            "response": "",
            "answer": gold,
            "choices": LETTERS,
            "answer_form": "letter",
            "prompt": build_prompt("Which?", template=card.template),
        }
        for id, (gold, *_) in TEXTS.items()
    ]
    prompts = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), prompts)
    rows = [
        {"id": one["id"], "prompt": one["prompt"], "text": text, "tokens": 3, "stop": "eos"}
        for one, text in zip(examples, texts, strict=True)
    ]
    answers = folder / f"answers/aqua-{name}.jsonl"
    answers.parent.mkdir(exist_ok=True)
    write_jsonl(answers, rows)
    task = {"task": "aqua", "answer_form": "letter", "prompts": prompts, **card.judging}
    return {"prompts": prompts, "card": card.model_dump(), "score": score_task(answers, task)}


@pytest.fixture
def record(tmp_path) -> dict:
    made = {
        name: asked(tmp_path, name, [texts[place] for texts in TEXTS.values()])
        for name, place in (("strict", 1), ("paper", 2))
    }
    write_json(
        tmp_path / "scores.json", {"tasks": {f"aqua-{name}": one["score"] for name, one in made.items()}}
    )
    task = {"name": "aqua", "answer_form": "letter", "protocols": list(made)}
    task["prompts"] = {name: one["prompts"] for name, one in made.items()}
    run = {"scores": tmp_path / "scores.json", "answers": tmp_path / "answers"}
    (found,) = agreement([run], task, {name: one["card"] for name, one in made.items()})
    return found


def test_each_change_has_the_cause_that_explains_it(record):
    causes = {change["id"]: change["cause"] for change in record["changes"]}
    assert causes == {
        "parser": "parser",
        "text": "text",
        "both": "text and parser",
        "parser though the texts differ": "parser",
        "unread": "text",
    }
    assert record["causes"] == {"parser": 2, "text": 2, "text and parser": 1}


def test_changes_are_counted_and_shown_with_both_answers(record):
    assert (record["n"], record["changed"]) == (6, 5)
    assert record["unread"] == [1, 0]
    assert (record["lost"], record["gained"]) == (4, 1)
    change = next(one for one in record["changes"] if one["id"] == "text")
    assert change["first"] == {"parsed": "C", "correct": True, "text": "The answer is C."}
    assert change["second"] == {"parsed": "D", "correct": False, "text": "The answer is D."}
    assert change["gold"] == "C"


def test_two_runs_are_counted_together(tmp_path, record):
    write_json(tmp_path / "again.json", read_json(tmp_path / "scores.json"))
    runs = [
        {"scores": tmp_path / name, "answers": tmp_path / "answers"} for name in ("scores.json", "again.json")
    ]
    names = ["strict", "paper"]
    task = {"name": "aqua", "answer_form": "letter", "protocols": names}
    task["prompts"] = {name: tmp_path / f"{name}.parquet" for name in names}
    (found,) = agreement(runs, task, {name: read_card("protocols", name).model_dump() for name in names})
    assert (found["n"], found["changed"]) == (12, 10)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("paper", "paper-unmasked", ["padding"]),
        ("strict", "paper", ["prompt", "beams", "parser"]),
        ("strict", "likelihood", ["likelihood against text"]),
        ("likelihood", "likelihood-text", ["continuation", "normalisation"]),
    ],
)
def test_what_two_protocols_do_otherwise_is_told_from_their_cards(first, second, told):
    assert differ_in(*(read_card("protocols", name).model_dump() for name in (first, second))) == told


def test_a_likeliest_choice_against_a_text_is_a_cause_of_its_own(tmp_path):
    strict = asked(tmp_path, "strict", [texts[1] for texts in TEXTS.values()])
    row = {
        "choices": LETTERS,
        "loglikelihoods": [-1, -2, -3, -4, -5],
        "characters": [1] * 5,
        "bytes": [1] * 5,
    }
    rows = [{"id": id, "prompt": "", **row} for id in TEXTS]
    write_jsonl(tmp_path / "answers/aqua-likelihood.jsonl", rows)
    card = read_card("protocols", "likelihood")
    task = {"task": "aqua", "answer_form": "letter", "prompts": strict["prompts"], **card.judging}
    scores = {
        "aqua-strict": strict["score"],
        "aqua-likelihood": score_task(tmp_path / "answers/aqua-likelihood.jsonl", task),
    }
    write_json(tmp_path / "scores.json", {"tasks": scores})
    described = {"name": "aqua", "answer_form": "letter", "protocols": ["strict", "likelihood"]}
    described["prompts"] = dict.fromkeys(described["protocols"], strict["prompts"])
    cards = {"strict": strict["card"], "likelihood": card.model_dump()}
    run = {"scores": tmp_path / "scores.json", "answers": tmp_path / "answers"}
    (found,) = agreement([run], described, cards)
    assert found["causes"] == {"likelihood": 6}
    assert found["changes"][0]["second"] == {"parsed": "A", "correct": False, "text": None}
