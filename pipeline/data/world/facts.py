"""The facts of the small world: every thing has one value per attribute, and each fact belongs to one split."""

import random
from functools import cache
from typing import NamedTuple

from pipeline.data.world.lexicon import ATTRIBUTES, THINGS

SPLIT_SHARES = {"train": 0.45, "validation": 0.15, "test": 0.40}


class Fact(NamedTuple):
    """``thing`` has ``value`` as its ``attribute``."""

    thing: str
    attribute: str
    value: str

    def state(self, frame: int = 0, *, value: str | None = None) -> str:
        """Return the fact as a sentence; with ``value``, the same sentence about that value."""
        return ATTRIBUTES[self.attribute].statements[frame].format(t=self.thing, v=value or self.value)

    def ask(self) -> str:
        """Return the question that this fact answers."""
        return ATTRIBUTES[self.attribute].question.format(t=self.thing)

    def claim(self, value: str) -> str:
        """Return the yes-or-no question whether the thing has ``value``."""
        return ATTRIBUTES[self.attribute].claim.format(t=self.thing, v=value)

    def wrong_values(self) -> list[str]:
        """Return the seven values of the attribute that are not the fact's."""
        return [value for value in ATTRIBUTES[self.attribute].values if value != self.value]


@cache
def draw_facts(world_seed: int) -> dict[str, list[Fact]]:
    """Return the 240 facts of the world by the split whose questions are about them.

    The pretraining text states all of them; only the questions are split.
    """
    rng = random.Random(f"facts/{world_seed}")
    all_facts = [Fact(t, a, rng.choice(ATTRIBUTES[a].values)) for t in THINGS for a in ATTRIBUTES]
    rng.shuffle(all_facts)
    facts, start = {}, 0
    for split, share in SPLIT_SHARES.items():
        end = start + round(share * len(all_facts))
        facts[split] = all_facts[start:end]
        start = end
    return facts
