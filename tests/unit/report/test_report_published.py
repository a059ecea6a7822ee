"""Published figures in the report of a small study."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import report
from pipeline.core.errors import UserError
from pipeline.evaluate import stats
from pipeline.params.published.cards import Published
from pipeline.params.reading import CARDS, parse_card, read_card
from pipeline.report.accuracy import list_settings
from pipeline.report.data import read_report_data
from pipeline.report.published import build_published_tables
from pipeline.report.tables import MACRO
from pipeline.study import load_study
from pipeline.study.description import (
    FigureDescription,
    PointDescription,
    StudyDescription,
)
from tests.answered_study import list_correct, list_rows, make_answered_study
from tests.finished_study import make_small_study


@pytest.fixture
def study(tmp_path) -> StudyDescription:
    return make_answered_study(tmp_path)


MEASUREMENTS = {
    "ours": {"measured_by": "them", "prompting": "as here", "parsing": "a rule", "protocol": "strict"},
    "paper": {"measured_by": "them", "prompting": "as printed", "parsing": "a rule", "protocol": "paper"},
    "api": {"measured_by": "Wang", "prompting": "zero-shot", "parsing": "a second request"},
}
PART = {"name": "n", "training_set": "math_10k", "source": "S", "measurement": "ours", "tasks": ["t", "u"]}


def parse_published(**parts) -> Published:
    card = {"title": "P", "measurements": MEASUREMENTS, **parts}
    return parse_card(CARDS["published"], card, where="here")


def make_published(rows: list[dict], **changes) -> Published:
    return parse_published(tables=[{**PART, "rows": rows, **changes}])


def test_published_figures_are_compared_with_the_same_model_and_method(study):
    lora = {"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0], "average": 60.0}
    study = replace(
        study,
        published=make_published([{"model": "GPT-3.5", "accuracy": [50.0, 60.0], "average": 55.0}, lora]),
    )
    table = build_published_tables(read_report_data(study))["published-a-strict"]
    unmatched, ours = list_rows(table)
    assert unmatched == {
        "Model": "GPT-3.5",
        "Method": "as published",
        "Task t": "50.0",
        "Task u": "60.0",
        MACRO: "55.0",
    }
    assert (ours["Model"], ours["Method"]) == ("LLaMA-7B", "LoRA")
    accuracy = stats.estimate_accuracy(list_correct("lora", 0))
    mark = "✓" if accuracy["low"] <= 0.9 <= accuracy["high"] else "✗"
    assert ours["Task t"] == f"100.0 − 90.0 = +10.0 {mark}"
    assert ours["Task u"] == "37.5 − 30.0 = +7.5 ✓"
    assert ours[MACRO].startswith("68.8 − 60.0 = +8.8 ")
    assert "P, S." in table.caption


@pytest.mark.parametrize(
    "row",
    [
        {"model": "llama-13b", "method": "lora"},
        {"model": "llama-7b", "method": "parallel"},
        {"model": "llama-7b", "method": "series"},
        {"model": "llama-7b", "method": "lora", "settings": {"r": 4}},
    ],
    ids=["other model", "other method", "changed setting", "published setting"],
)
def test_published_figures_of_other_runs_are_compared_with_nothing(study, row):
    api = {"model": "GPT-3.5", "accuracy": [50.0, 60.0]}
    study = replace(study, published=make_published([api, {**row, "accuracy": [90.0, 30.0]}]))
    table = build_published_tables(read_report_data(study))["published-a-strict"]
    assert [row["Model"] for row in list_rows(table)] == ["GPT-3.5"]
    assert "so there is no comparison" in table.caption


def test_a_published_method_without_a_card_has_its_label(study):
    row = {"model": "llama-7b", "label": "LoReFT", "accuracy": [50.0, 60.0]}
    table = build_published_tables(read_report_data(replace(study, published=make_published([row]))))
    assert [row["Method"] for row in list_rows(table["published-a-strict"])] == ["LoReFT"]


def test_figures_for_other_training_sets_or_tasks_are_left_out(study):
    lora = {"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0]}
    study = replace(study, published=make_published([lora], training_set="math_data"))
    assert build_published_tables(read_report_data(study)) == {}
    study = replace(study, published=make_published([lora], tasks=["v", "w"]))
    assert build_published_tables(read_report_data(study)) == {}
    study = replace(study, published=make_published([lora | {"average": 60.0}], tasks=["t", "v"]))
    (row,) = list_rows(build_published_tables(read_report_data(study))["published-a-strict"])
    # without the average, which is over other tasks than ours
    assert list(row) == ["Model", "Method", "Task t"]


def test_a_published_row_with_missing_accuracies_is_an_error():
    with pytest.raises(UserError, match=r"llama-7b lora: needs 2 accuracies, of which some may be null"):
        make_published([{"model": "llama-7b", "method": "lora", "accuracy": [90.0]}])
    with pytest.raises(
        UserError, match=r"tables\.0\.rows\.0\.accuracy\.1.*less than or equal to 100 \(got 900"
    ):
        make_published([{"model": "llama-7b", "method": "lora", "accuracy": [90.0, 900.0]}])


def test_figures_without_a_known_measurement_are_refused():
    row = {"model": "GPT-3.5", "accuracy": [50.0, 60.0]}
    with pytest.raises(UserError, match=r"n: measurement: unknown 'wang' \(choices: ours, paper, api\)"):
        make_published([row | {"measurement": "wang"}])
    with pytest.raises(UserError, match="measurement: missing"):
        parse_published(tables=[{key: PART[key] for key in PART if key != "measurement"} | {"rows": [row]}])
    with pytest.raises(UserError, match="needs tables or figures"):
        parse_published()


def test_rows_that_were_measured_in_another_way_are_marked(study):
    rows = [
        {"model": "GPT-3.5", "accuracy": [50.0, 60.0], "measurement": "api"},
        {"model": "GPT-4", "accuracy": [70.0, 80.0], "measurement": "api"},
        {"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0]},
    ]
    tables = build_published_tables(read_report_data(replace(study, published=make_published(rows))))
    table = tables["published-a-strict"]
    assert [row["Method"] for row in list_rows(table)] == ["as published [1]", "as published [1]", "LoRA"]
    explained = "[1] measured by: Wang; prompting: zero-shot; parsing: a second request."
    assert f"Measured differently from our rows: {explained}" in table.caption
    assert "[2]" not in table.caption
    # under another protocol than theirs, our own rows were not measured in their way either
    published = make_published(rows, measurement="paper")
    tables = build_published_tables(read_report_data(replace(study, published=published)))
    table = tables["published-a-strict"]
    assert [row["Method"] for row in list_rows(table)] == ["as published [1]", "as published [1]", "LoRA [2]"]
    assert table.caption.endswith("parsing: a rule; that is protocol paper.")


def test_where_all_rows_were_measured_as_ours_nothing_is_marked(study):
    published = make_published([{"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0]}])
    table = build_published_tables(read_report_data(replace(study, published=published)))[
        "published-a-strict"
    ]
    assert [row["Method"] for row in list_rows(table)] == ["LoRA"]
    assert "Not measured" not in table.caption


def test_a_figure_that_was_not_published_is_an_empty_cell(study):
    rows = [
        {"model": "GPT-3 175B", "accuracy": [None, 60.0]},
        {"model": "llama-7b", "method": "lora", "accuracy": [90.0, None], "average": 60.0},
    ]
    study = replace(study, published=make_published(rows))
    gpt, lora = list_rows(build_published_tables(read_report_data(study))["published-a-strict"])
    assert [gpt[column] for column in ("Task t", "Task u", MACRO)] == ["", "60.0", ""]
    assert lora["Task t"].startswith("100.0 − 90.0")
    assert lora["Task u"] == ""


POINTS = [
    {"model": "llama-7b", "method": "lora", "setting": 4, "average": 60.0, "source": "text"},
    {"model": "llama-7b", "method": "lora", "setting": 8, "average": 61.0, "source": "text"},
    {"model": "llama-13b", "method": "lora", "setting": 4, "average": 62.0, "source": "text"},
]


def make_varied_study(study, **changes) -> StudyDescription:
    """The study with its methods as the ranks 2 and 4 of LoRA, and published points at the ranks 4 and 8."""
    points = [
        PointDescription(method=method, card="lora", line="LoRA", field="r", setting=rank)
        for method, rank in (("series", 2), ("lora", 4))
    ]
    figure = FigureDescription("Accuracy against the rank", {"r": "rank"}, points)
    published = parse_published(figures=[{**PART, "field": "r", "points": POINTS, **changes}])
    return replace(study, figure=figure, published=published)


def test_published_points_are_compared_with_the_same_setting(study):
    data = read_report_data(make_varied_study(study))
    (row,) = list_rows(build_published_tables(data)["published-settings-a-strict"])
    assert (row["Model"], row["Method"], row["Setting"], row["Source"]) == (
        "LLaMA-7B",
        "LoRA",
        "rank 4",
        "text",
    )
    assert row[MACRO].startswith("68.8 − 60.0 = +8.8 ")
    settings = list_settings(data, data.study.figure)
    assert dict(zip(settings.setting, settings.published.fillna(-1), strict=True)) == {2: -1, 4: 0.6}


def test_published_points_are_drawn_beside_ours(tmp_path):
    points = [{**point, "model": "m"} for point in POINTS]
    changes = {"points": points, "training_set": "s", "tasks": ["t"]}
    study = make_varied_study(make_small_study(tmp_path), **changes)
    pages, figures = {}, {}
    for name, published in (("published", study.published), ("plain", None)):
        folder = tmp_path / name
        report.build(replace(study, published=published), output=folder, fingerprint="abc")
        pages[name] = (folder / "index.html").read_text()
        figures[name] = (folder / "figures/settings-arithmetic-strict.svg").read_text()
    # one more marker, in the panel and in the legend
    assert figures["published"].count("<use") > figures["plain"].count("<use")
    for text in ("Hollow diamonds: published", 'id="published-settings-arithmetic-strict"'):
        assert text in pages["published"]
        assert text not in pages["plain"]
    assert (tmp_path / "plain/plots/settings.csv").read_text().splitlines()[0].endswith(",high,n,seeds")


@pytest.mark.parametrize(
    "changes",
    [{"training_set": "math_data"}, {"tasks": ["t"]}, {"field": "bottleneck_size"}],
    ids=["other training set", "other tasks", "other setting"],
)
def test_points_of_other_studies_are_left_out(study, changes):
    data = read_report_data(make_varied_study(study, **changes))
    assert build_published_tables(data) == {}
    assert list_settings(data, data.study.figure).published.isna().all()


def test_a_study_without_published_figures_has_no_column_for_them(study):
    data = read_report_data(replace(make_varied_study(study), published=None))
    assert "published" not in list_settings(data, data.study.figure)


def test_llm_adapters_figures_agree_with_their_averages():
    """Catches figures that were copied wrongly; the averages have one decimal, and some are rounded up."""
    card = read_card("published", "llm-adapters")
    assert [len(table.rows) for table in card.tables] == [17, 17, 19]
    names = {row.model for table in card.tables for row in table.rows if row.method is None}
    assert names == {"GPT-3.5", "ChatGPT", "GPT-3 175B", "PaLM 540B"}
    for table in card.tables:
        for row in table.rows:
            if row.average is None:
                # SIQA is missing
                assert [index for index, value in enumerate(row.accuracy) if value is None] == [2]
            else:
                assert row.average == pytest.approx(sum(row.accuracy) / len(row.accuracy), abs=0.11), row


def test_published_series_of_llama_is_adapter_p():
    """README @b2599fe2b121, issue 45, and the parameter counts of Table 1 in arXiv:2402.09353."""
    tables = read_card("published", "llm-adapters").tables
    methods = {(row.model, row.method) for table in tables for row in table.rows}
    for model in ("llama-7b", "llama-13b"):
        assert (model, "adapter-p") in methods
        assert (model, "series") not in methods
    for model in ("bloomz-7b1", "gpt-j-6b"):
        assert (model, "series") in methods
        assert (model, "adapter-p") not in methods


@pytest.mark.parametrize("study_name", ["paper-math", "paper-commonsense"])
def test_every_published_adapter_is_trained_by_the_papers_study(study_name):
    study = load_study(study_name)
    trained = {(run.model, run.method) for run in study.runs}
    tables = read_card("published", study.card.published).tables
    assert {(row.model, row.method) for table in tables for row in table.rows if row.method} <= trained


@pytest.mark.parametrize("study_name", ["placement", "hyperparameters"])
def test_every_published_point_is_trained_by_its_study(study_name):
    study = load_study(study_name)
    card = read_card("published", study.card.published)
    points = {(point.card, point.field, point.setting) for point in study.points}
    published = {
        (point.method, figure.field, point.setting) for figure in card.figures for point in figure.points
    }
    assert published
    assert published <= points
    for figure in card.figures:
        assert set(figure.tasks) == set(study.card.arms[0].tasks)


def test_published_points_equal_the_table_where_both_are_of_one_adapter():
    (table, *_) = read_card("published", "llm-adapters").tables
    averages = {row.method: row.average for row in table.rows if row.model == "llama-7b"}
    sizes = read_card("published", "llm-adapters-sizes").figures
    points = {point.method: point.average for figure in sizes for point in figure.points}
    assert points == averages


@pytest.mark.parametrize("name", ["math6_readme_2023-11-15_b2599fe", "math_readme", "commonsense_readme"])
def test_llm_adapters_figures_equal_the_reference(shared, name):
    lines = (Path(shared) / f"data/real/reference/{name}.csv").read_text().splitlines()[1:]
    reference = [[float(figure) for figure in line.split(",")[1:]] for line in lines]
    tables = [
        # those without an average are not of the README
        [[*row.accuracy, row.average] for row in table.rows if row.average is not None]
        for table in read_card("published", "llm-adapters").tables
    ]
    assert reference in tables
