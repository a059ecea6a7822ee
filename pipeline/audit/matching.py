"""Which test questions a training set contains, by each method."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pipeline.audit.questions import GRAM_SHARE, KEYS, METHODS, Gram, word_grams
from pipeline.core.errors import UserError


def overlap(train: Sequence[str], test: Sequence[str], *, method: str) -> list[int]:
    """Return the indices of the test questions that the training questions contain.

    Args:
        train: training questions.
        test: test questions.
        method: "exact" (equal letters and digits, in lower case), "number-masked" (equal words, all numbers count as
            equal), "8-gram" (at least half of the question's 8-grams of words occur anywhere in ``train``; a question
            with no 8-gram never matches) or "stem" (as "exact", for the text before the options).

    Raises:
        UserError: an unknown method.
    """
    if method not in METHODS:
        raise UserError(f"audit method: unknown '{method}' (choices: {', '.join(METHODS)})")
    matches = find_matches(((str(number), text) for number, text in enumerate(train)), test, methods=[method])
    return sorted(matches[method])


def find_matches(
    train: Iterable[tuple[str, str]], test: Sequence[str], *, methods: Sequence[str] = METHODS
) -> dict[str, dict[int, str]]:
    """Return, for each method, which test questions the training questions contain, and where.

    ``train`` is read once, one question at a time, however many tests ``test`` joins; time is linear in both.

    Args:
        train: (row id, question).
        test: the test questions.
        methods: as for ``overlap``.

    Returns:
        Method -> index in ``test`` -> id of a training row: the first one with an equal key, or for "8-gram" the one that
        is the first to contain most of the question's 8-grams. A question without letters and digits never matches.
    """
    key_functions = {method: key for method, key in KEYS.items() if method in methods}
    test_keys = {method: [key(text) for text in test] for method, key in key_functions.items()}
    wanted_keys = {method: set(keys) - {""} for method, keys in test_keys.items()}
    test_grams = [list(word_grams(text)) for text in test] if "8-gram" in methods else []
    wanted_grams = {gram for grams in test_grams for gram in grams}
    # the first training row with a wanted key or 8-gram
    first_by_key: dict[str, dict[str, str]] = {method: {} for method in key_functions}
    first_by_gram: dict[Gram, str] = {}
    for row, text in train:
        for method, key_function in key_functions.items():
            if (key := key_function(text)) in wanted_keys[method]:
                first_by_key[method].setdefault(key, row)
        if wanted_grams:
            for gram in wanted_grams.intersection(word_grams(text)):
                first_by_gram.setdefault(gram, row)
    matches = {
        method: {
            index: first_by_key[method][key] for index, key in enumerate(keys) if key in first_by_key[method]
        }
        for method, keys in test_keys.items()
    }
    if "8-gram" in methods:
        matches["8-gram"] = _gram_matches(test_grams, first_by_gram)
    return {method: matches[method] for method in methods}


def _gram_matches(test_grams: Sequence[Sequence[Gram]], first_by_gram: Mapping[Gram, str]) -> dict[int, str]:
    """Return the questions with enough of their 8-grams in the training set, each with the row that has most of them."""
    matches = {}
    for index, grams in enumerate(test_grams):
        rows = [first_by_gram[gram] for gram in grams if gram in first_by_gram]
        if rows and len(rows) >= GRAM_SHARE * len(grams):
            matches[index] = Counter(rows).most_common(1)[0][0]
    return matches
