"""The published figures and procedures in docs/followups.md, from the cards that the study of follow-ups lists."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from pipeline.commands.maintain.sections import draw_table, link_source, replace_section
from pipeline.params.published.cards import Published, PublishedRow, Step
from pipeline.params.reading import PARAMS, ROOT, read_card
from pipeline.params.studies import StudyCard
from pipeline.study.followups.rows import TableRow

PAGE = "docs/followups.md"
BEGIN = "<!-- follow-ups: written by `python -m pipeline regenerate` -->"
END = "<!-- end of follow-ups -->"
STUDY = "followups"


def followups_page(root: Path = ROOT) -> str:
    """Return docs/followups.md with the tables of the present cards."""
    study: StudyCard = read_card("study", STUDY)
    cards = {name: read_card("published", name) for name in study.followups}
    training_sets = dict.fromkeys(table.training_set for card in cards.values() for table in card.tables)
    parts = []
    for training_set in training_sets:
        parts += [f"### Trained on {training_set}", _draw_rows(cards, training_set)]
    parts += ["### Procedures", _draw_procedures(cards)]
    return replace_section(root / PAGE, BEGIN, END, "\n\n".join(parts) + "\n")


def _draw_rows(cards: dict[str, Published], training_set: str) -> str:
    rows = list(_list_rows(cards, training_set))
    order = list(dict.fromkeys(base for base, *_ in rows))
    return draw_table(
        ("base", "method", "average", "protocol here", "publication", "source"),
        sorted(rows, key=lambda row: order.index(row[0])),
    )


def _list_rows(cards: dict[str, Published], training_set: str) -> Iterator[Sequence[str]]:
    """Yield the cells of each row, the base first."""
    for card in cards.values():
        for table in card.tables:
            if table.training_set != training_set:
                continue
            for row in table.rows:
                own = TableRow(card, table, row)
                yield (
                    _name_model(row),
                    row.label or row.method or "",
                    _format_average(row),
                    own.measurement.protocol or "none",
                    card.title,
                    _link(own.source),
                )


def _draw_procedures(cards: dict[str, Published]) -> str:
    columns = [
        (card, name, measurement)
        for card in cards.values()
        for name, measurement in card.measurements.items()
        # a rerun states little beside what it repeats
        if len(measurement.procedure) > len(get_args(Step)) // 2
    ]
    heads = [card.title if name == "authors" else f"{card.title}, {name}" for card, name, _ in columns]
    rows = []
    for step in get_args(Step):
        facts = [(card, measurement.procedure.get(step)) for card, _, measurement in columns]
        cells = [
            f"{fact.value} ({_link(card.locate(fact.source))})" if fact else "not stated"
            for card, fact in facts
        ]
        rows.append([step.replace("_", " "), *cells])
    protocols = [measurement.protocol_here for *_, measurement in columns]
    return draw_table(["step", *heads], [*rows, ["protocol here", *protocols]])


def _name_model(row: PublishedRow) -> str:
    is_card = (PARAMS / "models" / f"{row.model}.yaml").is_file()
    return str(read_card("models", row.model).name) if is_card else row.model


def _format_average(row: PublishedRow) -> str:
    if row.average is not None:
        # as printed, with one decimal or two
        return f"{row.average:.1f}" if round(row.average, 1) == row.average else f"{row.average:.2f}"
    known = sum(value is not None for value in row.accuracy)
    return f"none ({known} of {len(row.accuracy)} tasks)"


def _link(source: str) -> str:
    return link_source(source) if source.startswith("https://") else source
