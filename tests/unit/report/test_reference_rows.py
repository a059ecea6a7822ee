"""Answers made elsewhere stand beside runs: accuracies by reading, paired tests, and the share that a run reaches."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from pipeline import report
from pipeline.core.io import write_json
from pipeline.evaluate import stats
from pipeline.params.published.cards import Published
from pipeline.params.published.references import Reference
from pipeline.params.reading import parse_card
from pipeline.report.data import read_report_data
from pipeline.report.references import build_reference_tables
from pipeline.report.summary.results import tabulate_results
from pipeline.study.description import ReferenceDescription
from tests.finished_study import make_item, make_small_study

SIZE = 40
RUNS = (
    ("m", "bare", None, 4),
    ("m", "lora", 0, 30),
    ("m", "lora", 1, 28),
    ("m", "series", 0, 20),
    ("m", "series", 1, 21),
)
CARD = {
    "name": "Big model",
    "model": "big",
    "size": "175B",
    "prompting": "zero-shot",
    "source": "a repository",
    "licence": "not stated",
    "format": {"question": "q", "text": "t", "reading": "r"},
    "answers": {"t": {"sources": [{"kind": "local", "path": "a.json"}]}},
    "published": {"card": "p", "model": "Big", "difference": "another prompt"},
}
MEASUREMENTS = {
    name: {"measured_by": "m", "prompting": "p", "parsing": "q", "protocol": protocol}
    for name, protocol in (("same", "strict"), ("other", None))
}
PUBLISHED = {
    "title": "A paper",
    "measurements": MEASUREMENTS,
    "tables": [
        {
            "name": "n",
            "training_set": "s",
            "source": "Table 1",
            "measurement": "same",
            "tasks": ["t"],
            "rows": [
                {"model": "Big", "accuracy": [80.0], "average": 80.0, "measurement": "other"},
                {"model": "small", "method": "lora", "accuracy": [60.0], "average": 60.0},
                {"model": "small", "method": "series", "accuracy": [40.0], "average": 40.0},
            ],
        }
    ],
}


def write_reference(folder, rights, *, left_out=()):
    """Write the results of a reference whose first answers are right: by reading, their number."""
    tasks = {}
    for reading, right in rights.items():
        items = [make_item(n, right, parsable=n < 36) for n in range(SIZE) if n not in left_out]
        unparsed = sum(item["outcome"] == "unparsable" for item in items)
        accuracy = sum(item["correct"] for item in items) / len(items)
        score = {"items": items, "n": len(items), "accuracy": accuracy, "unparsable": unparsed, "chance": 0.5}
        tasks[f"t-{reading}"] = score
    write_json(folder / "reference.json", {"tasks": tasks})
    ties = {key: [] for key in ("unanswered", "ambiguous", "unknown", "repeated", "gold_differs")}
    ties |= {"rows": 41, "examples": SIZE, "tied": SIZE - len(left_out), "unknown": [3]}
    (folder / "elsewhere").mkdir()
    write_json(folder / "elsewhere/ties.json", {"t": ties | {"unanswered": [f"t/{n}" for n in left_out]}})
    return ReferenceDescription(
        name="big",
        card=parse_card(Reference, CARD, where="card"),
        protocols={"t": ["strict"]},
        answers=folder / "elsewhere",
        scores=folder / "reference.json",
        published=parse_card(Published, PUBLISHED, where="card"),
    )


@pytest.fixture
def study(tmp_path):
    reference = write_reference(tmp_path, {"stored": 36, "strict": 32}, left_out=(39,))
    return replace(
        make_small_study(tmp_path, RUNS, size=SIZE),
        references=[reference],
        published=reference.published,
        published_titles={"small": "Small", "lora": "LoRA", "series": "Series"},
    )


@pytest.fixture
def tables(study):
    return build_reference_tables(read_report_data(study))


def rows_of(table):
    return table.frame.to_dict("records")


def test_a_reference_has_a_row_for_each_reading_above_the_published_one_and_the_runs(tables):
    rows = rows_of(tables["references-arithmetic"])
    assert [(row["Answers of"], row["Read by"]) for row in rows] == [
        ("Big model, 175B", "its authors"),
        ("Big model, 175B", "strict"),
        ("Big, as published", "see below"),
        ("no adapter on LLaMA", "strict"),
        ("LoRA on LLaMA", "strict"),
        ("Series on LLaMA", "strict"),
    ]
    low, high = stats.wilson_interval(32, 39)
    assert rows[1]["Task"] == f"{100 * 32 / 39:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert (rows[1]["n"], rows[1]["Unparsed (%)"]) == ("39", f"{100 * 3 / 39:.1f}")
    assert rows[2]["Task"] == "80.0"


def test_runs_are_tested_against_a_reference_on_the_examples_that_it_answered(tables):
    rows = rows_of(tables["reference-tests-arithmetic-strict"])
    assert [(row["Answers of"], row["against"], row["n"]) for row in rows] == [
        (f"{method} on LLaMA", "Big model, 175B", "39") for method in ("no adapter", "LoRA", "Series")
    ]
    bare = rows[0]["Difference (points)"]
    assert bare.startswith(f"{100 * (4 - 32) / 39:+.1f} [")
    assert bare.endswith("*")


def test_a_run_reaches_a_share_of_a_reference_read_the_same_way(tables):
    claims = rows_of(tables["claims-arithmetic"])
    lora = claims[1]
    match = re.fullmatch(
        r"LoRA on LLaMA reaches ([\d.]+) \[([\d.]+), ([\d.]+)\] % of Big model, 175B, read the same way \(strict\)",
        lora["Claim"],
    )
    share, low, high = map(float, match.groups())
    assert share == pytest.approx(100 * 29 / 32, abs=0.05)
    assert low < share < high
    # 29 of 39, as a share of the published 80 %
    assert lora["of the published row (%)"] == f"{100 * 29 / 39 / 0.8:.1f} of 80.0"
    assert "another prompt" in tables["claims-arithmetic"].caption


def test_the_best_published_method_of_a_model_is_compared_with_the_row_as_it_was_read(tables):
    claims = [row["Claim"] for row in rows_of(tables["claims-arithmetic"]) if "as published" in row["Claim"]]
    assert len(claims) == 2
    assert claims[0].startswith(f"LoRA on Small, as published, reaches {100 * 0.6 / (36 / 39):.1f} [")
    assert claims[0].endswith("not read the same way (its authors)")
    assert claims[1].startswith(f"LoRA on Small, as published, reaches {100 * 0.6 / (32 / 39):.1f} [")
    assert claims[1].endswith(", read the same way (strict)")


def test_results_have_the_accuracies_of_a_reference_with_the_intervals_of_its_table(study):
    results = tabulate_results(read_report_data(study))
    rows = results[results.method == "reference"].set_index(["task", "protocol"])
    assert list(rows.index) == [
        (task, reading) for reading in ("stored", "strict") for task in ("t", "macro average")
    ]
    row = rows.loc["t", "strict"]
    low, high = stats.wilson_interval(32, 39)
    assert (row.model, row.arm, row.seed, row.seeds, row.n) == ("big", "arithmetic", "mean", 1, 39)
    assert (row.value, row.low, row.high) == pytest.approx((32 / 39, low, high), abs=1e-6)
    assert row.chance == 0.5
    assert pd.isna(row.trainable_parameters)


def test_what_was_not_tied_is_listed(tables):
    (row,) = rows_of(tables["reference-ties"])
    assert (row["Rows"], row["With an answer"], row["Without an answer"]) == ("41", "39", "1: t/39")
    assert (row["Rows without an example"], row["Several answers"]) == ("1: 3", "0")


@pytest.mark.slow
def test_the_page_of_a_study_with_runs_has_a_section_of_references(study, tmp_path):
    report.build(study, output=tmp_path / "report", fingerprint="0" * 12)
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert 'id="section-references"' in page
    assert 'id="reference-tests-arithmetic-strict"' in page
    assert (tmp_path / "report/tables/claims-arithmetic.csv").exists()


def test_a_study_of_references_alone_has_a_report(study, tmp_path):
    alone = replace(study, models=[], methods=[], seeds=[], runs=[], audits=[])
    report.build(alone, output=tmp_path / "report", fingerprint="0" * 12)
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "Big model, 175B" in page
    assert 'id="claims-arithmetic"' in page
    metrics = json.loads((tmp_path / "report/metrics.json").read_text(encoding="utf-8"))
    assert metrics["strict"]["big"]["reference"]["average arithmetic"] == round(32 / 39, 6)
    assert set(pd.read_csv(tmp_path / "report/results.csv").method) == {"reference"}
    assert (tmp_path / f"report/manifest-{'0' * 12}.json").exists()


@pytest.mark.filterwarnings("error")
def test_a_report_of_references_alone_says_what_its_titles_leave_out(study, tmp_path):
    (arm,) = study.arms
    task = replace(arm.tasks[0], title="Sums (world)")
    arms = [replace(arm, tasks=[task, replace(task, name="u", title="Products (world)")])]
    alone = replace(study, arms=arms, models=[], methods=[], seeds=[], runs=[], audits=[])
    report.build(alone, output=tmp_path / "report", fingerprint="0" * 12)
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "Sums</th>" in page
    # no reference answers it
    assert list(pd.read_csv(tmp_path / "report/tables/references-arithmetic.csv")["Products"].dropna()) == []
    assert "(world) in the titles of all tasks" in page


def test_a_share_has_the_interval_of_both_sides():
    first, second = [[1.0] * 60 + [0.0] * 40], [[1.0] * 80 + [0.0] * 20]
    share = stats.estimate_share([(first, second)])
    assert share["estimate"] == pytest.approx(0.75)
    assert 0.62 < share["low"] < 0.70 < 0.80 < share["high"] < 0.88
    # the same answers on both sides: nothing but the pseudo-examples moves the share
    same = stats.estimate_share([(second, second)])
    assert same["low"] == pytest.approx(1, abs=0.06)
    assert same["high"] == pytest.approx(1, abs=0.06)
    nothing = stats.estimate_share([(first, [[0.0] * 100])])
    assert nothing["estimate"] == float("inf")
