"""The order of methods in published tables: which pairs their figures separate."""

from itertools import combinations

import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import test_proportions_2indep as compare_proportions

from pipeline.commands.compare.stability import order_tables, stability_command
from pipeline.core.errors import UserError
from pipeline.params.published.cards import PublishedRow, PublishedTable
from pipeline.report.stability.published import PublishedPlace, _compare, order_published

SIZES = {"a": 100, "b": 400}


def make_table(rows: dict[tuple[str, str | None], list[float | None]], tasks=("a",)) -> PublishedTable:
    entries = [
        {"model": model, "method": method, "accuracy": accuracy} for (model, method), accuracy in rows.items()
    ]
    return PublishedTable.model_validate(
        {
            "name": "t",
            "training_set": "x",
            "source": "s",
            "measurement": "m",
            "tasks": list(tasks),
            "rows": entries,
        }
    )


@pytest.mark.parametrize(("first", "second"), [(40, 60), (50, 51), (0, 3), (100, 100), (0, 0)])
def test_a_single_task_has_the_p_value_of_the_library(first, second):
    rows = [
        PublishedRow(model="m", method=name, accuracy=[value])
        for name, value in (("f", first), ("s", second))
    ]
    expected = compare_proportions(first, 100, second, 100, compare="diff", method="agresti-caffo").pvalue
    assert _compare(*rows, [100]) == pytest.approx(expected, rel=1e-9)


def test_methods_far_apart_are_separated_and_close_methods_tie():
    table = make_table(
        {("m", "low"): [20.0], ("m", "high"): [80.0], ("m", "near"): [79.0], ("m", None): [21.0]}
    )
    (order,) = order_published(table, SIZES)
    assert [(place.method, place.ahead_of, place.behind) for place in order.places] == [
        ("high", 2, 0),
        ("near", 2, 0),
        ("no adapter", 0, 2),
        ("low", 0, 2),
    ]
    assert (order.pairs, order.separated, order.ties) == (6, 4, ("near",))


def test_a_tie_with_the_first_is_a_tie_although_another_method_is_ahead():
    # accuracies near 0 and 100 vary less
    rows = {("m", "first"): [50.0, 50.0], ("m", "second"): [99.0, 0.0], ("m", "third"): [88.0, 0.0]}
    (order,) = order_published(make_table(rows, tasks=("a", "b")), SIZES)
    first, second, third = order.places
    assert (first.ahead_of, second.ahead_of, third.behind) == (0, 1, 1)
    assert order.ties == ("second", "third")


def test_more_examples_separate_the_same_difference():
    few = make_table({("m", "f"): [50.0], ("m", "s"): [60.0]}, tasks=("a",))
    many = make_table({("m", "f"): [50.0], ("m", "s"): [60.0]}, tasks=("b",))
    assert order_published(few, SIZES)[0].separated == 0
    assert order_published(many, SIZES)[0].separated == 1


def test_the_average_is_over_tasks_and_incomplete_rows_are_left_out():
    table = make_table(
        {
            ("m", "f"): [50.0, 10.0],
            ("m", "s"): [40.0, 40.0],
            ("m", "gap"): [90.0, None],
            ("n", "f"): [1.0, 1.0],
        },
        tasks=("a", "b"),
    )
    (order,) = order_published(table, SIZES)
    assert order.model == "m"
    assert [place.method for place in order.places] == ["s", "f"]
    assert [place.average for place in order.places] == pytest.approx([40.0, 30.0])


def test_rows_with_a_label_have_it_as_their_name():
    (by_rank, *_), (first, *_) = order_tables("dora"), order_tables("reft")
    assert {place.method for place in by_rank.places} >= {"DoRA, r 4", "DoRA, r 64", "LoRA, r 4"}
    assert {place.method for place in first.places} == {"LoReFT", "DiReFT"}


def test_the_command_orders_the_results_of_peft(capsys):
    (order,) = order_tables("peft-metamathqa")
    assert order.places[0].method.startswith("lily/")
    assert (len(order.places), order.pairs) == (63, 63 * 62 // 2)
    p_values = [
        compare_proportions(*pair, compare="diff", method="agresti-caffo").pvalue
        for pair in combine_counts(order.places, 1319)
    ]
    assert order.separated == sum(multipletests(p_values, method="holm")[0])
    stability_command(published="peft-metamathqa")
    assert (
        "1190 of 1953 pairs are separated; 24 cannot be told apart from the first" in capsys.readouterr().out
    )


def combine_counts(places: tuple[PublishedPlace, ...], n: int) -> list[tuple[int, int, int, int]]:
    """Return right answers and examples of both sides of each pair."""
    counts = [round(place.average * n / 100) for place in places]
    return [(first, n, second, n) for first, second in combinations(counts, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "stability: name either a study or --published CARD"),
        (
            {"study": "quickstart", "published": "llm-adapters"},
            "stability: name either a study or --published CARD",
        ),
        ({"published": "nope"}, "params/published: no 'nope'"),
        ({"published": "llm-adapters-sizes"}, "has no table with two methods of a model"),
    ],
)
def test_a_wrong_argument_has_a_one_line_error(arguments, message):
    with pytest.raises(UserError, match=message) as raised:
        stability_command(**arguments)
    assert "\n" not in str(raised.value)
