"""Whether the order of methods holds: reversals under other conditions, and the partial order after correction."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline import report
from pipeline.report.data import read_report_data
from pipeline.report.stability.order import place_methods
from pipeline.report.stability.reversals import MethodPair, count_lasting_orders, list_axis_changes
from tests.finished_study import make_small_study


def make_results(right: dict[tuple[str, int], int]) -> list[tuple[str, str, int | None, int]]:
    """Return the runs of one model by method and seed, each with its number of right answers of 40."""
    return [
        ("m", "bare", None, 0),
        *(("m", method, seed, count) for (method, seed), count in right.items()),
    ]


def read_changes(study):
    """Return the changes of a study of one model by axis."""
    return {entry.axis: entry for entry in list_axis_changes(read_report_data(study))}


# right answers of LoRA and Series with seeds 0, 1 and 2 -> how many of the three changes of seed reverse their order
@pytest.mark.parametrize(
    ("lora", "series", "reversals"),
    [
        ((30, 30, 30), (20, 20, 20), 0),
        ((30, 10, 30), (20, 20, 20), 2),
        ((30, 20, 30), (20, 20, 20), 0),
        ((10, 10, 10), (20, 20, 20), 0),
    ],
    ids=["always ahead", "behind once", "equal once", "always behind"],
)
def test_a_reversal_needs_both_orders(tmp_path, lora, series, reversals):
    counts = {("lora", seed): count for seed, count in enumerate(lora)}
    counts |= {("series", seed): count for seed, count in enumerate(series)}
    study = make_small_study(tmp_path, make_results(counts), size=40)
    entry = read_changes(study)["seed"]
    assert sum(change.is_reversed for change in entry.changes) == reversals
    assert len(entry.changes) == 3
    data = read_report_data(study)
    assert count_lasting_orders(data, study.models[0]) == (int(reversals == 0), 1)


def test_only_pairs_that_the_test_separates_count_as_separated(tmp_path):
    clear = {("lora", 0): 40, ("lora", 1): 39, ("series", 0): 2, ("series", 1): 1}
    entry = read_changes(make_small_study(tmp_path / "clear", make_results(clear), size=40))["seed"]
    assert entry.count(separated=True) == (0, 1)
    assert entry.count(separated=False) == (0, 0)
    close = {("lora", 0): 20, ("lora", 1): 22, ("series", 0): 21, ("series", 1): 21}
    entry = read_changes(make_small_study(tmp_path / "close", make_results(close), size=40))["seed"]
    assert entry.count(separated=True) == (0, 0)
    assert entry.count(separated=False) == (1, 1)


def add_protocol(study, right: dict[tuple[str, int], int], *, size: int):
    """Return a study that is also evaluated under the protocol "paper", with these numbers of right answers."""
    for run in study.runs:
        scores = json.loads(run.scores.read_text())
        task = scores["tasks"]["t-strict"]
        count = right.get((run.method, run.seed), 0)
        items = [{**item, "correct": number < count} for number, item in enumerate(task["items"])]
        scores["tasks"]["t-paper"] = {**task, "items": items, "accuracy": count / size}
        run.scores.write_text(json.dumps(scores))
        (run.answers / "t-paper.jsonl").write_bytes((run.answers / "t-strict.jsonl").read_bytes())
    [arm] = study.arms
    tasks = [replace(task, protocols=["strict", "paper"]) for task in arm.tasks]
    return replace(study, arms=[replace(arm, tasks=tasks)], protocols=["strict", "paper"])


def test_a_protocol_is_compared_on_the_same_adapters(tmp_path):
    counts = {("lora", 0): 30, ("lora", 1): 10, ("series", 0): 20, ("series", 1): 20}
    study = make_small_study(tmp_path, make_results(counts), size=40)
    # under the other protocol the order of seed 0 reverses, and that of seed 1 stays
    study = add_protocol(study, {**counts, ("lora", 0): 5}, size=40)
    changes = read_changes(study)
    assert [change.is_reversed for change in changes["protocol"].changes] == [True, False]
    assert changes["protocol"].changes[0].pair == MethodPair("lora", "series")
    # a comparison protocol has changes of seed too
    assert len(changes["seed"].changes) == 2


def test_arms_are_compared_only_on_the_same_tasks(tmp_path):
    counts = {("lora", 0): 30, ("lora", 1): 30, ("series", 0): 20, ("series", 1): 20}
    study = make_small_study(tmp_path / "a", make_results(counts), size=40)
    swapped = {("lora", 0): 10, ("lora", 1): 35, ("series", 0): 20, ("series", 1): 20}
    other = make_small_study(tmp_path / "b", make_results(swapped), size=40)
    [arm] = study.arms
    runs = [
        replace(run, arm="masked", fingerprint=f"x{run.fingerprint}") for run in other.runs if run.adapter
    ]

    def join(second):
        return replace(study, arms=[arm, second], runs=[*study.runs, *runs])

    masked = replace(arm, name="masked")
    assert [c.is_reversed for c in read_changes(join(masked))["arm"].changes] == [True, False]
    assert "arm" not in read_changes(join(replace(masked, training_set="z")))
    # other tasks are another question, not another training for the same
    for run in runs:
        scores = json.loads(run.scores.read_text())
        run.scores.write_text(json.dumps({"tasks": {"u-strict": scores["tasks"]["t-strict"]}}))
    [task] = arm.tasks
    assert "arm" not in read_changes(join(replace(masked, tasks=[replace(task, name="u")])))


@pytest.mark.parametrize(
    ("separated", "layers", "lines"),
    [
        ([], {"a": 0, "b": 0, "c": 0}, []),
        (["ab", "ac", "bc"], {"a": 0, "b": 1, "c": 2}, [("a", "b"), ("b", "c")]),
        (["ac"], {"a": 0, "b": 0, "c": 1}, [("a", "c")]),
        (["ac", "bc"], {"a": 0, "b": 0, "c": 1}, [("a", "c"), ("b", "c")]),
    ],
    ids=["none apart", "a chain", "first from last", "two ties ahead"],
)
def test_lines_lead_from_the_methods_that_are_ahead(separated, layers, lines):
    nodes, drawn = place_methods("abc", [frozenset(pair) for pair in separated])
    assert {node.method: node.layer for node in nodes} == layers
    assert drawn == lines


def build_report(folder: Path, counts: dict[tuple[str, int], int]) -> Path:
    study = make_small_study(folder, make_results(counts), size=40)
    report.build(study, output=folder / "report", fingerprint="abc")
    return folder / "report"


def test_the_report_has_the_table_and_the_figure(tmp_path):
    counts = {("lora", 0): 30, ("lora", 1): 10, ("series", 0): 20, ("series", 1): 20}
    folder = build_report(tmp_path, counts)
    [row] = pd.read_csv(folder / "tables/stability.csv").to_dict("records")
    assert row["What changes"] == "another seed"
    assert row["Reversed, not separated"] == "1 of 1 (100.0 %)"
    assert row["Reversed, separated"] == "none"
    assert (folder / "figures/order-arithmetic-strict.svg").is_file()
    page = (folder / "index.html").read_text()
    assert 'id="section-stability"' in page
    assert 'href="#section-stability"' in page


def test_single_seeds_have_no_order(tmp_path):
    folder = build_report(tmp_path, {("lora", 0): 30, ("series", 0): 20})
    assert not (folder / "tables/stability.csv").exists()
    assert not (folder / "figures/order-arithmetic-strict.svg").exists()
    assert "section-stability" not in (folder / "index.html").read_text()
