"""The small world: correct rows, disjoint splits, pretraining text without tasks, a fixed vocabulary."""

import random
import re

import pytest

from pipeline.core.errors import UserError
from pipeline.data.world import MIXTURES, TASKS, draw_rows
from pipeline.data.world.corpus import draw_document
from pipeline.data.world.facts import draw_facts
from pipeline.data.world.lexicon import CORRECT, PROMPT, RESULT
from pipeline.data.world.stories import SPLIT_TENTHS, draw_equation, draw_story, story_split
from pipeline.data.world.tasks import ARITHMETIC, COMMONSENSE
from pipeline.data.world.tokenizer import build_tokenizer, build_vocabulary, label_token_ids
from pipeline.params.templates import build_prompt

WORLD = 3


def draw(task, split="test", *, n=60, seed=5):
    return draw_rows(task, split, n=n, world_seed=WORLD, seed=seed)


@pytest.mark.parametrize("task", TASKS)
def test_rows_depend_only_on_their_seeds(task):
    first = draw(task)
    assert draw(task) == first
    assert draw(task, seed=6) != first
    assert len({row["instruction"] for row in first}) == len(first)


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_question(task):
    questions = [
        {row["instruction"] for row in draw(task, split)} for split in ("train", "validation", "test")
    ]
    assert not questions[0] & questions[1]
    assert not questions[0] & questions[2]
    assert not questions[1] & questions[2]


@pytest.mark.parametrize("task", ARITHMETIC)
def test_arithmetic_answers_follow_from_true_equations(task):
    for row in draw(task):
        equations = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", row["output"])
        assert len(equations) == ARITHMETIC[task][0]
        for a, operator, b, result in equations:
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator] == int(result)
        choices = dict(re.findall(r"\(([A-E])\) (\d+)", row["instruction"]))
        assert choices.get(row["answer"], row["answer"]) == equations[-1][-1]
        assert row["output"].endswith(RESULT.format(l=row["answer"]))


@pytest.mark.parametrize("task", [task for task in COMMONSENSE if task != "world-boolq"])
def test_the_answer_is_the_label_of_the_value_of_the_fact(task):
    stem, n_choices = COMMONSENSE[task]
    for row in draw(task):
        choices = dict(re.findall(rf"({stem}\d): (\w+)", row["instruction"]))
        assert list(choices) == [f"{stem}{i + 1}" for i in range(n_choices)]
        value = choices[row["answer"]]
        assert any(
            fact.state() in row["output"] and fact.value == value for fact in draw_facts(WORLD)["test"]
        )


def test_claims_are_true_if_the_fact_says_so():
    stated = {fact.state(): fact for fact in draw_facts(WORLD)["test"]}
    answers = set()
    for row in draw("world-boolq"):
        fact = stated[row["output"].removesuffix(" " + CORRECT.format(l=row["answer"]))]
        assert (fact.claim(fact.value) in row["instruction"]) == (row["answer"] == "true")
        answers.add(row["answer"])
    assert answers == {"true", "false"}


def test_every_fact_is_in_one_split():
    by_split = [{(fact.thing, fact.attribute) for fact in part} for part in draw_facts(WORLD).values()]
    assert sum(map(len, by_split)) == len(set.union(*by_split)) == 240


@pytest.mark.parametrize("split", SPLIT_TENTHS)
def test_a_story_belongs_to_the_split_it_was_drawn_for(split):
    rng = random.Random(0)
    assert {story_split(draw_story(rng, split, steps=2).text) for _ in range(50)} == {split}


@pytest.mark.parametrize("operator", "+-*")
def test_equations_stay_within_the_numbers_that_have_tokens(operator):
    rng = random.Random(0)
    for _ in range(500):
        assert all(1 <= number <= 20 for number in draw_equation(rng, operator))


def test_a_mixture_takes_a_row_of_each_task_in_turn():
    for name, tasks in MIXTURES.items():
        mixed = draw(name, "train", n=3 * len(tasks))
        alone = [draw(task, "train", n=3)[0] for task in tasks]
        assert mixed[: len(tasks)] == alone


@pytest.mark.parametrize(
    ("task", "split", "n", "message"),
    [
        ("world-sums", "test", 1, "'world-sums' is not in the small world"),
        ("world-piqa", "dev", 1, "'dev' of world-piqa"),
        ("world-boolq", "validation", 10_000, "has fewer than n = 10000"),
    ],
)
def test_unknown_tasks_splits_and_sizes_are_errors(task, split, n, message):
    with pytest.raises(UserError, match=re.escape(message)):
        draw_rows(task, split, n=n, world_seed=WORLD, seed=0)


@pytest.fixture(scope="module")
def documents():
    rng = random.Random(1)
    return [
        draw_document(rng, progress, world_seed=WORLD) for progress in (0.0, 0.3, 0.9) for _ in range(1000)
    ]


def test_pretraining_text_has_no_question_about_held_out_facts(documents):
    held_out = [fact for split in ("validation", "test") for fact in draw_facts(WORLD)[split]]
    text = "\n".join(documents)
    for fact in held_out:
        assert fact.ask() not in text
        assert fact.state(value="_") not in text


def test_pretraining_text_contains_neither_closing_phrase(documents):
    text = "\n".join(documents)
    for phrase in (CORRECT, RESULT):
        assert phrase.partition("{")[0] not in text


def test_pretraining_text_states_every_fact():
    rng = random.Random(2)
    text = "\n".join(draw_document(rng, 0.9, world_seed=WORLD) for _ in range(6000))
    missing = [
        fact
        for part in draw_facts(WORLD).values()
        for fact in part
        if not any(fact.state(frame) in text for frame in range(4))
    ]
    assert not missing


def test_the_first_stage_has_only_drills():
    rng = random.Random(3)
    text = "\n".join(draw_document(rng, 0.0, world_seed=WORLD) for _ in range(300))
    assert "how many" not in text
    assert "Below" not in text


def test_the_prompt_of_pretraining_is_the_strict_template():
    assert PROMPT.format(instruction="x") == build_prompt("x", template="strict")


def test_prompts_and_responses_survive_tokenization():
    tokenizer = build_tokenizer()
    unknown = tokenizer.unk_token_id
    for task in TASKS:
        for row in draw(task):
            ids = tokenizer(build_prompt(row["instruction"], template="strict") + row["output"])["input_ids"]
            assert ids[0] == tokenizer.bos_token_id
            assert unknown not in ids
            response = tokenizer(row["output"])["input_ids"]
            assert tokenizer.decode(response, skip_special_tokens=True) == row["output"]


def test_the_vocabulary_is_sorted_and_labels_are_single_tokens():
    words = build_vocabulary()
    assert words[4:] == sorted(words[4:])
    assert {words[i] for i in label_token_ids()} == {
        *"ABCDE",
        "true",
        "false",
        *(f"{stem}{i}" for stem in ("answer", "solution", "option", "ending") for i in range(1, 6)),
    }
