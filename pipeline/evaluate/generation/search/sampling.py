"""Draw tokens from a model's distribution, so that a sampled answer depends on nothing but its own draws.

Each sample of a question has its own random numbers, one for each token. They depend on the seed, the question's id and
the number of the sample alone: not on the batch, on the order of the questions, or on an interrupted job. The numbers are
drawn on the host and the token is looked up in whole numbers, so that every device finds the same token in the same
distribution. As with greedy decoding, logits that differ by rounding may change a token where two are equally close.

Sources:
    Wang et al. 2023, arXiv:2203.11171 (self-consistency): several sampled answers, and a vote
    Holtzman et al. 2020, arXiv:1904.09751 (top_p)
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# of a random number and of the shares that it is compared with; the product of two such numbers fits into 64 bits
DRAW_BITS = 31


class Sampling(NamedTuple):
    """How the tokens of a batch are sampled.

    Attributes:
        temperature: the logits are divided by it.
        top_p: only the likeliest tokens that together have this probability are drawn; None: all.
        draws: random numbers below 2**31 of each prompt, sample and new token.
    """

    temperature: float
    top_p: float | None
    draws: Sequence[Sequence[Sequence[int]]]

    @property
    def samples(self) -> int:
        """Answers to each prompt."""
        return len(self.draws[0])

    def select(self, prompts: Sequence[int]) -> "Sampling":
        """Return the sampling of some of the prompts."""
        return self._replace(draws=[self.draws[prompt] for prompt in prompts])


def draw_numbers(example: str, *, seed: int, samples: int, steps: int) -> list[list[int]]:
    """Return the random numbers of a question: one for each sample and new token, below 2**31.

    Args:
        example: the question's id.
        seed: of the protocol.
        samples: answers to the question; a larger number changes none of the first.
        steps: new tokens.
    """
    # The seed is a text: Python takes its sha512, which, unlike hash(), is the same in every process.
    sources = [random.Random(f"sample {sample} of {example}, seed {seed}") for sample in range(samples)]
    return [[source.getrandbits(DRAW_BITS) for _ in range(steps)] for source in sources]


def sample_tokens(logits: Tensor, draws: Tensor, *, temperature: float, top_p: float | None) -> Tensor:
    """Return a token of each row (rows,): the one in whose share of the distribution the row's draw falls.

    A token with a probability below 2**-31 is never drawn.

    Args:
        logits: (rows, vocabulary).
        draws: (rows,), random numbers below 2**31.
        temperature: as in ``Sampling``.
        top_p: as in ``Sampling``.
    """
    # the greatest logit is 0, so that a low temperature makes no infinite one
    logits = logits.float()
    shares = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)
    # Sums of whole numbers are exact in any order. Logits that are not finite have no share.
    weights = (shares.nan_to_num(0.0) * 2**DRAW_BITS).long()
    if top_p is not None:
        weights = _cut_tail(weights, top_p)
    ends = weights.cumsum(dim=-1)
    targets = (draws * ends[:, -1]) >> DRAW_BITS
    tokens: Tensor = (ends <= targets[:, None]).sum(dim=-1)
    return tokens.clamp_max(logits.shape[-1] - 1)


def _cut_tail(weights: Tensor, top_p: float) -> Tensor:
    """Return weights (rows, vocabulary) with 0 for the tokens behind the likeliest ones that have ``top_p`` of the sum."""
    ordered, tokens = weights.sort(dim=-1, descending=True, stable=True)
    ahead = ordered.cumsum(dim=-1) - ordered
    limit = (ordered.sum(dim=-1, keepdim=True) * top_p).long()
    return torch.zeros_like(weights).scatter(-1, tokens, ordered.masked_fill(ahead >= limit, 0))
