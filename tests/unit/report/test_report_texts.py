"""Likelihoods of texts in the report: the table, the column of the cost table, metrics and the figure."""

import json
import re
from dataclasses import replace

import pytest

from pipeline.core.io import write_json, write_jsonl
from pipeline.report.data import read_report_data
from pipeline.report.page.play import write_play_data
from pipeline.report.runs import build_cost_table
from pipeline.report.summary.results import tabulate_results
from pipeline.report.texts.figure import draw_forgetting
from pipeline.report.texts.tables import build_text_tables, collect_text_metrics
from pipeline.study.description import TextDescription
from tests.answered_study import list_rows, make_answered_study
from tests.descriptions import make_model

PASSAGES = TextDescription("wiki-nats", "Wiki", "passage")
REFERENCES = TextDescription("alpaca-nats", "Alpaca", "text")
TOKENS = [10, 20, 30]
# nats per token of each run on every text
NATS = {("bare", None): 2.0, ("lora", 0): 2.5, ("lora", 1): 2.7, ("series", 0): 2.0, ("series", 1): 2.0}


def add_texts(study, folder, texts=(PASSAGES,), nats=NATS):
    runs = []
    for run in study.runs:
        likelihoods = folder / f"{run.method}{run.seed}-texts"
        likelihoods.mkdir()
        write_json(likelihoods / "run.json", {"seconds": 1.0})
        write_json(run.answers / "run.json", {"seconds": 3.0, "peak_memory_gib": 0.5})
        if run.adapter:
            write_json(run.adapter / "manifest.json", {"trainable_parameters": 5, "all_parameters": 10})
        value = nats[run.method, run.seed]
        for text in texts:
            rows = [{"id": str(n), "tokens": n, "nats": None if value is None else value * n} for n in TOKENS]
            write_jsonl(likelihoods / f"{text.name}.jsonl", rows)
        runs.append(replace(run, text_likelihoods=likelihoods))
    return replace(study, runs=runs, texts=texts)


@pytest.fixture
def data(tmp_path):
    return read_report_data(add_texts(make_answered_study(tmp_path), tmp_path, (PASSAGES, REFERENCES)))


def test_the_table_has_nats_perplexity_and_the_difference_from_the_base(data):
    rows = list_rows(build_text_tables(data)["texts"])
    assert [(row["Text"], row["Method"]) for row in rows[:3]] == [
        ("Wiki", "no adapter"),
        ("Wiki", "LoRA"),
        ("Wiki", "Series"),
    ]
    bare, lora, series = rows[:3]
    assert (bare["nats per token"], bare["perplexity"], bare["more than the base"]) == (
        "2.000 [2.000, 2.000]",
        "7.389 [7.389, 7.389]",
        "",
    )
    assert lora["nats per token"].startswith("2.600 [")
    assert lora["more than the base"].startswith("+0.600 [")
    assert series["more than the base"] == "+0.000 [+0.000, +0.000]"
    assert (lora["texts"], lora["tokens"]) == ("3", "60")


def test_the_cost_table_has_what_was_forgotten_of_passages(data):
    table = build_cost_table(data)
    cells = {row["Method"]: row["Forgetting (nats/token)"] for row in list_rows(table)}
    assert cells == {"no adapter": "", "LoRA": "+0.600", "Series": "+0.000"}
    # answers and texts
    assert {row["Generation (s)"] for row in list_rows(table)} == {"4.0"}


def test_metrics_have_both_numbers(data):
    metrics = collect_text_metrics(data)
    assert metrics["nats per token"]["llama-7b"]["bare"] == {"wiki-nats": 2.0, "alpaca-nats": 2.0}
    assert metrics["forgetting"]["llama-7b"]["lora"]["wiki-nats after a"] == 0.6
    assert "bare" not in metrics["forgetting"]["llama-7b"]


def test_the_long_table_has_both_numbers(data):
    results = tabulate_results(data)
    rows = results[results.protocol.isna()].set_index(["metric", "method", "task"])
    assert rows.loc["nats per token", "bare", "wiki-nats"].value == 2.0
    row = rows.loc["forgetting", "lora", "wiki-nats"]
    assert (row.value, row.n, row.seeds, row.trainable_parameters) == (0.6, 3, 2, 5)
    assert row.low <= row.value <= row.high
    # the base has forgotten nothing
    assert ("forgetting", "bare", "wiki-nats") not in rows.index


def test_the_figure_is_drawn_for_passages_with_equal_bytes(data):
    (name,), (drawing,) = zip(*draw_forgetting(data).items(), strict=True)
    assert name == "forgetting-a-strict"
    assert drawing == draw_forgetting(data)[name]
    assert "(Wiki)" in drawing.caption


def test_references_alone_are_no_forgetting(tmp_path):
    data = read_report_data(add_texts(make_answered_study(tmp_path), tmp_path, (REFERENCES,)))
    assert draw_forgetting(data) == {}
    assert "Forgetting (nats/token)" not in build_cost_table(data).frame
    assert build_text_tables(data)["texts"].frame["Text"].unique().tolist() == ["Alpaca"]


def test_a_model_that_diverged_has_no_number(tmp_path):
    nats = NATS | {("lora", 0): None}
    data = read_report_data(add_texts(make_answered_study(tmp_path), tmp_path, nats=nats))
    lora = list_rows(build_text_tables(data)["texts"])[1]
    assert (lora["nats per token"], lora["more than the base"]) == ("not finite", "not finite")
    assert "lora" not in collect_text_metrics(data)["forgetting"]["llama-7b"]
    assert re.search("LoRA", draw_forgetting(data)["forgetting-a-strict"].svg) is None
    costs = {row["Method"]: row["Forgetting (nats/token)"] for row in list_rows(build_cost_table(data))}
    assert costs == {"no adapter": "", "LoRA": "not finite", "Series": "+0.000"}


def test_the_legend_has_the_methods_of_every_model(tmp_path):
    """A method may be trained on a model other than the first alone, or have diverged on the first."""
    study = add_texts(make_answered_study(tmp_path), tmp_path)
    others = [replace(run, model="bloom") for run in study.runs]
    runs = [run for run in study.runs if run.method != "series"] + others
    study = replace(study, models=[*study.models, make_model("bloom", "BLOOM")], runs=runs)
    svg = draw_forgetting(read_report_data(study))["forgetting-a-strict"].svg
    assert all(svg.count(f"<!-- {title} -->") == 1 for title in ("no adapter", "LoRA", "Series"))


def test_without_texts_nothing_is_added(tmp_path):
    data = read_report_data(make_answered_study(tmp_path))
    assert build_text_tables(data) == collect_text_metrics(data) == draw_forgetting(data) == {}


def test_forgetting_is_a_cost_of_the_figure_that_readers_play_with(tmp_path):
    study = make_answered_study(tmp_path)
    page = json.loads(write_play_data(read_report_data(add_texts(study, tmp_path))))
    assert page["costs"]["forgetting"] == "forgetting (nats per token)"
    assert [point["costs"]["forgetting"] for point in page["points"]] == [0.6, 0.0]


def test_forgetting_that_is_not_measured_for_all_methods_is_no_cost(tmp_path):
    diverged = add_texts(make_answered_study(tmp_path), tmp_path, nats=NATS | {("lora", 1): None})
    page = json.loads(write_play_data(read_report_data(diverged)))
    assert "forgetting" not in page["costs"]
    assert all(set(point["costs"]) == set(page["costs"]) for point in page["points"])
