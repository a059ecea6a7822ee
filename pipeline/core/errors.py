"""The exception for mistakes that the user can fix, and the words of messages: one line, and the choices for an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can fix. Its message is one line: the place, the value and the fix."""


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return the message of an exception in one line, cut after ``limit`` characters."""
    return " ".join(str(error).split())[:limit]


def list_choices(name: object, choices: Iterable[str], *, meant: str | None = None) -> str:
    """Return the end of a message about an unknown name: "(choices: a, b); did you mean 'a'?".

    Args:
        name: the unknown name.
        choices: the names that are allowed.
        meant: what the user meant, where that is known; None: the choice with the most similar spelling, if any.
    """
    names = [*choices]
    near = [meant] if meant else get_close_matches(str(name), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"(choices: {', '.join(names)}){hint}"
