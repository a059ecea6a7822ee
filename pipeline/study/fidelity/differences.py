"""Each setting of the published commands beside ours, and the reason for each difference."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.core.errors import UserError
from pipeline.params.published.cards import PublishedCommands, Reason
from pipeline.study.fidelity.settings import Settings, published_settings, resolved_settings
from pipeline.study.grid import Study

# a message lists this many problems
LISTED = 3

Value = object


@dataclass(frozen=True)
class Comparison:
    """A setting of a published command beside that of our run; ``reason`` is empty where the two are equal."""

    command: str
    setting: str
    published: Value
    ours: Value
    reason: str = ""


def compare_commands(
    card: PublishedCommands, studies: Mapping[str, Study], *, where: str
) -> list[Comparison]:
    """Compare each published command with our corresponding run.

    Args:
        card: the published commands, and the reasons for the differences.
        studies: the studies that the commands name, by name.
        where: the card's file, for messages.

    Returns:
        a row for each setting that the command or the run has, in the order of Settings.

    Raises:
        UserError: a difference without a reason, a reason without a difference, or no run for a command.
    """
    rows: list[Comparison] = []
    for name, command in card.commands.items():
        ours = resolved_settings(studies[command.study], command, where=f"{where}: commands.{name}")
        rows += compare_settings(name, published_settings(card, name), ours)
    return add_reasons(rows, card.reasons, where=where)


def compare_settings(command: str, published: Settings, ours: Settings) -> Iterator[Comparison]:
    """Yield a row without a reason for each setting that either side has."""
    for setting in Settings.model_fields:
        pair = getattr(published, setting), getattr(ours, setting)
        if pair not in ((None, None), ({}, {})):
            yield Comparison(command, setting, *pair)


def add_reasons(rows: list[Comparison], reasons: list[Reason], *, where: str) -> list[Comparison]:
    """Return the rows; each difference has its reason.

    Raises:
        UserError: in one line, the first three differences without a reason or with two, and reasons without a difference.
    """
    unused = set(_spell_out(reasons))
    explained, problems = [], []
    for row in rows:
        texts = []
        for number, reason in enumerate(reasons):
            if row.published != row.ours and _covers(reason, row):
                texts.append(reason.reason)
                unused -= {(number, row.setting, row.command), (number, row.setting, None)}
        if row.published != row.ours and len(texts) != 1:
            count = "two reasons" if texts else "no reason"
            values = f"published {row.published!r}, here {row.ours!r}"
            problems.append(f"{count} for {row.setting} of {row.command} ({values})")
        explained.append(Comparison(row.command, row.setting, row.published, row.ours, *texts[:1]))
    for _, setting, command in sorted(unused, key=str):
        problems.append(f"a reason for {setting}{f' of {command}' if command else ''}, which does not differ")
    if problems:
        raise UserError(f"{where}: reasons: {'; '.join(problems[:LISTED])}")
    return explained


def _spell_out(reasons: list[Reason]) -> Iterator[tuple[int, str, str | None]]:
    for number, reason in enumerate(reasons):
        for setting in reason.settings:
            if reason.commands is None:
                yield number, setting, None
            else:
                yield from ((number, setting, command) for command in reason.commands)


def _covers(reason: Reason, row: Comparison) -> bool:
    return row.setting in reason.settings and (reason.commands is None or row.command in reason.commands)
