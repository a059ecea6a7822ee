"""Instruction data of the small world: eleven tasks, one for every answer form of the fourteen real datasets."""

import random
from collections.abc import Callable

from pipeline.core.errors import UserError
from pipeline.data.world.facts import Fact, facts
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
from pipeline.data.world.stories import Story, story

Row = dict[str, str]
SPLITS = ("train", "validation", "test")
ARITHMETIC = {  # task: equations a story, a distracting sentence, answer by letter
    "world-addsub": (1, False, False),
    "world-multiarith": (2, False, False),
    "world-svamp": (1, True, False),
    "world-aqua": (1, False, True),
}
COMMONSENSE = {  # task: stem of its labels ("" is true/false), number of choices
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


def rows(task: str, split: str, *, n: int, world_seed: int, seed: int) -> list[Row]:
    """Return ``n`` different rows of a task or of a mixture (its tasks in turn), in the LLM-Adapters schema.

    A row has ``instruction``, ``input`` (empty), ``output`` (a short rationale, then the answer) and ``answer``.
    No story or fact of one split occurs in another split's questions.

    Raises:
        UserError: if the task or split is unknown, or the split does not hold ``n`` different rows.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} of {task}: unknown; choose from {', '.join(SPLITS)}")
    if task in MIXTURES:
        return _mixture(MIXTURES[task], split, n=n, world_seed=world_seed, seed=seed)
    if task not in TASKS:
        raise UserError(
            f"task {task!r} is not in the small world; choose from {', '.join((*TASKS, *MIXTURES))}"
        )
    rng = random.Random(f"{task}/{split}/{world_seed}/{seed}")
    result: dict[str, Row] = {}
    for _ in range(20 * n + 100):
        if len(result) == n:
            return list(result.values())
        row = _draw(rng, task, split, world_seed)
        result.setdefault(row["instruction"], row)
    raise UserError(f"{task}/{split}: cannot make n = {n} different rows; ask for fewer than {len(result)}")


def _mixture(tasks: tuple[str, ...], split: str, *, n: int, world_seed: int, seed: int) -> list[Row]:
    each = -(-n // len(tasks))
    columns = [rows(task, split, n=each, world_seed=world_seed, seed=seed) for task in tasks]
    return [row for turn in zip(*columns, strict=True) for row in turn][:n]


def _draw(rng: random.Random, task: str, split: str, world_seed: int) -> Row:
    if task in ARITHMETIC:
        steps, distract, by_letter = ARITHMETIC[task]
        drawn = story(rng, split, steps=steps, distract=distract)
        return _letter_row(rng, drawn) if by_letter else _number_row(drawn)
    stem, n_choices = COMMONSENSE[task]
    fact = rng.choice(facts(world_seed)[split])
    return _choice_row(rng, fact, stem=stem, n_choices=n_choices) if stem else _truth_row(rng, fact)


def _row(instruction: str, rationale: str, conclusion: str, answer: str) -> Row:
    output = f"{rationale} {conclusion.format(l=answer)}"
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


def _number_row(drawn: Story) -> Row:
    return _row(f"{drawn.text} {drawn.question}", drawn.equations, RESULT, str(drawn.result))


def letter_choices(rng: random.Random, drawn: Story) -> tuple[list[int], str]:
    """Return five different numbers, the story's result among them, and the letter of the result."""
    wrong = [number for number in range(1, MAX_NUMBER + 1) if number != drawn.result]
    numbers = [drawn.result, *rng.sample(wrong, 4)]
    rng.shuffle(numbers)
    return numbers, LETTERS[numbers.index(drawn.result)]


def _letter_row(rng: random.Random, drawn: Story) -> Row:
    numbers, letter = letter_choices(rng, drawn)
    choices = " ".join(f"({label}) {number}" for label, number in zip(LETTERS, numbers, strict=True))
    instruction = ANSWER_CHOICES.format(story=f"{drawn.text} {drawn.question}", choices=choices)
    return _row(instruction, drawn.equations, RESULT, letter)


def _truth_row(rng: random.Random, fact: Fact) -> Row:
    is_true = rng.random() < 0.5
    value = fact.value if is_true else rng.choice(fact.others())
    instruction = ASK_TRUTH.format(q=fact.claim(value))
    return _row(instruction, fact.state(), CORRECT, "true" if is_true else "false")


# What a choice task asks of a fact: a question, a sentence with a blank, or a sentence's beginning.
_QUESTIONS: dict[str, Callable[[Fact], str]] = {
    "option": lambda fact: fact.state(value="_"),
    "ending": lambda fact: fact.state(value="_").removesuffix(" _."),
}


def _choice_row(rng: random.Random, fact: Fact, *, stem: str, n_choices: int) -> Row:
    values = [fact.value, *rng.sample(fact.others(), n_choices - 1)]
    rng.shuffle(values)
    labels = [f"{stem}{i + 1}" for i in range(n_choices)]
    question = ASK_CHOICE[stem].format(q=_QUESTIONS.get(stem, Fact.ask)(fact))
    choices = " ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
    instruction = f"{question}\n\n{choices}\n\n{ANSWER_FORMAT.format(labels='/'.join(labels))}"
    return _row(instruction, fact.state(), CORRECT, labels[values.index(fact.value)])
