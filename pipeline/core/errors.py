"""The exception for mistakes that the user can fix, and how an exception becomes one line of text."""


class UserError(Exception):
    """A mistake that the user can fix. Its message is one line: the place, the value and the fix."""


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return the message of an exception in one line, cut after ``limit`` characters."""
    return " ".join(str(error).split())[:limit]
