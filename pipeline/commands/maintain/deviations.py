"""The published commands in docs/deviations.md: a list of them, the settings that differ in our runs, and those that do not."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.commands.maintain.sections import draw_table, link_source, replace_section
from pipeline.params.published.cards import PublishedCommands
from pipeline.params.reading import ROOT, read_card
from pipeline.study import load_study
from pipeline.study.fidelity.differences import Comparison, compare_commands
from pipeline.study.fidelity.settings import Settings

PAGE = "docs/deviations.md"
BEGIN = "<!-- commands: written by `python -m pipeline regenerate` -->"
END = "<!-- end of commands -->"
CARD = "llm-adapters"


def deviations_page(root: Path = ROOT) -> str:
    """Return docs/deviations.md with the tables of the published commands, from the present cards and studies.

    Raises:
        UserError: a difference has no reason, or a reason no difference.
    """
    card: PublishedCommands = read_card("commands", CARD)
    studies = {command.study: load_study(command.study) for command in card.commands.values()}
    rows = compare_commands(card, studies, where=f"params/commands/{CARD}.yaml")
    return replace_section(root / PAGE, BEGIN, END, render_commands(card, rows))


def render_commands(card: PublishedCommands, rows: Sequence[Comparison]) -> str:
    """Return the Markdown tables of the commands, of the settings that differ, and of those that do not."""
    differing = [row for row in rows if row.reason]
    equal = [row for row in rows if not row.reason]
    return "\n\n".join(
        [
            draw_table(
                ("command", "model", "method here", "study", "settings that differ", "source"),
                _command_cells(card, differing),
            ),
            "### What differs",
            draw_table(
                ("setting", "published", "here", "commands", "reason"), _difference_cells(card, differing)
            ),
            "### What is the same",
            draw_table(("setting", "value (commands)"), _equal_cells(card, equal)),
            "### Notes",
            "\n".join(f"- {note}" for note in card.notes) + "\n",
        ]
    )


def _command_cells(card: PublishedCommands, differing: Sequence[Comparison]) -> Iterator[Sequence[str]]:
    for name, command in card.commands.items():
        model, method = read_card("models", command.model).name, read_card("methods", command.method).name
        count = sum(row.command == name for row in differing)
        link = link_source(command.source)
        yield name, model, f"{method} (`{command.method}`)", f"`{command.study}`", str(count), link


def _difference_cells(card: PublishedCommands, differing: Sequence[Comparison]) -> Iterator[Sequence[str]]:
    commands: dict[tuple[str, str, str, str], list[str]] = {}
    for row in _sort_by_setting(differing):
        values = format_value(row.published), format_value(row.ours)
        commands.setdefault((row.setting, *values, row.reason), []).append(row.command)
    previous = ""
    for (setting, published, ours, reason), names in commands.items():
        text = "as above" if reason == previous else reason
        yield _describe_setting(setting), published, ours, format_names(names, list(card.commands)), text
        previous = reason


def _equal_cells(card: PublishedCommands, equal: Sequence[Comparison]) -> Iterator[Sequence[str]]:
    commands: dict[str, dict[str, list[str]]] = {}
    for row in _sort_by_setting(equal):
        commands.setdefault(row.setting, {}).setdefault(format_value(row.ours), []).append(row.command)
    for setting, by_value in commands.items():
        cells = [f"{value} ({format_names(names, list(card.commands))})" for value, names in by_value.items()]
        yield _describe_setting(setting), "; ".join(cells)


def _sort_by_setting(rows: Sequence[Comparison]) -> list[Comparison]:
    order = list(Settings.model_fields)
    return sorted(rows, key=lambda row: order.index(row.setting))


def _describe_setting(setting: str) -> str:
    description = Settings.model_fields[setting].description
    return f"`{setting}`: {description}" if description else f"`{setting}`"


def format_value(value: object) -> str:
    """Return the words of a setting's value in a table."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        items = {str(item) for item in value.values()}
        # one word if all modules have the same placement; target_modules lists the modules
        return items.pop() if len(items) == 1 else ", ".join(f"{key}: {value[key]}" for key in value)
    return str(value)


def format_names(names: Sequence[str], all_names: Sequence[str]) -> str:
    """Return names in a short form, in the order of all: "all", or series of neighbours, such as "A1–A4, A7"."""
    if set(names) == set(all_names):
        return "all"
    series: list[list[str]] = []
    previous = ""
    for name in all_names:
        if name in names and previous in names and previous[:1] == name[:1]:
            series[-1].append(name)
        elif name in names:
            series.append([name])
        previous = name
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(run) for run in series)
