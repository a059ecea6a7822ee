"""Titles of a study without what all of them end with, which the page says once."""

import re
from collections.abc import Iterable
from dataclasses import replace

from pipeline.study.description import StudyDescription

# the end of a title in brackets, such as that of "BoolQ (world)"
_NOTE = re.compile(r"(.+) \(([^()]+)\)")


def shorten_titles(study: StudyDescription) -> tuple[StudyDescription, dict[str, str]]:
    """Return a study whose models and tasks have titles without a common end in brackets, and these ends.

    Returns:
        The study, and "models" and "tasks" with the common end of several titles, without its brackets.
    """
    notes = {
        "models": find_common_note(model.title for model in study.models),
        "tasks": find_common_note(task.title for arm in study.arms for task in arm.tasks),
    }
    models, arms = study.models, study.arms
    if notes["models"]:
        models = [replace(model, title=_drop_note(model.title)) for model in models]
    if notes["tasks"]:
        arms = [
            replace(arm, tasks=[replace(task, title=_drop_note(task.title)) for task in arm.tasks])
            for arm in arms
        ]
    return replace(study, models=models, arms=arms), {part: note for part, note in notes.items() if note}


def find_common_note(titles: Iterable[str]) -> str:
    """Return the end in brackets that several titles have in common; "" where a title has another or none."""
    matches = [_NOTE.fullmatch(title) for title in dict.fromkeys(titles)]
    notes = {match[2] if match else "" for match in matches}
    return notes.pop() if len(notes) == 1 and len(matches) > 1 else ""


def _drop_note(title: str) -> str:
    match = _NOTE.fullmatch(title)
    return match[1] if match else title
