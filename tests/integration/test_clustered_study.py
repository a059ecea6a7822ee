"""Where a card says which examples belong together, every interval and test of single runs draws them together."""

import pytest

from pipeline.commands.compare.compare import compare_runs, print_comparison
from pipeline.commands.share.model_card import _score_rows
from pipeline.core.io import read_json, read_jsonl, write_json, write_jsonl
from pipeline.evaluate import stats
from pipeline.params.reading import read_card
from pipeline.prompts.write import read_prompts
from pipeline.results.mlflow.entry import RunFiles
from pipeline.results.mlflow.values import list_result_metrics
from pipeline.results.scores.clusters import find_clusters
from pipeline.study import load_study

TASK = "world-addsub-strict"


@pytest.fixture
def study(project):
    """The study 'small', with a field of the rows of world-addsub that says which of them belong together."""
    card = project / "params/datasets/world-addsub.yaml"
    card.write_text(card.read_text() + "clusters: {field: story}\n")
    read_card.cache_clear()
    study = load_study()
    raw = study.raw("world-addsub", "test").path
    chosen = [int(row["id"].rpartition("/")[2]) for row in read_prompts(list_examples(study))]
    stories = {number: place // 2 for place, number in enumerate(chosen)}
    write_jsonl(
        raw, [{**row, "story": stories.get(number, -1)} for number, row in enumerate(read_jsonl(raw))]
    )
    return study


def list_examples(study):
    """Return the prompts file of the task."""
    return next(task for task in study.tasks(study.runs[0]) if task.name == TASK).prompts.path


def set_marks(study, run, marks):
    """Make a run's answers to the task right (1) or wrong; return its score."""
    path = study.scores(run).path
    content = read_json(path)
    score = content["tasks"][TASK]
    for item, mark in zip(score["items"], marks, strict=True):
        item["correct"] = mark == "1"
    low, high = stats.wilson_interval(marks.count("1"), len(marks))
    score |= {
        "correct": marks.count("1"),
        "accuracy": marks.count("1") / len(marks),
        "low": low,
        "high": high,
    }
    write_json(path, content)
    return score


def test_single_runs_draw_the_clusters_of_the_card(study, capsys):
    first, second = (run for run in study.runs if run.method in ("lora", "series"))
    keys, marks = [0, 0, 1, 1, 2, 2], "111100"
    score = set_marks(study, first, marks)
    set_marks(study, second, "0" * len(keys))
    tables = [[float(mark) for mark in marks]], [[0.0] * len(keys)]
    # compare
    comparison = compare_runs((study, first), (study, second), protocol="strict")
    rows = {row["task"]: row for row in comparison["comparisons"]}
    expected = stats.estimate_difference(*tables, clusters=keys)
    row = rows["world-addsub"]
    assert (row["n"], row["clusters"]) == (len(keys), len(set(keys)))
    assert (row["low"], row["high"], row["p_value"]) == (
        expected["low"],
        expected["high"],
        expected["p_value"],
    )
    assert row["p_value"] != stats.estimate_difference(*tables)["p_value"]
    assert rows["world-aqua"]["clusters"] is None
    print_comparison(comparison, limit=0)
    assert f"{len(keys)} ({len(set(keys))})" in capsys.readouterr().out
    # MLflow and model cards
    interval = stats.estimate_accuracy(tables[0], clusters=keys)
    assert (interval["low"], interval["high"]) != (score["low"], score["high"])
    files = RunFiles(
        run_info=study.scores(first).path,
        scores=study.scores(first).path,
        answers=study.answers(first).path,
        clusters=find_clusters(study, first),
    )
    logged = {value.key: value.value for value in list_result_metrics(files, {})}
    assert logged[f"accuracy_low/{TASK}"] == interval["low"]
    assert logged[f"accuracy_high/{TASK}"] == interval["high"]
    (listed,) = (
        row
        for row in _score_rows(study, first)
        if (row["task"], row["protocol"]) == ("world-addsub", "strict")
    )
    assert (listed["low"], listed["high"]) == (interval["low"], interval["high"])
