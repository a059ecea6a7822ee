"""data/README.md is up to date and complete, and its counts of leaks equal those of the real data."""

from pathlib import Path

import pytest

from pipeline.audit import find_matches, find_repeats
from pipeline.audit.questions import question_text
from pipeline.commands.look import datasets
from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.data.fetch import fetch_split
from pipeline.data.records import make_records
from pipeline.params.datasets import Dataset
from pipeline.params.reading import PARAMS, parse_card, read_card
from tests.conftest import ROOT

TRAINING_SETS = [
    *("gsm8k", "mawps", "mawps-single", "math_data", "boolq", "piqa", "social_i_qa", "winogrande"),
    *("arc-easy", "arc-challenge", "openbookqa"),
]
TESTS = [
    *("multiarith", "gsm8k", "addsub", "aqua", "singleeq", "svamp", "mawps", "mathqa", "boolq", "piqa"),
    *("social_i_qa", "hellaswag-partial", "winogrande", "arc-easy", "arc-challenge", "openbookqa"),
]


def test_the_readme_of_the_data_is_up_to_date_with_the_cards():
    assert (ROOT / datasets.PATH).read_text() == datasets.data_readme(), (
        "stale: run python -m pipeline datasets --write"
    )


def test_the_readme_lists_every_card():
    text = datasets.data_readme()
    missing = [path.stem for path in (PARAMS / "datasets").glob("*.yaml") if f"`{path.stem}`" not in text]
    assert missing == []


def test_the_readme_counts_the_questions_of_a_test_in_each_training_set():
    text = datasets.data_readme()
    section = text[text.index("### ARC-c") : text.index("### ARC-e")]
    assert "`arc-challenge` 0 (without options 7), `arc-easy` 0 (without options 2)" in section
    section = text[text.index("### MAWPS (") : text.index("### MAWPS-single")]
    assert "`mawps-single` 176, `math_data` 134, `mawps` 28; 8 of 11 counted sets have none" in section


def read_questions(shared: Path, name: str, split: str, folder: Path) -> list[tuple[str, str]]:
    card, output = read_card("datasets", name), folder / f"{name}-{split}.jsonl"
    split_card = card.splits[split].model_dump()
    fetch_split(name, split, split_card, output=output, data_root=shared / "data" / "real")
    records = make_records(read_jsonl(output), task=name, split=split, answer_form=str(card.answer_form))
    return [(row["id"], question_text(row)) for row in records]


@pytest.fixture(scope="module")
def questions_of_tests(shared, tmp_path_factory) -> list[tuple[str, str]]:
    """The questions of all tests, each with the name of its test."""
    folder = tmp_path_factory.mktemp("tests")
    return [(name, text) for name in TESTS for _, text in read_questions(shared, name, "test", folder)]


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_counts_of_leaks_in_the_cards_equal_the_data(shared, questions_of_tests, tmp_path, name):
    matches = find_matches(
        read_questions(shared, name, "train", tmp_path),
        [text for _, text in questions_of_tests],
        methods=["exact", "stem"],
    )
    whole, stems = (
        {test: sum(questions_of_tests[index][0] == test for index in indices) for test in TESTS}
        for indices in matches.values()
    )
    stated = read_card("datasets", name).splits["train"]
    assert stated.holds == whole
    assert stated.holds_stems == {test: n for test, n in stems.items() if n != whole[test]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 2}, "changelog: no entry for version 2"),
        ({"version": 3, "changelog": {3: "b"}}, "changelog: no entry for version 2"),
        ({"changelog": {2: "a"}}, "changelog: entry for version 2, but the version is 1"),
    ],
)
def test_every_version_of_a_card_has_a_changelog_entry(changed, message):
    with pytest.raises(UserError, match=message):
        parse_card(Dataset, {"name": "x", "title": "x", **changed}, where="x")
    complete = {"version": 2, "changelog": {1: "as it was", 2: "read otherwise"}}
    assert parse_card(Dataset, {"name": "x", "title": "x", **complete}, where="x").version == 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("multiarith", "test"),
        ("mawps", "test"),
        ("social_i_qa", "test"),
        ("openbookqa", "train"),
        ("arc-challenge", "train"),
        ("piqa", "train"),
    ],
)
def test_cards_list_the_repeated_rows(shared, tmp_path, name, split):
    rows = [
        {"id": row_id, "instruction": text, "input": "", "answer": ""}
        for row_id, text in read_questions(shared, name, split, tmp_path)
    ]
    pairs = [[int(row_id.rpartition("/")[2]) for row_id in pair] for pair in find_repeats(rows)["repeats"]]
    repeated_rows = ", ".join(f"{first}/{second}" for second, first in pairs)
    assert any(repeated_rows in defect for defect in read_card("datasets", name).defects), repeated_rows
