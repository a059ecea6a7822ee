"""The words of an example's options, as its instruction states them behind their labels."""

import re
from collections.abc import Mapping, Sequence


def option_texts(instruction: str, choices: Sequence[str]) -> dict[str, str]:
    """Return label -> words of the option; a label without words of its own ("true") stands for itself.

    Labels are looked for in the order of ``choices``, each behind the one before: "Answer1: salt Answer2: sand" or
    "(A) 21% (B) 20%". Where one is missing, nothing is known: {}.

    Example:
        >>> option_texts("Which? Answer1: salt Answer2: sand Answer format: answer1/answer2", ["answer1", "answer2"])
        {'answer1': 'salt', 'answer2': 'sand'}
    """
    if set(choices) == {"true", "false"}:
        return {label: label for label in choices}
    marks = _marks(instruction, choices)
    if not marks:
        return {}
    ends = [start for start, _ in marks[1:]] + [_end(instruction, marks[-1][1])]
    words = [instruction[start:end].strip(" \n\t,;") for (_, start), end in zip(marks, ends, strict=True)]
    return dict(zip(choices, words, strict=True)) if all(words) else {}


def labelled(choices: Sequence[str] | Mapping[str, str] | None, labels: Sequence[str]) -> dict[str, str]:
    """Return label -> words ("" where they are unknown) of choices given as labels, as such a map, or as words in order."""
    if not choices:
        return dict.fromkeys(labels, "")
    if isinstance(choices, Mapping):
        return dict(choices)
    if set(choices) & set(labels) or not labels:
        return {label: "" for label in choices if label in labels}
    return dict(zip(labels, choices, strict=False))


def _marks(instruction: str, choices: Sequence[str]) -> list[tuple[int, int]]:
    """Return where each label's mark starts and ends; [] if one is missing."""
    letters = all(len(label) == 1 for label in choices)
    for first in re.finditer(_mark(choices[0], letters), instruction) if choices else ():
        found = [first.span()]
        for label in choices[1:]:
            match = re.compile(_mark(label, letters)).search(instruction, found[-1][1])
            if not match:
                break
            found.append(match.span())
        if len(found) == len(choices):
            return found
    return []


def _mark(label: str, letters: bool) -> str:
    if letters:
        return rf"(?<!\w)(?:\(\s?{label}\s?\)|{label}\s?\))"
    return rf"(?<!\w)(?i:{re.escape(label)})\s?:"


def _end(instruction: str, start: int) -> int:
    match = re.compile(r"\s*answer format\s*:", re.IGNORECASE).search(instruction, start)
    return match.start() if match else len(instruction)
