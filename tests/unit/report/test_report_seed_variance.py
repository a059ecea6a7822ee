"""What a report says of the variance between seeds and of clusters, and what a study's switch changes."""

from dataclasses import replace

import pytest

from pipeline.core.io import write_jsonl
from pipeline.data.rows import RawFile
from pipeline.params.datasets import ClusterKey
from pipeline.params.reading import parse_card, read_card
from pipeline.params.studies import StudyCard
from pipeline.prompts.write import write_prompts
from pipeline.report.accuracy import build_accuracy_table
from pipeline.report.comparisons import build_comparison_tables
from pipeline.report.data import Cell, Selection, read_report_data
from pipeline.study import Study
from pipeline.study.description.describe import describe_study
from tests.answered_study import list_rows
from tests.finished_study import make_small_study

SIZE = 200
# two seeds of three methods; those of the third differ
RIGHT = {"bare": [20], "lora": [120, 124], "series": [140, 137], "dora": [90, 190]}


def make_study(folder, **changes):
    results = [
        ("m", method, None if method == "bare" else seed, right)
        for method, counts in RIGHT.items()
        for seed, right in enumerate(counts)
    ]
    study = make_small_study(folder, results, size=SIZE)
    dora = replace(study.methods[0], name="dora", title="DoRA", card="dora")
    return replace(study, methods=[*study.methods, dora], **changes)


def width_of(study, method):
    data = read_report_data(study)
    estimate = data.estimate_accuracy(Cell("m", method, "arithmetic"), "t-strict")
    return estimate["high"] - estimate["low"]


def test_two_seeds_that_differ_have_a_usable_interval_and_are_named(tmp_path):
    study = make_study(tmp_path)
    data = read_report_data(study)
    caption = build_accuracy_table(data, data.sections[0]).caption
    assert "pooled over the methods of a model (2 to 3 degrees of freedom)" in caption
    assert "DoRA on LLaMA (Task, Macro average)" in caption
    assert "they say little about other seeds" not in caption
    tables = build_comparison_tables(data)
    for name in ("difference", "pairs"):
        assert "pooled over the methods" in tables[f"{name}-arithmetic-strict"].caption
    assert "70 to 82 % in simulations" in tables["pairs-arithmetic-strict"].caption
    own = replace(study, seed_variance="own")
    assert width_of(own, "dora") > 0.9
    assert width_of(study, "dora") < 0.75 * width_of(own, "dora")
    # the others are not widened by it
    assert width_of(study, "lora") < 0.2


def test_the_switch_takes_each_methods_own_seeds(tmp_path):
    data = read_report_data(make_study(tmp_path, seed_variance="own"))
    caption = build_accuracy_table(data, data.sections[0]).caption
    assert "pooled" not in caption
    assert "they say little about other seeds" in caption
    pairs = build_comparison_tables(data)["pairs-arithmetic-strict"].caption
    assert "pooled" not in pairs
    assert "only 25 to 75 % in simulations" in pairs


def test_methods_that_share_their_adapters_are_one_method_of_the_pool(tmp_path):
    study = make_study(tmp_path)
    twin = replace(study.methods[0], name="twin", title="Twin", card="twin")
    runs = [replace(run, method="twin") for run in study.runs if run.method == "lora"]
    data = read_report_data(replace(study, methods=[*study.methods, twin], runs=[*study.runs, *runs]))
    selection = Selection(("t-strict",))
    pools = [data.find_pool(Cell("m", method, "arithmetic"), selection) for method in ("lora", "twin")]
    assert pools[0] == pools[1]
    assert pools[0].methods == 2


def study_with(**changes):
    card = read_card("study", "quickstart").model_dump() | {"models": ["tiny-llama"], **changes}
    return Study("s", parse_card(StudyCard, card, where="s"))


def list_paths(study):
    return {stage: study.paths(stage) for stage in study.artifacts}


@pytest.mark.parametrize("choice", ["own", "pooled"])
def test_the_switch_renames_nothing_but_the_report(choice):
    plain, switched = list_paths(study_with()), list_paths(study_with(seed_variance=choice))
    assert {stage for stage in plain if plain[stage] != switched[stage]} == (
        {"report"} if choice == "own" else set()
    )


def test_seeds_are_pooled_where_a_method_has_fewer_than_five():
    def choice(**changes):
        return describe_study(study_with(**changes)).seed_variance

    assert choice() == "pooled"
    assert choice(seeds=[0, 1, 2, 3]) == "pooled"
    assert choice(seeds=[0, 1, 2, 3, 4]) == "own"
    assert choice(seeds=[0, 1, 2, 3, 4], seed_variance="pooled") == "pooled"


def with_clusters(study, folder, *, size=20):
    """The study with clusters of ``size`` questions about a passage; its prompts and raw rows as files."""
    raw, prompts = folder / "raw.jsonl", folder / "prompts.parquet"
    rows = [
        {"instruction": f"Is {n} so?", "input": "", "output": "", "answer": "true", "passage": n // size}
        for n in range(SIZE)
    ]
    write_jsonl(raw, rows)
    source = RawFile("t", "test", raw, "boolean")
    write_prompts([source], template="strict", output=prompts, limit=None, sample_seed=0)
    for run in study.runs:
        run.scores.write_text(run.scores.read_text().replace('"t/', '"t/test/'))
    (arm,) = study.arms
    task = replace(arm.tasks[0], prompts={"strict": prompts}, clusters=ClusterKey(field="passage"), raw=raw)
    return replace(study, arms=[replace(arm, tasks=[task])])


def test_a_single_cluster_as_of_a_small_limit_counts_as_independent_examples(tmp_path):
    study = make_study(tmp_path)
    (tmp_path / "clustered").mkdir()
    clustered = with_clusters(make_study(tmp_path / "clustered"), tmp_path / "clustered", size=SIZE)
    data = read_report_data(clustered)
    assert "clusters" not in build_accuracy_table(data, data.sections[0]).caption
    assert width_of(clustered, "lora") == width_of(study, "lora")


def test_clusters_of_a_card_widen_intervals_and_are_stated(tmp_path):
    study = make_study(tmp_path)
    (tmp_path / "clustered").mkdir()
    clustered = with_clusters(make_study(tmp_path / "clustered"), tmp_path / "clustered")
    data = read_report_data(clustered)
    report_text = build_accuracy_table(data, data.sections[0]).caption
    assert "belong together, also for a single run: Task 10 clusters." in report_text
    # the answers are right in the order of the examples, so whole passages are right or wrong
    for method in ("bare", "lora"):
        assert width_of(clustered, method) > 1.5 * width_of(study, method)
    p_values = [
        [
            row["p"]
            for row in list_rows(build_comparison_tables(read_report_data(each))["tests-arithmetic-strict"])
        ]
        for each in (study, clustered)
    ]
    assert p_values[0] != p_values[1]
