"""Examples that belong together: the rules that find them, and intervals that draw whole clusters."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.data.records import make_records
from pipeline.evaluate import stats
from pipeline.evaluate.clusters import accuracy_interval, cluster_by_rule, list_clusters
from pipeline.params.datasets import ClusterKey

SIZE = 10


def make_examples(texts, *, answer_form="number", answer="1"):
    rows = [{"instruction": text, "input": "", "output": "", "answer": answer} for text in texts]
    records = make_records(rows, task="t", split="test", answer_form=answer_form)
    return [{**record, "prompt": ""} for record in records]


def number_groups(clusters):
    """Return clusters as numbers in the order of their first examples."""
    numbers = {}
    return [numbers.setdefault(key, len(numbers)) for key in clusters]


def make_puzzle(sentence, first, second):
    request = "Please choose the correct answer to fill in the blank to complete the given sentence"
    options = f"Option1: {first} Option2: {second} Answer format: option1/option2"
    return f"{request}: {sentence}\n\n{options}"


def test_twins_have_the_same_options_and_nearly_the_same_words():
    texts = [
        make_puzzle("Ann was a better cook than Eve, so _ got the hard dishes.", "Ann", "Eve"),
        make_puzzle("Dan painted the vase and the urn with _ .", "vase", "urn"),
        make_puzzle("Ann was a better cook than Eve, so _ got the easy dishes.", "Eve", "Ann"),
        make_puzzle("Ann never told anybody why her sister Eve had left, and _ cried.", "Ann", "Eve"),
        make_puzzle("Ann was a better cook than Eve, so _ got the hard dishes.", "Ann", "Ida"),
    ]
    examples = make_examples(texts, answer_form="option", answer="option1")
    assert number_groups(cluster_by_rule(examples, "twins")) == [0, 1, 0, 2, 3]


def test_questions_that_differ_in_numbers_belong_together():
    texts = ["Tom has 3 pens. How many?", "Tom has 41 pens! How many?", "Tim has 3 pens. How many?"]
    assert number_groups(cluster_by_rule(make_examples(texts), "number-masked")) == [0, 0, 1]


def test_questions_about_one_story_belong_together():
    texts = [
        "Tom has 3 pens. He buys 2. How many has he?",
        "Tom has 5 pens. He buys 4. How many did he buy?",
        "Tom has 3 pens. How many has he?",
        "How many has he?",
    ]
    assert number_groups(cluster_by_rule(make_examples(texts), "opening")) == [0, 0, 1, 2]


def test_questions_that_share_most_of_their_words_are_alike_and_so_are_chains_of_them():
    texts = [
        "is all of australia in the same time zone?",
        "is the movie roman j israel based on a true story?",
        "is a time zone of europe the same time as another zone",
        "is all of the uk in the same time zone?",
        "roman j israel: is it based on the true story?",
        "is all the uk in another time zone?",
        "is the movie burlesque based on a true story?",
    ]
    # the last question has the form of the second, and the sixth is alike to the fourth alone
    assert number_groups(cluster_by_rule(make_examples(texts), "alike")) == [0, 1, 2, 0, 1, 0, 3]


def test_the_interval_of_a_single_run_draws_clusters_where_there_are_any(tmp_path):
    items = [{"id": f"t/test/{n}", "correct": n < 20} for n in range(40)]
    score = {"items": items, "low": 0.35, "high": 0.65}
    clusters = {item["id"]: number // SIZE for number, item in enumerate(items)}
    low, high = accuracy_interval(score, clusters)
    assert low < 0.35 < 0.65 < high
    assert accuracy_interval(score, None) == (0.35, 0.65)
    # all in one cluster: they count as independent
    assert accuracy_interval(score, dict.fromkeys(clusters, 0)) == (0.35, 0.65)


def test_options_are_no_part_of_the_question():
    texts = ["Tom has 3 pens? (A) 3 (B) many", "Tom has 4 pens? (A) none (B) 5"]
    examples = make_examples(texts, answer_form="letter", answer="A")
    assert number_groups(cluster_by_rule(examples, "number-masked")) == [0, 0]


def write_raw(folder: Path, rows) -> Path:
    path = folder / "raw.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_field_of_the_raw_rows_says_what_belongs_together(tmp_path):
    examples = make_examples(["a?", "b?", "c?"])
    raw = write_raw(tmp_path, [{"passage": "x"}, {"passage": "y"}, {"passage": "x"}])
    # a study's limit leaves rows out
    chosen = [examples[0], examples[2], examples[1]]
    clusters = list_clusters(chosen, ClusterKey(field="passage"), task="t", raw=raw)
    assert number_groups(clusters) == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "key", "message"),
    [
        ([{"p": 1}, {}, {"p": 2}], {"field": "p"}, r"raw.jsonl: row 1 has no field 'p'.*t.yaml"),
        (None, {"field": "p"}, r"raw.jsonl: missing.*t.yaml: clusters"),
    ],
)
def test_clusters_that_say_nothing_are_refused_in_one_line(tmp_path, rows, key, message):
    raw = tmp_path / "raw.jsonl" if rows is None else write_raw(tmp_path, rows)
    with pytest.raises(UserError, match=message) as caught:
        list_clusters(make_examples(["1?", "2?", "3?"]), ClusterKey(**key), task="t", raw=raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [{}, {"rule": "twins", "field": "x"}, {"rule": "sizes"}])
def test_a_card_names_a_rule_or_a_field(key):
    with pytest.raises(ValueError, match=r"either rule or field|rule"):
        ClusterKey(**key)


@pytest.mark.parametrize(
    ("folder", "form", "rule", "shared_rows", "clusters"),
    [
        ("winogrande", "option", "twins", 568, 983),
        ("MultiArith", "number", "number-masked", 319, 375),
        ("SVAMP", "number", "opening", 551, 650),
        ("boolq", "boolean", "alike", 461, 2998),
        # no rule finds any, so its card names none
        ("AQuA", "letter", "alike", 0, 254),
    ],
)
def test_the_rules_of_the_cards_find_the_clusters_of_the_test_sets(
    shared, folder, form, rule, shared_rows, clusters
):
    with gzip.open(shared / "data/real" / folder / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = make_records(map(json.loads, lines), task="t", split="test", answer_form=form)
        sizes = Counter(cluster_by_rule([{**record, "prompt": ""} for record in records], rule)).values()
    assert sum(size for size in sizes if size > 1) == shared_rows
    assert len(sizes) == clusters


def simulate_clusters(rng, *, seeds, n=400):
    """Answers that are mostly right or wrong for a whole cluster; half of the clusters are right."""
    hard = rng.normal(0, 3, size=n // SIZE).repeat(SIZE)
    return (hard + rng.normal(size=(seeds, n)) > 0) * 1.0


@pytest.mark.parametrize("seeds", [1, 3])
def test_drawing_clusters_restores_the_coverage(seeds):
    rng, covered, keys = np.random.default_rng(30), np.zeros(2), [number // SIZE for number in range(400)]
    for _ in range(100):
        runs = simulate_clusters(rng, seeds=seeds)
        for kind, clusters in enumerate((None, keys)):
            result = stats.estimate_accuracy(runs, clusters=clusters, draws=500)
            covered[kind] += result["low"] <= 0.5 <= result["high"]
    assert covered[0] < 70
    assert covered[1] >= 90


def test_drawing_clusters_restores_the_level_of_a_test():
    rng, small, keys = np.random.default_rng(31), np.zeros(2), [number // SIZE for number in range(400)]
    for _ in range(100):
        first, second = simulate_clusters(rng, seeds=2), simulate_clusters(rng, seeds=1)
        for kind, clusters in enumerate((None, keys)):
            result = stats.estimate_difference(first, second, clusters=clusters, draws=500)
            small[kind] += result["p_value"] < 0.05
    assert small[0] > 30
    assert small[1] <= 10


def test_clusters_of_one_example_change_nothing():
    rng = np.random.default_rng(32)
    runs, base = simulate_clusters(rng, seeds=2), simulate_clusters(rng, seeds=1)
    alone = list(range(400))
    assert stats.estimate_accuracy(runs, clusters=alone) == stats.estimate_accuracy(runs)
    assert stats.estimate_difference(runs, base, clusters=alone) == stats.estimate_difference(runs, base)
    assert stats.estimate_accuracy(base, clusters=alone) == stats.estimate_accuracy(base)


def test_single_runs_on_clusters_have_no_exact_test():
    rng, keys = np.random.default_rng(33), [number // SIZE for number in range(400)]
    first, second = simulate_clusters(rng, seeds=1), simulate_clusters(rng, seeds=1)
    alone = stats.estimate_difference(first, second)
    together = stats.estimate_difference(first, second, clusters=keys)
    assert alone["p_value"] == stats.mcnemar_p_value(first[0], second[0])
    assert together["p_value"] > alone["p_value"]
    assert "continuity" not in together
    assert together["freedom"] == pytest.approx(39, abs=1)


def test_there_is_a_key_for_each_example():
    with pytest.raises(ValueError, match="2 cluster keys for 3 examples"):
        stats.estimate_accuracy([[1, 0, 1]], clusters=["a", "b"])
