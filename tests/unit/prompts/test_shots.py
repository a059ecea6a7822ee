"""Worked examples: drawn by seed, in the question's template, never the question itself."""

import pytest

from pipeline.core.errors import UserError
from pipeline.params.protocols import Protocol
from pipeline.params.reading import parse_card, read_card
from pipeline.params.templates import build_prompt
from pipeline.prompts.shots import prepare_worked_examples
from pipeline.prompts.write import read_prompts
from pipeline.study import Study, load_study


def record(number, instruction=None, response="it is so"):
    text = instruction or f"question {number}?"
    return {"id": f"t/train/{number}", "instruction": text, "input": "", "response": response}


def draw(records, question, **changes):
    options = {"count": 3, "seed": 0, "template": "strict", "where": "f.jsonl", **changes}
    return prepare_worked_examples(records, **options)(question)


POOL = [record(number) for number in range(20)]
QUESTION = {"id": "t/test/0", "instruction": "Question 4", "input": "", "response": ""}


def test_worked_examples_are_complete_and_in_the_template_of_the_question():
    text = draw(POOL, QUESTION)
    examples = [
        build_prompt(example["instruction"], template="strict", response="it is so") + "\n\n"
        for example in POOL
    ]
    assert sum(example in text for example in examples) == 3
    assert len(text) == sum(len(example) for example in examples if example in text)


def test_an_example_with_the_same_question_is_never_drawn():
    for number in range(200):
        assert "question 4?" not in draw(POOL, {**QUESTION, "id": f"t/test/{number}"})
    few = [record(0, "QUESTION 4!"), record(1), record(2)]
    assert "QUESTION" not in draw(few, QUESTION, count=2)


def test_the_draw_depends_on_seed_and_question_but_not_on_the_other_questions():
    prepared = prepare_worked_examples(POOL, count=3, seed=0, template="strict", where="f")
    first = prepared(QUESTION)
    prepared({**QUESTION, "id": "t/test/1"})
    assert prepared(QUESTION) == first == draw(POOL, QUESTION)
    assert len({draw(POOL, {**QUESTION, "id": f"t/test/{n}"}) for n in range(8)}) > 4
    assert len({draw(POOL, QUESTION, seed=n) for n in range(8)}) > 4


def test_too_few_examples_and_an_example_without_a_response_are_refused():
    with pytest.raises(UserError, match=r"f.jsonl: 2 examples other than t/test/0, fewer than the 3 shots"):
        draw([record(1), record(2), record(4)], QUESTION)
    with pytest.raises(UserError, match=r"t/train/1: no response"):
        draw([record(1, response=" \n")], QUESTION, count=1)


def fingerprints(study):
    """Return the fingerprints of the last run's adapter, of its answers and of its arm's audit."""
    run = study.runs[-1]
    return run.adapter.fingerprint, study.answers(run).fingerprint, study.audit(run.arms[0]).fingerprint


@pytest.fixture
def plain():
    return fingerprints(load_study("quickstart"))


@pytest.fixture
def with_shots(plain, monkeypatch):
    """A study of the world whose protocol shows two examples of the validation split."""
    card = {**read_card("protocols", "strict").model_dump(), "shots": 2, "shots_split": "validation"}
    protocol = parse_card(Protocol, card, where="p")

    def cards(kind, name):
        return protocol if (kind, name) == ("protocols", "strict") else read_card(kind, name)

    monkeypatch.setattr("pipeline.study.grid.read_card", cards)
    return Study("shown", read_card("study", "quickstart"))


def test_shots_change_the_fingerprint_of_answers_but_not_of_adapters_and_audits(plain, with_shots):
    adapter, answers, audit = fingerprints(with_shots)
    assert (adapter, audit) == (plain[0], plain[2])
    assert answers != plain[1]
    prompts = with_shots.tasks(with_shots.runs[-1])[0].prompts
    assert prompts.params["shots"] == {"count": 2, "seed": 0}
    assert prompts.inputs["shots"].params["split"] == "validation"


def test_the_prompts_stage_writes_worked_examples(with_shots, tmp_path, monkeypatch):
    from pipeline.commands.run.stages import JobOptions, run_fetch, run_prompts

    monkeypatch.chdir(tmp_path)
    prompts = with_shots.tasks(with_shots.runs[-1])[0].prompts
    for raw in prompts.inputs.values():
        run_fetch(with_shots, raw, JobOptions())
    run_prompts(with_shots, prompts, JobOptions())
    for row in read_prompts(prompts.path):
        own = build_prompt(row["instruction"], template="strict")
        assert row["prompt"].endswith(own)
        assert row["prompt"].count("### Response:\n") == 3


def test_a_dataset_without_the_split_is_an_error_in_one_line(monkeypatch):
    card = {**read_card("protocols", "strict").model_dump(), "shots": 1}
    protocol = parse_card(Protocol, card, where="p")
    monkeypatch.setattr(
        "pipeline.study.grid.read_card",
        lambda kind, name: protocol if kind == "protocols" else read_card(kind, name),
    )
    with pytest.raises(UserError, match=r"params/datasets/svamp.yaml: no split 'train' \(it has: test\)"):
        Study("s", read_card("study", "quickstart")).task_prompts("svamp", "strict")
