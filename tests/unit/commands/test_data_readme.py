"""data/README.md and the counts of leaks that it tells: current, complete, and those of the real data."""

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


def test_readme_of_the_data_is_that_of_the_cards():
    assert (ROOT / datasets.PATH).read_text() == datasets.data_readme(), (
        "stale: run python -m pipeline datasets --write"
    )


def test_readme_names_every_card():
    text = datasets.data_readme()
    missing = [path.stem for path in (PARAMS / "datasets").glob("*.yaml") if f"`{path.stem}`" not in text]
    assert missing == []


def test_readme_tells_of_a_test_where_its_questions_stand():
    text = datasets.data_readme()
    own = text[text.index("### ARC-c") : text.index("### ARC-e")]
    assert "`arc-challenge` 0 (without options 7), `arc-easy` 0 (without options 2)" in own
    own = text[text.index("### MAWPS (") : text.index("### MAWPS-single")]
    assert "`mawps-single` 176, `math_data` 134, `mawps` 28; 8 of 11 counted sets have none" in own


def asked(shared: Path, name: str, split: str, folder: Path) -> list[tuple[str, str]]:
    card, output = read_card("datasets", name), folder / f"{name}-{split}.jsonl"
    split_card = card.splits[split].model_dump()
    fetch_split(name, split, split_card, output=output, data_root=shared / "data" / "real")
    made = make_records(read_jsonl(output), task=name, split=split, answer_form=str(card.answer_form))
    return [(row["id"], question_text(row)) for row in made]


@pytest.fixture(scope="module")
def tests(shared, tmp_path_factory) -> list[tuple[str, str]]:
    """The questions of all tests, each with its test's name."""
    folder = tmp_path_factory.mktemp("tests")
    return [(name, text) for name in TESTS for _, text in asked(shared, name, "test", folder)]


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_counts_of_leaks_in_the_cards_are_those_of_the_data(shared, tests, tmp_path, name):
    found = find_matches(
        asked(shared, name, "train", tmp_path), [text for _, text in tests], methods=["exact", "stem"]
    )
    whole, stems = (
        {test: sum(tests[index][0] == test for index in of) for test in TESTS} for of in found.values()
    )
    stated = read_card("datasets", name).splits["train"]
    assert stated.holds == whole
    assert stated.holds_stems == {test: n for test, n in stems.items() if n != whole[test]}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": 2}, "changelog: no entry for version 2"),
        ({"version": 3, "changelog": {3: "b"}}, "changelog: no entry for version 2"),
        ({"changelog": {2: "a"}}, "changelog: entry for version 2, but the version is 1"),
    ],
)
def test_every_version_of_a_card_says_what_changed(changed, told):
    with pytest.raises(UserError, match=told):
        parse_card(Dataset, {"name": "x", "title": "x", **changed}, where="x")
    sound = {"version": 2, "changelog": {1: "as it was", 2: "read otherwise"}}
    assert parse_card(Dataset, {"name": "x", "title": "x", **sound}, where="x").version == 2


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
def test_cards_name_the_repeated_rows(shared, tmp_path, name, split):
    rows = [
        {"id": at, "instruction": text, "input": "", "answer": ""}
        for at, text in asked(shared, name, split, tmp_path)
    ]
    pairs = [[int(one.rpartition("/")[2]) for one in pair] for pair in find_repeats(rows)["repeats"]]
    told = ", ".join(f"{first}/{again}" for again, first in pairs)
    assert any(told in defect for defect in read_card("datasets", name).defects), told
