"""The templates of Markdown pages beside this file."""

from pathlib import Path

import jinja2

from pipeline.core.text import format_percent


def make_environment() -> jinja2.Environment:
    """Return the environment of the templates.

    Markdown needs no HTML escapes. A misspelt name in a template is an error, not a gap in the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = format_percent
    return environment
