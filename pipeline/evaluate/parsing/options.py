"""The words of an example's options, as its instruction lists them after their labels.

- "Which? Answer1: salt Answer2: sand" has the words {"answer1": "salt", "answer2": "sand"}.
- "How much? (A) 21% (B) 20%" has the words {"A": "21%", "B": "20%"}, as has "How much? A. 21% B. 20%".
- "Is it? Answer format: true/false" has labels that are their own words: {"true": "true", "false": "false"}.
"""

import re
from collections.abc import Mapping, Sequence

from pipeline.data.options import OptionMarks, find_option_marks

# A question may mix these two, so their labels are searched in order, each in either style.
BRACKETS = ("(A)", "A)")


def find_option_texts(
    instruction: str, choices: Sequence[str], *, with_punctuation: bool = False
) -> dict[str, str]:
    """Return label -> words of the option; a label without words of its own ("true") stands for itself.

    Labels are searched in the order of ``choices``, each after the one before. If any label is missing, no words are
    known and the result is empty.

    Args:
        instruction: the question with its options.
        choices: the labels.
        with_punctuation: keep commas and semicolons at the ends of the words. Of options after a letter they are always
            left out, since they separate "(A) 2, (B) 3".

    Example:
        >>> find_option_texts("Which? Answer1: salt Answer2: sand Answer format: x", ["answer1", "answer2"])
        {'answer1': 'salt', 'answer2': 'sand'}
    """
    if set(choices) == {"true", "false"}:
        return {label: label for label in choices}
    spans = _find_label_spans(instruction, choices)
    if not spans:
        return {}
    ends = [start for start, _ in spans[1:]] + [_find_last_option_end(instruction, spans[-1][1])]
    keeps_punctuation = with_punctuation and any(len(label) > 1 for label in choices)
    edges = " \n\t" if keeps_punctuation else " \n\t,;"
    words = [instruction[start:end].strip(edges) for (_, start), end in zip(spans, ends, strict=True)]
    return dict(zip(choices, words, strict=True)) if all(words) else {}


def map_options(choices: Sequence[str] | Mapping[str, str] | None, labels: Sequence[str]) -> dict[str, str]:
    """Return label -> words ("" where unknown) of choices given as labels, as such a map, or as words in order."""
    if not choices:
        return dict.fromkeys(labels, "")
    if isinstance(choices, Mapping):
        return dict(choices)
    if set(choices) & set(labels) or not labels:
        return {label: "" for label in choices if label in labels}
    return dict(zip(labels, choices, strict=False))


def _find_label_spans(instruction: str, choices: Sequence[str]) -> list[tuple[int, int]]:
    """Return where each label starts and ends, with its brackets or colon; [] if one is missing."""
    letters = all(len(label) == 1 for label in choices)
    marks = _find_letter_marks(instruction, len(choices)) if letters else None
    if marks and marks.style not in BRACKETS:
        return marks.spans
    spans: list[tuple[int, int]] = []
    for label in choices:
        # Where one label is missing behind the first mention of those before, it is missing behind all of them.
        match = re.compile(_label_pattern(label, letters)).search(instruction, spans[-1][1] if spans else 0)
        if not match:
            return marks.spans if marks else []
        spans.append(match.span())
    return spans


def _find_letter_marks(instruction: str, count: int) -> OptionMarks | None:
    """Return the marks of the options; None if there are not ``count``."""
    try:
        marks = find_option_marks(instruction)
    except ValueError:
        return None
    return marks if marks and len(marks.spans) == count else None


def _label_pattern(label: str, letters: bool) -> str:
    if letters:
        return rf"(?<!\w)(?:\(\s?{label}\s?\)|{label}\s?\))"
    return rf"(?<!\w)(?i:{re.escape(label)})\s?:"


def _find_last_option_end(instruction: str, start: int) -> int:
    match = re.compile(r"\s*answer format\s*:", re.IGNORECASE).search(instruction, start)
    return match.start() if match else len(instruction)
