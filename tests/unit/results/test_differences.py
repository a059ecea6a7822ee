"""How two files differ is told by what a person looks for in them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pipeline.results.differences import difference


def pair(tmp_path, name: str, one: bytes, other: bytes):
    for folder, content in (("here", one), ("again", other)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    return tmp_path / "here" / name, tmp_path / "again" / name


@pytest.mark.parametrize(
    ("name", "one", "other", "told"),
    [
        ("a.json", {"tasks": {"x": [1, 2]}}, {"tasks": {"x": [1, 3]}}, "tasks.x[1]: 2 here, 3 made again"),
        ("a.json", {"a": 1, "b": 1}, {"b": 2}, "a: 1 here, null made again (and 1 more)"),
    ],
)
def test_json_is_told_by_its_key(tmp_path, name, one, other, told):
    assert difference(*pair(tmp_path, name, json.dumps(one).encode(), json.dumps(other).encode())) == told


def test_rows_are_told_by_number(tmp_path):
    one, other = b'{"id": 1}\n{"id": 2}\n', b'{"id": 1}\n{"id": 3}\n'
    assert difference(*pair(tmp_path, "a.jsonl", one, other)) == (
        "1 of 2 rows differ; row 1: id: 2 here, 3 made again"
    )


def test_lost_rows_are_counted(tmp_path):
    assert difference(*pair(tmp_path, "a.jsonl", b"{}\n{}\n", b"{}\n")) == "2 rows here, 1 made again"


def test_tensors_are_told_by_how_far_they_are_apart(tmp_path):
    for folder, value in (("here", 1.0), ("again", 1.25)):
        (tmp_path / folder).mkdir()
        save_file({"a": torch.ones(2), "b": torch.full((2,), value)}, tmp_path / folder / "w.safetensors")
    told = difference(tmp_path / "here/w.safetensors", tmp_path / "again/w.safetensors")
    assert told == "1 of 2 tensors differ, by 0.25 at most, in b"


def test_white_space_and_broken_files_still_differ(tmp_path):
    assert "byte 5 is the first" in str(difference(*pair(tmp_path, "a.json", b'{"a":1}', b'{"a": 1}')))


def test_a_broken_file_is_told(tmp_path):
    assert "cannot be read (JSONDecodeError" in str(difference(*pair(tmp_path, "a.json", b"{", b"{}")))


def test_equal_bytes_do_not_differ(tmp_path):
    assert difference(*pair(tmp_path, "a.json", b"{}", b"{}")) is None
