"""The templates of Markdown pages beside this file."""

from pathlib import Path

import jinja2


def make_environment() -> jinja2.Environment:
    """Return the environment of the templates.

    Markdown needs no HTML escapes. A misspelt name in a template is an error, not a gap in the page.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
