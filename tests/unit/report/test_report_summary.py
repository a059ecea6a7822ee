"""The first screen of a report, results.csv, and the sections on settings and provenance."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import report
from pipeline.evaluate.stats import wilson_interval
from pipeline.report.data import read_report_data
from pipeline.report.summary import summarize
from pipeline.report.summary.settings import list_training_settings
from pipeline.report.titles import find_common_note
from pipeline.study import load_study
from pipeline.study.description import SourceDescription, StudyDescription
from pipeline.study.description.describe import describe_report, describe_study
from tests.finished_study import make_small_study, write_file

SIZE = 40
# LoRA and Series answer the same questions right, far more than the bare base
RESULTS = [
    ("m", "bare", None, 1),
    *(("m", "lora", seed, 30 + seed) for seed in (0, 1)),
    *(("m", "series", seed, 30 + seed) for seed in (0, 1)),
]
NUMBERS = ["seeds", "n", "value", "low", "high", "chance", "trainable_parameters", "seconds", "memory_gib"]
RUN = {
    "seconds": 90.0,
    "peak_memory_gib": 0.5,
    "ended": "2026-05-04T03:02:01+00:00",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "device": "cpu",
    "processor": "x86_64",
    "cores": 4,
    "platform": "Linux-6",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "peft": "0.21.2"},
}
SOURCES = (
    SourceDescription("m", "LLaMA", "base model", "", "made here", made_here=True),
    SourceDescription("s", "S", "training set", "MIT", "arXiv:1", made_here=True),
    SourceDescription("t", "Task", "task", "", "", made_here=True),
)


def make_recorded_study(folder: Path, results=RESULTS) -> StudyDescription:
    """A study whose manifests and run.json have what the stages write."""
    study = make_small_study(folder, results, size=SIZE)
    for run in study.runs:
        write_file(run.answers / "run.json", RUN)
        if run.adapter:
            write_file(run.adapter / "run.json", RUN)
            method = {"kind": "peft", "r": 8, "target_modules": ["q", "v"], "bias": None}
            training = {
                "learning_rate": 3e-4,
                "batch_size": 16,
                "warmup_steps": 100,
                "lr_scheduler": "linear",
            }
            manifest = {"params": {"method": method, "training": training}, "steps": 300}
            write_file(
                run.adapter / "manifest.json",
                {**manifest, "trainable_parameters": 1000, "all_parameters": 100_000},
            )
    return replace(study, sources=SOURCES)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyDescription:
    return make_recorded_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def built(study, tmp_path_factory) -> Path:
    """The folder of the study's report."""
    folder = tmp_path_factory.mktemp("report") / "small"
    report.build(study, output=folder, fingerprint="abc")
    return folder


@pytest.fixture(scope="module")
def results(built) -> pd.DataFrame:
    return pd.read_csv(built / "results.csv")


def test_pandas_reads_numbers_from_the_long_table(results):
    assert all(pd.api.types.is_numeric_dtype(results[column]) for column in NUMBERS)
    assert not results.value.isna().any()
    assert results.value.between(0, 1).all()
    assert not results.duplicated(["model", "method", "arm", "task", "protocol", "metric", "seed"]).any()
    bare = results[results.method == "bare"]
    assert set(bare.seed) == {"mean"}
    assert bare.trainable_parameters.isna().all()
    adapters = results[results.method != "bare"]
    assert set(adapters.seed) == {"mean", "0", "1"}
    assert set(adapters.trainable_parameters) == {1000}
    assert set(adapters.seconds) == {90.0}
    assert set(adapters.memory_gib) == {0.5}


def test_the_long_table_has_the_numbers_of_the_score_files_and_of_the_tables(study, built, results):
    accuracy = results[results.metric == "accuracy"].set_index(["method", "task", "seed"])
    for run in study.runs:
        score = json.loads(run.scores.read_text())["tasks"]["t-strict"]
        row = accuracy.loc[run.method, "t", "mean" if run.seed is None else str(run.seed)]
        low, high = wilson_interval(round(score["accuracy"] * SIZE), SIZE)
        assert (row.value, row.n, row.chance) == (score["accuracy"], score["n"], score["chance"])
        assert (row.low, row.high) == pytest.approx((low, high), abs=1e-6)
    table = pd.read_csv(built / "tables/accuracy-arithmetic-strict.csv").set_index("Method")
    titles = {"bare": "no adapter", "lora": "LoRA", "series": "Series"}
    for method, title in titles.items():
        for task, column in (("t", "Task"), ("macro average", "Macro average")):
            row = accuracy.loc[method, task, "mean"]
            value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
            printed = next(table.loc[title, name] for name in table.columns if name.startswith(column))
            assert printed == f"{value} [{low}, {high}]"
    metrics = json.loads((built / "metrics.json").read_text())["strict"]["m"]
    for method in titles:
        assert metrics[method]["t"] == accuracy.loc[method, "t", "mean"].value
        assert metrics[method]["average arithmetic"] == accuracy.loc[method, "macro average", "mean"].value
    assert accuracy.loc["lora", "t", "mean"].value == np.mean([30 / SIZE, 31 / SIZE])


def test_methods_that_no_test_separates_are_ties(study):
    summary = summarize(read_report_data(study))
    verdicts = {row.method: row.cells[0].verdict for row in summary.headline.rows}
    assert verdicts == {"no adapter": "", "LoRA": "tie", "Series": "tie"}
    gains, ranks, limits = summary.conclusions
    assert gains.startswith("All 2 comparisons of a method with its bare base show a gain")
    assert ranks == "Ties, without a winner: LoRA and Series (LLaMA, arithmetic)."
    assert "Methods that tie are not shown to be equal" in limits


def test_a_method_that_every_test_separates_is_the_best(tmp_path):
    results = [row if row[1] != "series" else (*row[:3], 8) for row in RESULTS]
    summary = summarize(read_report_data(make_recorded_study(tmp_path, results)))
    verdicts = {row.method: row.cells[0].verdict for row in summary.headline.rows}
    assert verdicts == {"no adapter": "", "LoRA": "best", "Series": ""}
    assert "Significantly better than every other method: LoRA (LLaMA, arithmetic)." in summary.conclusions
    assert not any("tie" in sentence for sentence in summary.conclusions)


@pytest.mark.parametrize(("bare", "verb"), [(1, "better"), (38, "worse")])
def test_a_single_method_is_compared_with_its_bare_base_alone(bare, verb, tmp_path):
    results = [("m", "bare", None, bare), ("m", "lora", 0, 20), ("m", "lora", 1, 20)]
    study = make_recorded_study(tmp_path, results)
    alone = replace(study, methods=[method for method in study.methods if method.name == "lora"])
    summary = summarize(read_report_data(alone))
    verdicts = {row.method: row.cells[0].verdict for row in summary.headline.rows}
    winner = "LoRA" if verb == "better" else "no adapter"
    assert {method for method, verdict in verdicts.items() if verdict == "best"} == {winner}
    assert f"Significantly {verb} than its bare base: LoRA (LLaMA, arithmetic)." in summary.conclusions
    assert "Bold: significantly better than the other row of its column" in summary.headline.caption
    assert "every other method" not in " ".join(summary.conclusions) + summary.headline.caption


def test_with_one_seed_nothing_is_separated(tmp_path):
    results = [
        (model, method, seed, 40 if method == "lora" else 2)
        for model, method, seed, _ in RESULTS
        if seed != 1
    ]
    summary = summarize(read_report_data(make_recorded_study(tmp_path, results)))
    assert {cell.verdict for row in summary.headline.rows for cell in row.cells} == {""}
    assert "about these runs alone" in summary.conclusions[0]
    assert summary.conclusions[1].startswith("No method can be called better than another")
    assert "gain" not in " ".join(summary.conclusions)
    assert "Bold" not in summary.headline.caption


def test_a_leader_of_many_methods_is_tested_against_each_of_them(tmp_path):
    results = [row if row[1] != "series" else (*row[:3], 8) for row in RESULTS]
    study = make_recorded_study(tmp_path, results)
    # as in a study with more methods than a table lists pairs of
    names = [f"copy{number}" for number in range(8)]
    runs = [replace(run, method=name) for name in names for run in study.runs if run.method == "series"]
    methods = [*study.methods, *(replace(study.methods[1], name=name, title=name) for name in names)]
    wide = replace(study, methods=methods, runs=[*study.runs, *runs])
    rows = summarize(read_report_data(wide)).headline.rows
    assert {row.method: row.cells[0].verdict for row in rows if row.cells[0].verdict} == {"LoRA": "best"}


def test_headline_files_mark_the_best_and_the_ties(built, tmp_path):
    markdown, latex = ((built / f"tables/headline.{suffix}").read_text() for suffix in ("md", "tex"))
    assert "| LoRA | 76.2 [" in markdown
    assert "] = |" in markdown
    assert r"\toprule" in latex
    assert r"\caption{Macro average" in latex
    assert r"\label{tab:headline-small}" in latex
    best = make_recorded_study(tmp_path, [row if row[1] != "series" else (*row[:3], 8) for row in RESULTS])
    report.build(best, output=tmp_path / "best", fingerprint="abc")
    assert "| LoRA | **76.2** [" in (tmp_path / "best/tables/headline.md").read_text()
    assert r"\textbf{76.2}$_{" in (tmp_path / "best/tables/headline.tex").read_text()


def test_every_latex_table_has_rules_of_booktabs_a_caption_and_a_label(built):
    tables = sorted((built / "tables").glob("*.tex"))
    assert len(tables) > 5
    for path in tables:
        text = path.read_text()
        for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\label{tab:"):
            assert part in text, f"{path.name}: {part}"
        assert r"\hline" not in text


def test_settings_are_those_of_the_manifests(study, built):
    rows = list_training_settings(read_report_data(study))
    assert [(row.model, row.method, row.arms) for row in rows] == [
        ("LLaMA", "LoRA", ("arithmetic",)),
        ("LLaMA", "Series", ("arithmetic",)),
    ]
    (first, _) = rows
    assert (first.learning_rate, first.batch_size, first.steps, first.warmup_steps) == (3e-4, 16, 300, 100)
    assert first.own == (("r", "8"), ("target_modules", "[q, v]"))
    assert (first.trainable_parameters, first.share) == (1000, 0.01)
    table = pd.read_csv(built / "tables/settings.csv")
    assert list(table["Learning rate"]) == [3e-4, 3e-4]
    # no run records them
    assert "Epochs" not in table


def test_the_page_has_headline_settings_and_provenance(built):
    page = (built / "index.html").read_text()
    for part in ('id="headline"', 'id="section-settings"', 'id="section-provenance"', 'id="sources"'):
        assert part in page
    for text in (
        "0123456789abcdef0123456789abcdef01234567, clean",
        "torch 2.13.0",
        "arXiv:2304.01933",
        "MIT",
    ):
        assert text in page
    assert "python -m pipeline verify --study small" in page
    assert "Newest run: 2026-05-04" in page


def test_runs_of_several_commits_are_counted(tmp_path):
    study = make_recorded_study(tmp_path)
    write_file(study.runs[0].answers / "run.json", {**RUN, "git_commit": "f" * 40, "git_dirty": True})
    facts = {fact.name: fact.values for fact in summarize(read_report_data(study)).facts}
    assert facts["Commit"][1] == f"{'f' * 40}, with uncommitted changes (1 of 9 jobs)"
    # no single commit rebuilds it
    assert facts["Rebuild"] == ("snakemake --cores all --config study=small",)


def test_commands_make_the_same_number_of_seeds(tmp_path):
    """The study's file has more, and without the number all of them would be trained."""
    study = replace(make_recorded_study(tmp_path), seed_count=2)
    facts = {fact.name: fact.values[0] for fact in summarize(read_report_data(study)).facts}
    assert facts["Rebuild"].endswith("snakemake --cores all --config study=small seeds=2")
    assert facts["Verify"] == "python -m pipeline verify --study small --seeds 2"
    assert facts["Reproduce a run"].startswith("python -m pipeline reproduce --study small --seeds 2 ")
    assert describe_study(load_study("quickstart", seeds=1)).seed_count == 1


def test_a_report_of_bare_bases_alone_has_no_settings(tmp_path):
    study = make_small_study(tmp_path, [RESULTS[0]], size=SIZE)
    report.build(replace(study, methods=[], seeds=[0]), output=tmp_path / "bare", fingerprint="abc")
    page = (tmp_path / "bare/index.html").read_text()
    assert "section-settings" not in page
    assert 'id="headline"' in page
    assert not (tmp_path / "bare/tables/settings.csv").exists()


def test_what_no_run_records_is_left_out(tmp_path):
    summary = summarize(read_report_data(make_small_study(tmp_path)))
    assert summary.newest.date == ""
    assert {"Commit", "Machine", "Packages"}.isdisjoint(fact.name for fact in summary.facts)


def test_a_study_of_made_models_and_data_says_what_it_is_not(study, built):
    summary = summarize(read_report_data(study))
    assert "Its numbers say nothing about large language models." in summary.limits
    assert "(0.1 million parameters)" in summary.limits
    assert "repeated wording" in summary.repetition
    real = [replace(source, made_here=False) for source in SOURCES]
    summary = summarize(read_report_data(replace(study, sources=real)))
    assert (summary.limits, summary.repetition) == ("", "")
    assert "The training sets contain test questions of 1 of 1 tasks" in summary.conclusions[-1]
    page = (built / "index.html").read_text()
    assert page.index("wording that recurs in the small world") < page.index(
        '<table id="accuracy-arithmetic-strict"'
    )
    assert page.count("wording that recurs") == 1
    assert page.index("repeated wording") < page.index('<table id="contamination"')


def test_sources_come_from_the_cards():
    made, released = (describe_study(load_study(name)).sources for name in ("quickstart", "paper-math"))
    assert {source.role for source in made} == {"base model", "training set", "task"}
    assert all(source.made_here for source in made)
    assert not any(source.made_here for source in released)
    (gsm8k,) = (source for source in released if source.name == "gsm8k")
    assert (gsm8k.role, gsm8k.citation) == ("task", "arXiv:2110.14168")
    assert gsm8k.licence.startswith("MIT")


def test_the_sources_are_part_of_a_reports_identity():
    assert "sources" in describe_report(load_study("quickstart"))


@pytest.mark.parametrize(
    ("titles", "note"),
    [
        (["A (tiny)", "B (tiny)"], "tiny"),
        (["A (tiny)", "B"], ""),
        (["A", "B"], ""),
        (["A (1)", "B (2)"], ""),
        (["A (tiny)", "A (tiny)"], ""),
    ],
)
def test_an_end_that_all_titles_share_is_said_once(titles, note):
    assert find_common_note(titles) == note
