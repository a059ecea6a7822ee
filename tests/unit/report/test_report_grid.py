"""The report of a study whose models do not all have the same methods."""

from dataclasses import replace

import pandas as pd

from pipeline import report
from pipeline.core.io import read_json
from pipeline.study.description import FigureDescription, PointDescription
from tests.finished_study import make_small_study

# "series" belongs to one of the two models
RESULTS = (
    ("m", "bare", None, 1),
    ("m", "lora", 0, 4),
    ("m", "series", 0, 2),
    ("n", "bare", None, 2),
    ("n", "lora", 0, 3),
)


def build_report(study, folder):
    report.build(study, output=folder / "report", fingerprint="abc")
    return folder / "report"


def list_rows(folder, name):
    table = pd.read_csv(folder / f"tables/{name}.csv")
    return [tuple(row) for row in table[["Model", "Method"]].itertuples(index=False)]


def test_a_method_has_rows_under_its_own_models_alone(tmp_path):
    folder = build_report(make_small_study(tmp_path, RESULTS), tmp_path)
    trained = [("LLaMA", "LoRA"), ("LLaMA", "Series"), ("BLOOM", "LoRA")]
    everything = [("LLaMA", "no adapter"), *trained[:2], ("BLOOM", "no adapter"), trained[2]]
    assert list_rows(folder, "accuracy-arithmetic-strict")[:5] == everything
    assert list_rows(folder, "cost") == everything
    assert list_rows(folder, "outcomes") == everything
    assert list_rows(folder, "without-arithmetic-strict") == everything
    assert list_rows(folder, "difference-arithmetic-strict") == trained
    # of LLaMA alone, which has two methods
    assert list_rows(folder, "pairs-arithmetic-strict") == [("LLaMA", "LoRA")]
    metrics = read_json(folder / "metrics.json")["strict"]
    assert {model: list(methods) for model, methods in metrics.items()} == {
        "m": ["bare", "lora", "series"],
        "n": ["bare", "lora"],
    }


def test_a_first_model_without_bare_base_and_first_method_has_a_report(tmp_path):
    results = (("m", "series", 0, 2), ("n", "lora", 0, 3))
    folder = build_report(make_small_study(tmp_path, results), tmp_path)
    assert list_rows(folder, "accuracy-arithmetic-strict")[:2] == [("LLaMA", "Series"), ("BLOOM", "LoRA")]
    assert not (folder / "tables/pairs-arithmetic-strict.csv").exists()


def test_a_setting_is_drawn_for_the_models_that_have_it(tmp_path):
    points = [
        PointDescription(method="lora", card="lora", line="LoRA", field="r", setting=2),
        PointDescription(method="series", card="lora", line="LoRA", field="r", setting=4),
    ]
    figure = FigureDescription("Accuracy against the rank", {"r": "rank"}, points)
    study = replace(make_small_study(tmp_path, RESULTS), figure=figure)
    settings = pd.read_csv(build_report(study, tmp_path) / "plots/settings.csv")
    assert list(zip(settings.model, settings.setting, strict=True)) == [("m", 2), ("m", 4), ("n", 2)]
