"""Passages: text without a question, joined from rows; the card of WikiText read from a cache laid out as the hub's."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.data.fetch import fetch_split
from pipeline.data.passages import make_passages
from pipeline.data.rows import RawFile
from pipeline.data.world.corpus import draw_texts
from pipeline.params.reading import read_card
from pipeline.prompts.write import read_prompts, write_prompts

LINES = ["", " = A title = \n", "", " One two three . \n", " Four . \n", "\n", " Five six . \n"]
ROWS = [{"text": line} for line in LINES]


def passages(rows, **options):
    return [(row["id"], row["response"]) for row in make_passages(rows, task="t", split="test", **options)]


def test_each_row_with_text_is_a_passage_with_the_number_of_its_row():
    assert passages(ROWS) == [
        ("t/test/1", " = A title ="),
        ("t/test/3", " One two three ."),
        ("t/test/4", " Four ."),
        ("t/test/6", " Five six ."),
    ]


def test_rows_are_joined_until_a_passage_is_long_enough_and_none_is_lost():
    joined = passages(ROWS, characters=20)
    assert joined == [
        ("t/test/1", " = A title = \n One two three ."),
        ("t/test/4", " Four . \n\n Five six ."),
    ]
    text = "".join(text for _, text in joined)
    assert text.split() == "".join(LINES).split()


def test_a_row_without_text_is_named():
    with pytest.raises(UserError, match=r"t \(test\): 1 malformed row.*'text' is missing"):
        passages([{"text": "a"}, {"words": "b"}])
    assert passages([{"text": "a"}, {"words": "b"}], known_malformed=[1]) == [("t/test/0", "a")]


@pytest.mark.parametrize("template", ["strict", "paper-train", "chat"])
def test_the_prompt_of_a_passage_is_empty_under_every_template(tmp_path, template):
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "one two"}\n', encoding="utf-8")
    file = RawFile("t", "test", raw, "passage", passage_characters=3)
    write_prompts([file], template=template, output=tmp_path / "p.parquet", limit=None, sample_seed=0)
    (row,) = read_prompts(tmp_path / "p.parquet")
    assert (row["prompt"], row["response"], row["instruction"]) == ("", "one two", "")


def test_wikitext_is_read_from_a_cache_laid_out_as_the_hubs(tmp_path, monkeypatch):
    card = read_card("datasets", "wikitext-2").splits["test"].model_dump()
    (source,) = card["sources"]
    folder = tmp_path / "hub/datasets--Salesforce--wikitext/snapshots" / source["revision"]
    file = folder / source["files"][0]
    file.parent.mkdir(parents=True)
    rows = [{"text": LINES[number % len(LINES)]} for number in range(card["rows"])]
    pq.write_table(pa.Table.from_pylist(rows), file)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch_split("wikitext-2", "test", card, output=tmp_path / "raw.jsonl", data_root=None)
    assert read_jsonl(tmp_path / "raw.jsonl") == rows


def test_texts_of_the_world_are_different_and_repeat_with_their_seed():
    texts = draw_texts(n=50, world_seed=1, seed=3)
    assert texts == draw_texts(n=50, world_seed=1, seed=3) != draw_texts(n=50, world_seed=1, seed=4)
    assert len({row["text"] for row in texts}) == 50
