"""Pretraining drills: look up the label of a value in a list, or the value of a label; copy; compare.

Tiny models learn to look up labels in a list only if the text contains little else (docs/log.md). So the dense drills
come first: in them every second or third word can be looked up. The sentence drills repeat the lookups in many phrasings.
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


def draw_labelled_list(
    rng: random.Random, values: Sequence[str], *, letters: bool | None = None
) -> tuple[list[str], str]:
    """Draw labels for ``values``; return them and the text of the list. ``letters``: A-E or stems; None draws."""
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


def draw_framed_list(rng: random.Random, labels: Sequence[str], text: str) -> str:
    """Return the text of a list with a lead and an end, sometimes repeating the labels as the tasks do."""
    if rng.random() < 0.5:
        return rng.choice(LIST_LEADS) + text + "."
    tail = rng.choice(LIST_TAILS).format(labels="/".join(labels))
    return rng.choice(LIST_LEADS) + text + rng.choice(["\n\n", " ", ". "]) + tail


def draw_conclusion_start(rng: random.Random) -> str:
    """Draw the words between a value and its label, such as ``so the right one is``."""
    return f"{rng.choice(LEADS)} {rng.choice(SUBJECTS)} {rng.choice(VERBS)}".strip()


def draw_conclusion(rng: random.Random, label: str) -> str:
    """Draw a sentence that ends in ``label``, with or without a full stop."""
    return f"{draw_conclusion_start(rng)} {label}{rng.choice(['.', '.', ''])}"


def draw_dense_drill(rng: random.Random, *, linked: float) -> str:
    """Draw a drill of the first stage: copied words, values with their labels, or pairs of words that are equal or not.

    In the fraction ``linked`` of the drills the same few words precede every label or truth value, so that the model also
    learns to look up a value some words back. From the start they would only delay the first lookups.
    """
    kind = rng.random()
    if kind < 0.15:
        words = " ".join(rng.sample(WORDS, rng.randint(6, 12)))
        return f"{words} . {words} . {words}"
    link = (
        rng.choice([_draw_short_link(rng), ". " + draw_conclusion_start(rng)])
        if rng.random() < linked
        else ""
    )
    if kind < 0.75:
        values = _draw_values(rng, rng.choice(LIST_SIZES))
        labels, text = draw_labelled_list(rng, values)
        picks = [rng.randrange(len(values)) for _ in range(8 if link else 14)]
        return f"{text} . " + " ".join(f"{values[i]} {link} {labels[i]}" for i in picks)
    pairs = _draw_pairs(rng, 6 if link else 10)
    return " ".join(f"{first} {second} {link} {truth}" for first, second, truth in pairs)


def _draw_short_link(rng: random.Random) -> str:
    return rng.choice(["is", "?", ",", ". so", "has", "takes", "must be", ". it is", "? that is", ", hence"])


def draw_pointing_drill(rng: random.Random) -> str:
    """Draw a list and several sentences that give the labels of its values."""
    values = _draw_values(rng, rng.choice(LIST_SIZES))
    labels, text = draw_labelled_list(rng, values)
    sentences = [draw_framed_list(rng, labels, text)]
    for _ in range(rng.randint(4, 6)):
        i = rng.randrange(len(values))
        names = {"v": values[i], "l": labels[i], "n": rng.choice(NAMES)}
        kind = rng.random()
        if kind < 0.6:
            sentences.append(f"{rng.choice(MENTION).format(**names)} {draw_conclusion(rng, labels[i])}")
        else:
            sentences.append(rng.choice(NAMING if kind < 0.85 else READING).format(**names))
    return " ".join(sentences)


def draw_truth_checks(rng: random.Random) -> str:
    """Draw sentences that compare two words and end in true or false."""
    return " ".join(
        rng.choice(TRUTH_CHECK).format(
            n=rng.choice(NAMES), w=claimed, v=actual, t=truth, end=draw_conclusion_start(rng)
        )
        for claimed, actual, truth in _draw_pairs(rng, 4)
    )


def _draw_values(rng: random.Random, n: int) -> list[str]:
    return rng.sample(NUMBERS if rng.random() < 0.3 else WORDS, n)


def _draw_pairs(rng: random.Random, n: int) -> list[tuple[str, str, str]]:
    """Draw ``n`` pairs of words with their truth: equal in half of the cases."""
    words = rng.sample(WORDS if rng.random() < 0.8 else NUMBERS, 2 * n)
    pairs = zip(words[:n], words[n:], strict=True)
    return [(a, a, "true") if rng.random() < 0.5 else (a, b, "false") for a, b in pairs]
