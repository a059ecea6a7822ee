"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """A mistake in what the user gave, told in one line that names the value, the place and the fix."""
