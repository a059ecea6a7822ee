"""Pretraining drills: from a value to its label in a list and back, copying, true or false.

Tiny models learn to point into a list only when nothing else is in the way (docs/log.md), so the dense drills come
first: in them every second or third word can be looked up. The sentence drills then say the same in many phrasings.
"""

import random
from collections.abc import Sequence

from pipeline.data.world.lexicon import (
    LABEL_STEMS,
    LEADS,
    LETTERS,
    LIST_LEADS,
    LIST_TAILS,
    MENTION,
    NAMES,
    NAMING,
    NUMBERS,
    READING,
    SUBJECTS,
    TRUTH_CHECK,
    VERBS,
    WORDS,
)

LIST_SIZES = (2, 2, 3, 3, 4, 4, 5, 5)


def labelled_list(
    rng: random.Random, values: Sequence[str], *, letters: bool | None = None
) -> tuple[list[str], str]:
    """Return labels for ``values`` and the list's text; ``letters`` fixes A-E or the stems, ``None`` draws."""
    if letters is None:
        letters = rng.random() < 0.25
    if letters:
        labels = LETTERS[: len(values)]
        form = rng.choice(["({l}) {v}", "({l}) {v}", "{l}: {v}"])
    else:
        stem = rng.choice(LABEL_STEMS)
        labels = [f"{stem}{i + 1}" for i in range(len(values))]
        form = rng.choice(["{l}: {v}", "{l}: {v}", "{l} {v}"])
    return labels, " ".join(
        form.format(l=label, v=value) for label, value in zip(labels, values, strict=True)
    )


def framed_list(rng: random.Random, labels: Sequence[str], text: str) -> str:
    """Return a list's text with a lead, an end and, at times, the labels once more (as the tasks give them)."""
    if rng.random() < 0.5:
        return rng.choice(LIST_LEADS) + text + "."
    tail = rng.choice(LIST_TAILS).format(labels="/".join(labels))
    return rng.choice(LIST_LEADS) + text + rng.choice(["\n\n", " ", ". "]) + tail


def conclusion_start(rng: random.Random) -> str:
    """Return the words between a value and its label, such as ``so the right one is``."""
    return f"{rng.choice(LEADS)} {rng.choice(SUBJECTS)} {rng.choice(VERBS)}".strip()


def conclusion(rng: random.Random, label: str) -> str:
    """Return a sentence that ends in ``label``, with or without a full stop."""
    return f"{conclusion_start(rng)} {label}{rng.choice(['.', '.', ''])}"


def dense_drill(rng: random.Random, *, linked: float) -> str:
    """Return a drill of the first stage: copying, value and label in turn, or pairs that are equal or not.

    In the fraction ``linked`` of them the same few words stand before every label or truth value, so that the lookup
    is also learned when its value is some words back. From the start they would only delay the first lookups.
    """
    kind = rng.random()
    if kind < 0.15:
        words = " ".join(rng.sample(WORDS, rng.randint(6, 12)))
        return f"{words} . {words} . {words}"
    link = rng.choice([_short_link(rng), ". " + conclusion_start(rng)]) if rng.random() < linked else ""
    if kind < 0.75:
        values = _values(rng, rng.choice(LIST_SIZES))
        labels, text = labelled_list(rng, values)
        picks = [rng.randrange(len(values)) for _ in range(8 if link else 14)]
        return f"{text} . " + " ".join(f"{values[i]} {link} {labels[i]}" for i in picks)
    return " ".join(f"{said} {found} {link} {truth}" for said, found, truth in _pairs(rng, 6 if link else 10))


def _short_link(rng: random.Random) -> str:
    return rng.choice(["is", "?", ",", ". so", "has", "takes", "must be", ". it is", "? that is", ", hence"])


def pointing(rng: random.Random) -> str:
    """Return a list and several sentences that name labels of its values."""
    values = _values(rng, rng.choice(LIST_SIZES))
    labels, text = labelled_list(rng, values)
    sentences = [framed_list(rng, labels, text)]
    for _ in range(rng.randint(4, 6)):
        i = rng.randrange(len(values))
        names = {"v": values[i], "l": labels[i], "n": rng.choice(NAMES)}
        kind = rng.random()
        if kind < 0.6:
            sentences.append(f"{rng.choice(MENTION).format(**names)} {conclusion(rng, labels[i])}")
        else:
            sentences.append(rng.choice(NAMING if kind < 0.85 else READING).format(**names))
    return " ".join(sentences)


def truth_checks(rng: random.Random) -> str:
    """Return sentences that compare two words and end in true or false."""
    return " ".join(
        rng.choice(TRUTH_CHECK).format(
            n=rng.choice(NAMES), w=said, v=found, t=truth, end=conclusion_start(rng)
        )
        for said, found, truth in _pairs(rng, 4)
    )


def _values(rng: random.Random, n: int) -> list[str]:
    return rng.sample(NUMBERS if rng.random() < 0.3 else WORDS, n)


def _pairs(rng: random.Random, n: int) -> list[tuple[str, str, str]]:
    """Draw ``n`` pairs of words with their truth: equal in half of the cases."""
    words = rng.sample(WORDS if rng.random() < 0.8 else NUMBERS, 2 * n)
    pairs = zip(words[:n], words[n:], strict=True)
    return [(a, a, "true") if rng.random() < 0.5 else (a, b, "false") for a, b in pairs]
