"""Splits of one source by a hash of the question: they share no question and leave none out, and other sets do not change."""

import json
from itertools import pairwise

import pytest

from pipeline.data.rows import RawFile, RowPart
from pipeline.params.datasets import Dataset
from pipeline.params.reading import read_card
from pipeline.prompts.write import read_prompts, read_raw_records, write_prompts
from pipeline.study import load_study

ROWS = [{"instruction": "Name a colour.", "input": f"number {n}", "output": f"red {n}"} for n in range(1000)]
SOURCE = {"kind": "url", "url": "https://example.org/x.jsonl"}


def read_ids(folder, start, end, *, rows=ROWS, seed=0):
    path = folder / "raw.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = RawFile("t", "train", path, "text", part=RowPart(start, end, seed))
    return [record["id"] for record in read_raw_records([raw])]


def test_parts_divide_the_rows_by_their_share_and_keep_their_numbers(tmp_path):
    edges = [0.0, 0.1, 0.5, 1.0]
    parts = [read_ids(tmp_path, start, end) for start, end in pairwise(edges)]
    assert sorted(id for part in parts for id in part) == sorted(f"t/train/{n}" for n in range(1000))
    # a binomial deviation of up to four standard errors
    assert [round(len(part), -2) for part in parts] == [100, 400, 500]
    assert parts[0] != read_ids(tmp_path, 0.0, 0.1, seed=1)
    # the same on every machine
    assert parts[0][:3] == ["t/train/2", "t/train/7", "t/train/13"]


def test_a_row_stays_in_its_part_whatever_else_the_source_has_and_repeats_are_together(tmp_path):
    chosen = set(read_ids(tmp_path, 0.0, 0.1))
    assert set(read_ids(tmp_path, 0.0, 0.1, rows=ROWS[:300])) == {
        id for id in chosen if int(id.rpartition("/")[2]) < 300
    }
    repeats = [{**row, "instruction": "NAME a  colour.", "output": "blue"} for row in ROWS]
    assert set(read_ids(tmp_path, 0.0, 0.1, rows=repeats)) == chosen


def test_a_limit_draws_from_the_part(tmp_path):
    chosen = set(read_ids(tmp_path, 0.0, 0.1))
    raw = RawFile("t", "train", tmp_path / "raw.jsonl", "text", part=RowPart(0.0, 0.1, 0))
    write_prompts([raw], template="strict", output=tmp_path / "p.parquet", limit=20, sample_seed=0)
    rows = read_prompts(tmp_path / "p.parquet")
    assert len(rows) == 20
    assert {row["id"] for row in rows} <= chosen


def make_card(**splits):
    defaults = {"rows": None, "sources": [SOURCE]}
    return Dataset(
        name="t",
        title="T",
        answer_form="text",
        splits={name: {**defaults, **split} for name, split in splits.items()},
    )


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"part": {"start": 0.1}}, {"part": {"end": 0.2}}, "the parts of train and test overlap"),
        ({}, {"part": {"end": 0.2}}, "train and test have the same source, so both need a part"),
        ({"part": {"start": 0.2}}, {"part": {"end": 0.2, "seed": 1}}, "both need a part, with the same seed"),
        ({"part": {"start": 0.5, "end": 0.5}}, {}, "end: must be above start"),
    ],
)
def test_parts_that_share_rows_are_refused(train, test, message):
    with pytest.raises(ValueError, match=message):
        make_card(train=train, test=test)
    assert make_card(train={"part": {"start": 0.2}}, test={"part": {"end": 0.2}})


@pytest.mark.parametrize("name", ["alpaca", "healthcaremagic", "world-math"])
def test_sets_without_parts_keep_all_rows(name):
    assert all(split.part is None for split in read_card("datasets", name).splits.values())


@pytest.mark.parametrize("name", ["instructions", "tiny-instructions"])
def test_a_study_measures_texts_that_it_does_not_train_on(name):
    study = load_study(name)
    for arm in study.card.arms:
        train = study.training_prompts(arm).params["part"][arm.training_set]
        held_out = study.text_prompts(arm.training_set).params["part"][arm.training_set]
        assert held_out["end"] == train["start"]
        assert (held_out["start"], train["end"]) == (0.0, 1.0)
