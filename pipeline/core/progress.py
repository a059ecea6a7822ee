"""Progress bars with rate and time left: live on a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def progress(total: int, *, what: str, unit: str, done: int = 0, shown: bool = True) -> Iterator[Any]:
    """Yield a tqdm bar on stderr.

    Args:
        total: units of the whole work.
        what: stands before the bar.
        unit: what is counted.
        done: units that an earlier, killed run has done.
        shown: False shows nothing (all but the first of several processes).
    """
    live = sys.stderr.isatty()
    stream: Any = sys.stderr if live else _Lines()
    every, width = (0.1, None) if live else (10, 100)
    with tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=f" {unit}",
        file=stream,
        mininterval=every,
        ncols=width,
        ascii=not live,
        disable=not shown,
    ) as bar:
        yield bar


class _Lines:
    """Standard error as a log file has it: every state of a bar on a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
