"""Figures inside of the page."""

import re

# an id, and the three ways in which matplotlib's SVG refers to one
_ID = re.compile(r"""(\bid="|\bhref="#|url\(#)(?=[^")])""")


def prefix_ids(svg: str, name: str) -> str:
    """Return an SVG whose ids start with ``name``: those of several figures in one page must differ.

    Equal parts of figures have equal ids. A browser takes the first element with an id, and draws nothing for a reference to
    one that is hidden.
    """
    return _ID.sub(rf"\g<1>{name}-", svg)
