"""Where protocols disagree: every changed answer is listed, with the right cause."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.io import read_json, write_json, write_jsonl
from pipeline.evaluate.scoring.agreement import (
    Agreement,
    RunFiles,
    list_setting_differences,
    measure_agreement,
)
from pipeline.evaluate.scoring.rows import ScoringTask, TaskScore
from pipeline.evaluate.scoring.score import score_task
from pipeline.params.protocols import Protocol
from pipeline.params.reading import read_card
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import SCHEMA

LETTERS = list("ABCDE")
# id -> (gold, text under strict, text under paper); only the published parser takes "A: ..." for the answer A
TEXTS = {
    "same": ("C", "the answer is C.", "the answer is C."),
    "parser": ("C", "A: The answer is (C).", "A: The answer is (C)."),
    "text": ("C", "The answer is C.", "The answer is D."),
    "both": ("C", "Easy. The answer is (C).", "All of them. The answer is (B)."),
    "parser though the texts differ": ("C", "A: The answer is (C).", "A, the answer is (C)."),
    "unparsed": ("B", "no idea", "B"),
}


class Scored(NamedTuple):
    """A task's prompts under a protocol, and its score."""

    prompts: Path
    score: TaskScore


def score_texts(folder: Path, card: Protocol, texts: list[str], *, prompt: str = "") -> Scored:
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
            "prompt": prompt or build_prompt("Which?", template=card.template),
        }
        for id, (gold, *_) in TEXTS.items()
    ]
    prompts = folder / f"{card.name}.parquet"
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), prompts)
    rows = [
        {"id": example["id"], "prompt": example["prompt"], "text": text, "tokens": 3, "stop": "eos"}
        for example, text in zip(examples, texts, strict=True)
    ]
    return score_rows(folder, card, rows, prompts)


def score_rows(folder: Path, card: Protocol, rows: list[dict], prompts: Path) -> Scored:
    answers = folder / f"answers/aqua-{card.name}.jsonl"
    answers.parent.mkdir(exist_ok=True)
    write_jsonl(answers, rows)
    task = ScoringTask.under(
        card, name=f"aqua-{card.name}", task="aqua", answer_form="letter", prompts=prompts
    )
    return Scored(prompts, score_task(answers, task))


def measure(folder: Path, scored: dict[str, Scored], runs: tuple[str, ...] = ("scores.json",)) -> Agreement:
    (agreement,) = measure_agreement(
        [RunFiles(scores=folder / name, answers=folder / "answers") for name in runs],
        task="aqua",
        answer_form="letter",
        prompts={name: side.prompts for name, side in scored.items()},
        cards={name: read_card("protocols", name) for name in scored},
    )
    return agreement


@pytest.fixture
def scored(tmp_path) -> dict[str, Scored]:
    """The texts under both protocols; scores.json is written too."""
    sides = {
        name: score_texts(tmp_path, read_card("protocols", name), [texts[column] for texts in TEXTS.values()])
        for name, column in (("strict", 1), ("paper", 2))
    }
    scores = {f"aqua-{name}": side.score for name, side in sides.items()}
    write_json(tmp_path / "scores.json", {"tasks": scores})
    return sides


def test_each_change_has_the_cause_that_explains_it(tmp_path, scored):
    agreement = measure(tmp_path, scored)
    assert {change["id"]: change["cause"] for change in agreement["changes"]} == {
        "parser": "parser",
        "text": "text",
        "both": "text and parser",
        "parser though the texts differ": "parser",
        "unparsed": "text",
    }
    assert agreement["causes"] == {"parser": 2, "text": 2, "text and parser": 1}


def test_changes_are_counted_and_listed_with_both_answers(tmp_path, scored):
    agreement = measure(tmp_path, scored)
    assert (agreement["n"], agreement["changed"]) == (6, 5)
    assert agreement["unparsed"] == [1, 0]
    assert (agreement["lost"], agreement["gained"]) == (4, 1)
    change = next(change for change in agreement["changes"] if change["id"] == "text")
    assert change["first"] == {"parsed": "C", "correct": True, "text": "The answer is C."}
    assert change["second"] == {"parsed": "D", "correct": False, "text": "The answer is D."}
    assert change["gold"] == "C"


def test_two_runs_are_counted_together(tmp_path, scored):
    write_json(tmp_path / "again.json", read_json(tmp_path / "scores.json"))
    agreement = measure(tmp_path, scored, runs=("scores.json", "again.json"))
    assert (agreement["n"], agreement["changed"]) == (12, 10)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("paper", "paper-unmasked", ["padding"]),
        ("strict", "paper", ["prompt", "beams", "parser"]),
        ("strict", "likelihood", ["likelihood against text"]),
        ("likelihood", "likelihood-text", ["continuation", "normalisation"]),
    ],
)
def test_setting_differences_come_from_the_cards(first, second, words):
    assert list_setting_differences(*(read_card("protocols", name) for name in (first, second))) == words


def test_a_most_likely_choice_against_a_text_has_its_own_cause(tmp_path):
    strict = score_texts(tmp_path, read_card("protocols", "strict"), [texts[1] for texts in TEXTS.values()])
    likelihoods = {
        "prompt": "",
        "choices": LETTERS,
        "loglikelihoods": [-1, -2, -3, -4, -5],
        "characters": [1] * 5,
        "bytes": [1] * 5,
    }
    rows = [{"id": id, **likelihoods} for id in TEXTS]
    likelihood = score_rows(tmp_path, read_card("protocols", "likelihood"), rows, strict.prompts)
    scores = {"aqua-strict": strict.score, "aqua-likelihood": likelihood.score}
    write_json(tmp_path / "scores.json", {"tasks": scores})
    agreement = measure(tmp_path, {"strict": strict, "likelihood": likelihood})
    assert agreement["causes"] == {"likelihood": 6}
    assert agreement["changes"][0]["second"] == {"parsed": "A", "correct": False, "text": None}


def test_a_text_is_read_with_the_worked_examples_of_its_own_prompt(tmp_path):
    paper = read_card("protocols", "paper")
    cards = {"few": paper.model_copy(update={"name": "few", "shots": 1}), "paper": paper}
    worked = build_prompt("Which?", template=paper.template, response="The answer is C.")
    prompts = {
        "few": f"{worked}\n\n{build_prompt('Which?', template=paper.template)}",
        "paper": build_prompt("Which?", template=paper.template),
    }
    texts = {"few": "The answer is B.", "paper": "The answer is C."}
    sides = {
        name: score_texts(tmp_path, card, [texts[name]] * len(TEXTS), prompt=prompts[name])
        for name, card in cards.items()
    }
    write_json(
        tmp_path / "scores.json", {"tasks": {f"aqua-{name}": side.score for name, side in sides.items()}}
    )
    (agreement,) = measure_agreement(
        [RunFiles(scores=tmp_path / "scores.json", answers=tmp_path / "answers")],
        task="aqua",
        answer_form="letter",
        prompts={name: side.prompts for name, side in sides.items()},
        cards=cards,
    )
    # the parsers are the same: only the texts can explain a change
    assert agreement["causes"] == {"text": len(TEXTS)}
