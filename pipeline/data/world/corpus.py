"""The pretraining text of the small world: drills, all facts, sums, and stories of the pretraining split.

It contains no row of any task: no question about a validation or test fact, no story of another split, and neither of the
closing phrases of the answers.
"""

import random
from collections.abc import Callable

from pipeline.data.world.drills import (
    draw_conclusion,
    draw_conclusion_start,
    draw_dense_drill,
    draw_framed_list,
    draw_labelled_list,
    draw_pointing_drill,
    draw_truth_checks,
)
from pipeline.data.world.facts import Fact, draw_facts
from pipeline.data.world.lexicon import (
    ATTRIBUTES,
    FACT_CHECK,
    FILLER,
    MAX_NUMBER,
    NAMES,
    PROMPT,
    REPEAT,
    REQUESTS,
    STORY_END,
    THINK,
    WORDS,
)
from pipeline.data.world.stories import draw_equation, draw_story
from pipeline.data.world.tasks import TEXT, draw_letter_choices

# the part of the first stage after which drills have words between value and label
LINKED_FROM = 0.55


def draw_document(rng: random.Random, progress: float, *, world_seed: int, first_stage: float = 0.2) -> str:
    """Draw one document.

    Args:
        rng: source of the random draws.
        progress: fraction of the pretraining steps that are done.
        world_seed: seed of the facts.
        first_stage: fraction of the steps that see only dense drills.
    """
    dense_share = 1.0 if progress < first_stage else 0.3 if progress < 0.5 else 0.1
    if rng.random() < dense_share:
        return draw_dense_drill(rng, linked=0.0 if progress < LINKED_FROM * first_stage else 0.6)
    drawers, weights = zip(*MIX, strict=True)
    draw: Drawer = rng.choices(drawers, weights)[0]
    return draw(rng, world_seed)


def draw_texts(*, n: int, world_seed: int, seed: int) -> list[dict[str, str]]:
    """Draw ``n`` different documents as the end of pretraining has them, as rows with a column "text"."""
    rng = random.Random(f"{TEXT}/{world_seed}/{seed}")
    drawn: dict[str, None] = {}
    # documents are long enough for any number of different ones
    while len(drawn) < n:
        drawn[draw_document(rng, 1.0, world_seed=world_seed)] = None
    return [{"text": text} for text in drawn]


def draw_stated_facts(rng: random.Random, world_seed: int) -> str:
    """Draw eight facts of any split, in any wording."""
    chosen = rng.sample([fact for split in draw_facts(world_seed).values() for fact in split], 8)
    return " ".join(fact.state(rng.randrange(4)) for fact in chosen)


def draw_fact_checks(rng: random.Random, world_seed: int) -> str:
    """Draw two claims about training facts, each with the fact and whether the claim is true."""
    sentences = []
    for _ in range(2):
        fact = rng.choice(draw_facts(world_seed)["train"])
        value = fact.value if rng.random() < 0.5 else rng.choice(fact.wrong_values())
        sentences.append(
            rng.choice(FACT_CHECK).format(
                n=rng.choice(NAMES),
                claim=fact.state(value=value),
                question=fact.claim(value),
                fact=_state_fact(rng, fact),
                end=draw_conclusion_start(rng),
                t="true" if value == fact.value else "false",
            )
        )
    return " ".join(sentences)


def draw_fact_list(rng: random.Random, world_seed: int) -> str:
    """Draw a list of values, a training fact about one of them, and the label of that value."""
    fact = rng.choice(draw_facts(world_seed)["train"])
    values = [fact.value, *rng.sample(fact.wrong_values(), rng.randint(1, 4))]
    rng.shuffle(values)
    labels, text = draw_labelled_list(rng, values)
    lead = rng.choice([fact.ask(), THINK.format(t=fact.thing), fact.state(value="_")])
    label = labels[values.index(fact.value)]
    return (
        f"{lead} {draw_framed_list(rng, labels, text)} {_state_fact(rng, fact)} {draw_conclusion(rng, label)}"
    )


def draw_sums(rng: random.Random, _world_seed: int) -> str:
    """Draw ten equations."""
    operators = [rng.choice("++--*") for _ in range(10)]
    return " ".join("{} {op} {} = {}.".format(*draw_equation(rng, op), op=op) for op in operators)


def draw_worked_story(rng: random.Random, _world_seed: int) -> str:
    """Draw a story with its equations and its end."""
    story = draw_story(rng, "pretraining", steps=rng.choice([1, 1, 2, 2, 3]), distract=rng.random() < 0.25)
    question = rng.choice([story.question + " ", ""])
    end = STORY_END.format(n=story.name, a=story.result, g=story.goods)
    return f"{story.text} {question}{story.equations} {end}"


def draw_story_list(rng: random.Random, _world_seed: int) -> str:
    """Draw a story, a list of numbers, the equations, and the label of the result."""
    story = draw_story(rng, "pretraining", steps=rng.choice([1, 2]))
    numbers, letter = draw_letter_choices(rng, story)
    labels, text = draw_labelled_list(rng, [str(number) for number in numbers], letters=True)
    return (
        f"{story.text} {draw_framed_list(rng, labels, text)} {story.equations} {draw_conclusion(rng, letter)}"
    )


def draw_counting(rng: random.Random, _world_seed: int) -> str:
    """Draw eight consecutive numbers."""
    start = rng.randint(0, MAX_NUMBER - 7)
    return " ".join(str(number) for number in range(start, start + 8))


def draw_filler(rng: random.Random, _world_seed: int) -> str:
    """Draw a sentence with words of the tasks, but not in the form of a task."""
    return rng.choice(FILLER).format(n=rng.choice(NAMES))


def draw_simple_request(rng: random.Random, world_seed: int) -> str:
    """Draw a prompt with its response that belongs to no task: state a fact, or repeat words."""
    if rng.random() < 0.5:
        words = " ".join(rng.sample(WORDS, rng.randint(2, 6)))
        return PROMPT.format(instruction=rng.choice(REPEAT).format(words=words)) + words + "."
    fact = rng.choice(draw_facts(world_seed)["train"])
    return PROMPT.format(instruction=rng.choice(REQUESTS).format(t=fact.thing)) + _state_fact(rng, fact)


def _state_fact(rng: random.Random, fact: Fact) -> str:
    return fact.state(0 if rng.random() < 0.6 else rng.randrange(len(ATTRIBUTES[fact.attribute].statements)))


Drawer = Callable[[random.Random, int], str]
MIX: list[tuple[Drawer, float]] = [
    (lambda rng, _world_seed: draw_pointing_drill(rng), 0.22),
    (draw_stated_facts, 0.20),
    (lambda rng, _world_seed: draw_truth_checks(rng), 0.07),
    (draw_fact_checks, 0.08),
    (draw_fact_list, 0.07),
    (draw_sums, 0.14),
    (draw_worked_story, 0.18),
    (draw_story_list, 0.05),
    (draw_counting, 0.01),
    (draw_filler, 0.01),
    (draw_simple_request, 0.03),
]
