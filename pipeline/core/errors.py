"""The exception for mistakes that the user can fix, and the words of messages: one line, no secrets, and choices for an unknown name."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches

MASK = "***"
# "user:password@" or "token@" of an address; a password may hold "/" and "@"
_USER_OF_ADDRESS = re.compile(r"(?<=://)(?:[^\s'\"<>/:@]*:[^\s'\"<>]*|[^\s'\"<>/@]+)@")
# a secret among the options of an address
_SECRET_OPTION = re.compile(r"(?i)([?&](?:password|token|secret)=)[^&\s'\"<>]*")
# variables of the environment with a secret
SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "PGPASSWORD",
)
# a shorter secret would mask parts of common words
SHORTEST_SECRET = 4


class UserError(Exception):
    """A mistake that the user can fix. Its message is one line: the place, the value and the fix."""


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return the message of an exception in one line, without passwords, cut after ``limit`` characters."""
    return mask_secrets(" ".join(str(error).split()))[:limit]


def mask_secrets(text: str) -> str:
    """Return a text with ``***`` for the user and password of each address and for the secrets of the environment."""
    for name in SECRET_VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    return _SECRET_OPTION.sub(rf"\g<1>{MASK}", _USER_OF_ADDRESS.sub(f"{MASK}@", text))


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
