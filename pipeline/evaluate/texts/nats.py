"""Nats per token of texts, and by how much an adapter changes them: estimates with intervals in closed form.

Nats per token is a ratio, the sum of negative log-likelihoods over the sum of tokens. Its error comes from the deviations
(nats - ratio x tokens) / mean tokens of single texts (the delta method). Texts and seeds both vary by chance: the
variance is that of a two-way table with random rows and columns, and Student's t has Satterthwaite's degrees of freedom.
Texts are taken as independent. docs/statistics.md reports the coverage.

Source: Cochran 1977, Sampling Techniques, 3rd edition, section 2.11 (ratios); Satterthwaite 1946, Biometrics Bulletin 2,
110-114; Hillis 2007, Statistics in Medicine 26, 596-619 (crossed tables).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, cast

from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.rows import TextLikelihood
from pipeline.evaluate.stats import LEVEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class NatsEstimate(TypedDict):
    """Nats per token, or a difference of two such numbers, with its interval; nan where a likelihood is not finite.

    "n" is the number of texts, "tokens" that of their tokens.
    """

    estimate: float
    low: float
    high: float
    n: int
    tokens: int
    seeds: int


class Likelihoods(NamedTuple):
    """The negative log-likelihoods of texts (seeds, texts) in nats, and the tokens of each text (texts,)."""

    nats: Sequence[Sequence[float]]
    tokens: Sequence[int]


def read_likelihoods(files: Sequence[Path]) -> Likelihoods:
    """Return the likelihoods in the files of a method's runs, one for each seed."""
    tables = [cast(list[TextLikelihood], read_jsonl(path)) for path in files]
    nats = [[math.nan if row["nats"] is None else row["nats"] for row in rows] for rows in tables]
    return Likelihoods(nats, [row["tokens"] for row in tables[0]])


def estimate_nats(likelihoods: Likelihoods, *, level: float = LEVEL) -> NatsEstimate:
    """Return the mean over seeds of nats per token, with its interval."""
    import numpy as np

    estimate = _estimate_ratio(np.array(likelihoods.nats, dtype=float), likelihoods.tokens, level)
    # a likelihood is at most 1; not max, which would make a nan 0
    return {**estimate, "low": 0.0 if estimate["low"] < 0 else estimate["low"]}


def estimate_forgetting(adapter: Likelihoods, base: Likelihoods, *, level: float = LEVEL) -> NatsEstimate:
    """Return how many nats per token more a method's adapters need than their base, paired on texts.

    Args:
        adapter: of a method's adapters.
        base: of the bare base, a single run.
        level: of the interval.

    Raises:
        ValueError: the two were measured on different tokens, as with two tokenizers.
    """
    import numpy as np

    if list(adapter.tokens) != list(base.tokens):
        raise ValueError("adapter and base were measured on different tokens")
    nats = np.array(adapter.nats, dtype=float) - np.array(base.nats[0], dtype=float)
    return _estimate_ratio(nats, base.tokens, level)


def _estimate_ratio(nats: "Array", tokens: Sequence[int], level: float) -> NatsEstimate:
    """Return the ratio of the sums of nats (seeds, texts) and tokens (texts,)."""
    import numpy as np
    from scipy.stats import t

    seeds, n = nats.shape
    counts = np.array(tokens, dtype=float)
    ratio = float(nats.sum() / counts.sum() / seeds)
    deviations = (nats - ratio * counts) / counts.mean()
    by_text, by_seed = deviations.mean(axis=0), deviations.mean(axis=1)
    if n == 1:
        half = math.inf
    else:
        texts_square = seeds * float(by_text @ by_text) / (n - 1)
        seeds_square = noise = 0.0
        parts = [texts_square**2 / (n - 1)]
        if seeds > 1:
            seeds_square = n * float(by_seed @ by_seed) / (seeds - 1)
            residual = deviations - by_text - by_seed[:, None]
            noise = float((residual**2).sum()) / ((n - 1) * (seeds - 1))
        # a negative variance between seeds counts as none
        if seeds_square > noise:
            parts += [seeds_square**2 / (seeds - 1), noise**2 / ((n - 1) * (seeds - 1))]
        total = texts_square + max(seeds_square - noise, 0.0)
        # equal models on both sides: no deviation, so no degrees of freedom either
        freedom = total**2 / sum(parts) if total else n - 1
        half = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(total / (n * seeds))
    return {
        "estimate": ratio,
        "low": ratio - half,
        "high": ratio + half,
        "n": n,
        "tokens": sum(tokens),
        "seeds": seeds,
    }
