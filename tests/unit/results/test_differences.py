"""How a reproduced file differs is described by what a reader looks for in it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pipeline.results.differences import describe_difference


def write_pair(tmp_path, name: str, original: bytes, reproduced: bytes):
    for folder, content in (("original", original), ("reproduced", reproduced)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    return tmp_path / "original" / name, tmp_path / "reproduced" / name


@pytest.mark.parametrize(
    ("original", "reproduced", "expected"),
    [
        ({"tasks": {"x": [1, 2]}}, {"tasks": {"x": [1, 3]}}, "tasks.x[1]: original 2, reproduced 3"),
        ({"a": 1, "b": 1}, {"b": 2}, "a: original 1, reproduced null (and 1 more)"),
    ],
)
def test_json_is_described_by_its_first_differing_key(tmp_path, original, reproduced, expected):
    pair = write_pair(tmp_path, "a.json", json.dumps(original).encode(), json.dumps(reproduced).encode())
    assert describe_difference(*pair) == expected


def test_rows_are_described_by_number(tmp_path):
    original, reproduced = b'{"id": 1}\n{"id": 2}\n', b'{"id": 1}\n{"id": 3}\n'
    assert describe_difference(*write_pair(tmp_path, "a.jsonl", original, reproduced)) == (
        "1 of 2 rows differ; row 1: id: original 2, reproduced 3"
    )


def test_missing_rows_are_counted(tmp_path):
    pair = write_pair(tmp_path, "a.jsonl", b"{}\n{}\n", b"{}\n")
    assert describe_difference(*pair) == "original has 2 rows, reproduced 1"


def test_tensors_are_described_by_their_distance(tmp_path):
    for folder, value in (("original", 1.0), ("reproduced", 1.25)):
        (tmp_path / folder).mkdir()
        save_file({"a": torch.ones(2), "b": torch.full((2,), value)}, tmp_path / folder / "w.safetensors")
    difference = describe_difference(
        tmp_path / "original/w.safetensors", tmp_path / "reproduced/w.safetensors"
    )
    assert difference == "1 of 2 tensors differ, by at most 0.25, in b"


def test_json_with_other_white_space_still_differs(tmp_path):
    pair = write_pair(tmp_path, "a.json", b'{"a":1}', b'{"a": 1}')
    assert describe_difference(*pair) == "first differing byte: 5 (original 7 bytes, reproduced 8)"


def test_a_damaged_file_is_reported(tmp_path):
    difference = describe_difference(*write_pair(tmp_path, "a.json", b"{", b"{}"))
    assert "cannot be read (JSONDecodeError" in str(difference)


def test_equal_bytes_do_not_differ(tmp_path):
    assert describe_difference(*write_pair(tmp_path, "a.json", b"{}", b"{}")) is None
