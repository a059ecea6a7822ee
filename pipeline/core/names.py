"""Choices in messages about an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


def list_choices(name: object, choices: Iterable[str], *, meant: str | None = None) -> str:
    """Return the end of a message about an unknown name: "(choices: a, b); did you mean 'a'?".

    Args:
        name: the unknown name.
        choices: the names that are allowed.
        meant: what the user meant, where that is known; None: the choice that is spelt most like the name, if one is near.
    """
    names = [*choices]
    near = [meant] if meant else get_close_matches(str(name), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"(choices: {', '.join(names)}){hint}"
