"""The pretraining text of the small world: drills, all facts, sums, and stories of its own split.

It holds no row of any task: no question about a validation or test fact, no story of the other splits, and neither
closing phrase of the answers.
"""

import random
from collections.abc import Callable

from pipeline.data.world.drills import (
    conclusion,
    conclusion_start,
    dense_drill,
    framed_list,
    labelled_list,
    pointing,
    truth_checks,
)
from pipeline.data.world.facts import Fact, facts
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
from pipeline.data.world.stories import equation, story
from pipeline.data.world.tasks import letter_choices

LINKED_FROM = 0.55  # of the first stage: from there on drills have words between value and label


def document(rng: random.Random, progress: float, *, world_seed: int, first_stage: float = 0.2) -> str:
    """Draw one document for the moment when the fraction ``progress`` of pretraining is done.

    In the first stage, a fraction of the steps too, there are dense drills alone.
    """
    dense_share = 1.0 if progress < first_stage else 0.3 if progress < 0.5 else 0.1
    if rng.random() < dense_share:
        return dense_drill(rng, linked=0.0 if progress < LINKED_FROM * first_stage else 0.6)
    makers, weights = zip(*MIX, strict=True)
    maker: Maker = rng.choices(makers, weights)[0]
    return maker(rng, world_seed)


def stated_facts(rng: random.Random, world_seed: int) -> str:
    """Return eight facts of any split, in any wording."""
    chosen = rng.sample([fact for split in facts(world_seed).values() for fact in split], 8)
    return " ".join(fact.state(rng.randrange(4)) for fact in chosen)


def fact_checks(rng: random.Random, world_seed: int) -> str:
    """Return two claims about training facts, each with the fact and whether the claim is true."""
    sentences = []
    for _ in range(2):
        fact = rng.choice(facts(world_seed)["train"])
        value = fact.value if rng.random() < 0.5 else rng.choice(fact.others())
        sentences.append(
            rng.choice(FACT_CHECK).format(
                n=rng.choice(NAMES),
                claim=fact.state(value=value),
                question=fact.claim(value),
                fact=_state(rng, fact),
                end=conclusion_start(rng),
                t="true" if value == fact.value else "false",
            )
        )
    return " ".join(sentences)


def fact_list(rng: random.Random, world_seed: int) -> str:
    """Return a list of values, the training fact that decides, and the label of its value."""
    fact = rng.choice(facts(world_seed)["train"])
    values = [fact.value, *rng.sample(fact.others(), rng.randint(1, 4))]
    rng.shuffle(values)
    labels, text = labelled_list(rng, values)
    lead = rng.choice([fact.ask(), THINK.format(t=fact.thing), fact.state(value="_")])
    label = labels[values.index(fact.value)]
    return f"{lead} {framed_list(rng, labels, text)} {_state(rng, fact)} {conclusion(rng, label)}"


def sums(rng: random.Random, _world_seed: int) -> str:
    """Return ten equations."""
    operators = [rng.choice("++--*") for _ in range(10)]
    return " ".join("{} {op} {} = {}.".format(*equation(rng, op), op=op) for op in operators)


def told_story(rng: random.Random, _world_seed: int) -> str:
    """Return a story with its equations and its end."""
    told = story(rng, "pretraining", steps=rng.choice([1, 1, 2, 2, 3]), distract=rng.random() < 0.25)
    question = rng.choice([told.question + " ", ""])
    end = STORY_END.format(n=told.name, a=told.result, g=told.goods)
    return f"{told.text} {question}{told.equations} {end}"


def story_list(rng: random.Random, _world_seed: int) -> str:
    """Return a story, a list of numbers, the equations, and the label of the result."""
    told = story(rng, "pretraining", steps=rng.choice([1, 2]))
    numbers, letter = letter_choices(rng, told)
    labels, text = labelled_list(rng, [str(number) for number in numbers], letters=True)
    return f"{told.text} {framed_list(rng, labels, text)} {told.equations} {conclusion(rng, letter)}"


def counting(rng: random.Random, _world_seed: int) -> str:
    """Return eight numbers in order."""
    start = rng.randint(0, MAX_NUMBER - 7)
    return " ".join(str(number) for number in range(start, start + 8))


def filler(rng: random.Random, _world_seed: int) -> str:
    """Return a sentence that uses the words of the tasks without their form."""
    return rng.choice(FILLER).format(n=rng.choice(NAMES))


def simple_request(rng: random.Random, world_seed: int) -> str:
    """Return an instruction and its response in the prompt's form, of no task: a fact to state, words to repeat."""
    if rng.random() < 0.5:
        words = " ".join(rng.sample(WORDS, rng.randint(2, 6)))
        return PROMPT.format(instruction=rng.choice(REPEAT).format(words=words)) + words + "."
    fact = rng.choice(facts(world_seed)["train"])
    return PROMPT.format(instruction=rng.choice(REQUESTS).format(t=fact.thing)) + _state(rng, fact)


def _state(rng: random.Random, fact: Fact) -> str:
    return fact.state(0 if rng.random() < 0.6 else rng.randrange(len(ATTRIBUTES[fact.attribute].statements)))


Maker = Callable[[random.Random, int], str]
MIX: list[tuple[Maker, float]] = [
    (lambda rng, _world_seed: pointing(rng), 0.22),
    (stated_facts, 0.20),
    (lambda rng, _world_seed: truth_checks(rng), 0.07),
    (fact_checks, 0.08),
    (fact_list, 0.07),
    (sums, 0.14),
    (told_story, 0.18),
    (story_list, 0.05),
    (counting, 0.01),
    (filler, 0.01),
    (simple_request, 0.03),
]
