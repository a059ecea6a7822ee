"""Gold numbers: numbers as datasets write them."""

import math
import re

# "1,000.5": commas that group thousands. "0,500" is a decimal comma, as are "1,5" and "1.000,50".
_NUMBER = re.compile(
    r"[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII
)


def gold_number(gold: str) -> float:
    """Return a gold answer as a number. A comma is accepted between thousands only.

    Raises:
        ValueError: it is not a number, or not finite.
    """
    if not is_gold_number(gold):
        raise ValueError(f"'{gold}' is not a number")
    return float(gold.replace(",", ""))


def is_gold_number(text: str) -> bool:
    """Return whether a text is a finite number, as ``gold_number`` takes it."""
    # a large exponent gives infinity
    return bool(_NUMBER.fullmatch(text.strip())) and math.isfinite(float(text.replace(",", "")))
