"""Progress bars with rate and time left: updated in place on a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

from tqdm import tqdm

if TYPE_CHECKING:
    # a bar without an iterable, as types-tqdm has it
    Bar = tqdm[NoReturn]


@contextmanager
def progress_bar(
    total: int, *, label: str, unit: str, initial: int = 0, enabled: bool = True, scaled: bool = False
) -> Iterator["Bar"]:
    """Yield a tqdm bar on stderr.

    Args:
        total: number of units of the whole work.
        label: text before the bar.
        unit: what is counted.
        initial: units that an earlier, killed run has completed.
        enabled: False shows nothing; of several processes only the first shows a bar.
        scaled: whether large numbers are shown as k, M and G.
    """
    on_terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit=unit if scaled else f" {unit}",
        unit_scale=scaled,
        file=sys.stderr if on_terminal else cast(TextIO, _LineWriter()),
        mininterval=0.1 if on_terminal else 10,
        ncols=None if on_terminal else 100,
        ascii=not on_terminal,
        disable=not enabled,
    )
    with bar:
        yield bar


class _LineWriter:
    """Writes every state of a bar to stderr as a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
