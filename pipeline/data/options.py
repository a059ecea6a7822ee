"""Which labels a question offers: the letters of its listed options, or the labels of its "Answer format:"."""

import re
from typing import NamedTuple

# answer form -> its labels; a number has none
LABELS: dict[str, tuple[str, ...]] = {
    "number": (),
    "letter": ("A", "B", "C", "D", "E"),
    "boolean": ("true", "false"),
    "solution": ("solution1", "solution2"),
    "answer": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "ending": ("ending1", "ending2", "ending3", "ending4"),
    "option": ("option1", "option2"),
}
# Up to Z, so that a list that is longer than the labels is noticed.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# How texts write the letter of an option: "(A)"; "A)" or "A )"; "[A]"; "A." but not "A.M."; "A:" but not "A:B".
_MARKS = {
    "(A)": re.compile(r"\(\s?(?P<letter>[A-Z])\s?\)"),
    "A)": re.compile(r"(?<![\w(])(?<!\(\s)(?P<letter>[A-Z])\s?\)"),
    "[A]": re.compile(r"\[\s?(?P<letter>[A-Z])\s?\]"),
    "A.": re.compile(r"(?<![\w.])(?P<letter>[A-Z])\s?\.(?!\w\.)"),
    "A:": re.compile(r"(?<![\w:])(?P<letter>[A-Z])\s?:(?![A-Z]\b)"),
}
# at the end of the instruction, which an input may follow in a line of its own
_ANSWER_FORMAT = re.compile(r"answer format\s*:\s*([a-z0-9/ ]+?)\s*$", re.IGNORECASE | re.MULTILINE)


class OptionMarks(NamedTuple):
    """The letters that mark the options of a question: how they are written, and where each mark starts and ends."""

    style: str
    spans: list[tuple[int, int]]

    @property
    def labels(self) -> tuple[str, ...]:
        """The letters, from A on without a gap."""
        return tuple(_LETTERS[: len(self.spans)])


def find_option_marks(question: str) -> OptionMarks | None:
    """Return the marks of a question's options, two or more; None where it lists none.

    A text may contain other letters that look like marks ("the points (A) and (B)"). The marks of the options are the
    longest sequence of letters from A on, and no shorter sequence may end after it.

    Example:
        >>> find_option_marks("Which? A. salt B. sand C. both").labels
        ('A', 'B', 'C')

    Raises:
        ValueError: a shorter sequence ends after the longest; or the longest lacks a letter.
    """
    rows = [OptionMarks(style, _longest_row(question, pattern)) for style, pattern in _MARKS.items()]
    rows = [row for row in rows if len(row.spans) > 1]
    if not rows:
        return None
    most = max(len(row.spans) for row in rows)
    candidates = [row for row in rows if len(row.spans) == most]
    # marks may be doubled ("A ) A . 12"), but letters ahead of the list are no options
    longest = next(row for row in candidates if all(other.spans[0] <= row.spans[-1] for other in candidates))
    last = max(rows, key=lambda row: row.spans[-1])
    if len(last.spans) < len(longest.spans):
        lists = " or ".join(f"A to {row.labels[-1]} ({row.style})" for row in (longest, last))
        raise ValueError(
            f"its options may be {lists}; mark the options in one style, and nothing else in that style"
        )
    later = {match["letter"] for match in _MARKS[longest.style].finditer(question, longest.spans[-1][1])}
    if beyond := sorted(later & set(LABELS["letter"][len(longest.spans) :])):
        raise ValueError(f"its options jump from {longest.labels[-1]} to {beyond[0]}")
    return longest


def list_choices(question: str, answer_form: str) -> tuple[str, ...]:
    """Return the labels that a question offers, in its order; none for numbers.

    Raises:
        ValueError: the question does not list its options or its labels, or not those of the answer form.
    """
    labels = LABELS[answer_form]
    if answer_form == "number":
        return ()
    if answer_form == "letter":
        marks = find_option_marks(question)
        if marks is None:
            raise ValueError(f"the question lists no options, such as {', '.join(_MARKS)}")
        choices = marks.labels
    elif formats := _ANSWER_FORMAT.findall(question):
        choices = tuple(label.strip() for label in formats[-1].lower().split("/"))
    elif answer_form == "answer":
        # the other forms have a fixed number of options
        raise ValueError("the instruction has no 'Answer format:'")
    else:
        return labels
    if unknown := [label for label in choices if label not in labels]:
        raise ValueError(
            f"the question offers {unknown[0]}, but {answer_form} has only {labels[0]} to {labels[-1]}"
        )
    return choices


def _longest_row(question: str, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    """Return where the marks of the longest row A, B, C, ... are; of rows of one length, the last."""
    marks = [(match["letter"], match.span()) for match in pattern.finditer(question)]
    # From the end on: how long the row from each mark is, and the mark that follows in it.
    lengths, following = [1] * len(marks), [-1] * len(marks)
    nearest: dict[str, int] = {}
    first = -1
    for index in range(len(marks) - 1, -1, -1):
        letter = marks[index][0]
        later = nearest.get(_LETTERS[_LETTERS.index(letter) + 1 :][:1], -1)
        if later >= 0:
            lengths[index], following[index] = lengths[later] + 1, later
        nearest[letter] = index
        if letter == "A" and (first < 0 or lengths[index] > lengths[first]):
            first = index
    row = []
    while first >= 0:
        row.append(marks[first][1])
        first = following[first]
    return row
