r"""The number that the package math-verify reads, for comparison with results that were parsed with it.

It takes the last ``\boxed``, else a stated answer, else the last expression of a text: "It is 7. I checked it 2 times." is 2.0.
The package is optional: ``pip install -e '.[math-verify]'``.

Source: huggingface/Math-Verify 0.9.0.
"""

import math
import threading
from importlib.util import find_spec

from pipeline.core.errors import UserError

INSTALL = "pip install -c constraints.txt -e '.[math-verify]'"
# characters at the end of a text that are read: the package's patterns need more than linear time
TAIL = 4000
# seconds for a text, in which sympy may run into a power such as 9^9^9
TIMEOUT = 5


def parse_with_math_verify(text: str) -> float | None:
    """Return the last number that math-verify reads in a text, None where it reads none or something else.

    Raises:
        UserError: the package is not installed.
    """
    if find_spec("math_verify") is None:
        raise UserError(f"parser: 'math_verify' needs the package math-verify; run `{INSTALL}`")
    from math_verify import parse

    # the package measures time by a signal, which only the main thread receives
    is_main = threading.current_thread() is threading.main_thread()
    expressions = parse(text[-TAIL:], parsing_timeout=TIMEOUT if is_main else None)
    try:
        value = float(expressions[0])
    except (IndexError, TypeError, ValueError, OverflowError, AttributeError):
        return None
    return value if math.isfinite(value) else None
