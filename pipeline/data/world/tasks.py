"""The tasks of the small world: eleven, which cover every answer form of the fourteen real datasets."""

import random
from collections.abc import Callable

from pipeline.core.errors import UserError
from pipeline.data.rows import InstructionRow
from pipeline.data.world.facts import Fact, draw_facts
from pipeline.data.world.lexicon import (
    ANSWER_CHOICES,
    ANSWER_FORMAT,
    ASK_CHOICE,
    ASK_TRUTH,
    CORRECT,
    LETTERS,
    MAX_NUMBER,
    RESULT,
)
from pipeline.data.world.stories import Story, draw_story

SPLITS = ("train", "validation", "test")
# task: equations of a story, whether it has a distracting sentence, whether the answer is a letter
ARITHMETIC = {
    "world-addsub": (1, False, False),
    "world-multiarith": (2, False, False),
    "world-svamp": (1, True, False),
    "world-aqua": (1, False, True),
}
# task: stem of its labels ("" is true/false), number of choices
COMMONSENSE = {
    "world-boolq": ("", 2),
    "world-piqa": ("solution", 2),
    "world-siqa": ("answer", 3),
    "world-winogrande": ("option", 2),
    "world-hellaswag": ("ending", 4),
    "world-obqa": ("answer", 4),
    "world-arc": ("answer", 5),
}
MIXTURES = {"world-math": tuple(ARITHMETIC), "world-commonsense": tuple(COMMONSENSE)}
TASKS = (*ARITHMETIC, *COMMONSENSE)
# text as in pretraining, which answers no question
TEXT = "world-text"


def draw_rows(task: str, split: str, *, n: int, world_seed: int, seed: int) -> list[InstructionRow]:
    """Draw ``n`` different rows of a task, or of a mixture, which takes one row of each of its tasks in turn.

    The input is empty; the output is a short rationale, then the answer. The splits share no story and no fact.

    Raises:
        UserError: an unknown task or split, or a split with fewer than ``n`` different rows.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} of {task}: unknown (choices: {', '.join(SPLITS)})")
    if task in MIXTURES:
        return _draw_mixture(MIXTURES[task], split, n=n, world_seed=world_seed, seed=seed)
    if task not in TASKS:
        raise UserError(
            f"task {task!r} is not in the small world (choices: {', '.join((*TASKS, *MIXTURES, TEXT))})"
        )
    rng = random.Random(f"{task}/{split}/{world_seed}/{seed}")
    drawn: dict[str, InstructionRow] = {}
    # a bounded number of draws, since a split may have fewer than n different rows
    for _ in range(20 * n + 100):
        if len(drawn) == n:
            return list(drawn.values())
        row = _draw_row(rng, task, split, world_seed)
        drawn.setdefault(row["instruction"], row)
    raise UserError(f"{task}/{split}: has fewer than n = {n} different rows; use fewer than {len(drawn)}")


def _draw_mixture(
    tasks: tuple[str, ...], split: str, *, n: int, world_seed: int, seed: int
) -> list[InstructionRow]:
    # rounded up, so that every task has enough rows
    n_per_task = -(-n // len(tasks))
    columns = [draw_rows(task, split, n=n_per_task, world_seed=world_seed, seed=seed) for task in tasks]
    return [row for turn in zip(*columns, strict=True) for row in turn][:n]


def _draw_row(rng: random.Random, task: str, split: str, world_seed: int) -> InstructionRow:
    if task in ARITHMETIC:
        steps, distract, by_letter = ARITHMETIC[task]
        story = draw_story(rng, split, steps=steps, distract=distract)
        return _draw_letter_row(rng, story) if by_letter else _number_row(story)
    stem, n_choices = COMMONSENSE[task]
    fact = rng.choice(draw_facts(world_seed)[split])
    return _draw_choice_row(rng, fact, stem=stem, n_choices=n_choices) if stem else _draw_truth_row(rng, fact)


def _instruction_row(instruction: str, rationale: str, conclusion: str, answer: str) -> InstructionRow:
    output = f"{rationale} {conclusion.format(l=answer)}"
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


def _number_row(story: Story) -> InstructionRow:
    return _instruction_row(f"{story.text} {story.question}", story.equations, RESULT, str(story.result))


def draw_letter_choices(rng: random.Random, story: Story) -> tuple[list[int], str]:
    """Draw five different numbers, one of them the result of the story; return them and the letter of the result."""
    wrong = [number for number in range(1, MAX_NUMBER + 1) if number != story.result]
    numbers = [story.result, *rng.sample(wrong, 4)]
    rng.shuffle(numbers)
    return numbers, LETTERS[numbers.index(story.result)]


def _draw_letter_row(rng: random.Random, story: Story) -> InstructionRow:
    numbers, letter = draw_letter_choices(rng, story)
    choices = " ".join(f"({label}) {number}" for label, number in zip(LETTERS, numbers, strict=True))
    instruction = ANSWER_CHOICES.format(story=f"{story.text} {story.question}", choices=choices)
    return _instruction_row(instruction, story.equations, RESULT, letter)


def _draw_truth_row(rng: random.Random, fact: Fact) -> InstructionRow:
    is_true = rng.random() < 0.5
    value = fact.value if is_true else rng.choice(fact.wrong_values())
    instruction = ASK_TRUTH.format(q=fact.claim(value))
    return _instruction_row(instruction, fact.state(), CORRECT, "true" if is_true else "false")


# stem of the labels -> the question about a fact: a sentence with a blank, or the beginning of a sentence
_QUESTIONS: dict[str, Callable[[Fact], str]] = {
    "option": lambda fact: fact.state(value="_"),
    "ending": lambda fact: fact.state(value="_").removesuffix(" _."),
}


def _draw_choice_row(rng: random.Random, fact: Fact, *, stem: str, n_choices: int) -> InstructionRow:
    values = [fact.value, *rng.sample(fact.wrong_values(), n_choices - 1)]
    rng.shuffle(values)
    labels = [f"{stem}{i + 1}" for i in range(n_choices)]
    question = ASK_CHOICE[stem].format(q=_QUESTIONS.get(stem, Fact.ask)(fact))
    choices = " ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
    instruction = f"{question}\n\n{choices}\n\n{ANSWER_FORMAT.format(labels='/'.join(labels))}"
    return _instruction_row(instruction, fact.state(), CORRECT, labels[values.index(fact.value)])
