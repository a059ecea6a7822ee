"""The layout of a table on the page: its title, groups of rows, aligned numbers and what a filter reads."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.report.tables import Table

# a number, its interval, and what may stand behind them
_NUMBER = re.compile(
    r"(?P<value>(?:≤ )?[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?)(?: (?P<interval>\[[^\]]*\]))?"
    r"(?P<rest>\*?(?:, n = \d+)?(?: \([\d.]+ %\))?)"
)
_NO_NUMBER = {"", "n/a", "none", "n = 0"}
# a table with more columns of intervals than this shows them below the values
_MAX_COLUMNS_BESIDE = 6
# the end of a caption's first part, which is the table's title
_TITLE_END = re.compile(r"[;:.] ")


@dataclass(frozen=True)
class CellView:
    """A cell: a text, or a number with what is shown beside it.

    Attributes:
        value: the text or the number.
        interval: with what stands behind it, such as a star.
        pad: the decimals that other numbers of the column have and this one lacks.
        href: what the cell links to, or "".
        hint: the cell's title, or "".
    """

    value: str
    interval: str = ""
    pad: str = ""
    href: str = ""
    hint: str = ""


@dataclass(frozen=True)
class ColumnView:
    """A column; ``task`` is the title of the task that its numbers are of, or ""."""

    title: str
    is_number: bool
    has_intervals: bool
    task: str


@dataclass(frozen=True)
class RowView:
    """A row with the titles that a filter chooses it by, "" where it has none; ``anchor`` is that of its runs."""

    model: str
    method: str
    task: str
    anchor: str
    cells: Sequence[CellView]


@dataclass(frozen=True)
class TableView:
    """A table as the template writes it.

    Attributes:
        title: the first part of its caption.
        caption: the other parts.
        columns: without that of the models if rows are grouped by them.
        groups: rows by model, or all of them under "".
        stacked: whether intervals stand below the values.
        interval_width: in widths of a digit.
    """

    title: str
    caption: str
    columns: Sequence[ColumnView]
    groups: Sequence[tuple[str, Sequence[RowView]]]
    stacked: bool
    interval_width: float


def lay_out_table(
    table: Table, *, tasks: Collection[str], titles: Mapping[str, str] | None = None
) -> TableView:
    """Return the layout of a table.

    Args:
        table: with formatted cells.
        tasks: the titles of all tasks, by which columns and rows are chosen.
        titles: of the models and methods in a table that has their names.
    """
    names = list(table.frame.columns)
    texts = [[str(cell) for cell in row] for row in table.frame.itertuples(index=False, name=None)]
    columns = [
        _describe_column(name, [row[number] for row in texts], tasks) for number, name in enumerate(names)
    ]
    decimals = [
        max((_count_decimals(row[number]) for row in texts), default=0) if column.is_number else 0
        for number, column in enumerate(columns)
    ]
    is_grouped = names[:2] == ["Model", "Method"]
    rows = []
    for number, row in enumerate(texts):
        anchor = table.anchors[number] if table.anchors else ""
        hints = table.hints[number] if table.hints else {}
        cells = [
            _lay_out_cell(
                text, column, places, anchor if column.is_number else "", hints.get(column.title, "")
            )
            for text, column, places in zip(row, columns, decimals, strict=True)
        ]
        by_name = dict(zip(names, row, strict=True))
        task = _find_task(by_name.get("Task", ""), tasks)
        model = by_name.get("Model", "")
        if is_grouped and not by_name["Method"]:
            # a row of a strategy without a model: its name stands where others have their method
            model, cells[1] = "", cells[0]
        method = by_name.get("Method", "")
        if titles:
            model, method = titles[model], titles[method]
        rows.append(RowView(model, method, task, anchor, cells[1:] if is_grouped else cells))
    groups = [
        (model, list(part)) for model, part in groupby(rows, lambda row: row.model if is_grouped else "")
    ]
    widths = [_measure_width(cell.interval) for row in rows for cell in row.cells]
    title, caption = _split_caption(table.caption)
    return TableView(
        title=title,
        caption=caption,
        columns=columns[1:] if is_grouped else columns,
        groups=groups,
        stacked=sum(column.has_intervals for column in columns) > _MAX_COLUMNS_BESIDE,
        interval_width=max(widths, default=0),
    )


def _describe_column(name: str, texts: Sequence[str], tasks: Collection[str]) -> ColumnView:
    matches = [_NUMBER.fullmatch(text) for text in texts if text not in _NO_NUMBER]
    return ColumnView(
        title=name,
        is_number=bool(matches) and all(matches),
        has_intervals=any(match and match["interval"] for match in matches),
        task=_find_task(name, tasks),
    )


def _find_task(text: str, titles: Collection[str]) -> str:
    """Return the title of the task that a cell or the head of a column names; "" if it names none."""
    # A mark of contamination or an arm may stand behind the title. The longest one counts: "BoolQ (world)" is not "BoolQ".
    matches = [
        title
        for title in titles
        if text == title or text.startswith((*(f"{title} {mark}" for mark in "†‡§("),))
    ]
    return max(matches, key=len, default="")


def _count_decimals(text: str) -> int:
    match = _NUMBER.fullmatch(text)
    return len(match["value"].partition(".")[2]) if match else 0


def _lay_out_cell(text: str, column: ColumnView, decimals: int, anchor: str, hint: str) -> CellView:
    href = f"#{anchor}" if anchor and text else ""
    match = _NUMBER.fullmatch(text) if column.is_number else None
    if not match:
        return CellView(text, href=href, hint=hint)
    missing = decimals - _count_decimals(text)
    point = "." if missing == decimals and decimals else ""
    interval = f"{match['interval'] or ''}{match['rest']}"
    return CellView(match["value"], interval, point + "0" * missing, href, hint)


def _measure_width(text: str) -> float:
    # points, commas and brackets are about half as wide as digits, signs somewhat wider
    return sum(1 if character.isdigit() else 1.3 if character in "+-" else 0.55 for character in text)


def _split_caption(caption: str) -> tuple[str, str]:
    end = _TITLE_END.search(caption)
    if not end:
        return caption.removesuffix("."), ""
    rest = caption[end.end() :]
    return caption[: end.start()], rest[:1].upper() + rest[1:]
