"""The order of methods in a published table: which pairs its figures separate, as far as its numbers of examples allow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, fmean

from pipeline.evaluate.stats import adjust_p_values
from pipeline.params.published.cards import PublishedRow, PublishedTable
from pipeline.report.comparisons import SIGNIFICANT


@dataclass(frozen=True)
class PublishedPlace:
    """The place of a method in a published table.

    Attributes:
        method: its label, or its card if the row has no label; "no adapter" for the bare base.
        average: mean accuracy over the table's tasks, in percent.
        ahead_of: number of methods that the figures separate from it, and that are below it.
        behind: number of methods that the figures separate from it, and that are above it.
    """

    method: str
    average: float
    ahead_of: int
    behind: int


@dataclass(frozen=True)
class PublishedOrder:
    """The methods of a model in a published table, the highest average first; ``ties``: those not separated from the first."""

    table: str
    model: str
    places: tuple[PublishedPlace, ...]
    ties: tuple[str, ...]
    pairs: int
    separated: int


def order_published(table: PublishedTable, sizes: Mapping[str, int]) -> list[PublishedOrder]:
    """Return the order of each model's methods in a published table.

    A table has no single answers, so its runs cannot be paired. Two averages are compared by a z-test of independent
    proportions, whose variances have a success and a failure added to each task (Agresti and Caffo 2000, Am. Stat. 54,
    280-288), and all pairs of a model are corrected by Holm's method. The test covers the draw of the examples alone: a
    table with one training of each method does not show how much another seed would change. Runs on the same questions
    are usually positively correlated, in which case the test is conservative.

    Args:
        table: rows with a missing accuracy are left out.
        sizes: number of examples of each of the table's tasks.

    Returns:
        An order for each model with two methods or more.
    """
    counts = [sizes[task] for task in table.tasks]
    rows: dict[str, list[PublishedRow]] = {}
    for row in table.rows:
        if None not in row.accuracy:
            rows.setdefault(row.model, []).append(row)
    return [_order_model(table, entries, counts) for entries in rows.values() if len(entries) > 1]


def _order_model(
    table: PublishedTable, rows: Sequence[PublishedRow], counts: Sequence[int]
) -> PublishedOrder:
    ordered = sorted(rows, key=lambda row: -fmean(_shares(row)))
    pairs = list(combinations(range(len(ordered)), 2))
    p_values = adjust_p_values([_compare(ordered[first], ordered[second], counts) for first, second in pairs])
    separated = [pair for pair, p_value in zip(pairs, p_values, strict=True) if p_value < SIGNIFICANT]
    places = tuple(
        PublishedPlace(
            method=row.title,
            average=100 * fmean(_shares(row)),
            ahead_of=sum(first == place for first, _ in separated),
            behind=sum(second == place for _, second in separated),
        )
        for place, row in enumerate(ordered)
    )
    ties = tuple(
        place.method for number, place in enumerate(places) if number and (0, number) not in separated
    )
    return PublishedOrder(
        table.name, ordered[0].model, places, ties, pairs=len(pairs), separated=len(separated)
    )


def _shares(row: PublishedRow) -> list[float]:
    return [accuracy / 100 for accuracy in row.accuracy if accuracy is not None]


def _compare(first: PublishedRow, second: PublishedRow, counts: Sequence[int]) -> float:
    """Return the two-sided p-value of the difference of two averages over tasks."""
    difference = variance = 0.0
    for upper, lower, n in zip(_shares(first), _shares(second), counts, strict=True):
        # printed figures are rounded: the number of right answers is whole
        shrunk = [(round(share * n) + 1) / (n + 2) for share in (upper, lower)]
        difference += shrunk[0] - shrunk[1]
        variance += sum(share * (1 - share) / (n + 2) for share in shrunk)
    return 2 * NormalDist().cdf(-abs(difference) / math.sqrt(variance))
