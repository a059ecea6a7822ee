"""The facts of the small world: every thing has one value of every attribute, and each fact belongs to one split."""

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

    def others(self) -> list[str]:
        """Return the seven values that the fact does not have."""
        return [value for value in ATTRIBUTES[self.attribute].values if value != self.value]


@cache
def facts(world_seed: int) -> dict[str, list[Fact]]:
    """Return the world's 240 facts by the split that asks about them: ``train``, ``validation``, ``test``.

    All of them are stated in the pretraining text; only questions are split.
    """
    rng = random.Random(f"facts/{world_seed}")
    all_facts = [Fact(t, a, rng.choice(ATTRIBUTES[a].values)) for t in THINGS for a in ATTRIBUTES]
    rng.shuffle(all_facts)
    result, start = {}, 0
    for split, share in SPLIT_SHARES.items():
        end = start + round(share * len(all_facts))
        result[split] = all_facts[start:end]
        start = end
    return result
