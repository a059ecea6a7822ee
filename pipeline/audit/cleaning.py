"""Which rows a training set must lose so that it gives no test question away."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.audit.questions import (
    ANY,
    GRAM_SHARE,
    KEYS,
    METHODS,
    Gram,
    identified_questions,
    word_grams,
)
from pipeline.audit.rows import Question
from pipeline.core.errors import UserError


def find_leaks(
    read_train: Callable[[], Iterable[Question]], tests: Iterable[Question], *, method: str
) -> dict[str, str]:
    """Return the training rows to remove, so that ``method`` finds no test question any more.

    For "8-gram", several rows together may contain half of a question. Then the question's rarest 8-grams lose their rows
    until less than half of its 8-grams are left. So copies of the question go, and a row that only shares a common phrase
    stays if possible.

    Args:
        read_train: returns an iterator over the training rows; it is called once per method.
        tests: the rows of all tests.
        method: as for ``overlap``, or "any" for all methods.

    Returns:
        Id of the training row -> id of a test row that it gives away.

    Raises:
        UserError: an unknown method.
    """
    if method not in (*METHODS, ANY):
        raise UserError(f"without: unknown method '{method}' (choices: {', '.join((*METHODS, ANY))})")
    questions = list(identified_questions(tests))
    leaks: dict[str, str] = {}
    for single_method in METHODS if method == ANY else [method]:
        remaining = (row for row in read_train() if row["id"] not in leaks)
        if single_method in KEYS:
            leaks |= _leaks_by_key(remaining, questions, KEYS[single_method])
        else:
            leaks |= _leaks_by_grams(remaining, questions)
    return leaks


def _leaks_by_key(
    train: Iterable[Question], questions: Sequence[tuple[str, str]], key_function: Callable[[str], str]
) -> dict[str, str]:
    # reversed, so that the first test row with a key stays
    test_rows = {key_function(text): row for row, text in reversed(questions)}
    test_rows.pop("", None)
    keyed = ((row, key_function(text)) for row, text in identified_questions(train))
    return {row: test_rows[key] for row, key in keyed if key in test_rows}


def _leaks_by_grams(train: Iterable[Question], questions: Sequence[tuple[str, str]]) -> dict[str, str]:
    grams = {row: list(word_grams(text)) for row, text in questions}
    # 8-gram of a test -> training rows that contain it
    holders: dict[Gram, list[str]] = {gram: [] for test_grams in grams.values() for gram in test_grams}
    test_grams = set(holders)
    for row, text in identified_questions(train):
        for gram in test_grams.intersection(word_grams(text)):
            holders[gram].append(row)
    return _rows_of_rarest_grams(grams, holders)


def _rows_of_rarest_grams(
    grams: Mapping[str, Sequence[Gram]], holders: Mapping[Gram, Sequence[str]]
) -> dict[str, str]:
    """Return the rows to remove, so that the remaining rows contain less than half of each question's 8-grams."""
    removed: dict[str, str] = {}
    for test_row, test_grams in grams.items():
        contained = [gram for gram in test_grams if any(row not in removed for row in holders[gram])]
        limit = GRAM_SHARE * len(test_grams)
        if len(contained) >= limit:
            contained.sort(key=lambda gram: sum(row not in removed for row in holders[gram]))
        while contained and len(contained) >= limit:
            removed |= {row: test_row for row in holders[contained[0]] if row not in removed}
            contained = [gram for gram in contained if any(row not in removed for row in holders[gram])]
    return removed
